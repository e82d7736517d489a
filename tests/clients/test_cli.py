"""The ``corten`` command with a real daemon; its output is compared with that of Docker's own client."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemons import Daemon


def both(daemon: Daemon, *words: str) -> tuple[str, str]:
    """What Docker's client and ours print."""
    theirs, ours = daemon.docker(*words, check=False), daemon.corten(*words, check=False)
    assert theirs.returncode == ours.returncode, (theirs, ours)
    return theirs.stdout, ours.stdout


@pytest.mark.parametrize(
    ("words", "code", "out", "err"),
    [
        (["echo", "hello"], 0, "hello\n", ""),
        (["sh", "-c", "echo out; echo err >&2; exit 5"], 5, "out\n", "err\n"),
        (["sh", "-c", "sleep 100 & kill -9 $!; wait $!"], 137, "", "Killed"),
        (["nosuchprogram"], 127, "", "nosuchprogram"),
        (["/etc"], 126, "", "/etc"),
    ],
)
def test_run(daemon: Daemon, words: list[str], code: int, out: str, err: str) -> None:
    done = daemon.corten("run", "--rm", "busybox", *words, check=False)
    assert (done.returncode, done.stdout) == (code, out)
    assert err in done.stderr
    assert bool(done.stderr) == bool(err)
    _wait_for_none(daemon)


def test_input_goes_in_and_comes_out(daemon: Daemon) -> None:
    text = "line\n" * 100_000
    assert daemon.corten("run", "--rm", "-i", "busybox", "cat", input=text).stdout == text
    name = daemon.corten("run", "-d", "busybox", "sleep", "100").stdout.strip()
    assert daemon.corten("exec", "-i", name, "cat", input=text).stdout == text
    assert daemon.corten("exec", name, "sh", "-c", "exit 9", check=False).returncode == 9


def test_options_arrive(daemon: Daemon, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "env").write_text("FROM_FILE=1\n# no\n")
    done = daemon.corten(
        "run", "--rm", "-h", "box", "-w", "/tmp", "-u", "bob", "-e", "A=b c", "--env-file", str(tmp_path / "env"),
        "-v", f"{tmp_path}:/mnt:ro", "--tmpfs", "/scratch:size=1m", "--memory", "64m", "--pids-limit", "50",
        "--mount", "type=tmpfs,target=/other,tmpfs-mode=700", "--ulimit", "nofile=99", "--init=false", "busybox",
        "sh", "-c", "hostname; pwd; id -un; echo $A $FROM_FILE; wc -l < /mnt/env; touch /mnt/x || echo ro; ulimit -n",
    )  # fmt: skip
    assert done.stdout == "box\n/tmp\nbob\nb c 1\n2\nro\n99\n"


def test_a_life(daemon: Daemon) -> None:
    identifier = daemon.corten("create", "--name", "life", "busybox", "sleep", "1000").stdout.strip()
    assert len(identifier) == 64
    assert daemon.corten("start", "life").stdout == "life\n"
    for command, status in (("pause", "paused"), ("unpause", "running")):
        assert daemon.corten(command, "life").stdout == "life\n"
        assert daemon.corten("inspect", "-f", "{{.State.Status}}", "life").stdout == f"{status}\n"
    daemon.corten("rename", "life", "other")
    assert daemon.corten("update", "--memory", "80m", "--memory-swap", "160m", "other").stdout == "other\n"
    assert daemon.corten("inspect", "-f", "{{.HostConfig.Memory}}", "other").stdout == f"{80 << 20}\n"
    assert daemon.corten("restart", "-t", "0", "other").stdout == "other\n"
    waiting = subprocess.Popen(
        ["corten", "wait", "other"],
        stdout=subprocess.PIPE,
        text=True,
        env={"CORTEN_HOST": daemon.host, "PATH": _path()},
    )
    assert daemon.corten("kill", "other").stdout == "other\n"
    assert waiting.communicate(timeout=30)[0] == "137\n"
    assert daemon.corten("rm", "other").stdout == "other\n"
    assert daemon.corten("rm", "other", check=False).stderr == "Error response from daemon: No such container: other\n"


