"""Units are exact: decimal and binary prefixes, bits and bytes, and no number without one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim import units
from parsim.errors import ParsimError, UnitError


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("1 GB", "bytes", 1_000_000_000),
        ("1 GiB", "bytes", 1_073_741_824),
        ("1 kB", "bytes", 1000),
        ("1 KiB", "bytes", 1024),
        ("80 GiB", "bytes", 80 * 2**30),
        ("200 Gb/s", "bytes/s", 25e9),
        ("200 GB/s", "bytes/s", 200e9),
        ("8 Gib", "bytes", 2**30),
        ("3.35 TB/s", "bytes/s", 3.35e12),
        ("312 TFLOP/s", "FLOP/s", 312e12),
        ("5.4 us", "s", 5.4e-6),
        ("5.4 µs", "s", 5.4e-6),
        ("1.5 min", "s", 90.0),
        ("3 USD/h", "USD/s", 3 / 3600),
        ("700 W", "W", 700.0),
        ("1 kWh", "J", 3.6e6),
        ("6.84 ns/sqrt(B)", "s/sqrt(bytes)", 6.84e-9),
        ("1e3 ms", "s", 1.0),
        ("80GiB", "bytes", 80 * 2**30),
        ("1d", "s", 86400.0),
    ],
)
def test_a_number_with_a_unit_is_read_in_base_units(text, unit, value):
    assert units.parse(text, unit) == value


def test_whole_bytes_are_ints_so_that_they_add_up_exactly():
    assert type(units.parse("79.15 GB", "bytes")) is int
    assert type(units.parse("80 GB/s", "bytes/s")) is float


@pytest.mark.parametrize("value", ["80", 80, 80.0, " 80 "])
def test_a_bare_number_is_told_what_it_lacks(value):
    with pytest.raises(UnitError, match=r"80(\.0)? has no unit; write e\.g\. '80(\.0)? GiB'"):
        units.parse(value, "bytes")


@pytest.mark.parametrize(
    ("text", "unit", "message"),
    [
        ("80 GB", "s", "'GB' is a unit of bytes, not of s; write e.g. '80 ms'"),
        ("80 GB", "bytes/s", "'GB' is a unit of bytes, not of bytes/s; write e.g. '80 GB/s'"),
        ("80 Gbps", "bytes/s", "unknown unit 'Gbps' (did you mean 'Gb/s'?)"),
        ("80 GBps", "bytes/s", "unknown unit 'GBps' (did you mean 'GB/s'?)"),
        ("312 TFLOPS", "FLOP/s", "unknown unit 'TFLOPS' (did you mean 'TFLOP/s'?)"),
        ("80 gib", "bytes", "unknown unit 'gib' (did you mean 'GiB'?)"),
        ("lots", "bytes", "'lots' is not a number with a unit"),
        ("nan s", "s", "'nan s' is not a number with a unit"),
        ("1e999 GB/s", "bytes/s", "too large"),
    ],
)
def test_a_wrong_unit_names_the_right_one(text, unit, message):
    with pytest.raises(UnitError) as caught:
        units.parse(text, unit)
    assert message in str(caught.value)


@pytest.mark.parametrize("value", [None, True, [], {}, b"80 GB", object(), math.inf, math.nan, "9" * 5000])
def test_what_is_no_number_is_an_error_of_the_user(value):
    with pytest.raises(UnitError):
        units.parse(value, "bytes")


@given(st.text(), st.sampled_from(["s", "bytes", "bytes/s", "FLOP/s", "USD/s"]))
def test_no_text_raises_anything_but_a_parsim_error(text, unit):
    try:
        value = units.parse(text, unit)
    except ParsimError:
        return
    assert math.isfinite(value)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0261, "s", "26.1 ms"),
        (13.75, "s", "13.8 s"),
        (0.0, "s", "0 s"),
        (0.9999996, "s", "1 s"),
        (123456.0, "s", "123456 s"),
        (41 * 2**30, "GiB", "41 GiB"),
        (25e9, "bytes/s", "25 GB/s"),
        (25e9, "Gb/s", "200 Gb/s"),
        (312e12, "FLOP/s", "312 TFLOP/s"),
        (-0.003, "s", "-3 ms"),
    ],
)
def test_a_value_is_written_with_the_prefix_that_reads_best(value, unit, text):
    assert units.format(value, unit) == text


@given(st.floats(min_value=1e-12, max_value=1e15), st.sampled_from(["s", "bytes", "bytes/s", "FLOP/s"]))
def test_what_is_written_with_all_digits_is_read_back(value, unit):
    assert units.parse(units.format(value, unit, digits=17), unit) == pytest.approx(value, rel=1e-14)  # two roundings


@given(st.integers(min_value=0, max_value=2**60))
def test_a_whole_number_of_bytes_is_read_back_exactly(value):
    assert units.parse(f"{value} B", "bytes") == value
