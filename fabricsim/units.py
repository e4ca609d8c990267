"""Quantities as users write them: ``64MiB``, ``392 GB/s``, ``1.2us``.

Parsing is exact (``Fraction``) and gives integers where the simulator counts in integers. A bare or ambiguous
number is refused with its candidates; so is one that is not a whole number of bytes or picoseconds, or that int64
cannot hold. A number may be a ratio (``392/383 GB/s``). All errors are ``ConfigError``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from numbers import Integral

from fabricsim.errors import ConfigError, unknown

_INT64_MAX = 2**63 - 1
_PS_PER_SECOND = 10**12

_BYTES_PER_UNIT: Mapping[str, int] = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_PS_PER_UNIT: Mapping[str, int] = {
    "ps": 1,
    "ns": 10**3,
    "us": 10**6,
    "ms": 10**9,
    "s": 10**12,
    "min": 60 * 10**12,
}
_BANDWIDTH_UNITS = {f"{unit}/s": scale for unit, scale in _BYTES_PER_UNIT.items()}
# Spellings that count bits somewhere, with the byte unit of the same prefix and the word for such bits.
_BIT_UNITS = {
    prefix + bit: (byte_unit, f"{word}bits")
    for prefixes, byte_unit, word in (
        *((("",), "B", ""), (("k", "K"), "kB", "kilo"), (("Ki", "ki"), "KiB", "kibi")),
        *((("M", "m"), "MB", "mega"), (("G", "g"), "GB", "giga"), (("T", "t"), "TB", "tera")),
        *((("Mi", "mi"), "MiB", "mebi"), (("Gi", "gi"), "GiB", "gibi"), (("Ti", "ti"), "TiB", "tebi")),
    )
    for prefix in prefixes
    for bit in ("b", "bit", "bits")
}
# What a bare SI letter, as other tools take it, could mean here.
_AMBIGUOUS_BYTES = {
    **{letter: (f"{letter}B", f"{letter}iB") for letter in "MGT"},
    **{letter: ("kB", "KiB") for letter in ("k", "K", "KB")},
}

_NUMBER = re.compile(r"\s*(\d{1,30}/\d{1,30}|\d{1,30}(?:\.\d{1,30})?(?:[eE][+-]?\d{1,2})?)\s*(.*?)\s*", re.DOTALL)


def whole_number(what: str, value: object) -> int:
    """Take an integer, numpy's too, as it is; ConfigError names *what* for anything else, truth values among it."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ConfigError(f"{what} is {value!r}, which is not a whole number; give an integer")
    return int(value)


