"""What every log driver that keeps files promises, whichever its format: written by the shim, read by the engine."""

from __future__ import annotations

import gzip
import os
import select
import signal
import time

import pytest

from corten.dockerapi.frames import FrameDecoder
from corten.errors import NotImplementedYet
from corten.logdriver.lines import MAXIMUM_LINE
from corten.logdriver.options import parse
from corten.logdriver.reader import open_reader
from corten.logdriver.reading import ReadRequest
from corten.logdriver.rotation import compress_piece
from corten.logdriver.writers import open_writer
from waiting import until

T0 = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


class FakeLoop:
    """Remembers what is watched; ``turn`` calls back what is ready."""

    def __init__(self):
        self.watched = {}

    def watch(self, descriptor, events, callback):
        self.watched[descriptor] = (events, callback)

    def forget(self, descriptor):
        del self.watched[descriptor]

    def turn(self, timeout=1.0):
        poller = select.poll()
        for descriptor, (events, _) in self.watched.items():
            poller.register(descriptor, events)
        for descriptor, events in poller.poll(timeout * 1000):
            self.watched[descriptor][1](events)


class Log:
    """A log of one driver in a temporary directory."""

    def __init__(self, driver, directory):
        self.driver = driver
        self.path = str(directory / "logs" / "c.log")
        self.writer = None
        self.loop = FakeLoop()

    def open(self, attributes=None, **options):
        config = {name.replace("_", "-"): value for name, value in options.items()}
        self.writer = open_writer(self.driver, self.path, parse(self.driver, config), attributes or {}, self.loop)
        return self

    def write(self, text, stream="stdout", at=T0):
        self.writer.write(stream, text if isinstance(text, bytes) else text.encode(), at)

    def end(self, at=T0):
        self.writer.finish(at)
        self.writer.close()

    def reader(self, *, follow=False, **request):
        return open_reader(self.driver, self.path, ReadRequest(**request), follow=follow)

    def read(self, **request):
        reader = self.reader(**request)
        data = b"".join(reader.chunks())
        reader.close()
        return data

    def frames(self, **request):
        decoder = FrameDecoder()
        frames = decoder.feed(self.read(**request))
        assert decoder.is_complete
        return frames

    def text(self, **request):
        return self.read(framed=False, **request)

    def files(self):
        return sorted(os.listdir(os.path.dirname(self.path)))


@pytest.fixture(params=["json-file", "local"])
def log(request, tmp_path):
    entry = Log(request.param, tmp_path)
    yield entry
    if entry.writer is not None:
        entry.writer.close()


PLAIN = {"json-file": {}, "local": {"compress": "false"}}


def opened(log, **options):
    return log.open(**{**PLAIN[log.driver], **options})


# -- entries ----------------------------------------------------------------------------------------------------


def test_lines_come_back_one_frame_each_with_their_stream(log):
    opened(log)
    log.write("one\ntwo\n")
    log.write("bad\n", "stderr")
    log.write("three\n")
    log.end()
    assert log.frames() == [(1, b"one\n"), (1, b"two\n"), (2, b"bad\n"), (1, b"three\n")]
    assert log.frames(stderr=False) == [(1, b"one\n"), (1, b"two\n"), (1, b"three\n")]
    assert log.frames(stdout=False) == [(2, b"bad\n")]


@pytest.mark.parametrize(
    "text",
    [
        b"plain\n",
        b"\n",
        b"\n\n\n",
        b'quote " backslash \\ slash / \\n \\u0041\n',
        b"<html> & </html>\n",
        "umlaut \u00e4, \u6f22\u5b57, \U0001f600, separators \u2028 \u2029, \ufeff, \u007f\n".encode(),
        bytes(code for code in range(1, 128) if code != 10) + b"\n",
        b"nul \x00 in it\n",
        b"cr\r\n",
        b'{"log":"a\\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}\n',
    ],
)
def test_any_utf8_text_comes_back_as_it_was(log, text):
    opened(log)
    log.write(text)
    log.write(text, "stderr")
    log.end()
    assert b"".join(payload for stream, payload in log.frames() if stream == 1) == text
    assert b"".join(payload for stream, payload in log.frames() if stream == 2) == text


def test_a_line_is_logged_when_it_ends(log):
    opened(log)
    log.write("begin")
    assert log.read() == b""
    log.write(" and end\nnext")
    assert log.text() == b"begin and end\n"
    log.end()
    assert log.frames() == [(1, b"begin and end\n"), (1, b"next")]


