"""Ids and names of containers."""

from __future__ import annotations

import re
import secrets

import pytest

from corten.engine import names
from corten.errors import InvalidParameter


def test_random_names_are_valid_and_differ():
    made = {names.random_name() for _ in range(200)}
    assert len(made) > 100
    for name in made:
        assert re.fullmatch(r"[a-z]+_[a-z]+", name)
        names.valid_name(name)


def test_a_search_for_a_free_name_ends():
    made = {names.random_name(attempt) for attempt in range(1, 200)}
    assert all(name[-1].isdigit() for name in made)
    assert len(made) == 199
    for name in made:
        names.valid_name(name)


@pytest.mark.parametrize("name", ["ab", "A0", "0x", "a.b-c_d", "a" * 300])
def test_valid_names(name):
    names.valid_name(name)


@pytest.mark.parametrize("name", ["", "a", "-a", ".a", "_a", "a b", "a/b", "ä1", "ab\n", "a\0b", "٣٣"])
def test_invalid_names_in_dockers_words(name):
    with pytest.raises(InvalidParameter) as caught:
        names.valid_name(name)
    assert str(caught.value) == f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"


def test_ids_are_64_hexadecimal_digits_and_no_numbers(monkeypatch):
    assert re.fullmatch(r"[0-9a-f]{64}", names.new_id())
    candidates = iter(["1" * 64, "0123456789019" + "a" * 51, "a" + "1" * 63])
    monkeypatch.setattr(secrets, "token_hex", lambda count: next(candidates))
    assert names.new_id() == "a" + "1" * 63
