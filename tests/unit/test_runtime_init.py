"""Order of init's steps, and the small things around them that need no kernel of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from corten.errors import InvalidParameter
from corten.runtime import child, hooks, tiny_init
from corten.runtime.defaults import default_spec
from corten.runtime.handshake import Channel
from corten.runtime.init import Init
from corten.runtime.init_request import InitRequest
from corten.runtime.sources import Sources


def request(**fields: Any) -> InitRequest:
    spec = default_spec()
    spec["linux"].update(fields.pop("linux", {}))
    values: dict[str, Any] = {
        "spec": spec, "container_id": "c", "bundle": "/", "cgroup": None, "new": frozenset({"mount", "pid"}),
        "joined": frozenset(), "proc": None, "taken": Sources(), "stdio": None, "channel": Channel.pair()[0],
        "state": {}, **fields,
    }  # fmt: skip
    return InitRequest(**values)


def names(made: InitRequest) -> list[str]:
    return [name for name, _ in Init(made, lambda: None)._steps()]


def test_order_of_the_steps() -> None:
    assert names(request()) == [
        "session", "cgroup", "join namespaces", "user namespace", "namespaces", "root file system", "mounts", "devices",
        "terminal", "user", "sysctl", "mask paths", "seccomp", "hooks", "pivot root", "working directory",
        "standard streams", "privileges", "exec", "ready", "startContainer hooks", "exec",
    ]  # fmt: skip


def test_in_a_joined_mount_namespace_nothing_is_mounted() -> None:
    steps = names(request(new=frozenset({"pid"}), joined=frozenset({"mount"})))
    assert not {"mounts", "devices", "mask paths", "pivot root"} & set(steps)
    assert "change root" in steps


def test_when_the_host_has_to_act() -> None:
    offsets = {"timeOffsets": {"boottime": {"secs": 1}}}
    assert not request().needs_parent
    assert request(new=frozenset({"user"})).needs_parent
    assert request(joined=frozenset({"user"})).needs_parent
    assert request(new=frozenset({"time"}), linux=offsets).needs_parent
    assert not request(linux=offsets).needs_parent


def test_frozen_imports_fail() -> None:
    code = (
        "from corten.runtime.child import freeze_imports; freeze_imports()\n"
        "try:\n import colorsys\nexcept ImportError:\n print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


def test_signals_are_reset() -> None:
    code = (
        "import signal\nfrom corten.runtime.child import reset_signals\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGUSR1, print)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])\n"
        "reset_signals()\nprint(open('/proc/self/status').read())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status = dict(line.split(":\t") for line in done.stdout.splitlines() if ":\t" in line)
    assert [int(status[name], 16) for name in ("SigIgn", "SigBlk", "SigCgt")] == [0, 0, 0]


def test_only_needed_descriptors_stay_open() -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            opened = [os.dup(0) for _ in range(20)]
            keep = (opened[3], opened[10], -1, opened[10] + 5)
            child.close_others(opened[0], keep)
            left = {descriptor for descriptor in opened if _is_open(descriptor)}
            code = 0 if left == {descriptor for descriptor in keep if descriptor in opened} else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_descriptors_to_preserve_must_be_open() -> None:
    child.check_preserved(0)
    with pytest.raises(InvalidParameter, match=r"descriptor \d+ cannot be preserved: it is not open"):
        child.check_preserved(100_000)


def state() -> dict[str, Any]:
    return {"ociVersion": "1.2.0", "id": "c", "status": "creating", "bundle": "/"}


def test_hooks_run_in_order_with_the_state_and_their_own_environment(tmp_path: Any) -> None:
    script = f'read -r state; echo "$1 $COLOUR $state" >> {tmp_path}/out'
    entries = {
        "prestart": [
            {"path": "/bin/sh", "args": ["sh", "-c", script, "sh", "one"], "env": ["COLOUR=red"]},
            {"path": "/bin/sh", "args": ["sh", "-c", script, "sh", "two"]},
        ]
    }
    hooks.run(entries, "prestart", state())
    hooks.run(entries, "poststart", state())
    first, second = (tmp_path / "out").read_text().splitlines()
    assert first.startswith('one red {"ociVersion": "1.2.0", "id": "c"')
    assert second.startswith("two  {")


@pytest.mark.parametrize(
    ("hook", "text"),
    [
        ({"path": "/bin/sh", "args": ["sh", "-c", "echo oops >&2; exit 3"]}, "failed with code 3: oops"),
        ({"path": "/nope"}, "no such file or directory"),
        ({"path": "/bin/sh", "args": ["sh", "-c", "sleep 10"], "timeout": 1}, "did not end within 1 s"),
    ],
)
def test_hooks_that_fail(hook: dict[str, Any], text: str) -> None:
    from corten.errors import SystemFailure

    with pytest.raises(SystemFailure, match=rf"prestart hook #0 .*{text}"):
        hooks.run({"prestart": [hook]}, "prestart", state())


# -- the init program of --init ---------------------------------------------------------------------------------------


def run_tiny(*command: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([str(tiny_init.path()), *command], stdout=subprocess.PIPE, text=True, **options)


def test_tiny_init_gives_the_exit_code() -> None:
    assert run_tiny("--", "sh", "-c", "exit 7").wait(5) == 7
    assert run_tiny("sh", "-c", "kill -9 $$").wait(5) == 137
    assert run_tiny("--", "nosuchcommand", stderr=subprocess.DEVNULL).wait(5) == 127
    assert run_tiny("--", "/etc/passwd", stderr=subprocess.DEVNULL).wait(5) == 126


def test_tiny_init_hands_signals_over() -> None:
    process = run_tiny("--", "sh", "-c", "trap 'echo got; exit 3' TERM; echo up; while :; do sleep 0.05; done")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "got\n"
    assert process.wait(5) == 3


def test_tiny_init_is_small_and_needs_no_library() -> None:
    content = tiny_init.path().read_bytes()
    assert content[:4] == b"\x7fELF"
    assert len(content) < 4096
    assert b"ld-linux" not in content
