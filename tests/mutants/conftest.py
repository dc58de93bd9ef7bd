"""A mutant neither finds what was lowered before it nor leaves it behind, whatever ran before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import forget_steps


@pytest.fixture(autouse=True)
def _fresh_steps() -> Iterator[None]:
    forget_steps()
    yield
    forget_steps()
