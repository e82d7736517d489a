"""Beside other firewalls: a packet has to be accepted by every table.

iptables-nft's FORWARD chains (tables ``ip filter`` and ``ip6 filter``) drop by policy where Docker or ufw run.  What
ends there by policy is let through for our bridges by rules at the end of the chain, so that every rule that somebody
has written comes first; our own table decides about it all the same.  Rules are written as iptables-nft does, which can
show and delete them.  firewalld is asked (``firewalld.py``); chains of other tables are reported and not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corten.linux import nftables as nft
from corten.linux import nftexpressions as expr
from corten.linux import nftlist
from corten.linux.netlink import Connection, Message
from corten.network import firewalld

TABLE, CHAIN = "filter", "FORWARD"
FAMILIES = (nft.IPV4, nft.IPV6)


def concerns(change: nftlist.Change) -> bool:
    """Whether after a change somebody has to look again: ``let_through``, or firewalld's part."""
    if change.table == firewalld.TABLE:
        return change.kind == "chain" and change.name == firewalld.CHAIN
    return (
        change.family in FAMILIES
        and change.table == TABLE
        and (change.kind == "table" or (change.kind in ("chain", "rule") and change.name == CHAIN))
    )


def let_through(
    connection: Connection, chains: Sequence[nftlist.Chain], mark: str, devices: Sequence[str]
) -> list[nftlist.Chain]:
    """Have exactly these bridges' packets accepted where iptables-nft's FORWARD chains drop by policy.

    chains: all there are;  mark: tells the rules of several daemons apart
    Returns the chains of others that drop by policy and are not iptables'.  Errors: OSError.
    """
    forward = [chain for chain in chains if chain.hook == nft.FORWARD]
    messages: list[Message] = []
    for chain in forward:
        if _is_iptables(chain):
            messages += _changes(connection, chain, mark, _wanted(mark, devices) if chain.drops else {})
    nft.commit(connection, messages)
    # firewalld drops everything while it is loaded anew
    return [
        chain
        for chain in forward
        if chain.drops and not _is_iptables(chain) and not chain.table.startswith(firewalld.TABLE)
    ]


def has_legacy() -> bool:
    """Whether the old iptables' table for filtering is in use."""
    try:
        return "filter" in Path("/proc/net/ip_tables_names").read_text().split()
    except OSError:
        return False


def _wanted(mark: str, devices: Sequence[str]) -> dict[bytes, list[bytes]]:
    """What rules have to ask for, by the note on each."""
    return {
        nft.comment(f"{mark}: {direction} {device}"): expr.is_interface(key, device)
        for device in devices
        for direction, key in (("from", expr.META_IIFNAME), ("to", expr.META_OIFNAME))
    }


def _is_iptables(chain: nftlist.Chain) -> bool:
    return chain.family in FAMILIES and (chain.table, chain.name) == (TABLE, CHAIN)


def _changes(
    connection: Connection, chain: nftlist.Chain, mark: str, wanted: dict[bytes, list[bytes]]
) -> list[Message]:
    ours = nft.comment(f"{mark}: ")[2:-1]
    known = {
        rule.userdata: rule.handle
        for rule in nftlist.rules(connection, TABLE, CHAIN, chain.family)
        if rule.userdata[2:].startswith(ours)
    }
    gone = [nft.delete_rule(TABLE, CHAIN, handle, chain.family) for data, handle in known.items() if data not in wanted]
    accept = (expr.counter(), expr.verdict(nft.ACCEPT))
    return gone + [
        nft.add_rule(TABLE, CHAIN, *matches, *accept, family=chain.family, userdata=data)
        for data, matches in wanted.items()
        if data not in known
    ]
