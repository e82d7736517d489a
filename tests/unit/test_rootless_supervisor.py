"""An ordinary user's daemon and its outer process: what is said of a network that is not there, and who leaves last."""

from __future__ import annotations

import fcntl
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from corten.network import outside
from corten.network.outside import Outside
from corten.rootless import supervisor


def test_a_way_out_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    network = supervisor._Network(ours, 2**22 + 1, tmp_path)  # nobody
    network.start()
    theirs.settimeout(20)
    inside = Outside(theirs)
    assert "No such file or directory" in inside.lacking
    inside.close()
    network.join()
    network.close()


def test_only_the_last_outer_process_is_alone(tmp_path: Path) -> None:
    with open(tmp_path / "users", "w") as one, open(tmp_path / "users") as two:
        fcntl.flock(one, fcntl.LOCK_SH)
        fcntl.flock(two, fcntl.LOCK_SH)
        assert not supervisor._is_alone(two.fileno())
        two.close()
        assert supervisor._is_alone(one.fileno())


@pytest.mark.parametrize("kind", ["nothing", "dangling", "file", "ours"])
def test_a_resolver_for_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    place = tmp_path / "etc"
    if kind == "dangling":
        place.symlink_to("missing")
    elif kind == "file":
        place.write_text("nameserver 127.0.0.53\n")
    elif kind == "ours":
        place.symlink_to("resolv.conf")
    mounted: list[str] = []
    monkeypatch.setattr(outside, "_RESOLVER", str(place))
    monkeypatch.setattr(outside.mount, "mount", lambda source, target, *_: mounted.append(target))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.send(b'{"program": "pasta"}')
        inside = Outside(theirs)
        inside.greeting = replace(inside.greeting, resolv_conf="nameserver 10.0.2.3\n")
        inside.use_resolver(tmp_path)
        inside.close()
    assert mounted == ([str(place)] if kind == "file" else [])