def test_streams_are_cut_apart(log):
    opened(log)
    log.write("out ")
    log.write("err\n", "stderr")
    log.write("put\n")
    log.end()
    assert log.frames() == [(2, b"err\n"), (1, b"out put\n")]


@pytest.mark.parametrize("length", [MAXIMUM_LINE - 1, MAXIMUM_LINE, MAXIMUM_LINE + 1, 3 * MAXIMUM_LINE + 5])
@pytest.mark.parametrize("step", [1 << 20, 1000])
def test_long_lines_are_cut_into_parts_of_16_kib(log, length, step):
    opened(log)
    data = b"before\n" + b"x" * length + b"\nafter\n"
    for start in range(0, len(data), step):
        log.write(data[start : start + step])
    log.end()
    parts = [MAXIMUM_LINE] * (length // MAXIMUM_LINE)
    expected = [b"x" * part for part in parts] + [b"x" * (length % MAXIMUM_LINE) + b"\n"]
    assert [payload for _, payload in log.frames()] == [b"before\n", *expected, b"after\n"]


def test_parts_of_a_long_line_bear_the_time_of_the_first(log):
    opened(log)
    log.write(b"x" * MAXIMUM_LINE, at=T0)
    log.write(b"y" * MAXIMUM_LINE, at=T0 + SECOND)
    log.write(b"end\nnext\n", at=T0 + 2 * SECOND)
    log.end()
    starts = [payload[:30] for _, payload in log.frames(timestamps=True)]
    assert [start[:20] for start in starts] == [b"2023-11-14T22:13:20."] * 3 + [b"2023-11-14T22:13:22."]


def test_a_new_run_appends(log):
    opened(log)
    log.write("first run\n")
    log.end()
    opened(log)
    log.write("second run\n")
    log.end()
    assert log.text() == b"first run\nsecond run\n"


def test_mode_of_the_file_is_closed_to_others(log):
    opened(log)
    log.write("x\n")
    log.end()
    assert os.stat(log.path).st_mode & 0o777 == 0o640


# -- what is asked for --------------------------------------------------------------------------------------------


def ten_lines(log):
    opened(log)
    for number in range(10):
        log.write(f"line {number}\n", "stdout" if number % 2 == 0 else "stderr", T0 + number * SECOND)
    log.end()


def numbers(text):
    return [int(line.split()[-1]) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, range(10)),
        ({"tail": 0}, []),
        ({"tail": 1}, [9]),
        ({"tail": 3}, [7, 8, 9]),
        ({"tail": 10}, range(10)),
        ({"tail": 1000}, range(10)),
        ({"tail": 3, "stderr": False}, [8]),
        ({"since": T0 + 4 * SECOND}, range(4, 10)),
        ({"since": T0 + 4 * SECOND + 1}, range(5, 10)),
        ({"until": T0 + 4 * SECOND}, range(5)),
        ({"since": T0 + 2 * SECOND, "until": T0 + 5 * SECOND}, range(2, 6)),
        ({"since": T0 + 100 * SECOND}, []),
        ({"until": T0 - 1}, []),
        ({"tail": 4, "since": T0 + 8 * SECOND}, [8, 9]),
    ],
)
def test_tail_since_until(log, request_, expected):
    ten_lines(log)
    assert numbers(log.text(**request_)) == list(expected)


def test_timestamps_have_nine_digits(log):
    opened(log)
    log.write("a\n", at=T0)
    log.write("b\n", at=T0 + 120_000_000)
    log.end()
    assert log.text(timestamps=True) == b"2023-11-14T22:13:20.000000000Z a\n2023-11-14T22:13:20.120000000Z b\n"


def test_details_are_the_attributes_sorted_and_quoted(log):
    opened(log, attributes={"tag": "web 1", "a&b": "\u00e4<"})
    log.write("x\n")
    log.end()
    assert log.text(details=True) == b"a%26b=%C3%A4%3C,tag=web+1 x\n"
    assert log.text(details=True, timestamps=True) == b"2023-11-14T22:13:20.000000000Z a%26b=%C3%A4%3C,tag=web+1 x\n"
    assert log.text() == b"x\n"


def test_details_without_attributes_are_empty(log):
    opened(log)
    log.write("x\n")
    log.end()
    assert log.text(details=True) == b" x\n"


