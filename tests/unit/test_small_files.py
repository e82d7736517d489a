"""Small files as whole texts."""

from __future__ import annotations

import pytest

from corten.linux import files


@pytest.mark.parametrize("text", ["", "x\n", "ü" * 2048, "y" * 4096, "z" * 10_000])
def test_what_was_written_is_read(tmp_path, text):
    files.write_text(tmp_path / "file", text)
    assert files.read_text(tmp_path / "file") == text


def test_a_file_is_replaced_whole_and_has_the_mode_it_was_made_with(tmp_path):
    files.write_text(tmp_path / "file", "something long", 0o600)
    files.write_text(tmp_path / "file", "short", 0o644)
    assert files.read_text(tmp_path / "file") == "short"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_a_missing_file_is_an_error_with_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        files.read_text(tmp_path / "missing")
