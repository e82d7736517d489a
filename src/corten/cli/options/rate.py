"""``--network-rate``: how fast a container may receive and send."""

from __future__ import annotations

import re

from corten.cli.flags import BadValue
from corten.cli.units import read_size

_BITS = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]?)bit\Z", re.ASCII | re.IGNORECASE)
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_KEYS = {"ingress": "Ingress", "egress": "Egress", "burst": "Burst"}


def _bytes_a_second(text: str) -> int:
    bits = _BITS.match(text)
    if bits:
        return int(float(bits[1]) * _FACTORS[bits[2].lower()] / 8)
    return read_size(text.removesuffix("/s"))


def read_rate(text: str) -> dict[str, int]:
    """``HostConfig.NetworkRate`` of "10m" (bytes a second, both ways), "100mbit", "ingress=10m,egress=1m,burst=64k".

    Zero is no limit.  Errors: BadValue.
    """
    if "=" not in text:
        rate = _bytes_a_second(text)
        return {"Ingress": rate, "Egress": rate, "Burst": 0}
    found = dict.fromkeys(_KEYS.values(), 0)
    for part in text.split(","):
        key, equals, value = part.partition("=")
        name = _KEYS.get(key.strip().lower(), "")
        if not equals or not name:
            raise BadValue(f"invalid field {part}: ingress=RATE, egress=RATE and burst=SIZE are known")
        found[name] = read_size(value) if name == "Burst" else _bytes_a_second(value)
    return found
