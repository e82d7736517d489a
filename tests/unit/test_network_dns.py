"""DNS messages: what a client's library would make of ours, and whatever bytes come."""

from __future__ import annotations

import ipaddress
import random
import struct

import pytest

from corten.network import dns

A, AAAA, PTR, OPT = dns.A, dns.AAAA, dns.PTR, dns.OPT


def question(name: str, kind: int = A, *, number: int = 7, flags: int = 0x0100, size: int = 0) -> bytes:
    additional = b"\0" + struct.pack(">HHIH", OPT, size, 0, 0) if size else b""
    head = struct.pack(">HHHHHH", number, flags, 1, 0, 0, 1 if size else 0)
    return head + dns.encode_name(name) + struct.pack(">HH", kind, 1) + additional


def read_name(data: bytes, at: int) -> tuple[str, int]:
    labels, end = [], 0
    while data[at]:
        if data[at] >= 0xC0:
            end = end or at + 2
            at = struct.unpack_from(">H", data, at)[0] & 0x3FFF
            continue
        labels.append(data[at + 1 : at + 1 + data[at]].decode())
        at += 1 + data[at]
    return ".".join(labels), end or at + 1


def read(data: bytes) -> dict:
    """An independent reader of answers, by RFC 1035 section 4.1."""
    number, flags, questions, answers, authorities, additional = struct.unpack_from(">HHHHHH", data)
    at = 12
    asked = []
    for _ in range(questions):
        name, at = read_name(data, at)
        asked.append((name, *struct.unpack_from(">HH", data, at)))
        at += 4
    records = []
    for _ in range(answers + authorities + additional):
        name, at = read_name(data, at)
        kind, space, ttl, length = struct.unpack_from(">HHIH", data, at)
        start, at = at + 10, at + 10 + length
        body = data[start:at]
        if kind in (A, AAAA):
            value = str(ipaddress.ip_address(body))
        else:
            value = read_name(data, start)[0] if kind == PTR else body
        records.append((name, kind, space, ttl, value))
    assert at == len(data), "something follows the message"
    return {"number": number, "flags": flags, "code": flags & 0xF, "asked": asked, "records": records}


def values(data: bytes) -> list:
    return [record[4] for record in read(data)["records"] if record[1] != OPT]


def test_a_question_is_read():
    query = dns.parse(question("Web.Back", AAAA))
    assert (query.number, query.name, query.kind, query.size) == (7, "web.back", AAAA, 0)
    assert query.datagram_bytes == 512


@pytest.mark.parametrize(("size", "limit"), [(100, 512), (512, 512), (1000, 1000), (4096, 1232), (65535, 1232)])
def test_how_much_a_client_takes(size, limit):
    assert dns.parse(question("web", size=size)).datagram_bytes == limit


def test_answers_of_both_kinds():
    addresses = ["172.18.0.2", "fd00::2", "172.18.0.3"]
    assert values(dns.answer(dns.parse(question("web", A)), addresses)) == ["172.18.0.2", "172.18.0.3"]
    assert values(dns.answer(dns.parse(question("web", AAAA)), addresses)) == ["fd00::2"]
    assert values(dns.answer(dns.parse(question("web", dns.ANY)), addresses)) == addresses
    nothing = read(dns.answer(dns.parse(question("web", AAAA)), ["172.18.0.2"]))
    assert (nothing["code"], nothing["records"]) == (dns.NO_ERROR, []), "a name without this kind is no unknown name"


def test_an_answer_is_to_its_question():
    found = read(dns.answer(dns.parse(question("WeB", number=4711)), ["10.0.0.1"]))
    assert found["number"] == 4711
    assert found["asked"] == [("WeB", A, 1)], "as it was written: some clients check that"
    assert found["records"] == [("WeB", A, 1, 600, "10.0.0.1")]
    assert found["flags"] & 0x8180 == 0x8180


def test_who_speaks_edns_is_answered_in_it():
    for data in (
        dns.answer(dns.parse(question("web", size=1400)), ["10.0.0.1"]),
        dns.refuse(dns.parse(question("web", size=1400)), dns.NAME_ERROR),
    ):
        assert [record[1:3] for record in read(data)["records"] if record[1] == OPT] == [(OPT, 1232)]
    assert read(dns.answer(dns.parse(question("web")), []))["records"] == []


def test_names_of_an_address():
    query = dns.parse(question("2.0.18.172.in-addr.arpa", PTR))
    assert dns.pointed_address(query.name) == "172.18.0.2"
    assert values(dns.answer_pointer(query, ["web.back"])) == ["web.back"]
    assert dns.pointed_address(ipaddress.ip_address("fd00::2").reverse_pointer) == "fd00::2"


