import pytest

from corten.dockerapi.filters import parse_filters
from corten.errors import InvalidParameter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("null", {}),
        ("{}", {}),
        ('{"label":["a","b=c"]}', {"label": ["a", "b=c"]}),
        ('{"label":{"a":true,"b=c":false},"name":{}}', {"label": ["a", "b=c"], "name": []}),
        ('{"name":null}', {"name": []}),
    ],
)
def test_both_wire_forms(text, expected):
    assert parse_filters(text) == expected


@pytest.mark.parametrize("text", ["x", "[]", "3", '{"a":3}', '{"a":[3]}', '{"a":{"b":1}}', '{"a":', "[" * 100_000])
def test_anything_else_is_refused(text):
    with pytest.raises(InvalidParameter):
        parse_filters(text)
