"""Writes parsim/confidence/runs.csv from the published cases, once predictions moved: python tests/unit/confidence/write_runs.py"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from parsim.confidence.runs import text_of
from parsim.sweeps.key import MODEL_VERSION
from parsim.validate.published import tables
from parsim.validate.residuals import residuals

FILE: Final = Path(__file__).parents[3] / "parsim" / "confidence" / "runs.csv"

if __name__ == "__main__":
    found = residuals(tables())
    FILE.write_text(text_of(found, MODEL_VERSION), encoding="utf-8")
    print(f"wrote {len(found)} runs to {FILE}")