def test_frames_of_long_and_short_lines_have_their_length(log):
    opened(log)
    lines = [b"x" * length + b"\n" for length in (0, 1, 1022, 1023, 1024, 5000, MAXIMUM_LINE - 1)]
    log.write(b"".join(lines))
    log.end()
    assert log.frames() == [(1, line) for line in lines]


def test_a_log_that_was_never_written_is_empty(log):
    assert log.read() == b""
    assert log.read(tail=5) == b""


def test_tail_of_a_long_file_reads_only_its_end(log):
    opened(log)
    log.write(b"".join(b"line %d\n" % number for number in range(50_000)))
    log.end()
    assert numbers(log.text(tail=7)) == list(range(49_993, 50_000))
    assert numbers(log.text(tail=30_000)) == list(range(20_000, 50_000))


def test_since_finds_its_place_in_a_long_file(log):
    opened(log)
    for second in range(400):
        log.write(b"".join(b"%s line %d\n" % (b"x" * 60, second) for _ in range(100)), at=T0 + second * SECOND)
    log.end()
    assert sorted(set(numbers(log.text(since=T0 + 250 * SECOND)))) == list(range(250, 400))
    assert len(numbers(log.text(since=T0 + 250 * SECOND))) == 15_000


# -- rotation -----------------------------------------------------------------------------------------------------


def test_max_size_makes_a_new_file_and_max_file_bounds_their_number(log):
    opened(log, max_size="2k", max_file="3")
    for number in range(200):
        log.write(f"line {number}\n")
    log.end()
    assert log.files() == ["c.log", "c.log.1", "c.log.2"]
    found = numbers(log.text())
    assert found == list(range(found[0], 200))
    assert 20 < len(found) < 200
    for name in log.files():
        assert os.path.getsize(os.path.join(os.path.dirname(log.path), name)) < 2000 + 200


def test_one_big_write_is_spread_over_files_as_many_small_ones_are(log, tmp_path):
    opened(log, max_size="2k", max_file="4")
    log.write(b"".join(b"line %d\n" % number for number in range(200)))
    log.end()
    one = [os.path.getsize(os.path.join(os.path.dirname(log.path), name)) for name in log.files()]
    other = Log(log.driver, tmp_path / "other")
    opened(other, max_size="2k", max_file="4")
    for number in range(200):
        other.write(f"line {number}\n")
    other.end()
    assert one == [os.path.getsize(os.path.join(os.path.dirname(other.path), name)) for name in other.files()]
    assert log.text() == other.text()


def test_a_single_file_begins_anew(log):
    opened(log, max_size="2k", max_file="1")
    for number in range(200):
        log.write(f"line {number}\n")
    log.end()
    assert log.files() == ["c.log"]
    found = numbers(log.text())
    assert found == list(range(found[0], 200))
    assert os.path.getsize(log.path) < 2200


def test_tail_and_since_cross_files(log):
    opened(log, max_size="2k", max_file="5")
    for number in range(100):
        log.write(f"line {number:0100}\n", at=T0 + number * SECOND)
    log.end()
    assert len(log.files()) > 2
    assert numbers(log.text(tail=30)) == list(range(70, 100))
    # files are judged by when they were written, and these are new: all are read and filtered
    assert numbers(log.text(since=T0 + 75 * SECOND)) == list(range(75, 100))


def test_rotated_files_are_compressed_aside(log):
    opened(log, max_size="20k", max_file="3", compress="true")
    for number in range(700):
        log.write(f"line {number:060}\n")
    until(lambda: "c.log.2.gz" in log.files())
    log.end()
    found = numbers(log.text())
    assert found == list(range(found[0], 700))
    assert len(found) > 100
    assert numbers(log.text(tail=len(found) - 5)) == found[5:]
    with gzip.open(f"{log.path}.2.gz") as packed:
        assert f"line {found[0]:060}".encode() in packed.read()


def test_compression_follows_its_file_when_names_shift(log):
    opened(log, max_size="2k", max_file="9")
    for number in range(100):
        log.write(f"line {number}\n")
    before = log.text()
    kept = len(log.files())
    # the name that was asked for has gone to another index by the time the result is put in place
    os.rename(f"{log.path}.{kept - 1}", f"{log.path}.{kept}")
    compress_piece(log.path, f"{log.path}.{kept}")
    assert f"c.log.{kept}.gz" in log.files()
    assert f"c.log.{kept}" not in log.files()
    os.rename(f"{log.path}.{kept}.gz", f"{log.path}.{kept - 1}.gz")
    assert log.text() == before
    log.end()


