"""Sizes, CPUs and durations as they are typed."""

from __future__ import annotations

import pytest

from corten.cli.flags import BadValue
from corten.cli.units import binary_size, decimal_size, read_cpus, read_duration, read_size, read_swap_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("100", 100),
        ("100b", 100),
        ("1k", 1024),
        ("512m", 512 << 20),
        ("512M", 512 << 20),
        ("1g", 1 << 30),
        ("1.5GiB", 3 << 29),
        ("64 kb", 64 << 10),
        ("1t", 1 << 40),
        ("2p", 2 << 50),
        (".5k", 512),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid size: ''"),
        ("m", "invalid size: 'm'"),
        ("5z", "invalid suffix: 'z'"),
        ("5kk", "invalid suffix: 'kk'"),
        ("5bb", "invalid suffix: 'bb'"),
        ("5kib5", "invalid syntax"),
        ("-1", "invalid size: '-1'"),
        ("1..5k", "invalid syntax"),
        ("1_0k", "invalid syntax"),
        ("1  k", "invalid syntax"),
    ],
)
def test_bad_sizes(text: str, message: str) -> None:
    with pytest.raises(BadValue) as caught:
        read_size(text)
    assert message in str(caught.value)


def test_swap_may_be_unlimited() -> None:
    assert (read_swap_size("-1"), read_swap_size("1k")) == (-1, 1024)


@pytest.mark.parametrize(
    ("text", "nano"), [("1", 10**9), ("0.5", 5 * 10**8), ("1.5", 15 * 10**8), ("1/4", 25 * 10**7), ("1e-3", 10**6)]
)
def test_cpus(text: str, nano: int) -> None:
    assert read_cpus(text) == nano


@pytest.mark.parametrize(
    ("text", "message"),
    [("x", "failed to parse x as a rational number"), ("1/0", "rational"), ("0.0000000001", "value is too precise")],
)
def test_bad_cpus(text: str, message: str) -> None:
    with pytest.raises(BadValue, match=message):
        read_cpus(text)


def test_durations() -> None:
    assert read_duration("1m30s") == 90 * 10**9
    with pytest.raises(BadValue, match='time: invalid duration "5"'):
        read_duration("5")


@pytest.mark.parametrize(
    ("size", "four", "three", "binary"),
    [
        (0, "0B", "0B", "0B"),
        (999, "999B", "999B", "999B"),
        (1000, "1kB", "1kB", "1000B"),
        (1_984_113, "1.984MB", "1.98MB", "1.892MiB"),
        (187_400_000, "187.4MB", "187MB", "178.7MiB"),
        (25_000_000_000, "25GB", "25GB", "23.28GiB"),
    ],
)
def test_printed_sizes(size: int, four: str, three: str, binary: str) -> None:
    assert (decimal_size(size), decimal_size(size, 3), binary_size(size)) == (four, three, binary)
