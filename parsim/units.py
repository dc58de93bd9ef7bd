"""Text with a unit ("3.35 TB/s") to and from SI base numbers (3.35e12).  The only place that knows prefixes.

"GB" is 1e9 bytes, "GiB" 2**30; "B" is a byte, "b" a bit; bandwidths are one way.  Of tokens alone "B" is a billion, as people write them.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Final

from parsim.errors import UnitError, nearest

PS_PER_S: Final = 1e12  # times are added up as integer picoseconds
_SMALL = {"p": Fraction(1, 10**12), "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "µ": Fraction(1, 10**6), "m": Fraction(1, 10**3)}
_LARGE = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18, "Z": 10**21, "Y": 10**24}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_BITS = {"b": Fraction(1, 8), "bit": Fraction(1, 8), "bits": Fraction(1, 8)}


def _scales() -> dict[str, dict[str, Fraction]]:
    """Symbol -> number of base units, by base unit."""
    bytes_ = {"B": Fraction(1), "byte": Fraction(1), "bytes": Fraction(1), **_BITS}
    table: dict[str, dict[str, Fraction]] = {
        "s": {"s": Fraction(1), "min": Fraction(60), "h": Fraction(3600), **dict.fromkeys(("d", "day", "days"), Fraction(86400))},
        "bytes": dict(bytes_),
        "FLOP": {"FLOP": Fraction(1)},
        "W": {"W": Fraction(1)},
        "J": {"J": Fraction(1), "Wh": Fraction(3600)},
        "Hz": {"Hz": Fraction(1)},
        "USD": {"USD": Fraction(1)},
        "token": {"token": Fraction(1), "tokens": Fraction(1)},
    }
    table["s"] |= {f"{prefix}s": scale for prefix, scale in _SMALL.items()}
    table["s"] |= dict.fromkeys(("hour", "hours"), Fraction(3600)) | dict.fromkeys(("week", "weeks"), Fraction(604800))
    table["USD"] |= {f"{prefix}USD": Fraction(_LARGE[prefix]) for prefix in "kM"}
    for prefix, scale in _LARGE.items():
        for base in ("FLOP", "W", "J", "Hz"):
            table[base][prefix + base] = Fraction(scale)
        table["J"][f"{prefix}Wh"] = Fraction(3600 * scale)
        table["bytes"] |= {prefix + symbol: scale * table["bytes"][symbol] for symbol in ("B", "b", "bit")}
    for prefix, scale in _BINARY.items():
        table["bytes"] |= {prefix + symbol: scale * table["bytes"][symbol] for symbol in ("B", "b", "bit")}
    # Transfers ramp up with the root of the message: seconds a root byte.  Only whole bytes, since the root of a prefix is none.
    table["sqrt(bytes)"] = {"sqrt(B)": Fraction(1), "sqrt(byte)": Fraction(1), "sqrt(bytes)": Fraction(1)}
    return table


_SCALES = _scales()
_EXAMPLES = {
    "s": "ms",
    "bytes": "GiB",
    "bytes/s": "GB/s",
    "FLOP": "TFLOP",
    "FLOP/s": "TFLOP/s",
    "USD/s": "USD/h",
    "token": "T tokens",
    "s/sqrt(bytes)": "ns/sqrt(B)",
}
_TOKENS = {"": 1, **_LARGE, "K": 10**3, "B": 10**9}
_AUTOMATIC = {"s": ("ps", "ns", "us", "ms", "s"), "bytes": ("B", "kB", "MB", "GB", "TB", "PB", "EB")}
_COUNTS = ("bytes", "FLOP", "token")  # whole ones are Python ints
_NUMBER = re.compile(r"([+-]?(?:\d{1,40}\.?\d{0,40}|\.\d{1,40})(?:[eE][+-]?\d{1,3})?)(.*)", re.DOTALL)


def parse(text: object, unit: str) -> float | int:
    """The value of `text` in `unit`, a base unit: an int for a whole count (bytes, FLOP, token), else a float.

    Args:
        text: a number and its unit, e.g. "80 GiB", "200 Gb/s", "5.4 us".
        unit: s, bytes, FLOP, W, J, Hz, USD, token, or a rate of two of them, e.g. "bytes/s"; also "s/sqrt(bytes)".

    Raises:
        UnitError: no number, no unit, an unknown unit, a unit of something else, or a number too large for a float.

    >>> parse("80 GiB", "bytes"), parse("3.35 TB/s", "bytes/s"), parse("200 Gb/s", "bytes/s"), parse("5.4 us", "s")
    (85899345920, 3350000000000.0, 25000000000.0, 5.4e-06)
    >>> parse("1T", "token"), parse("300 G tokens", "token"), parse("2e12", "token"), parse("1 M USD", "USD")
    (1000000000000, 300000000000, 2000000000000, 1000000.0)
    """
    example = _EXAMPLES.get(unit, unit)
    shown = str(text)[:60]
    match = _NUMBER.fullmatch(shown.strip()) if isinstance(text, str | int | float) and not isinstance(text, bool) else None
    if match is None or len(str(text)) > 60:
        raise UnitError(f"'{shown}' is not a number with a unit; write e.g. '80 {example}'")
    symbol = "".join(match[2].split())
    if not symbol and unit != "token":
        raise UnitError(f"{match[1]} has no unit; write e.g. '{match[1]} {example}'")
    value = Fraction(match[1]) * _scale(symbol, unit, f"'{match[1]} {example}'")
    if unit in _COUNTS and value.denominator == 1:
        return int(value)
    try:
        return float(value)
    except OverflowError:
        raise UnitError(f"'{shown}' is too large for a number of {unit}") from None


def format(value: float, unit: str, digits: int = 3) -> str:
    """Text of `value`, which is in base units, with `digits` significant digits.

    Args:
        value: in the base unit [e.g. s, bytes, bytes/s].
        unit: a base unit, for which the prefix is chosen; or a prefixed one ("GiB"), which is then used.
        digits: significant ones; whole digits are never cut.

    Raises:
        UnitError: an unknown unit.

    >>> format(0.0261, "s"), format(25e9, "bytes/s"), format(85899345920, "GiB"), format(312e12, "FLOP/s")
    ('26.1 ms', '25 GB/s', '80 GiB', '312 TFLOP/s')
    """
    head, _, tail = unit.partition("/")
    if head not in _SCALES:
        return f"{_digits(value / float(_scale(unit, _dimension(unit), unit)), digits)} {unit}"
    steps = _AUTOMATIC.get(head) or (head, *(f"{prefix}{head}" for prefix in _LARGE if f"{prefix}{head}" in _SCALES[head]))
    suffix = f"/{tail}" if tail else ""
    chosen = steps[0] if value else head if head in steps else steps[0]
    for symbol in steps:
        # Rounding first: 999.9996 ms is "1 s", not "1000 ms".
        if value and float(f"{abs(value) / float(_SCALES[head][symbol]):.{digits - 1}e}") >= 1:
            chosen = symbol
    return f"{_digits(value / float(_SCALES[head][chosen]), digits)} {chosen}{suffix}"


def scale_text(text: str, factor: Fraction) -> str | None:
    """The text of a figure with its number times `factor`; None where it is none.

    >>> scale_text("200 Gb/s", Fraction(2)), scale_text("5.4us", Fraction("0.5")), scale_text("ib-ndr", Fraction(2))
    ('400.0 Gb/s', '2.7 us', None)
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None or not _dimension(match[2].strip()):
        return None
    return f"{float(Fraction(match[1]) * factor)!r} {match[2].strip()}"