def split_quantity(text: str) -> tuple[str, str]:
    """Split ``"1.2 us"`` into ``("1.2", "us")``; the unit is unchecked and may be empty."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is not a quantity; write a number of at least 0 and a unit, as in 64MiB or 1.2us")
    return match[1], match[2]


def parse_bytes(text: str) -> int:
    """Bytes of a size such as ``64MiB``; units B, kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (of 1024)."""
    number, unit = split_quantity(text)
    _refuse_ambiguous(text, number, unit, join="", per_second="")
    return _whole(text, _scale(text, number, unit, _BYTES_PER_UNIT), "bytes")


def parse_time_ps(text: str) -> int:
    """Picoseconds of a time such as ``1.2us``; units ps, ns, us, ms, s, min."""
    number, unit = split_quantity(text)
    # Both the micro sign and the Greek letter are in use for the micro of microseconds.
    unit = "us" if unit in ("\N{MICRO SIGN}s", "\N{GREEK SMALL LETTER MU}s") else unit
    return _whole(text, _scale(text, number, unit, _PS_PER_UNIT), "picoseconds")


def parse_bandwidth(text: str) -> Fraction:
    """Bytes per second, exact and above 0, of a bandwidth such as ``392 GB/s``; units B/s to TB/s, KiB/s to TiB/s."""
    number, unit = split_quantity(text)
    if unit not in _BANDWIDTH_UNITS:
        amount = unit.removesuffix("/s").removesuffix("ps")
        _refuse_ambiguous(text, number, amount, join=" ", per_second="/s")
        if amount in _BYTES_PER_UNIT:
            raise ConfigError(f"{text!r} is not a bandwidth; did you mean {number} {amount}/s?")
    bandwidth = _scale(text, number, unit, _BANDWIDTH_UNITS)
    if not 0 < bandwidth <= _INT64_MAX:
        raise ConfigError(f"{text!r} must be more than 0 and at most {_INT64_MAX:,} bytes per second")
    return bandwidth


def ps_per_byte(bytes_per_second: Fraction) -> Fraction:
    """Picoseconds per byte of a bandwidth: 28 GB/s gives 250/7."""
    return _PS_PER_SECOND / bytes_per_second


def format_bytes(size_bytes: int) -> str:
    """Write a size in the largest unit that keeps it exact: ``64MiB``, ``1500B``; ``parse_bytes`` reads it back."""
    for unit, scale in sorted(_BYTES_PER_UNIT.items(), key=lambda item: -item[1]):
        if size_bytes >= scale and size_bytes % scale == 0:
            return f"{size_bytes // scale}{unit}"
    return f"{size_bytes}B"


def format_time(time_ps: int) -> str:
    """Write a time with four significant digits for people: ``1.2 us``, ``74.29 ns``."""
    unit, scale = "ps", 1
    for larger in ("ns", "us", "ms", "s"):
        if time_ps >= _PS_PER_UNIT[larger]:
            unit, scale = larger, _PS_PER_UNIT[larger]
    return f"{time_ps / scale:.4g} {unit}"


def format_us(time_ps: int | None) -> str:
    """Write a time in microseconds for a table, as ``format_number``."""
    return format_number(None if time_ps is None else time_ps / _PS_PER_UNIT["us"])


def format_number(value: float | None) -> str:
    """Write a number for a table: at least four significant digits, up to 10^7 at most nine characters.

    A dash stands for what is not defined.
    """
    if value is None:
        return "-"
    decimals = 3 if value < 10 else 2 if value < 10_000 else 0
    return f"{value:,.{decimals}f}"


def time_text(time_ps: int) -> str:
    """Write a time without loss, as users do: in the largest unit up to us in which it is a whole number."""
    units = ((10**6, "us"), (10**3, "ns"), (1, "ps"))
    scale, unit = next((scale, unit) for scale, unit in units if time_ps % scale == 0)
    return f"{time_ps // scale}{unit}"


def _scale(text: str, number: str, unit: str, units: Mapping[str, int]) -> Fraction:
    """Multiply a number by its unit; refuse a missing or unknown one."""
    if unit == "":
        raise ConfigError(f"{text!r} has no unit; write one of {', '.join(f'{number} {name}' for name in units)}")
    if unit not in units:
        raise ConfigError(f"{text!r}: {unknown('unit', unit, units)}")
    return _fraction(text, number) * units[unit]


def _refuse_ambiguous(text: str, number: str, unit: str, join: str, per_second: str) -> None:
    """Refuse what could mean bits or bytes, powers of 1000 or of 1024, and show both candidates."""
    if unit in _BIT_UNITS:
        byte_unit, bits = _BIT_UNITS[unit]
        eighth = _fraction(text, number) / 8
        in_bytes = str(eighth) if eighth.denominator == 1 else f"{float(eighth):.12g}"
        byte_unit = join + byte_unit + per_second
        raise ConfigError(
            f"{text!r} could count bytes or bits; did you mean {number}{byte_unit} (bytes) or "
            f"{in_bytes}{byte_unit} ({number} {bits}{' per second' if per_second else ''})?"
        )
    if unit in _AMBIGUOUS_BYTES:
        decimal, binary = (f"{number}{join}{candidate}{per_second}" for candidate in _AMBIGUOUS_BYTES[unit])
        raise ConfigError(f"{text!r} could count powers of 1000 or of 1024; did you mean {decimal} or {binary}?")


def _fraction(text: str, number: str) -> Fraction:
    try:
        return Fraction(number)
    except ZeroDivisionError:
        raise ConfigError(f"{text!r} divides by zero; write another number") from None


def _whole(text: str, amount: Fraction, what: str) -> int:
    """Turn an exact amount into an int64; refuse a rest and an overflow."""
    if amount.denominator != 1:
        raise ConfigError(f"{text!r} is not a whole number of {what}; round it to one")
    if amount > _INT64_MAX:
        raise ConfigError(f"{text!r} is more than {_INT64_MAX:,} {what}, the most that can be counted; write less")
    return int(amount)
