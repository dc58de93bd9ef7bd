"""Predicted against measured: a table of published training steps in, errors by source out.

table.py reads the rows, defaults.py says what software leaves open, case.py builds what a row describes or names what of it is not
built yet, compare.py predicts and sums up; intervals.py says between which values a row was to be expected, coverage.py how many were
there, residuals.py which errors intervals rest on.
"""

from __future__ import annotations

from parsim.validate.compare import MeasuredCase, RowResult, Validation, cases_of, validate

__all__ = ["MeasuredCase", "RowResult", "Validation", "cases_of", "validate"]
