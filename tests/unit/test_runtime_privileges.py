"""Capabilities and limits as numbers, and the order in which rights are given up."""

from __future__ import annotations

import os
import resource
from typing import Any

import pytest

from corten.linux import process as kernel
from corten.runtime import groups, labels, privileges, scheduling, seccomp_listener
from corten.runtime.hostproc import HostProc
from corten.runtime.privileges import Capabilities, Confinement
from corten.runtime.users import Identity

KILL, CHOWN, SYS_ADMIN, SYS_RESOURCE = 5, 0, 21, 24


@pytest.fixture
def all_but_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that cannot give CAP_SYS_RESOURCE away."""
    monkeypatch.setattr(privileges, "_AVAILABLE", (1 << 41) - 1 & ~(1 << SYS_RESOURCE))


@pytest.mark.usefixtures("all_but_resource")
def test_five_sets_as_masks() -> None:
    sets = Capabilities(
        {
            "bounding": ["CAP_KILL", "CAP_CHOWN"],
            "permitted": ["CAP_KILL", "CAP_CHOWN"],
            "effective": ["CAP_KILL"],
            "inheritable": ["CAP_CHOWN"],
            "ambient": ["CAP_CHOWN"],
        }
    )
    assert sets.bounding == sets.permitted == 1 << KILL | 1 << CHOWN
    assert sets.effective == 1 << KILL
    assert sets.inheritable == sets.ambient == 1 << CHOWN
    assert sets.warnings == []


@pytest.mark.usefixtures("all_but_resource")
def test_ambient_ones_that_the_kernel_would_not_give_are_left_out() -> None:
    """What "runc spec" writes: ambient ones that are not inheritable."""
    names = ["CAP_KILL", "CAP_CHOWN"]
    sets = Capabilities({"bounding": names, "permitted": names, "inheritable": ["CAP_KILL"], "ambient": names})
    assert sets.ambient == 1 << KILL
    assert sets.warnings == ["capabilities that are not permitted and inheritable cannot be ambient: CAP_CHOWN"]


@pytest.mark.parametrize("sets", [None, {}, {"bounding": None}])
def test_absent_sets_are_empty(sets: dict[str, Any] | None) -> None:
    empty = Capabilities(sets)
    assert empty.bounding == empty.permitted == empty.effective == empty.inheritable == empty.ambient == 0


@pytest.mark.usefixtures("all_but_resource")
def test_what_cannot_be_given_is_told_and_left_out() -> None:
    names = ["CAP_KILL", "CAP_SYS_RESOURCE", "CAP_FLY", "KILL"]
    sets = Capabilities({"bounding": names, "permitted": names})
    assert sets.bounding == sets.permitted == 1 << KILL
    assert sets.warnings == [
        "capability CAP_SYS_RESOURCE is not available on this host: left out",
        "capability CAP_FLY is unknown: left out",
        "capability KILL is unknown: left out",
    ]
    # in a user namespace of its own nothing of the host's counts
    assert Capabilities({"bounding": ["CAP_SYS_RESOURCE"]}, in_user_namespace=True).bounding == 1 << SYS_RESOURCE


class FakeResource:
    """setrlimit without CAP_SYS_RESOURCE."""

    def __init__(self, present: tuple[int, int]) -> None:
        self.present = present

    def setrlimit(self, number: int, limits: tuple[int, int]) -> None:
        soft, hard = (float("inf") if value == resource.RLIM_INFINITY else value for value in limits)
        top = float("inf") if self.present[1] == resource.RLIM_INFINITY else self.present[1]
        if hard > top:
            raise ValueError("not allowed to raise maximum limit")
        assert soft <= hard
        self.present = limits

    def getrlimit(self, number: int) -> tuple[int, int]:
        return self.present


@pytest.mark.parametrize(
    ("present", "wanted", "result", "warned"),
    [
        ((1024, 4096), (100, 200), (100, 200), False),
        ((1024, 4096), (100, 8192), (100, 4096), True),
        ((1024, 4096), (8192, 8192), (4096, 4096), True),
        ((1024, 4096), ((1 << 64) - 1, (1 << 64) - 1), (4096, 4096), True),
        ((1024, -1), ((1 << 64) - 1, (1 << 64) - 1), (-1, -1), False),
        ((1024, -1), ((1 << 63) - 1, (1 << 63) - 1), (-1, -1), False),
    ],
)
def test_limits_are_set_or_clamped(
    monkeypatch: pytest.MonkeyPatch,
    present: tuple[int, int],
    wanted: tuple[int, int],
    result: tuple[int, int],
    warned: bool,
) -> None:
    fake = FakeResource(present)
    monkeypatch.setattr(resource, "setrlimit", fake.setrlimit)
    monkeypatch.setattr(resource, "getrlimit", fake.getrlimit)
    warnings = privileges.set_rlimits([{"type": "RLIMIT_NOFILE", "soft": wanted[0], "hard": wanted[1]}])
    assert fake.present == result
    assert warnings == (["RLIMIT_NOFILE is clamped to 4096: this host does not let it be raised"] if warned else [])


class Recorder:
    """Stands in for the kernel and writes down what would have been done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        for module, name in (
            (seccomp_listener, "install"),
            (os, "setgroups"),
            (os, "setresgid"),
            (os, "setresuid"),
            (os, "umask"),
            (kernel, "capset"),
            (resource, "setrlimit"),
            (labels, "apply"),
            (scheduling, "apply"),
        ):
            monkeypatch.setattr(module, name, self._record(name))
        monkeypatch.setattr(kernel, "prctl", self._prctl)

    def _record(self, name: str) -> Any:
        return lambda *arguments: self.calls.append(name)

    def _prctl(self, option: int, *arguments: int) -> int:
        names = {
            kernel.PR_SET_NO_NEW_PRIVS: "no-new-privileges",
            kernel.PR_CAPBSET_DROP: "bounding",
            kernel.PR_SET_DUMPABLE: "dumpable",
            kernel.PR_CAP_AMBIENT: "ambient",
        }
        if option in names and self.calls[-1:] != [names[option]]:
            self.calls.append(names[option])
        return 0


