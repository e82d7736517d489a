"""The bytes of log files: what Docker's daemon writes for the same output."""

from __future__ import annotations

import json

import pytest

from corten.errors import InvalidParameter, NotFound
from corten.logdriver import local, times
from corten.logdriver.attributes import LogSubject, attributes
from corten.logdriver.json_file import JsonFileWriter, escape
from corten.logdriver.lines import MAXIMUM_LINE, LineCutter, Piece
from corten.logdriver.local import LocalWriter
from corten.logdriver.options import LogOptions, parse, parse_size
from corten.logdriver.parsing import parse_time

T0 = 1_700_000_000_000_000_000


# -- json-file ----------------------------------------------------------------------------------------------------


def json_file(tmp_path, *writes, attributes=None):
    path = tmp_path / "c-json.log"
    writer = JsonFileWriter(str(path), LogOptions(), attributes or {})
    for stream, data, moment in writes:
        writer.write(stream, data, moment)
    writer.finish(T0)
    writer.close()
    return path.read_bytes()


def test_json_lines_are_dockers(tmp_path):
    assert json_file(tmp_path, ("stdout", b"a\nb\n", T0 + 1), ("stderr", b"c", T0 + 120_000_000)) == (
        b'{"log":"a\\n","stream":"stdout","time":"2023-11-14T22:13:20.000000001Z"}\n'
        b'{"log":"b\\n","stream":"stdout","time":"2023-11-14T22:13:20.000000001Z"}\n'
        b'{"log":"c","stream":"stderr","time":"2023-11-14T22:13:20Z"}\n'
    )


def test_json_attributes_stand_before_the_time(tmp_path):
    assert json_file(tmp_path, ("stdout", b"a\n", T0), attributes={"b": "<1>", "a": 'q"'}) == (
        b'{"log":"a\\n","stream":"stdout","attrs":{"a":"q\\"","b":"\\u003c1\\u003e"},"time":"2023-11-14T22:13:20Z"}\n'
    )


def test_json_parts_of_long_lines(tmp_path):
    entries = json_file(tmp_path, ("stdout", b"x" * (MAXIMUM_LINE + 2) + b"\n", T0)).splitlines()
    assert entries[0] == b'{"log":"' + b"x" * MAXIMUM_LINE + b'","stream":"stdout","time":"2023-11-14T22:13:20Z"}'
    assert entries[1] == b'{"log":"xx\\n","stream":"stdout","time":"2023-11-14T22:13:20Z"}'
    assert len(entries) == 2


@pytest.mark.parametrize(
    ("raw", "escaped"),
    [
        (b"plain", b"plain"),
        (b'"\\/', b'\\"\\\\/'),
        (b"<>&'", b"\\u003c\\u003e\\u0026'"),
        (b"\r\t\x00\x08\x0c\x1b\x7f", b"\\r\\u0009\\u0000\\u0008\\u000c\\u001b\x7f"),
        ("\u00e4\u2028\u2029\u2027".encode(), "\u00e4\\u2028\\u2029\u2027".encode()),
        # one replacement for every byte that is not UTF-8, as Go decodes it
        (b"\xff", b"\\ufffd"),
        (b"a\xe2\x82b", b"a\\ufffd\\ufffdb"),
        (b"\xed\xa0\x80", b"\\ufffd\\ufffd\\ufffd"),
        (b"\xc0\x80", b"\\ufffd\\ufffd"),
        (b"\xf0\x9f\x98", b"\\ufffd\\ufffd\\ufffd"),
        ("ok \u00e4 \ufffd".encode() + b" \xfe <", "ok \u00e4 \ufffd ".encode() + b"\\ufffd \\u003c"),
    ],
)
def test_json_escapes_are_those_of_dockers_encoder(raw, escaped):
    assert escape(raw) == escaped


def test_every_two_byte_text_is_json():
    for first in range(256):
        for second in (0x00, 0x0A, 0x22, 0x5C, 0x7F, 0x80, 0xA8, 0xE2, 0xFF):
            raw = bytes((first, second))
            text = json.loads(b'"' + escape(raw).replace(b"\n", b"\\n") + b'"')
            if raw.isascii():
                assert text.encode() == raw


# -- local --------------------------------------------------------------------------------------------------------


def test_local_entries_are_dockers(tmp_path):
    path = tmp_path / "container.log"
    writer = LocalWriter(str(path), LogOptions(), {})
    writer.write("stderr", b"hi\n", T0)
    writer.close()
    message = b"\x0a\x06stderr\x10\x80\x80\xa8\xb1\xe3\x9f\xe7\xcb\x17\x1a\x02hi"
    assert path.read_bytes() == len(message).to_bytes(4, "big") + message + len(message).to_bytes(4, "big")


