"""DNS messages as far as a resolver for containers needs them: questions read, short answers made.

Sources: RFC 1035 sections 3 and 4, RFC 3596 (AAAA), RFC 6891 (EDNS).  What cannot be read is answered FORMERR or not at
all; for bad input nothing here raises anything but ``BadMessage``.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass

A, PTR, AAAA, OPT, ANY = 1, 12, 28, 41, 255
INTERNET = 1
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NAME_ERROR, NOT_IMPLEMENTED, REFUSED = range(6)

_HEADER = struct.Struct(">HHHHHH")
_QUESTION = struct.Struct(">HH")
# the root as name, OPT, size of datagrams, extended code and flags, length of the options
_OPTIONS = struct.Struct(">BHHIH")
_RESPONSE, _TRUNCATED, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x0200, 0x0100, 0x0080
_OPCODE = 0x7800
_POINTER_TO_QUESTION = b"\xc0\x0c"
TTL_S = 600
DATAGRAM_BYTES = 512
# what fits everywhere on a link of 1,500 bytes: dnsflagday.net/2020
_OWN_DATAGRAM_BYTES = 1232


class BadMessage(ValueError):
    """These bytes are no DNS query."""


@dataclass(frozen=True, slots=True)
class Query:
    """id and flags of a question, its name in lower case without the last dot, and the question as it came.

    size: of datagrams that the client takes, when it says so (EDNS), else 0
    """

    number: int
    flags: int
    name: str
    kind: int
    raw: bytes
    size: int = 0

    @property
    def datagram_bytes(self) -> int:
        """How long an answer in a datagram may be."""
        return max(DATAGRAM_BYTES, min(self.size, _OWN_DATAGRAM_BYTES))


def parse(data: bytes) -> Query:
    """Errors: BadMessage."""
    if len(data) < _HEADER.size:
        raise BadMessage("too short")
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & _RESPONSE or questions != 1:
        raise BadMessage("not one question")
    labels: list[str] = []
    position = _HEADER.size
    while True:
        if position >= len(data):
            raise BadMessage("cut short")
        length = data[position]
        position += 1
        if not length:
            break
        if length > 63 or position + length > len(data) or position - _HEADER.size + length > 255:
            raise BadMessage("bad name")
        labels.append(data[position : position + length].decode("ascii", "replace").lower())
        position += length
    if position + _QUESTION.size > len(data):
        raise BadMessage("cut short")
    kind, space = _QUESTION.unpack_from(data, position)
    if space not in (INTERNET, ANY):
        raise BadMessage("not the Internet class")
    end = position + _QUESTION.size
    size = _datagram_size(data, end) if additional and not answers and not authorities else 0
    return Query(number, flags, ".".join(labels), kind, data[_HEADER.size : end], size)


def _datagram_size(data: bytes, position: int) -> int:
    """What the first additional record says of datagrams, 0 when it is about something else."""
    if position + _OPTIONS.size > len(data):
        return 0
    name, kind, size, _, _ = _OPTIONS.unpack_from(data, position)
    return max(size, DATAGRAM_BYTES) if not name and kind == OPT else 0


def operation(query: Query) -> int:
    """0 for an ordinary question."""
    return (query.flags & _OPCODE) >> 11


def answer(query: Query, addresses: Sequence[str], *, limit: int = DATAGRAM_BYTES) -> bytes:
    """An answer with those addresses that are of the kind that was asked for; none of them is an empty answer."""
    records = []
    for address in addresses:
        packed = ipaddress.ip_address(address).packed
        kind = A if len(packed) == 4 else AAAA
        if query.kind in (kind, ANY):
            records.append(_record(kind, packed))
    return _message(query, records, limit)


def answer_pointer(query: Query, names: Sequence[str], *, limit: int = DATAGRAM_BYTES) -> bytes:
    """The names of an address."""
    return _message(query, [_record(PTR, encode_name(name)) for name in names], limit)


def refuse(query: Query, code: int) -> bytes:
    """An answer that says no."""
    return _head(query, code, 0) + query.raw + _options(query)


def refuse_unreadable(data: bytes) -> bytes:
    """FORMERR for what has at least a number; nothing for less, and for what is itself an answer."""
    if len(data) < 4 or data[2] & 0x80:
        return b""
    return data[:2] + struct.pack(">HHHHH", _RESPONSE | FORMAT_ERROR, 0, 0, 0, 0)


def is_answer_to(data: bytes, query: Query) -> bool:
    """Whether a server's message is for this question."""
    return (
        len(data) >= _HEADER.size
        and data[:2] == query.number.to_bytes(2)
        and bool(data[2] & 0x80)
        and data[_HEADER.size : _HEADER.size + len(query.raw)].lower() == query.raw.lower()
    )


def with_number(data: bytes, number: int) -> bytes:
    """The same message with another number."""
    return number.to_bytes(2) + data[2:]


def pointed_address(name: str) -> str:
    """The address that a reverse name stands for, "" for another name: "2.0.18.172.in-addr.arpa"."""
    labels = name.split(".")
    try:
        if name.endswith(".in-addr.arpa") and len(labels) == 6:
            return str(ipaddress.IPv4Address(".".join(reversed(labels[:4]))))
        if name.endswith(".ip6.arpa") and len(labels) == 34:
            digits = "".join(reversed(labels[:32]))
            return str(ipaddress.IPv6Address(bytes.fromhex(digits)))
    except ValueError:
        pass
    return ""


def encode_name(name: str) -> bytes:
    """A name on the wire; labels that are too long are cut."""
    labels = [label.encode("ascii", "replace")[:63] for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def _record(kind: int, data: bytes) -> bytes:
    return _POINTER_TO_QUESTION + struct.pack(">HHIH", kind, INTERNET, TTL_S, len(data)) + data


def _head(query: Query, code: int, records: int, more: int = 0) -> bytes:
    flags = _RESPONSE | _RECURSION_AVAILABLE | (query.flags & (_RECURSION_DESIRED | _OPCODE)) | more | code
    return _HEADER.pack(query.number, flags, 1, records, 0, 1 if query.size else 0)


def _options(query: Query) -> bytes:
    """A client that speaks EDNS is answered in it (RFC 6891 section 6.1.1)."""
    return _OPTIONS.pack(0, OPT, _OWN_DATAGRAM_BYTES, 0, 0) if query.size else b""


def _message(query: Query, records: list[bytes], limit: int) -> bytes:
    end = _options(query)
    size = _HEADER.size + len(query.raw) + len(end)
    kept = 0
    while kept < len(records) and size + len(records[kept]) <= limit:
        size += len(records[kept])
        kept += 1
    more = _TRUNCATED if kept < len(records) else 0
    return _head(query, NO_ERROR, kept, more) + query.raw + b"".join(records[:kept]) + end