class Proc:
    def read(self, path: str) -> str:
        assert path == "self/setgroups"
        return "allow\n"


def test_a_process_that_has_ended_gets_no_score() -> None:
    """Init can fail before the parent comes to it: the reason, which init has told, counts."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    assert groups.set_oom_score(HostProc(), str(pid), {"oomScoreAdj": 500}) == ""


def steps(monkeypatch: pytest.MonkeyPatch, *, no_new_privileges: bool, program: bytes = b"filter") -> list[str]:
    recorder = Recorder(monkeypatch)
    process = {
        "noNewPrivileges": no_new_privileges,
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
        "capabilities": {"bounding": ["CAP_KILL"]},
    }
    confinement = Confinement(
        process,
        {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}},
        program,
        Identity(5, 6, (6,), ""),
        lambda: recorder.calls.append("enter"),
        in_user_namespace=False,
    )
    confinement.prepare(Proc())  # type: ignore[arg-type]
    confinement.apply()
    recorder.calls.append("ready")
    confinement.seal()
    return recorder.calls


def test_order_without_no_new_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    assert steps(monkeypatch, no_new_privileges=False) == [
        "apply", "apply", "setrlimit", "bounding", "install", "setgroups", "setresgid", "setresuid", "enter", "umask",
        "capset", "ambient", "dumpable", "ready",
    ]  # fmt: skip


def test_order_with_no_new_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    assert steps(monkeypatch, no_new_privileges=True) == [
        "apply", "apply", "setrlimit", "no-new-privileges", "bounding", "setgroups", "setresgid", "setresuid", "enter",
        "umask", "capset", "ambient", "dumpable", "ready", "install",
    ]  # fmt: skip


def test_without_a_filter_none_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for no_new_privileges in (False, True):
        assert "install" not in steps(monkeypatch, no_new_privileges=no_new_privileges, program=b"")
