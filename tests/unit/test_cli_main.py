"""The command as a whole: names, help, exit codes, what is imported on the way."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripted_server import answering, ok, serving

from corten import errors
from corten.cli import exit_codes, registry
from corten.cli.main import load, main
from corten.client.references import split_reference, with_tag

NAMES = sorted((*registry.COMMANDS, *registry.ALIASES))


def run(*words: str, host: str = "unix:///nonexistent", **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "corten", "-H", host, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **options,
    )  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage:  corten {name}")
    assert registry.summary_of(name) in text
    assert "Examples:" in text
    for flag in load(name).flags:
        assert bool(re.search(rf"--{flag.name}(?![\w-])", text)) != flag.hidden


@pytest.mark.parametrize("name", sorted(registry.COMMANDS))
def test_options_of_a_command_have_one_meaning(name: str) -> None:
    flags = load(name).flags
    names = [flag.name for flag in flags]
    letters = [flag.short for flag in flags if flag.short]
    assert len(set(names)) == len(names)
    assert len(set(letters)) == len(letters)
    assert all(flag.summary and not flag.summary.endswith(".") for flag in flags)


def test_docker_s_names_are_known() -> None:
    """Both forms of what people type."""
    plain = (
        "attach commit cp create diff events exec export history images import info inspect kill load logs pause "
        "port ps rename restart rm rmi run save start stats stop tag top unpause update version wait"
    )
    grouped = (
        "container attach commit cp create diff exec export inspect kill logs ls pause port prune rename restart rm "
        "run start stats stop top unpause update wait,image history import inspect load ls prune rm save tag,"
        "volume create inspect ls prune rm,system df events info prune"
    )
    wanted = plain.split()
    for group in grouped.split(","):
        noun, *verbs = group.split()
        wanted += [f"{noun} {verb}" for verb in verbs]
    assert [name for name in wanted if not registry.canonical(name)] == []


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "Common Commands:" in text
    assert all(group in text for group in registry.GROUPS if " " not in group)


@pytest.mark.parametrize("words", [["container"], ["container", "--help"], ["help", "container"]])
def test_help_of_a_group(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert "corten container COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--nope"], 125, "unknown flag: --nope\nSee 'corten --help'.\n"),
        (["nope"], 1, "corten: unknown command: corten nope\nSee 'corten --help'.\n"),
        (
            ["container", "nope"],
            1,
            ("corten: unknown command: corten container nope\nSee 'corten container --help'.\n"),
        ),
        (["ps", "--nope"], 125, "unknown flag: --nope\nSee 'corten ps --help'.\n"),
        (
            ["container", "run", "-m", "5z", "x"],
            125,
            (
                'invalid argument "5z" for "-m, --memory" flag: invalid suffix: \'z\'\n'
                "See 'corten container run --help'.\n"
            ),
        ),
        (
            ["run"],
            1,
            (
                "corten: 'corten run' requires at least 1 argument\n"
                "See 'corten run --help'.\n\n"
                "Usage:  corten run [OPTIONS] IMAGE [COMMAND] [ARG...]\n"
            ),
        ),
        (
            ["ps", "x"],
            1,
            ("corten: 'corten ps' accepts no arguments\nSee 'corten ps --help'.\n\nUsage:  corten ps [OPTIONS]\n"),
        ),
        (
            ["rename", "x"],
            1,
            (
                "corten: 'corten rename' requires 2 arguments\n"
                "See 'corten rename --help'.\n\n"
                "Usage:  corten rename CONTAINER NEW_NAME\n"
            ),
        ),
        (["commit", "a", "b", "c"], 1, "corten: 'corten commit' requires at most 2 arguments\n"),
        (
            ["run", "--pull", "x", "image"],
            125,
            (
                'corten: invalid pull option: \'x\': must be one of "always", "missing" or "never"\n'
                "See 'corten run --help'.\n"
            ),
        ),
        (
            ["run", "-d", "-a", "stdout", "image"],
            125,
            "corten: conflicting options: cannot specify both --attach and --detach\n",
        ),
        (["run", "--detach-keys", "ctrl-ä", "image"], 125, "Invalid detach keys (ctrl-ä) provided"),
        (
            ["create", "--restart", "always", "--rm", "image"],
            125,
            ("corten: conflicting options: cannot specify both --restart and --rm\nSee 'corten create --help'.\n"),
        ),
        (["ps", "--format", "{{.ID"], 1, "template parsing error: template: :1: unclosed action\n"),
        (["-H", "ssh://x", "ps"], 1, "invalid host 'ssh://x': only unix:// and tcp:// addresses are supported\n"),
        (["-l", "loud", "ps"], 125, 'invalid argument "loud" for "-l, --log-level" flag'),
        (["ps"], 1, "Cannot connect to the Corten daemon at unix:///nonexistent. Is the daemon running?\n"),
        (
            ["run", "x"],
            125,
            (
                "corten: Cannot connect to the Corten daemon at unix:///nonexistent. Is the daemon running?\n"
                "See 'corten run --help'.\n"
            ),
        ),
        (["cp", "a", "b"], 1, "must specify at least one container source\n"),
        (["cp", "a:b", "c:d"], 1, "copying between containers is not supported\n"),
        (["import", "https://example.org/x.tar"], 1, "import from a URL is not supported"),
        (["load", "-i", "/nonexistent"], 1, "open /nonexistent: no such file or directory\n"),
        (
            ["save", "-o", "/nonexistent/x", "image"],
            1,
            'invalid output path: directory "/nonexistent" does not exist\n',
        ),
        (["save", "--format", "zip", "image"], 1, "unknown format 'zip': must be one of docker, oci\n"),
        (["tag", "a", "b@sha256:0"], 1, "refusing to create a tag with a digest reference\n"),
        (["inspect", "--type", "x", "y"], 1, 'unknown type: "x": must be one of container, image, network, volume\n'),
        (["update", "x"], 1, "you must provide one or more flags when using this command\n"),
        (["stop", "-t", "1", "--time", "2", "x"], 1, "conflicting options: cannot specify both --timeout and --time\n"),
        (["images", "--tree", "-q"], 1, "conflicting options: cannot specify both --tree and --quiet\n"),
        (["completion", "tcsh"], 1, "unknown shell 'tcsh': must be one of bash, zsh, fish\n"),
    ],
)
def test_wrong_command_lines(
    words: list[str], code: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORTEN_HOST", "unix:///nonexistent")
    assert main(words) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.out == ""


def test_every_kind_of_error_has_an_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.CortenError)]
    for kind in kinds:
        assert 0 < exit_codes.code_of(kind("x")) < 128
    assert exit_codes.code_of(errors.CommandNotFound("x")) == 127
    assert exit_codes.code_of(errors.CommandNotExecutable("x")) == 126
    assert exit_codes.code_of(errors.Conflict("x")) == 1


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('exec: "x": executable file not found in $PATH: unknown', 127),
        ("exec: /x: no such file or directory", 127),
        ('exec: "/etc": permission denied', 126),
        ("exec: /x: is a directory", 126),
        ("exec: /x: exec format error", 126),
        ("Conflict. The container name is already in use", 125),
        ("No such image: x", 125),
    ],
)
def test_exit_codes_of_what_cannot_be_started(message: str, code: int) -> None:
    assert exit_codes.code_of_start(errors.SystemFailure(message, status=500)) == code


def test_only_the_daemon_knows_about_programs() -> None:
    assert exit_codes.code_of_start(errors.Forbidden("permission denied while connecting")) == 125


def test_errors_of_the_daemon_are_marked(tmp_path: Path) -> None:
    answer = ok(b'{"message": "No such container: x"}', status="404 Not Found")
    with serving(tmp_path, answering(answer)) as server:
        done = run("rm", "x", "y", host=server.host)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "Error response from daemon: No such container: x\n" * 2
        assert run("rm", "-f", "x", host=server.host).returncode == 0
        assert run("inspect", "x", host=server.host).stdout == "[]\n"


def test_one_of_several_fails(tmp_path: Path) -> None:
    bad, good = ok(b'{"message": "no"}', status="409 Conflict"), b"HTTP/1.1 204 No Content\r\n\r\n"

    def by_name(connection: object, data: bytes) -> None:
        connection.sendall(bad if b"/b/" in data else good)  # type: ignore[attr-defined]

    with serving(tmp_path, by_name) as server:
        done = run("stop", "a", "b", "c", host=server.host)
    assert (done.returncode, done.stdout, done.stderr) == (1, "a\nc\n", "Error response from daemon: no\n")


def test_what_no_command_foresaw_is_one_line(tmp_path: Path) -> None:
    with serving(tmp_path, answering(ok(b'[{"Id": 5}]'))) as server:
        done = run("ps", host=server.host)
        assert done.returncode == 1
        assert done.stderr.startswith("corten: internal error: ")
        assert done.stderr.count("\n") == 1
        shown = subprocess.run(
            [sys.executable, "-m", "corten", "--debug", "-H", server.host, "ps"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" in shown.stderr


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with serving(tmp_path, answering(ok(b"[]"))) as server, open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "corten", "-H", server.host, "ps"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "corten: No space left on device\n")


def test_nobody_reads(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with serving(tmp_path, answering(ok(b"[]"))) as server:
        done = subprocess.run(
            [sys.executable, "-m", "corten", "-H", server.host, "ps"],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
    os.close(writing)
    assert (done.returncode, done.stderr) == (-13, b"")


def test_warnings_may_be_silenced(tmp_path: Path) -> None:
    with serving(tmp_path, answering(ok(b'{"Id": "abc", "Warnings": ["careful"]}'))) as server:
        assert run("create", "x", host=server.host).stderr == "WARNING: careful\n"
        assert run("-l", "error", "create", "x", host=server.host).stderr == ""


def test_ids_go_to_a_file(tmp_path: Path) -> None:
    created, refused = ok(b'{"Id": "abc"}'), ok(b'{"message": "no"}', status="400 Bad Request")
    file = tmp_path / "cid"
    with serving(tmp_path, answering(created), answering(refused)) as server:
        assert run("create", "--cidfile", str(file), "x", host=server.host).stdout == "abc\n"
        assert file.read_text() == "abc"
        again = run("create", "--cidfile", str(file), "x", host=server.host)
        assert again.stderr.startswith(
            "container ID file found, make sure the other container isn't running or delete "
        )
        assert len(server.heads) == 1  # nothing was asked of the daemon
        file.unlink()
        assert run("create", "--cidfile", str(file), "x", host=server.host).returncode == 1
        assert not file.exists()


def test_an_image_that_is_not_there_is_pulled(tmp_path: Path) -> None:
    missing = ok(b'{"message": "No such image: x:latest"}', status="404 Not Found")
    absent = ok(b'{"message": "registries are not supported yet"}', status="501 Not Implemented")
    with serving(tmp_path, answering(missing), answering(absent)) as server:
        done = run("run", "x", host=server.host)
        assert done.returncode == 125
        assert done.stderr == (
            "Unable to find image 'x:latest' locally\n"
            "corten: Error response from daemon: registries are not supported yet\nSee 'corten run --help'.\n"
        )
        assert server.heads[1].startswith(b"POST /images/create?fromImage=x&tag=latest HTTP/1.1\r\n")


def test_an_image_is_not_pulled_when_that_is_forbidden(tmp_path: Path) -> None:
    missing = ok(b'{"message": "No such image: x:latest"}', status="404 Not Found")
    with serving(tmp_path, answering(missing)) as server:
        done = run("run", "--pull", "never", "x", host=server.host)
        assert (done.returncode, len(server.heads)) == (125, 1)
        assert "No such image: x:latest" in done.stderr


@pytest.mark.parametrize(
    ("text", "parts", "tagged"),
    [
        ("debian", ("debian", ""), "debian:latest"),
        ("debian:12", ("debian", "12"), "debian:12"),
        ("docker.io/library/debian", ("docker.io/library/debian", ""), "debian:latest"),
        ("host:5000/a/b", ("host:5000/a/b", ""), "host:5000/a/b:latest"),
        ("host:5000/a:1", ("host:5000/a", "1"), "host:5000/a:1"),
        ("a@sha256:0", ("a", "sha256:0"), "a@sha256:0"),
    ],
)
def test_references(text: str, parts: tuple[str, str], tagged: str) -> None:
    assert split_reference(text) == parts
    assert with_tag(text) == tagged


# -- what it costs --------------------------------------------------------------------------------------------------

HEAVY = (
    "typing",
    "dataclasses",
    "inspect",
    "email",
    "http",
    "click",
    "argparse",
    "msgspec",
    "asyncio",
    "tarfile",
    "subprocess",
    "logging",
)


def imported_by(*words: str, host: str) -> set[str]:
    script = (
        "import sys; from corten.cli.main import main; main(sys.argv[1:]);"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script, "-H", host, *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(exit_codes.__file__).parents[2])},
    )
    return set(done.stderr.split())


def test_listing_imports_nothing_heavy(tmp_path: Path) -> None:
    with serving(tmp_path, answering(ok(b"[]"))) as server:
        modules = imported_by("ps", host=server.host)
    assert "corten.cli.commands.container_list" in modules
    assert not modules & set(HEAVY)
    assert not {name for name in modules if name.startswith("corten.cli.options")}


def test_importing_the_package_imports_nothing() -> None:
    script = "import sys; before = set(sys.modules); import corten; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['__future__', 'corten']"


# -- completion -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["ren"], ["rename"]),
        (["container", "re"], ["remove", "rename", "restart"]),
        (["run", "--cpu-p"], ["--cpu-period"]),
        (["stop", "w"], ["web"]),
        (["stop", "web", ""], ["job", "web"]),
        (["exec", "web", ""], []),
        (["nope", ""], []),
    ],
)
def test_completion(tmp_path: Path, words: list[str], found: list[str]) -> None:
    with serving(tmp_path, answering(ok(b'[{"Names": ["/web"]}, {"Names": ["/job"]}]'))) as server:
        assert run("__complete", *words, host=server.host).stdout.split() == found


def test_completion_does_not_need_a_daemon() -> None:
    assert run("__complete", "stop", "").stdout == ""
    assert "restart" in run("__complete", "re").stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    assert "corten __complete" in run("completion", shell).stdout