def test_local_parts_carry_their_metadata():
    piece = Piece(b"ab", T0, ordinal=3, last=True, line_id="cd")
    (entry,) = local.encode_pieces("stdout", [piece])
    assert entry[4:-4].endswith(b"\x1a\x02ab\x20\x01\x2a\x08\x08\x01\x12\x02cd\x18\x03")
    assert local.decode_entry(entry, 4, len(entry) - 4) == ("stdout", T0, b"ab\n", {})
    (entry,) = local.encode_pieces("stdout", [piece._replace(last=False)])
    assert entry[4:-4].endswith(b"\x20\x01\x2a\x06\x12\x02cd\x18\x03")
    assert local.decode_entry(entry, 4, len(entry) - 4) == ("stdout", T0, b"ab", {})


def test_local_attributes():
    encoded = local.encode_attributes({"b": "2", "a": "1"})
    assert encoded == b"\x32\x06\x0a\x01a\x12\x011" + b"\x32\x06\x0a\x01b\x12\x012"
    (entry,) = local.encode_pieces("stdout", [Piece(b"x\n", T0)], encoded)
    assert local.decode_entry(entry, 4, len(entry) - 4).attributes == {"a": "1", "b": "2"}


def test_local_bounds_step_over_damage():
    entries = local.encode_pieces("stdout", [Piece(b"one\ntwo\nthree\n", T0)])
    block = entries[0] + b"\x00\x00\x00\x05rubbish" + entries[1] + entries[2][:-3]
    found, done = local.bounds(block)
    assert [local.decode_entry(block, *place).text for place in found] == [b"one\n", b"two\n"]
    assert block[done:] == entries[2][:-3]


# -- cutting ------------------------------------------------------------------------------------------------------


def reference_cut(data, limit=MAXIMUM_LINE):
    """Docker's copier, byte for byte: (text, has newline)."""
    entries = []
    for line in data.split(b"\n")[:-1]:
        while len(line) >= limit:
            entries.append((line[:limit], False))
            line = line[limit:]
        entries.append((line, True))
    rest = data.split(b"\n")[-1]
    while len(rest) >= limit:
        entries.append((rest[:limit], False))
        rest = rest[limit:]
    if rest:
        entries.append((rest, False))
    return entries


def cut(data, step):
    cutter = LineCutter()
    pieces = []
    for start in range(0, len(data), step):
        pieces += cutter.feed(data[start : start + step], T0)
    pieces += cutter.finish(T0)
    entries = []
    for piece in pieces:
        if piece.ordinal:
            entries.append((piece.text, piece.last))
        else:
            assert piece.text.endswith(b"\n")
            entries += [(line, True) for line in piece.text.split(b"\n")[:-1]]
    return entries


@pytest.mark.parametrize("step", [1, 7, 4096, 16384, 65536, 1 << 20])
def test_cutting_is_that_of_dockers_copier(step):
    import random

    chance = random.Random(step)
    limit = MAXIMUM_LINE
    lengths = [0, 1, limit - 1, limit, limit + 1, 2 * limit, 2 * limit + 1, 3 * limit - 1, 50, 80, 0, 0]
    for _ in range(2 if step < 10 else 20):
        chance.shuffle(lengths)
        data = b"\n".join(bytes((97 + index,)) * length for index, length in enumerate(lengths))
        assert cut(data, step) == reference_cut(data)
        assert cut(data + b"\n", step) == reference_cut(data + b"\n")


def test_ordinals_and_ids_of_parts():
    cutter = LineCutter()
    pieces = cutter.feed(b"x" * (2 * MAXIMUM_LINE) + b"y\nz\n" + b"w" * MAXIMUM_LINE, T0)
    assert [(piece.ordinal, piece.last) for piece in pieces] == [
        (1, False),
        (2, False),
        (3, True),
        (0, True),
        (1, False),
    ]
    first, other = pieces[0].line_id, pieces[4].line_id
    assert len(first) == 64
    assert {piece.line_id for piece in pieces[:3]} == {first}
    assert other not in ("", first)


# -- times --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (T0, "2023-11-14T22:13:20Z"),
        (T0 + 100, "2023-11-14T22:13:20.0000001Z"),
        (T0 + 999_999_999, "2023-11-14T22:13:20.999999999Z"),
        (T0 + 500_000_000, "2023-11-14T22:13:20.5Z"),
    ],
)
def test_times_have_no_trailing_zeros(moment, text):
    assert times.format_time(moment) == text
    assert parse_time(text) == moment


def test_times_with_an_offset():
    assert parse_time("2023-11-14T23:43:20.5+01:30") == T0 + 500_000_000
    assert parse_time("2023-11-14T17:13:20-05:00") == T0


