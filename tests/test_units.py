from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabricsim.errors import ConfigError
from fabricsim.units import (
    format_bytes,
    format_time,
    parse_bandwidth,
    parse_bytes,
    parse_time_ps,
    ps_per_byte,
    split_quantity,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0B", 0),
        ("64MiB", 67_108_864),
        ("64 MB", 64_000_000),
        ("1.5kB", 1_500),
        ("1.5 KiB", 1_536),
        ("1e3 B", 1_000),
        ("3/2 kB", 1_500),
        (" 2TB ", 2 * 10**12),
        ("9223372036854775807B", 2**63 - 1),
    ],
)
def test_sizes_are_exact(text: str, size_bytes: int) -> None:
    """A size is read without rounding, with or without a space, up to the last int64."""
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "time_ps"),
    [("1.2us", 1_200_000), ("250 ns", 250_000), ("7ps", 7), ("0 s", 0), ("2 min", 120 * 10**12), ("1.2 µs", 1_200_000)],
)
def test_times_are_exact(text: str, time_ps: int) -> None:
    """A time is read in picoseconds without rounding."""
    assert parse_time_ps(text) == time_ps


@pytest.mark.parametrize(
    ("text", "bytes_per_second", "rate"),
    [
        ("28 GB/s", Fraction(28 * 10**9), Fraction(250, 7)),
        ("392/383 GB/s", Fraction(392 * 10**9, 383), Fraction(383_000, 392)),
        ("1KiB/s", Fraction(1024), Fraction(10**12, 1024)),
        ("163.8GB/s", Fraction(1638 * 10**8), Fraction(10_000, 1638)),
    ],
)
def test_bandwidths_are_rationals(text: str, bytes_per_second: Fraction, rate: Fraction) -> None:
    """A bandwidth keeps every digit, and so do its picoseconds per byte."""
    assert parse_bandwidth(text) == bytes_per_second
    assert ps_per_byte(bytes_per_second) == rate


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("64", ["64 B", "64 MiB"]),
        ("64Gb", ["64GB (bytes)", "8GB (64 gigabits)"]),
        ("12 Mbit", ["12MB (bytes)", "1.5MB (12 megabits)"]),
        ("8kib", ["8KiB (bytes)", "1KiB (8 kibibits)"]),
        ("64M", ["64MB", "64MiB"]),
        ("64KB", ["64kB", "64KiB"]),
        ("64MIB", ["unknown unit", "(did you mean 'MiB'?)"]),
        ("64 acres", ["unknown unit", "TiB"]),
        ("0.3 B", ["whole number of bytes"]),
        ("1/0 B", ["divides by zero"]),
        ("8EiB", ["unknown unit 'EiB' (did you mean '", "TiB"]),
        ("9223372036854775808B", ["9,223,372,036,854,775,807", "write less"]),
        ("1e99 TB", ["write less"]),
        ("-4B", ["not a quantity", "64MiB"]),
        ("MiB", ["not a quantity"]),
        ("", ["not a quantity"]),
    ],
)
def test_doubtful_sizes_are_refused(text: str, parts: list[str]) -> None:
    """A bare, ambiguous, unknown, broken or huge size is refused with what it could have meant."""
    with pytest.raises(ConfigError) as caught:
        parse_bytes(text)
    assert repr(text) in str(caught.value)
    assert [part for part in parts if part not in str(caught.value)] == []
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("400 Gb/s", ["400 GB/s (bytes)", "50 GB/s (400 gigabits per second)"]),
        ("400Gbps", ["400 GB/s (bytes)", "50 GB/s (400 gigabits per second)"]),
        ("28 gb/s", ["28 GB/s", "3.5 GB/s"]),
        ("50GBps", ["not a bandwidth", "50 GB/s?"]),
        ("50 GB", ["not a bandwidth", "50 GB/s?"]),
        ("50 G", ["50 GB/s or 50 GiB/s"]),
        ("50", ["no unit", "50 GB/s"]),
        ("50 GB/h", ["unknown unit 'GB/h' (did you mean 'GB/s'?)"]),
        ("0 GB/s", ["more than 0"]),
        ("1e20 GB/s", ["at most"]),
    ],
)
def test_doubtful_bandwidths_are_refused(text: str, parts: list[str]) -> None:
    """Bits per second, a size, a bare number and zero are no bandwidths; each message shows a right one."""
    with pytest.raises(ConfigError) as caught:
        parse_bandwidth(text)
    assert [part for part in parts if part not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("5", ["no unit", "5 us"]),
        ("0.1 ps", ["whole number of picoseconds"]),
        ("5 usec", ["unknown unit 'usec' (did you mean 'us'?); known: ps, ns, us"]),
        ("4e6 min", ["write less"]),
    ],
)
def test_doubtful_times_are_refused(text: str, parts: list[str]) -> None:
    """A time needs a known unit and a whole number of picoseconds in int64."""
    with pytest.raises(ConfigError) as caught:
        parse_time_ps(text)
    assert [part for part in parts if part not in str(caught.value)] == []


@given(st.integers(0, 2**63 - 1))
def test_formatted_sizes_read_back(size_bytes: int) -> None:
    """What format_bytes writes, parse_bytes reads as the same size."""
    assert parse_bytes(format_bytes(size_bytes)) == size_bytes


def test_formats() -> None:
    """Sizes are written in their largest exact unit, times with four digits."""
    assert [format_bytes(size) for size in (0, 1_500, 64 << 20, 10**6)] == ["0B", "1500B", "64MiB", "1MB"]
    assert [format_time(time) for time in (0, 999, 74_286, 1_200_000, 10**12)] == [
        "0 ps",
        "999 ps",
        "74.29 ns",
        "1.2 us",
        "1 s",
    ]


def test_split_quantity_keeps_the_spelling() -> None:
    """Number and unit come apart as written."""
    assert split_quantity("392/383 GB/s") == ("392/383", "GB/s")
    assert split_quantity("1.20us") == ("1.20", "us")
