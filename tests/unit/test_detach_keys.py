import pytest

from corten.dockerapi.detach_keys import parse_detach_keys
from corten.errors import InvalidParameter


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", b"\x10\x11"),
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("a", b"a"),
        ("ctrl-@,ctrl-_,DEL", b"\x00\x1f\x7f"),
        ("ctrl-\\,A", b"\x1cA"),
    ],
)
def test_known_keys(text, keys):
    assert parse_detach_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-A", "ctrl-", "ctrl-1", "ab", "a,", "é", "CTRL-a", "ctrl-pp"])
def test_unknown_keys(text):
    with pytest.raises(InvalidParameter, match="Invalid detach keys"):
        parse_detach_keys(text)