def _path() -> str:
    import os
    import sys

    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


LISTS = [
    ["ps", "-a"],
    ["ps", "-aq"],
    ["ps", "-a", "--no-trunc"],
    ["ps", "-as"],
    ["ps", "-n", "1"],
    ["ps", "-l"],
    ["ps", "-a", "--filter", "label=kind=test"],
    ["ps", "-a", "--format", 'table {{.Names}}\t{{.Label "kind"}}\t{{.Status}}'],
    ["images"],
    ["images", "--no-trunc"],
    ["images", "--digests"],
    ["images", "-q", "busybox"],
    ["history", "busybox"],
    ["history", "--no-trunc", "busybox"],
    ["history", "-H=false", "busybox"],
    [
        "inspect",
        "-f",
        "{{json .Config.Labels}} {{.Config.Cmd}} {{.State.Pid}} {{range .Mounts}}{{.Destination}}{{end}}",
        "listed",
    ],
    ["inspect", "-f", "{{if .State.Health}}x{{end}} {{.HostConfig.PidsLimit}} {{.Config.Volumes}}", "listed"],
    ["inspect", "nosuchthing"],
    ["top", "listed"],
    ["top", "listed", "-o", "pid,comm"],
    ["logs", "listed"],
    ["logs", "-t", "--tail", "1", "listed"],
    ["diff", "listed"],
    ["port", "listed"],
    ["volume", "ls"],
    ["volume", "ls", "--format", "{{.Name}} {{.Driver}} {{.Mountpoint}} {{.Labels}}"],
    ["system", "df"],
    ["system", "df", "-v"],
    ["system", "df", "-v", "--format", "{{len .Images}} {{range .Containers}}{{.Names}} {{.Size}}{{end}}"],
    ["system", "df", "-v", "--format", "{{range .Images}}{{.ID}} {{end}}{{range .Volumes}}{{.Name}} {{.Size}}{{end}}"],
    ["system", "df", "-v", "--format", "{{json .Volumes}}"],
    ["version", "-f", "{{.Server.Version}}"],
    ["info", "-f", "{{.Driver}} {{.NCPU}} {{.Containers}}"],
]


@pytest.fixture
def listed(daemon: Daemon) -> Iterator[None]:
    """A container that has said its words and sleeps."""
    daemon.corten(
        "run", "-d", "--name", "listed", "-l", "kind=test", "-v", "listed-data:/data", "busybox",
        "sh", "-c", "echo one; echo two >&2; echo x > /made; sleep 1000",
    )  # fmt: skip
    _wait_for(daemon, "two")
    yield
    daemon.corten("rm", "-f", "listed")
    daemon.corten("volume", "rm", "listed-data")


def test_the_same_as_docker_prints(daemon: Daemon, listed: None) -> None:
    for words in LISTS:
        theirs, ours = both(daemon, *words)
        assert _without_seconds(ours) == _without_seconds(theirs), words


