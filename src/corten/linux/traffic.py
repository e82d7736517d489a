"""Traffic control: rates of interfaces and filters of what arrives, as netlink messages.

Sources: rtnetlink(7), include/uapi/linux/pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h.
"""

from __future__ import annotations

import errno
import socket
import struct

from corten.linux.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Message, attribute, nested

_RTM_NEWQDISC, _RTM_DELQDISC = 36, 37
_RTM_NEWTFILTER = 44
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_TBF_PARMS, _TCA_TBF_RATE64, _TCA_TBF_BURST = 1, 4, 6
_TC_H_ROOT, _TC_H_INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
_TCA_U32_SEL, _TCA_U32_ACT = 5, 7
_TCA_ACT_KIND, _TCA_ACT_OPTIONS = 1, 2
_TCA_MIRRED_PARMS = 2
_EGRESS_REDIRECT, _TC_ACT_STOLEN = 1, 4
_U32_TERMINAL = 1
_ETH_P_ALL = 0x0003

_TRAFFIC = struct.Struct("=BxxxiIII")


def set_rate(index: int, rate: int, burst: int) -> Message:
    """What leaves an interface is held to ``rate`` bytes a second, after a burst of so many bytes (tc-tbf(8))."""
    latency_bytes = max(burst, rate // 20)  # a queue of 50 ms
    specification = struct.pack("=BBHhHI", 0, 1, 0, -1, 0, min(rate, 0xFFFFFFFF))
    ticks = _ticks(burst, rate)
    parameters = (
        specification + struct.pack("=BBHhHI", 0, 0, 0, 0, 0, 0) + struct.pack("=III", burst + latency_bytes, ticks, 0)
    )
    options = attribute(_TCA_TBF_PARMS, parameters) + attribute(_TCA_TBF_BURST, burst)
    if rate > 0xFFFFFFFF:
        options += attribute(_TCA_TBF_RATE64, struct.pack("=Q", rate))
    body = _TRAFFIC.pack(socket.AF_UNSPEC, index, 1 << 16, _TC_H_ROOT, 0)
    body += attribute(_TCA_KIND, "tbf") + attribute(_TCA_OPTIONS, options)
    return Message(_RTM_NEWQDISC, body, NLM_F_CREATE | NLM_F_REPLACE, f"limit an interface to {rate} bytes a second")


def _ticks(size: int, rate: int) -> int:
    """The time that ``size`` bytes take, in the kernel's packet scheduler ticks of 64 ns (/proc/net/psched)."""
    return min(size * 1_000_000_000 // rate // 64, 0xFFFFFFFF)


def delete_rate(index: int) -> Message:
    body = _TRAFFIC.pack(socket.AF_UNSPEC, index, 0, _TC_H_ROOT, 0)
    return Message(
        _RTM_DELQDISC, body, what="lift the limit of an interface", ignored=frozenset({errno.ENOENT, errno.EINVAL})
    )


def add_ingress(index: int) -> Message:
    """Let filters see what arrives at an interface; having it already is no failure."""
    body = _TRAFFIC.pack(socket.AF_UNSPEC, index, 0xFFFF0000, _TC_H_INGRESS, 0) + attribute(_TCA_KIND, "ingress")
    return Message(
        _RTM_NEWQDISC,
        body,
        NLM_F_CREATE | NLM_F_EXCL,
        "add filters to an interface",
        frozenset({errno.EEXIST}),
    )


def delete_ingress(index: int) -> Message:
    """Take the filters away, if there are some."""
    body = _TRAFFIC.pack(socket.AF_UNSPEC, index, 0xFFFF0000, _TC_H_INGRESS, 0)
    return Message(
        _RTM_DELQDISC, body, what="take filters off an interface", ignored=frozenset({errno.ENOENT, errno.EINVAL})
    )


def send_through(index: int, other: int) -> Message:
    """What arrives at an interface leaves by another one first (tc-mirred(8), tc-u32(8))."""
    selector = struct.pack("=BBBxHHHhI", _U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + struct.pack("=IIii", 0, 0, 0, 0)
    parameters = struct.pack("=IIiiiiI", 0, 0, _TC_ACT_STOLEN, 0, 0, _EGRESS_REDIRECT, other)
    action = nested(
        1,
        attribute(_TCA_ACT_KIND, "mirred"),
        nested(_TCA_ACT_OPTIONS, attribute(_TCA_MIRRED_PARMS, parameters)),
    )
    body = _TRAFFIC.pack(socket.AF_UNSPEC, index, 0, 0xFFFF0000, 1 << 16 | socket.htons(_ETH_P_ALL))
    body += attribute(_TCA_KIND, "u32")
    body += nested(_TCA_OPTIONS, attribute(_TCA_U32_SEL, selector), nested(_TCA_U32_ACT, action))
    return Message(_RTM_NEWTFILTER, body, NLM_F_CREATE | NLM_F_EXCL, "redirect an interface", frozenset({errno.EEXIST}))
