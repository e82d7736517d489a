""".dockerignore: Go's matching, exceptions, parents."""

from __future__ import annotations

import pytest

from corten.dockerfile.ignore import Ignore, matcher, read_patterns
from corten.errors import InvalidParameter


@pytest.mark.parametrize(
    ("patterns", "path", "excluded"),
    [
        ("*.md", "a.md", True),
        ("*.md", "d/a.md", False),
        ("**/*.md", "d/e/a.md", True),
        ("**/*.md", "a.md", True),
        ("d", "d/e/f", True),
        ("d/", "d/e/f", True),
        ("/d", "d/x", True),
        ("d/*", "d/e/f", True),
        ("d/**", "d/e", True),
        ("d/**", "d", False),
        ("d/**/f", "d/f", True),
        ("d/**/f", "d/a/b/f", True),
        ("**", "any/thing", True),
        ("*\n!keep", "keep/x", False),
        ("*\n!keep\nkeep/secret", "keep/secret", True),
        ("*\n!d/e", "d/e/f", False),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[a-c]x", "bx", True),
        ("[^a-c]x", "bx", False),
        ("[^a]b", "/b", False),
        ("a\\*", "a*", True),
        ("a\\*", "ab", False),
        ("a.b", "axb", False),
        ("./x/../y", "y", True),
        ("# comment\n \nx", "# comment", False),
        ("  spaced  ", "spaced", True),
        (".", "x", False),
        ("(x", "(x", True),
        ("a**b", "a/z/b", True),
        ("a**b", "ab", True),
        ("a**b", "axb", False),
        ("d/**", "d/e/f", True),
    ],
)
def test_matching(patterns: str, path: str, excluded: bool) -> None:
    assert Ignore(read_patterns(patterns.encode())).excludes(path) is excluded


def test_a_byte_order_mark_is_no_pattern() -> None:
    assert read_patterns(b"\xef\xbb\xbfx\r\ny") == ["x", "y"]


@pytest.mark.parametrize("pattern", ["!", "[", "[a", "[]a]", "[-a]", "a\\"])
def test_bad_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidParameter):
        Ignore(read_patterns(pattern.encode()))


def test_wildcards_of_copy_know_no_double_star() -> None:
    assert matcher("*.txt").match("a.txt")
    assert not matcher("**.txt").match("a/b.txt")
    assert not matcher("a*").match("a/b")
