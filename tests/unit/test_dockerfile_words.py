"""Words of Dockerfiles: quotes, escapes, variables with all modifiers."""

from __future__ import annotations

import pytest

from corten.dockerfile.words import WordError, expand, expand_heredoc, expand_words, raw_words, unquote

KNOWN = {"a": "value", "empty": "", "path": "/usr/local/bin/x.tar.gz", "two": "one two"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("$a", "value"),
        ("${a}x", "valuex"),
        ("$ax", ""),
        ("$a-x", "value-x"),
        ("'$a'", "$a"),
        ('"$a"', "value"),
        ("\\$a", "$a"),
        ('"\\$a"', "$a"),
        ('"\\x"', "\\x"),
        ("\\x", "x"),
        ("x\\", "x"),
        ("$", "$"),
        ("$ x", "$ x"),
        ("${none:-word}", "word"),
        ("${empty:-word}", "word"),
        ("${empty-word}", ""),
        ("${none-word}", "word"),
        ("${a:+word}", "word"),
        ("${empty:+word}", ""),
        ("${empty+word}", "word"),
        ("${none+word}", ""),
        ("${none:-${a:-x}}", "value"),
        ("${none:-'a b'}", "a b"),
        ("${a:?no}", "value"),
        ("${path#*/}", "usr/local/bin/x.tar.gz"),
        ("${path##*/}", "x.tar.gz"),
        ("${path%.*}", "/usr/local/bin/x.tar"),
        ("${path%%.*}", "/usr/local/bin/x"),
        ("${path%.zip}", "/usr/local/bin/x.tar.gz"),
        ("${path/\\//-}", "-usr/local/bin/x.tar.gz"),
        ("${path//\\//-}", "-usr-local-bin-x.tar.gz"),
        ("${path/l?c*./X}", "/usr/XgZ".lower().replace("x", "X")),
        ("${a//[/]}", "value"),
        ("$1$@$*", ""),
        ("a'b'\"c\"", "abc"),
    ],
)
def test_expand(text: str, value: str) -> None:
    assert expand(text, KNOWN) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("'x", "single-quote"),
        ('"x', "double-quote"),
        ("${a", "missing '}'"),
        ("${}", "bad substitution"),
        ("${a:x}", "unsupported modifier"),
        ("${a^}", "unsupported modifier"),
        ("${none?}", "none: not allowed to be unset"),
        ("${empty:?}", "empty: not allowed to be empty"),
        ("${none:?give it}", "none: give it"),
        ("${a:-x", "matching }"),
        ("${none:-" * 100, "nested too deeply"),
        ("${a/*a*a*a*a*a*a*a*a*a/x}", "eight stars"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(WordError, match=message.replace("?", r"\?").replace("}", r"\}")):
        expand(text, KNOWN)


def test_backtick_as_escape() -> None:
    assert expand("C:\\dir`$a", KNOWN, "`") == "C:\\dir$a"


def test_values_cannot_grow_without_end() -> None:
    with pytest.raises(WordError, match="more than"):
        expand("$x" * 20, {"x": "y" * 100_000})


def test_words_of_values_come_apart_and_quoted_ones_do_not() -> None:
    assert expand_words('$two "$two" x\\ y', KNOWN) == ["one", "two", "one two", "x y"]


def test_raw_words_keep_their_quotes() -> None:
    assert raw_words("a 'b c' d\\ e \"f\"g") == ["a", "'b c'", "d\\ e", '"f"g']


def test_unquote_leaves_dollars() -> None:
    assert unquote("'a'$b\\$") == ["a$b$"]


def test_quotes_mean_nothing_in_a_heredoc() -> None:
    assert expand_heredoc('it\'s "$a" \\$a \\n ${none:-d}\n', KNOWN) == 'it\'s "value" $a \\n d\n'
