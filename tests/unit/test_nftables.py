"""Sets, rules and notifications of nf_tables as bytes."""

from __future__ import annotations

import struct

import pytest

from corten.linux import nftables as nft
from corten.linux import nftexpressions as expr
from corten.linux import nftlist
from corten.linux.netlink import Message, attribute, attributes, nested


def parts(message: Message) -> dict[int, bytes]:
    return dict(attributes(message.body[4:]))


def elements(message: Message) -> list[dict[int, bytes]]:
    return [dict(attributes(value)) for _, value in attributes(parts(message)[3])]


def key(element: dict[int, bytes]) -> bytes:
    return dict(attributes(element[1]))[1]


def test_parts_of_a_key_are_padded_to_words() -> None:
    types = (nft.TYPE_ADDRESS, nft.TYPE_PROTOCOL, nft.TYPE_SERVICE)
    assert nft.pack_key(types, (b"\x7f\0\0\1", b"\x06", b"\x1f\x90")) == b"\x7f\0\0\1\x06\0\0\0\x1f\x90\0\0"
    made = parts(nft.add_set("t", "s", types, 3, data=(nft.TYPE_ADDRESS, nft.TYPE_SERVICE)))
    assert struct.unpack(">I", made[5]) == (12,)
    assert struct.unpack(">I", made[4]) == (7 << 12 | 12 << 6 | 13,)
    assert struct.unpack(">I", made[7]) == (8,)
    assert struct.unpack(">I", made[3]) == (0x8,), "a map"


def test_an_interface_is_a_key_of_16_bytes() -> None:
    assert nft.pack_key((nft.TYPE_INTERFACE,), (b"br0",)) == expr.interface_key("br0") == b"br0".ljust(16, b"\0")


def test_an_interval_has_its_begin_and_what_comes_behind_it() -> None:
    (message,) = nft.add_intervals("t", "s", [(b"\x0a\0\0\0", b"\x0a\0\0\xff")])
    begin, end = elements(message)
    assert (key(begin), begin.get(3)) == (b"\x0a\0\0\0", None)
    assert (key(end), end[3]) == (b"\x0a\0\1\0", struct.pack(">I", 1))


def test_an_interval_up_to_the_last_key_has_no_end() -> None:
    (message,) = nft.add_intervals("t", "s", [(b"\xff\0\0\0", b"\xff\xff\xff\xff")])
    assert len(elements(message)) == 1


def test_more_elements_than_one_attribute_holds_are_several_messages() -> None:
    numbers = [struct.pack(">I", number) for number in range(10_000)]
    messages = nft.add_elements("t", "s", [(number, None) for number in numbers])
    assert len(messages) > 1
    assert all(len(parts(message)[3]) < 1 << 16 for message in messages)
    assert [key(element) for message in messages for element in elements(message)] == numbers
    assert nft.add_elements("t", "s", []) == []


def expressions(rule: Message) -> list[tuple[str, dict[int, bytes]]]:
    found = []
    for _, value in attributes(parts(rule)[4]):
        expression = dict(attributes(value))
        found.append((expression[1].rstrip(b"\0").decode(), dict(attributes(expression.get(2, b"")))))
    return found


def test_a_rule_in_the_words_of_iptables() -> None:
    """iptables-nft compares the name with its NUL and nothing behind it: it could not list another rule."""
    rule = nft.add_rule(
        "filter", "FORWARD", *expr.is_interface(expr.META_IIFNAME, "br0"), expr.counter(), expr.verdict(nft.ACCEPT),
        family=nft.IPV4, userdata=nft.comment("corten"),
    )  # fmt: skip
    names = [name for name, _ in expressions(rule)]
    assert names == ["meta", "cmp", "counter", "immediate"]
    assert dict(attributes(expressions(rule)[1][1][3]))[1] == b"br0\0"
    assert rule.body[0] == nft.IPV4
    assert parts(rule)[7] == b"\x00\x07corten\x00"


@pytest.mark.parametrize(("inverted", "into"), [(False, 0), (True, 0), (False, expr.FIRST)])
def test_lookups(inverted: bool, into: int) -> None:
    ((name, values),) = expressions(nft.add_rule("t", "c", expr.lookup("s", 4, into=into, inverted=inverted)))
    assert name == "lookup"
    assert (5 in values, 3 in values) == (inverted, bool(into))


def test_a_jump_and_a_verdict() -> None:
    ((_, jump), (_, drop)) = expressions(nft.add_rule("t", "c", expr.jump("user"), expr.verdict(nft.DROP)))
    verdict = dict(attributes(dict(attributes(jump[2]))[2]))
    assert struct.unpack(">i", verdict[1]) == (-3,)
    assert verdict[2] == b"user\0"
    assert struct.unpack(">i", dict(attributes(dict(attributes(drop[2]))[2]))[1]) == (0,)


def test_a_rule_is_put_back_as_it_was_read() -> None:
    original = nft.add_rule("t", "user", expr.jump("x"), userdata=nft.comment("mine"))
    body = original.body[:4] + attribute(1, "t") + attribute(2, "user") + attribute(3, bytes(7) + b"\x05")
    body += nested(4, parts(original)[4]) + attribute(7, parts(original)[7])

    class Listed:
        def dump(self, message: Message) -> list[tuple[int, bytes]]:
            return [(0xA06, body), (0xA06, struct.pack(">BBH", nft.INET, 0, 0) + attribute(1, "other"))]

    (rule,) = nftlist.rules(Listed(), "t", "user")
    assert (rule.handle, rule.userdata) == (bytes(7) + b"\x05", nft.comment("mine"))
    again = nft.put_rule("t", "user", rule.content)
    assert expressions(again) == expressions(original)
    assert parts(again)[7] == parts(original)[7]


@pytest.mark.parametrize(
    ("number", "field", "expected"),
    [(2, 1, ("table", True)), (3, 3, ("chain", False)), (5, 3, ("chain", True)), (6, 2, ("rule", False)),
     (8, 2, ("rule", True)), (9, 2, ("set", False)), (11, 2, ("set", True)), (12, 2, ("element", False)),
     (14, 2, ("element", True))],
)  # fmt: skip
def test_notifications(number: int, field: int, expected: tuple[str, bool]) -> None:
    body = struct.pack(">BBH", nft.INET, 0, 0) + attribute(1, "corten") + (attribute(field, "x") if field > 1 else b"")
    change = nftlist.change(10 << 8 | number, 55, body)
    assert change == nftlist.Change(expected[0], nft.INET, "corten", "corten" if field == 1 else "x", expected[1], 55)


def test_other_notifications_are_of_no_interest() -> None:
    body = struct.pack(">BBH", nft.INET, 0, 0)
    assert nftlist.change(10 << 8 | 15, 1, body) is None
    assert nftlist.change(1 << 8 | 2, 1, body) is None