@pytest.mark.parametrize(
    "name",
    [
        "", "web", "in-addr.arpa", "1.2.3.in-addr.arpa", "1.2.3.256.in-addr.arpa", "a.b.c.d.in-addr.arpa",
        "1.2.3.4.5.in-addr.arpa", ".".join("g" * 32) + ".ip6.arpa", ".".join("1" * 31) + ".ip6.arpa",
        ".".join(["12"] * 32) + ".ip6.arpa",
    ],
)  # fmt: skip
def test_what_is_no_reverse_name(name):
    assert dns.pointed_address(name) == ""


def test_what_does_not_fit_is_cut_and_marked():
    addresses = [f"10.0.{number >> 8}.{number & 255}" for number in range(200)]
    query = dns.parse(question("all"))
    cut = dns.answer(query, addresses)
    assert len(cut) <= 512
    assert read(cut)["flags"] & 0x0200
    assert 0 < len(values(cut)) < 200
    whole = dns.answer(query, addresses, limit=65535)
    assert not read(whole)["flags"] & 0x0200
    assert values(whole) == addresses
    with_options = dns.parse(question("all", size=1232))
    assert 512 < len(dns.answer(with_options, addresses, limit=with_options.datagram_bytes)) <= 1232


def test_refusals_keep_the_question():
    found = read(dns.refuse(dns.parse(question("nobody")), dns.NAME_ERROR))
    assert (found["code"], found["asked"], found["records"]) == (dns.NAME_ERROR, [("nobody", A, 1)], [])


HEAD = struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0", HEAD[:11], HEAD, HEAD + b"\x03we", HEAD + b"\x03web", HEAD + b"\x03web\0\0\1",
        HEAD + b"\xc0\x0c\0\1\0\1",
        HEAD + b"\x40" + b"x" * 64 + b"\0\0\1\0\1", HEAD + (b"\x3f" + b"x" * 63) * 4 + b"\0\0\1\0\1",
        HEAD + b"\x03web\0\0\1\0\3", struct.pack(">HHHHHH", 1, 0, 2, 0, 0, 0) + b"\0\0\1\0\1",
        struct.pack(">HHHHHH", 1, 0x8000, 1, 0, 0, 0) + b"\0\0\1\0\1", struct.pack(">HHHHHH", 1, 0, 0, 0, 0, 0),
    ],
)  # fmt: skip
def test_what_is_no_question(data):
    with pytest.raises(dns.BadMessage):
        dns.parse(data)


def test_broken_questions_are_told_so_and_answers_are_not_answered():
    assert read(dns.refuse_unreadable(HEAD + b"\x03we"))["code"] == dns.FORMAT_ERROR
    assert dns.refuse_unreadable(b"\0\1\0") == b""
    assert dns.refuse_unreadable(struct.pack(">HHHHHH", 1, 0x8000, 1, 0, 0, 0)) == b"", (
        "two resolvers would go on forever"
    )


def test_whatever_comes_nothing_else_is_raised():
    """Half random bytes, half questions with some bytes changed, cut or added; an answer to any is well formed."""
    source = random.Random(20)
    read_well = 0
    for number in range(20_000):
        if number % 2:
            data = source.randbytes(source.randrange(80))
        else:
            data = bytearray(question("web.back", source.choice((A, AAAA, PTR)), size=source.choice((0, 1232))))
            for _ in range(source.randrange(1, 4)):
                data[source.randrange(len(data))] = source.randrange(256)
            data = bytes(data[: source.randrange(len(data) + 1)]) if source.random() < 0.3 else bytes(data)
        try:
            query = dns.parse(data)
        except dns.BadMessage:
            dns.refuse_unreadable(data)
            continue
        read_well += 1
        dns.pointed_address(query.name)
        answer = dns.answer(query, ["10.0.0.1", "fd00::1"])
        assert struct.unpack_from(">H", answer)[0] == query.number
        assert dns.is_answer_to(answer, query)
    assert read_well > 1000


def test_an_answer_to_something_else_is_known():
    query = dns.parse(question("web"))
    right = dns.answer(query, ["10.0.0.1"])
    assert dns.is_answer_to(right, query)
    assert not dns.is_answer_to(dns.with_number(right, 8), query)
    assert not dns.is_answer_to(question("web"), query), "a question is no answer"
    assert not dns.is_answer_to(dns.answer(dns.parse(question("other")), []), query)
    assert not dns.is_answer_to(right[:11], query)