def test_leftovers_of_a_killed_compressor_go(log):
    opened(log, max_size="2k", max_file="3")
    log.write("x\n")
    log.end()
    leftover = f"{log.path}.12345.gz.tmp"
    with open(leftover, "wb") as file:
        file.write(b"half")
    log.open(max_size="2k", max_file="3", compress="true")
    assert not os.path.exists(leftover)


def test_rotate_on_request(log):
    opened(log, max_size="1m", max_file="3")
    log.write("old\n")
    log.writer.rotate()
    log.write("new\n")
    log.end()
    assert log.files() == ["c.log", "c.log.1"]
    assert log.text() == b"old\nnew\n"


# -- following ----------------------------------------------------------------------------------------------------


def test_a_follower_goes_on_where_it_was(log):
    opened(log)
    log.write("one\n")
    reader = log.reader(follow=True, framed=False)
    assert b"".join(reader.chunks()) == b"one\n"
    assert b"".join(reader.chunks()) == b""
    log.write("two\n")
    assert b"".join(reader.chunks()) == b"two\n"
    reader.close()
    log.end()


def test_a_follower_starts_before_the_file_exists(log):
    reader = log.reader(follow=True, framed=False)
    assert b"".join(reader.chunks()) == b""
    opened(log)
    log.write("one\n")
    assert b"".join(reader.chunks()) == b"one\n"
    reader.close()
    log.end()


def test_a_follower_of_nothing_but_what_comes(log):
    opened(log)
    log.write("old\n")
    reader = log.reader(follow=True, framed=False, tail=0)
    assert b"".join(reader.chunks()) == b""
    log.write("new\n")
    assert b"".join(reader.chunks()) == b"new\n"
    reader.close()
    log.end()


@pytest.mark.parametrize(
    ("max_file", "compress"), [("1", "false"), ("2", "false"), ("3", "false"), ("2", "true"), ("3", "true")]
)
def test_a_follower_that_keeps_up_loses_nothing_by_rotation(log, max_file, compress):
    opened(log, max_size="5k", max_file=max_file, compress=compress)
    reader = log.reader(follow=True, framed=False)
    received = bytearray()
    for number in range(3000):
        log.write(f"line {number}\n")
        if number % 10 == 0:
            # what the engine does at every change: take hold of new files, read less often
            reader.keep_up()
        if number % 700 == 0:
            received += b"".join(reader.chunks())
    log.end()
    received += b"".join(reader.chunks())
    reader.close()
    assert numbers(bytes(received)) == list(range(3000))


def test_a_reader_without_follow_ends_while_a_program_writes(log):
    opened(log)
    log.write(b"".join(b"line %d\n" % number for number in range(20_000)))
    reader = log.reader(framed=False)
    received = bytearray()
    for chunk in reader.chunks():
        received += chunk
        log.write(b"more %d\n" % len(received))
    reader.close()
    log.end()
    assert numbers(bytes(received)) == list(range(20_000))


def test_until_ends_a_follower(log):
    opened(log)
    log.write("a\n", at=T0)
    reader = log.reader(follow=True, framed=False, until=T0 + SECOND)
    assert b"".join(reader.chunks()) == b"a\n"
    assert not reader.done
    log.write("b\n", at=T0 + 2 * SECOND)
    assert b"".join(reader.chunks()) == b""
    assert reader.done
    reader.close()
    log.end()


def test_descriptors_are_given_back(log):
    opened(log, max_size="2k", max_file="5", compress="true")
    log.write(b"".join(b"line %d\n" % number for number in range(500)))
    log.end()
    before = len(os.listdir("/proc/self/fd"))
    for request in ({}, {"tail": 3}, {"tail": 300}, {"since": T0}):
        log.read(**request)
    reader = log.reader(follow=True)
    next(reader.chunks())
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


# -- damage -------------------------------------------------------------------------------------------------------


def test_an_entry_cut_off_by_a_crash_is_skipped_and_taken_away_by_the_next_run(log):
    opened(log)
    log.write("one\ntwo\nthree\n")
    log.end()
    size = os.path.getsize(log.path)
    os.truncate(log.path, size - 7)
    assert log.text() == b"one\ntwo\n"
    opened(log)
    log.write("four\n")
    log.end()
    assert log.text() == b"one\ntwo\nfour\n"