def test_what_builds_keep(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo kept > /kept\n")
    image = daemon.corten("build", "-q", str(tmp_path)).stdout.strip()
    for words in (
        ["--format", "{{json .BuildCache}}"],
        ["--format", "{{range .BuildCache}}{{.ID}} {{.Parent}}{{end}}"],
        [],
    ):
        theirs, ours = both(daemon, "system", "df", "-v", *words)
        theirs = theirs.replace("\\u003e", ">")
        assert _without_seconds(ours) == _without_seconds(theirs), words
    assert "echo kept" in daemon.corten("system", "df", "-v", "--format", "{{json .}}").stdout
    daemon.corten("rmi", image)
    daemon.corten("builder", "prune", "-af")


@pytest.mark.parametrize("name", ["busybox", "listed", "listed-data"])
def test_documents_are_those_that_docker_prints(daemon: Daemon, listed: None, name: str) -> None:
    theirs, ours = both(daemon, "inspect", name)
    assert ours == json.dumps(json.loads(ours), indent=4) + "\n"
    assert _told(json.loads(ours)) == _told(json.loads(theirs))


# of the documents that versions of the API older than the newest have: what says nothing new
SAID_TWICE = ("ContainerConfig", "VirtualSize")


def _told(document: Any) -> Any:
    """A document without what is empty: by the version that the client speaks it is there or not."""
    if isinstance(document, dict):
        told = {key: _told(value) for key, value in document.items() if key not in SAID_TWICE}
        return {key: value for key, value in told.items() if value not in (None, "", False, [], {})}
    return [_told(value) for value in document] if isinstance(document, list) else document


def _wait_for_none(daemon: Daemon) -> None:
    """One that could not be started is removed beside the answer."""
    deadline = time.monotonic() + 5
    while daemon.corten("ps", "-aq").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _wait_for(daemon: Daemon, text: str) -> None:
    end = time.monotonic() + 10
    while text not in daemon.corten("logs", "listed").stderr:
        assert time.monotonic() < end
        time.sleep(0.02)


def _without_seconds(text: str) -> str:
    """Ages differ by the moment between the two commands, and with them the width of their column."""
    text = re.sub(r"(Less than a second|\d+ seconds?)( ago)?", "AGE", text)
    return re.sub(r" +|-{2,}", " ", text)


def test_logs_follow(daemon: Daemon) -> None:
    script = "for i in 1 2 3; do echo line $i; sleep 0.2; done"
    name = daemon.corten("run", "-d", "busybox", "sh", "-c", script).stdout.strip()
    assert daemon.corten("logs", "-f", name).stdout == "line 1\nline 2\nline 3\n"


def test_files_go_in_and_out(daemon: Daemon, tmp_path: Path) -> None:
    daemon.corten("create", "--name", "files", "busybox", "true")
    (tmp_path / "dir/sub").mkdir(parents=True)
    (tmp_path / "dir/sub/file").write_text("content")
    (tmp_path / "dir/link").symlink_to("sub/file")
    daemon.corten("cp", f"{tmp_path}/dir", "files:/copied")
    daemon.corten("cp", "files:/copied/.", f"{tmp_path}/back")
    assert (tmp_path / "back/sub/file").read_text() == "content"
    assert (tmp_path / "back/link").readlink() == Path("sub/file")
    daemon.corten("cp", "-L", "files:/copied/link", f"{tmp_path}/followed")
    assert (tmp_path / "followed").read_text() == "content"
    archive = subprocess.run(
        ["corten", "cp", "files:/copied", "-"],
        capture_output=True,
        check=True,
        env={"CORTEN_HOST": daemon.host, "PATH": _path()},
    ).stdout
    assert b"copied/sub/file" in archive
    daemon.corten("cp", f"{tmp_path}/dir/sub/file", "files:/etc/renamed")
    assert "A /etc/renamed" in daemon.corten("diff", "files").stdout
    for words, message in (
        (["files:/nope", str(tmp_path)], "Could not find the file /nope in container files"),
        ([str(tmp_path / "nope"), "files:/"], "no such file or directory"),
        ([str(tmp_path / "dir"), "files:/etc/passwd"], "cannot copy directory"),
    ):
        done = daemon.corten("cp", *words, check=False)
        assert done.returncode == 1
        assert message in done.stderr


def test_images_go_out_and_in(daemon: Daemon, tmp_path: Path) -> None:
    daemon.corten("tag", "busybox", "clitest/one:1")
    try:
        daemon.corten("save", "-o", str(tmp_path / "one.tar"), "clitest/one:1")
        assert daemon.corten("rmi", "clitest/one:1").stdout.startswith("Untagged: clitest/one:1\n")
        assert daemon.corten("load", "-i", str(tmp_path / "one.tar")).stdout == "Loaded image: clitest/one:1\n"
        (tmp_path / "rootfs/bin").mkdir(parents=True)
        (tmp_path / "rootfs/hello").write_text("from a directory")
        made = daemon.corten(
            "import", "-c", "LABEL a=b", "-m", "why", str(tmp_path / "rootfs"), "clitest/two"
        ).stdout.strip()
        assert daemon.corten("inspect", "-f", "{{.Id}} {{.Config.Labels.a}}", "clitest/two").stdout == f"{made} b\n"
        assert daemon.corten("images", "--tree").stdout.startswith("IMAGE")
        assert daemon.corten("load", "-i", "/etc/passwd", check=False).returncode == 1
    finally:
        daemon.corten("rmi", "-f", "clitest/one:1", "clitest/two")


def test_commit_and_export(daemon: Daemon, tmp_path: Path) -> None:
    daemon.corten("run", "--name", "changed", "busybox", "sh", "-c", "echo new > /new")
    try:
        identifier = daemon.corten(
            "commit", "-m", "with new", "-c", "CMD cat /new", "changed", "clitest/changed"
        ).stdout.strip()
        assert identifier.startswith("sha256:")
        assert daemon.corten("run", "--rm", "clitest/changed").stdout == "new\n"
        daemon.corten("export", "-o", str(tmp_path / "changed.tar"), "changed")
        names = subprocess.run(
            ["tar", "tf", str(tmp_path / "changed.tar")], capture_output=True, text=True, check=True
        ).stdout
        assert "new" in names.split()
    finally:
        daemon.corten("rm", "-f", "changed")
        daemon.corten("rmi", "-f", "clitest/changed")


def test_stats_and_events(daemon: Daemon) -> None:
    name = daemon.corten("run", "-d", "--name", "watched", "busybox", "sleep", "1000").stdout.strip()
    line = json.loads(daemon.corten("stats", "--no-stream", "--format", "json", "watched").stdout)
    assert (line["Name"], line["ID"], line["PIDs"]) == ("watched", name[:12], "1")
    events = daemon.corten(
        "events", "--since", "1h", "--until", "0s", "--filter", f"container={name}", "--format", "{{.Action}}"
    )
    assert events.stdout.split()[:2] == ["create", "start"]


def test_prune(daemon: Daemon) -> None:
    name = daemon.corten("create", "busybox", "true").stdout.strip()
    refused = daemon.corten("container", "prune", check=False, input="n\n")
    assert refused.returncode == 1
    assert refused.stderr == "container prune has been cancelled\n"
    assert name in daemon.corten("container", "prune", input="y\n").stdout
    assert "Total reclaimed space:" in daemon.corten("volume", "prune", "-f").stdout
    assert "Total reclaimed space:" in daemon.corten("image", "prune", "-f").stdout


def test_volumes(daemon: Daemon) -> None:
    assert daemon.corten("volume", "create", "--label", "a=b", "clivol").stdout == "clivol\n"
    daemon.corten("run", "--rm", "-v", "clivol:/v", "busybox", "sh", "-c", "echo kept > /v/file")
    assert daemon.corten("run", "--rm", "-v", "clivol:/v:ro", "busybox", "cat", "/v/file").stdout == "kept\n"
    assert daemon.corten("volume", "rm", "clivol").stdout == "clivol\n"
    assert daemon.corten("volume", "rm", "clivol", check=False).returncode == 1
    assert daemon.corten("volume", "rm", "-f", "clivol").returncode == 0


def test_an_image_that_is_not_there(daemon: Daemon) -> None:
    done = daemon.corten("run", "nosuchimage", check=False)
    assert done.returncode == 125
    assert done.stderr.startswith(
        "Unable to find image 'nosuchimage:latest' locally\ncorten: Error response from daemon: "
    )
    assert done.stderr.endswith("See 'corten run --help'.\n")
