"""Small files as whole texts."""

from __future__ import annotations

import array
import fcntl
import os
import termios
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from corten.linux import files


@pytest.mark.parametrize("text", ["", "x\n", "ü" * 2048, "y" * 4096, "z" * 10_000])
def test_what_was_written_is_read(tmp_path, text):
    files.write_text(tmp_path / "file", text)
    assert files.read_text(tmp_path / "file") == text


def test_short_pieces_are_not_the_end(tmp_path):
    """Files of the kernel come in whole lines, which need not fill what is asked for."""
    os.mkfifo(tmp_path / "file")
    with ThreadPoolExecutor() as other:
        read = other.submit(files.read_text, tmp_path / "file")
        with open(tmp_path / "file", "wb", buffering=0) as pipe:
            for piece in (b"one\n", b"two\n"):
                pipe.write(piece)
                while not is_empty(pipe.fileno()):
                    time.sleep(0.001)
        assert read.result(5) == "one\ntwo\n"


def is_empty(pipe):
    waiting = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, waiting)
    return waiting[0] == 0


def test_a_file_is_replaced_whole_and_has_the_mode_it_was_made_with(tmp_path):
    files.write_text(tmp_path / "file", "something long", 0o600)
    files.write_text(tmp_path / "file", "short", 0o644)
    assert files.read_text(tmp_path / "file") == "short"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_a_missing_file_is_an_error_with_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        files.read_text(tmp_path / "missing")