def test_damage_in_the_midst_costs_only_what_is_damaged(log):
    opened(log)
    log.write("one\ntwo\nthree\nfour\n")
    log.end()
    with open(log.path, "r+b") as file:
        data = file.read()
        file.seek(data.index(b"two") - 8)
        file.write(b"\xff" * 8)
    text = log.text()
    assert text.startswith(b"one\n")
    assert text.endswith(b"three\nfour\n")
    assert log.text(tail=2) == b"three\nfour\n"


def test_a_file_of_rubbish_is_read_without_harm(log):
    os.makedirs(os.path.dirname(log.path))
    with open(log.path, "wb") as file:
        file.write(os.urandom(3 << 20))
    assert len(log.read()) < 3 << 20
    opened(log)
    log.write("sound\n")
    log.end()
    assert log.text().endswith(b"sound\n")


def test_a_damaged_compressed_file_gives_what_it_can(log):
    opened(log, max_size="20k", max_file="3")
    for number in range(400):
        log.write(f"line {number:060}\n")
    log.end()
    compress_piece(log.path, f"{log.path}.1")
    with open(f"{log.path}.1.gz", "r+b") as file:
        file.truncate(os.path.getsize(f"{log.path}.1.gz") - 40)
    found = numbers(log.text())
    assert found[-1] == 399
    assert found == sorted(found)


def test_a_full_disk_leaves_whole_entries_and_counts_what_was_lost(log, monkeypatch):
    opened(log)
    log.write("one\n")
    real_write = os.write
    taken = []

    def write(descriptor, data):
        if taken:
            raise OSError(28, "No space left on device")
        taken.append(real_write(descriptor, bytes(data)[:9]))
        return taken[0]

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space left"):
        log.write("two\n")
    monkeypatch.undo()
    log.write("three\n")
    log.end()
    assert log.text() == b"one\nthree\n"
    assert log.writer.dropped == 4


# -- non-blocking -------------------------------------------------------------------------------------------------


def test_non_blocking_writes_everything_that_the_disk_takes(log):
    opened(log, mode="non-blocking", max_buffer_size="4m")
    for number in range(2000):
        log.write(f"line {number}\n", "stderr" if number % 7 == 0 else "stdout")
        while log.loop.watched:
            log.loop.turn()
    log.write(b"x" * (MAXIMUM_LINE + 3) + b"\nrest")
    log.end()
    frames = [payload for _, payload in log.frames()]
    assert numbers(b"".join(frames[:2000])) == list(range(2000))
    assert frames[2000:] == [b"x" * MAXIMUM_LINE, b"xxx\n", b"rest"]
    assert log.writer.dropped == 0


def test_non_blocking_drops_whole_lines_when_the_disk_is_slow(log):
    opened(log, mode="non-blocking", max_buffer_size="100k")
    child = log.writer._child
    signal.pidfd_send_signal(child, signal.SIGSTOP)
    try:
        began = time.monotonic()
        for number in range(20_000):
            log.write(b"%s line %d\n" % (b"x" * 50, number))
        assert time.monotonic() - began < 5
        assert log.writer.dropped > 0
    finally:
        signal.pidfd_send_signal(child, signal.SIGCONT)
    while log.loop.watched:
        log.loop.turn()
    log.end()
    lines = log.text().splitlines(keepends=True)
    assert all(line.startswith(b"x" * 50 + b" line ") and line.endswith(b"\n") for line in lines)
    assert sum(map(len, lines)) + log.writer.dropped == sum(
        len(b"%s line %d\n" % (b"x" * 50, n)) for n in range(20_000)
    )


def test_non_blocking_goes_on_after_its_process_was_killed(log):
    opened(log, mode="non-blocking")
    log.write("one\n")
    until(lambda: log.text() == b"one\n")
    signal.pidfd_send_signal(log.writer._child, signal.SIGKILL)
    select.select([log.writer._child], [], [], 5)
    log.write("lost or not\n")
    log.write("three\n")
    log.end()
    assert log.text().splitlines()[0] == b"one"
    assert log.text().endswith(b"three\n")


# -- none ---------------------------------------------------------------------------------------------------------


def test_none_keeps_nothing_and_cannot_be_read(tmp_path):
    writer = open_writer("none", "", parse("none", {}), {}, FakeLoop())
    writer.write("stdout", b"x\n", T0)
    writer.finish(T0)
    writer.rotate()
    writer.close()
    assert writer.dropped == 0
    with pytest.raises(NotImplementedYet, match="configured logging driver does not support reading"):
        open_reader("none", "", ReadRequest())