def _digits(value: float, digits: int) -> str:
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    if exponent < -6 or exponent > 17:
        return f"{value:.{digits}g}"
    text = f"{value:.{max(0, digits - 1 - exponent)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _dimension(symbol: str) -> str:
    """The base unit that `symbol` counts, e.g. "bytes/s" for "Gb/s"; "" when there is none."""
    parts = [next((base for base, scales in _SCALES.items() if part.strip() in scales), "") for part in symbol.split("/")]
    return "/".join(parts) if all(parts) and len(parts) <= 2 else ""


def _scale(symbol: str, unit: str, example: str) -> Fraction:
    """How many `unit` one `symbol` is."""
    if unit == "token" and (many := re.fullmatch(r"(\w?)(tokens?)?", symbol)) and many[1] in _TOKENS:
        return Fraction(_TOKENS[many[1]])
    dimension = _dimension(symbol)
    if not dimension:
        raise UnitError(f"unknown unit '{symbol}'{_hint(symbol, unit)}; write e.g. {example}")
    if dimension != unit:
        raise UnitError(f"'{symbol}' is a unit of {dimension}, not of {unit}; write e.g. {example}")
    top, *bottom = (_SCALES[base][part.strip()] for base, part in zip(dimension.split("/"), symbol.split("/"), strict=True))
    return top / bottom[0] if bottom else top


def _hint(symbol: str, unit: str) -> str:
    """A rate spelled without its slash ("Gbps", "TFLOPS") or a near miss ("gib"), as the symbol it probably means."""
    head, _, tail = unit.partition("/")
    known = [f"{each}/{tail}" if tail else each for each in _SCALES.get(head, {})]
    spelled = re.sub(r"(ps|PS|S)$", "/s", symbol)
    # Bits only where somebody spells them: "gib" is meant to be GiB.
    match = spelled if spelled in known else nearest(symbol, [each for each in known if not re.search(r"b(its?)?(/|$)", each)])
    return f" (did you mean '{match}'?)" if match else ""


def count(number: int, noun: str) -> str:
    """So many of what a noun with a plain plural names.

    >>> count(1, "document"), count(1024, "packed row")
    ('1 document', '1024 packed rows')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def percent(share: float, *, signed: bool = False) -> str:
    """A share as text; what rounds to nothing has no sign.

    >>> percent(0.4817), percent(0.05, signed=True), percent(-0.0001, signed=True)
    ('48.2 %', '+5.0 %', '0.0 %')
    """
    text = f"{share:.1%}"
    signless = text.lstrip("-")
    plus = "+" if signed and share > 0 else ""
    return (signless if signless == "0.0%" else plus + text).replace("%", " %")
