import pytest

from corten.api.http.query import Query, percent_decode
from corten.errors import InvalidParameter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", True),
        ("true", True),
        ("True", True),
        ("TRUE", True),
        ("yes", True),
        ("x", True),
        ("2", True),
        ("0", False),
        ("false", False),
        ("False", False),
        ("no", False),
        ("none", False),
        ("", False),
        ("+false+", False),
    ],
)
def test_booleans_by_dockers_rule(text, expected):
    assert Query.parse(f"all={text}").flag("all", not expected) is expected


def test_an_absent_boolean_is_its_default():
    assert Query.parse("").flag("stream", True) is True
    assert Query.parse("stream").flag("stream", True) is False


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("007", 7),
        ("-1", -1),
        ("%2B5", 5),
        ("9223372036854775807", 2**63 - 1),
        ("", 3),
        ("-9223372036854775808", -(2**63)),
    ],
)
def test_numbers(text, number):
    assert Query.parse(f"n={text}").integer("n", 3) == number


@pytest.mark.parametrize(
    "text",
    ["x", "1.5", "1e3", "9223372036854775808", "-9223372036854775809", "9" * 5000, "1_0", "%D9%A1", "+", "-", "0x1"],
)
def test_what_is_no_number(text):
    with pytest.raises(InvalidParameter, match="invalid number for n"):
        Query.parse(f"n={text}").integer("n")


def test_values_in_their_order_and_decoded():
    query = Query.parse("names=a%2Fb&names=c+d&&x=%C3%A9&empty=&flag&=odd")
    assert query.texts("names") == ["a/b", "c d"]
    assert query.text("names") == "a/b"
    assert query.text("x") == "é"
    assert query.text("empty", "default") == ""
    assert query.text("absent", "default") == "default"
    assert "flag" in query
    assert "absent" not in query
    assert query.optional_integer("absent") is None


@pytest.mark.parametrize("raw", ["a=%zz", "a=%", "%f=1", "a=%00", "a=%ff", "a=1;b=2", "&".join(["a=1"] * 1001)])
def test_broken_queries(raw):
    with pytest.raises(InvalidParameter):
        Query.parse(raw)


def test_the_wording_of_a_bad_escape_is_gos():
    with pytest.raises(InvalidParameter, match='invalid URL escape "%zz"'):
        percent_decode("a%zzb")


def test_percent_decoding_keeps_the_rest():
    assert percent_decode("a+b%25c%2520") == "a+b%c%20"