@pytest.mark.parametrize(
    "text", ["", "2023", "2023-11-14T22:13:20", "2023-11-14T22:13:20.Z", "2023-13-14T22:13:20Z", "x" * 20]
)
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match=r".*"):
        parse_time(text)


# -- options ------------------------------------------------------------------------------------------------------


def test_defaults():
    assert parse("json-file", {}) == LogOptions(-1, 1, False, False, 1_000_000)
    assert parse("local", {}) == LogOptions(20 * 1024 * 1024, 5, True, False, 1_000_000)


@pytest.mark.parametrize(
    ("text", "base", "size"),
    [
        ("10", 1000, 10),
        ("10k", 1000, 10_000),
        ("10KB", 1000, 10_000),
        ("1.5m", 1000, 1_500_000),
        ("2 MiB", 1024, 2 << 20),
        ("1g", 1024, 1 << 30),
    ],
)
def test_sizes(text, base, size):
    assert parse_size(text, base) == size


def test_options_are_taken():
    config = {"max-size": "10m", "max-file": "3", "compress": "true", "mode": "non-blocking", "max-buffer-size": "4m"}
    assert parse("json-file", config) == LogOptions(10_000_000, 3, True, True, 4 << 20)
    assert parse("local", {"max-size": "1m", "max-file": "1", "compress": "false"}) == LogOptions(1_000_000, 1, False)


@pytest.mark.parametrize(
    ("driver", "config", "words"),
    [
        ("json-file", {"max-file": "0"}, "max-file cannot be less than 1"),
        ("json-file", {"max-file": "-1"}, "max-file cannot be less than 1"),
        ("json-file", {"max-file": "x"}, 'strconv.Atoi: parsing "x": invalid syntax'),
        ("json-file", {"max-size": "ten"}, "invalid size: 'ten'"),
        ("json-file", {"max-size": "-1m"}, "invalid size: '-1m'"),
        ("json-file", {"max-size": "0"}, "max-size must be a positive number"),
        ("json-file", {"compress": "maybe"}, 'strconv.ParseBool: parsing "maybe": invalid syntax'),
        (
            "json-file",
            {"compress": "true"},
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        ),
        ("json-file", {"compress": "true", "max-size": "1m"}, "compress cannot be true when max-file is less than 2"),
        ("json-file", {"x": "1"}, "unknown log opt 'x' for json-file log driver"),
        ("json-file", {"mode": "fast"}, "logger: logging mode not supported: fast"),
        ("json-file", {"max-buffer-size": "1m"}, "max-buffer-size option is only supported with 'mode=non-blocking'"),
        (
            "json-file",
            {"mode": "non-blocking", "max-buffer-size": "x"},
            "error parsing option max-buffer-size: invalid size: 'x'",
        ),
        ("json-file", {"env-regex": "("}, "error parsing regexp"),
        ("local", {"x": "1"}, "unknown log opt 'x' for log driver local"),
        ("local", {"max-file": "1"}, "compression cannot be enabled when max file count is 1"),
        ("local", {"max-file": "x"}, "invalid value for max-file: x: strconv.Atoi"),
    ],
)
def test_bad_options_are_told_in_dockers_words(driver, config, words):
    with pytest.raises(InvalidParameter) as caught:
        parse(driver, config)
    assert words in str(caught.value)


def test_unknown_driver():
    with pytest.raises(NotFound, match="logger: no log driver named 'syslog' is registered"):
        parse("syslog", {})


# -- attributes ---------------------------------------------------------------------------------------------------

SUBJECT = LogSubject(
    id="0123456789abcdef" * 4,
    name="/web",
    image_id="sha256:" + "f" * 64,
    image_name="nginx",
    command=["/entry", "-x", "y"],
    environment=["A=1", "AB=2", "NOEQ", "B=3=4"],
    labels={"com.x": "l1", "com.y": "l2", "other": "l3"},
)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {}),
        ({"labels": "com.x,absent", "env": "B,NOEQ"}, {"com.x": "l1", "B": "3=4"}),
        ({"labels-regex": "^com\\.", "env-regex": "^A"}, {"com.x": "l1", "com.y": "l2", "A": "1", "AB": "2"}),
        ({"tag": "{{.Name}}/{{.ID}}"}, {"tag": "web/0123456789ab"}),
        ({"tag": "{{ .ImageName }} {{.Command}} plain"}, {"tag": "nginx /entry -x y plain"}),
    ],
)
def test_attributes(config, expected):
    assert attributes(config, SUBJECT) == expected


@pytest.mark.parametrize("tag", ["{{.Nope}}", "{{.Name", "{{range .X}}"])
def test_bad_tags(tag):
    with pytest.raises(InvalidParameter, match="log-tag"):
        attributes({"tag": tag}, SUBJECT)
