"""How another OCI runtime is called, with a script in its place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from corten.errors import CommandNotExecutable, CommandNotFound, Conflict, SystemFailure
from corten.shim.foreign import Runtime, for_others, translated

SPEC = {
    "ociVersion": "1.2.0",
    "process": {"args": ["prog"], "env": ["A=1"], "user": {"uid": 0, "gid": 0, "username": "bob:50"}},
    "root": {"path": ""},
    "linux": {"namespaces": [{"type": "pid"}, {"type": "time"}, {"type": "time", "path": "/proc/1/ns/time"}]},
}
SCRIPT = """#!/bin/sh
echo "$@" >>{record}
while [ $# -gt 0 ]; do
    case "$1" in
        --log) log=$2; shift;;
        --pid-file) pid=$2; shift;;
        create|exec|start|kill|delete) verb=$1;;
    esac
    shift
done
{body}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("bob:x:1000:1000::/home/bob:/bin/sh\n")
    (root / "etc/group").write_text("extra:x:50:\n")
    (tmp_path / "shim").mkdir()
    return tmp_path


def runtime(place: Path, body: str) -> Runtime:
    script = place / "runtime"
    script.write_text(SCRIPT.format(record=place / "calls", body=body))
    script.chmod(0o755)
    return Runtime([str(script), "--own"], str(place / "state"), str(place / "shim"), "c1")


def spec(place: Path) -> dict:
    return {**SPEC, "root": {"path": str(place / "root")}}


def complain(text: str) -> str:
    line = json.dumps({"level": "error", "msg": text}).replace("'", "'\\''")
    return f"printf '%s\\n' '{line}' >$log; exit 1"


def test_a_container_is_made_of_a_bundle_beside_the_socket(place: Path) -> None:
    made = runtime(place, '[ -n "$pid" ] && echo 4711 >$pid; cat; echo out; echo err >&2')
    reading, writing = os.pipe()
    quiet = os.open("/dev/null", os.O_RDONLY)
    assert made.create(spec(place), (quiet, writing, writing)) == (4711, -1)
    os.close(writing)
    assert os.read(reading, 100) == b"out\nerr\n"
    os.close(reading)
    os.close(quiet)
    bundle = json.loads((place / "shim/config.json").read_text())
    assert bundle["process"]["user"] == {"uid": 1000, "gid": 50, "additionalGids": [50]}
    assert "HOME=/home/bob" in bundle["process"]["env"]
    made.start()
    made.kill(15)
    made.delete()
    calls = (place / "calls").read_text().splitlines()
    assert all(line.startswith(f"--own --root {place}/state --log .runtime-") for line in calls)
    assert [line.partition("--log-format json ")[2] for line in calls] == [
        f"create --bundle {place}/shim --pid-file init.pid c1",
        "start c1",
        "kill c1 15",
        "delete --force c1",
    ]
    assert sorted(path.name for path in (place / "shim").iterdir()) == ["config.json"]


def test_options_of_the_runtime_stand_before_the_verb_and_those_of_the_verb_behind_it(place: Path) -> None:
    document = spec(place)
    document["process"] = {**document["process"], "terminal": True}
    document["linux"] = {**document["linux"], "cgroupsPath": "/a.slice/corten-c1.scope"}
    with pytest.raises(SystemFailure, match="create ended with exit code 3"):
        runtime(place, "exit 3").create(document, None)
    words = (place / "calls").read_text().splitlines()[0].partition("--log-format json ")[2]
    assert words.startswith("--systemd-cgroup create --console-socket .init.pid.sock --bundle ")


def test_deletion_waits_for_what_the_runtime_waits_for(place: Path) -> None:
    """Its processes have become our children: until somebody waits for them they are zombies."""
    child = os.fork()
    if not child:
        os._exit(0)
    made = runtime(place, f"while [ -e /proc/{child} ]; do sleep 0.01; done")
    made.delete()
    with pytest.raises(ChildProcessError):
        os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        (
            'runc create failed: unable to start container process: exec: "prog": executable file not found in $PATH',
            CommandNotFound,
            'exec: "prog": executable file not found in $PATH',
        ),
        (
            "executable file `prog` not found in $PATH: No such file or directory",
            CommandNotFound,
            'exec: "prog": executable file not found in $PATH',
        ),
        ("open executable: Permission denied", CommandNotExecutable, 'exec: "prog": permission denied'),
        ("error mounting /nope: no such file or directory", SystemFailure, "error mounting /nope"),
    ],
)
def test_failures_are_told_as_by_our_own_runtime(place: Path, text: str, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind) as caught:
        runtime(place, complain(text)).create(spec(place), None)
    assert str(caught.value).startswith(told)
    assert "delete --force c1" in (place / "calls").read_text()


def test_a_runtime_that_says_nothing_or_is_gone(place: Path) -> None:
    with pytest.raises(SystemFailure, match="start ended with exit code 3"):
        runtime(place, "exit 3").start()
    gone = runtime(place, "")
    (place / "runtime").unlink()
    with pytest.raises(SystemFailure, match="no such file or directory"):
        gone.start()
    with pytest.raises(Conflict):
        runtime(place, complain("container not running")).kill(9)


def test_older_runtimes_get_what_they_know() -> None:
    given = for_others(SPEC)
    assert given["ociVersion"] == "1.0.2"
    assert given["linux"]["namespaces"] == [{"type": "pid"}, {"type": "time", "path": "/proc/1/ns/time"}]
    assert SPEC["linux"]["namespaces"][1] == {"type": "time"}


def test_users_are_numbers(place: Path) -> None:
    root = os.open(place / "root", os.O_PATH)
    try:
        process = {**SPEC["process"], "env": ["HOME=/x"], "user": {"username": "bob", "additionalGroups": ["extra"]}}
        found = translated(process, root)
    finally:
        os.close(root)
    assert found["user"] == {"uid": 1000, "gid": 1000, "additionalGids": [1000, 50]}
    assert found["env"] == ["HOME=/x"]
