import time

import pytest

from corten.dockerapi.timestamps import (
    SECOND_NS,
    ZERO_TIME_NS,
    format_duration,
    format_ns,
    parse_duration,
    parse_moment,
    parse_rfc3339,
    parse_unix,
)
from corten.errors import InvalidParameter

S = SECOND_NS


@pytest.fixture
def berlin(monkeypatch):
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("moment_ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (ZERO_TIME_NS, "0001-01-01T00:00:00Z"),
        (1_714_557_600 * S + 250_000_000, "2024-05-01T10:00:00.25Z"),
        (1_714_557_600 * S + 1, "2024-05-01T10:00:00.000000001Z"),
        (1_709_164_800 * S, "2024-02-29T00:00:00Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (253_402_300_799 * S, "9999-12-31T23:59:59Z"),
    ],
)
def test_rfc3339_both_ways(moment_ns, text):
    assert format_ns(moment_ns) == text
    assert parse_rfc3339(text) == moment_ns


@pytest.mark.parametrize(
    ("text", "moment_s"),
    [
        ("2024-05-01T12:00:00+02:00", 1_714_557_600),
        ("2024-05-01T04:30:00-05:30", 1_714_557_600),
        ("2024-05-01T10:00:00z", 1_714_557_600),
    ],
)
def test_rfc3339_reads_offsets(text, moment_s):
    assert parse_rfc3339(text) == moment_s * S


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2024-05-01",
        "2024-05-01T10:00:00",
        "2023-02-29T00:00:00Z",
        "2024-13-01T00:00:00Z",
        "2024-00-01T00:00:00Z",
        "2024-05-32T00:00:00Z",
        "2024-05-01T24:00:00Z",
        "2024-05-01T10:60:00Z",
        "2024-05-01T10:00:61Z",
        "0000-01-01T00:00:00Z",
        "2024-05-01T10:00:00+25:00",
        "2024-05-01T10:00:00.Z",
        "2024-05-01T10:00:00Z\n",
        "\u0662\u0660\u0662\u0664-05-01T10:00:00Z",
    ],
)
def test_rfc3339_refuses(text):
    with pytest.raises(InvalidParameter):
        parse_rfc3339(text)


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [
        ("0", 0),
        ("10m", 600 * S),
        ("1h30m", 5400 * S),
        ("1.5s", 1_500_000_000),
        (".5s", 500_000_000),
        ("-300ms", -300_000_000),
        ("+2us", 2_000),
        ("2µs3ns", 2_003),
        ("2540400h10m10.000000000s", 2_540_400 * 3600 * S + 610 * S),
    ],
)
def test_durations(text, duration_ns):
    assert parse_duration(text) == duration_ns


@pytest.mark.parametrize(
    "text", ["", "3", "-", "s", ".s", "1h ", "1d", "1e3s", "3000000h", "\u0661s", "1.2.3s", "9" * 300 + "s"]
)
def test_durations_refused(text):
    with pytest.raises(InvalidParameter):
        parse_duration(text)


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_100, "1.1µs"),
        (2_200_000, "2.2ms"),
        (3_300_000_000, "3.3s"),
        (300 * S, "5m0s"),
        (5400 * S, "1h30m0s"),
        (-1_500_000_000, "-1.5s"),
        (3600 * S + 1_000_000, "1h0m0.001s"),
    ],
)
def test_durations_are_written_as_go_writes_them(duration_ns, text):
    assert format_duration(duration_ns) == text
    assert parse_duration(text) == duration_ns


@pytest.mark.parametrize(
    ("text", "moment_ns"),
    [
        ("0", 0),
        ("1714557600", 1_714_557_600 * S),
        ("1714557600.000000001", 1_714_557_600 * S + 1),
        ("1714557600.5", 1_714_557_600 * S + 500_000_000),
        ("-1.5", -1 * S + 500_000_000),
        ("1714557600.1234567891", 1_714_557_600 * S + 123_456_789),
    ],
)
def test_unix_times(text, moment_ns):
    assert parse_unix(text) == moment_ns
    assert parse_moment(text) == moment_ns


def test_a_duration_is_a_moment_before_now():
    assert parse_moment("1h30m", now_ns=10_000 * S) == 4_600 * S
    assert parse_moment("-10s", now_ns=0) == 10 * S


@pytest.mark.parametrize(
    ("text", "moment_s"),
    [
        ("2024-05-01", 1_714_514_400),
        ("2024-05-01T12", 1_714_557_600),
        ("2024-05-01T12:00", 1_714_557_600),
        ("2024-05-01T12:00:00", 1_714_557_600),
        ("2024-01-01T01:00", 1_704_067_200),
        ("2024-05-01T12:00+02:00", 1_714_557_600),
        ("2024-05-01Z", 1_714_521_600),
    ],
)
@pytest.mark.usefixtures("berlin")
def test_dates_without_a_zone_are_local(text, moment_s):
    assert parse_moment(text) == moment_s * S


@pytest.mark.parametrize(
    "text", ["", "x", "yesterday", "99999999999999999999", "2024-5-1", "12:00", "1.", "1e9", "5 minutes"]
)
def test_moments_refused(text):
    with pytest.raises(InvalidParameter):
        parse_moment(text)
