"""The way out of a daemon that runs without root, in a network namespace of its user.

Such a daemon is two processes.  The *inner* one is the daemon: root of a user namespace, with a mount and a network
namespace of its own, in which bridges, firewall and sandboxes are made as on any host.  The *outer* one is the
ordinary process that started it and stayed in the host's network:

    outer   ours, its = socket.socketpair(AF_UNIX, SOCK_SEQPACKET)   before the inner one is started, which inherits
                                                                     ``its``; the outer one closes its copy
            uplink = Uplink.attach(pid, directory)                   when the namespaces of ``pid`` have their id maps
            outside.serve(ours, uplink.greeting)                     in a thread of its own; ends with the inner one
            uplink.close()                                           when no process is in the namespaces any more
    inner   there = Outside(its)                                     waits for the greeting
            there.use_resolver(directory)                            before it reads /etc/resolv.conf
            Engine.open(config, there)                               publishes ports through the outer process

Packets leave by ``pasta`` or ``slirp4netns``, whichever is installed.  Neither lets anything in, nor anything out to
the host's loopback: published ports are sockets that the outer process binds (``outside.py``).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from corten.network.outside import Greeting

# link-local (RFC 3927), for servers that only the host itself can ask; pasta turns it into them
_PASTA_DNS = "169.254.1.1"
# slirp4netns(1): the third address of its network
_SLIRP_DNS = "10.0.2.3"
_START_S = 20
_RESOLV_CONF = Path("/etc/resolv.conf")
_TUN = Path("/dev/net/tun")
LACKING = "neither pasta (package passt) nor slirp4netns is installed"


@dataclass(frozen=True, slots=True)
class _Process:
    """The program that carries the packets, as it is noted: a process id alone may be reused."""

    program: str
    pid: int
    started: int
    namespace: int

    @property
    def is_alive(self) -> bool:
        return _start_time(self.pid) == self.started

    def end(self) -> None:
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)


class Uplink:
    """What connects a network namespace with the host's network.

    greeting: what the inner process has to know of it; its ``program`` is "" when there is no way out
    """

    def __init__(self, greeting: Greeting, process: _Process | None, note: Path) -> None:
        self.greeting = greeting
        self._process = process
        self._note = note

    @classmethod
    def attach(cls, pid: int, directory: Path) -> Uplink:
        """Give the namespaces of a process a way out, or find that they have one.

        pid:       in the user and network namespace
        directory: where it is noted, so that the next outer process finds it
        Errors: OSError when the process has gone; without a way out the greeting says why.
        """
        note = directory / "uplink.json"
        namespace = os.stat(f"/proc/{pid}/ns/net").st_ino
        known = _noted(note)
        if known is not None and known.namespace == namespace and known.is_alive:
            return cls(_greeting(known.program), known, note)
        if known is not None:
            known.end()
        reasons = []
        for program, start in _PROGRAMS.items():
            if shutil.which(program) is None:
                continue
            try:
                number = start(pid)
            except (OSError, subprocess.SubprocessError, ValueError) as error:
                reasons.append(f"{program}: {error}")
                continue
            process = _Process(program, number, _start_time(number), namespace)
            note.write_text(json.dumps([process.program, process.pid, process.started, process.namespace]))
            return cls(_greeting(program), process, note)
        return cls(_greeting("", "; ".join(reasons) or LACKING), None, note)

    def close(self) -> None:
        """End the program: nobody is in the namespaces any more."""
        if self._process is not None:
            self._process.end()
        self._note.unlink(missing_ok=True)


def _noted(note: Path) -> _Process | None:
    try:
        program, pid, started, namespace = json.loads(note.read_text())
        return _Process(str(program), int(pid), int(started), int(namespace))
    except (OSError, ValueError, TypeError):
        return None


def _start_time(pid: int) -> int:
    """In clock ticks since boot (proc(5)), 0 for a process that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


# -- the programs -----------------------------------------------------------------------------------------------------


def _start_pasta(pid: int) -> int:
    """The process id of a pasta that is ready.  Errors: OSError, SubprocessError, ValueError (what it said)."""
    with TemporaryDirectory(prefix="corten-uplink") as directory:
        pidfile = Path(directory) / "pid"
        done = subprocess.run(
            [
                *("pasta", "--quiet", "--config-net", "--no-map-gw", "--dns-forward", _PASTA_DNS),
                *("-t", "none", "-u", "none", "-T", "none", "-U", "none", "--pid", str(pidfile)),
                *("--userns", f"/proc/{pid}/ns/user", "--netns", f"/proc/{pid}/ns/net"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_START_S,
            start_new_session=True,
            check=False,
        )
        if done.returncode:
            raise ValueError(_said(done.stderr))
        return int(pidfile.read_text())


def _start_slirp(pid: int) -> int:
    """The process id of a slirp4netns that is ready.  Errors: OSError, SubprocessError, ValueError (what it said)."""
    ready, told = os.pipe()
    with TemporaryDirectory(prefix="corten-uplink") as directory, open(ready, "rb") as answer:
        log = Path(directory) / "log"
        with open(log, "wb") as output:
            try:
                process = subprocess.Popen(
                    [
                        *("slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", "--enable-ipv6"),
                        *(f"--ready-fd={told}", "--netns-type=path", f"--userns-path=/proc/{pid}/ns/user"),
                        *(f"/proc/{pid}/ns/net", "tap0"),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(told,),
                    start_new_session=True,
                )
            finally:
                os.close(told)
        # it writes "1" when the interface is up, and closes the pipe when it fails
        if answer.read(1) == b"1":
            return process.pid
        process.kill()
        process.wait()
        raise ValueError(_said(log.read_text(errors="replace")))


_PROGRAMS: dict[str, Callable[[int], int]] = {"pasta": _start_pasta, "slirp4netns": _start_slirp}


def _said(text: str) -> str:
    """Why a program has failed: what it said last, and what is known to be in its way."""
    lines = [line for line in text.splitlines() if line.strip() and "syslog" not in line and "WARNING" not in line]
    why = lines[-1].strip() if lines else "it failed and said nothing"
    if not os.access(_TUN, os.R_OK | os.W_OK):
        why += f" ({_TUN} cannot be opened)"
    return why


# -- names ------------------------------------------------------------------------------------------------------------


def _greeting(program: str, reason: str = "") -> Greeting:
    try:
        text = _RESOLV_CONF.read_text()
    except OSError:
        text = ""
    forwarder = {"pasta": _PASTA_DNS, "slirp4netns": _SLIRP_DNS}.get(program, "")
    return Greeting(program, reason, resolv_conf(text, forwarder) if forwarder else "")


def resolv_conf(host_text: str, forwarder: str) -> str:
    """The host's resolv.conf(5) as it has to be inside: servers of its loopback are asked through the program."""
    servers: list[str] = []
    rest: list[str] = []
    for line in host_text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            servers.append(words[1])
        else:
            rest.append(line)
    reachable = [server for server in servers if not _is_loopback(server)]
    return "\n".join([*rest, *(f"nameserver {server}" for server in reachable or [forwarder])]) + "\n"


def _is_loopback(server: str) -> bool:
    return server.startswith("127.") or server == "::1"


__all__: Sequence[str] = ("LACKING", "Uplink", "resolv_conf")
