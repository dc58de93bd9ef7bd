"""The published cases that parsim ships, a table a family of sources; each row cites where it stands.

tests/compare/choose_published.py says by which rule they were chosen, which asks no prediction.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).with_name("published")


def tables() -> tuple[Path, ...]:
    """Their files, by name.

    >>> [table.stem for table in tables()][:2]
    ['aleph_alpha', 'bigscience_a100']
    """
    return tuple(sorted(FOLDER.glob("*.csv")))
