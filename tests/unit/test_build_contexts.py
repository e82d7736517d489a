"""Contexts with names, and what clients grant and give to steps."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from build_place import Workplace

from corten.build.contexts import NamedContexts
from corten.build.pruning import Space
from corten.build.ssh_agent import connected, forwarded
from corten.errors import InvalidParameter, NotFound, Unavailable
from corten.image.store import ImageStore


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    made = Workplace(tmp_path)
    yield made
    made.close()


@pytest.fixture
def files(place: Workplace) -> Iterator[NamedContexts]:
    context = place.context({"x": "named", "d/y": "deep"})
    yield NamedContexts({"nm": context}, {"debian:12": "base", "stage": "base"})
    context.close()


def test_copy_out_of_a_named_context(place: Workplace, files: NamedContexts) -> None:
    run = place.build("FROM base\nCOPY --from=nm d /d\nCOPY --from=NM x /\n", named=files)
    assert place.tree(run.image)["d/y"] == "deep"
    assert place.tree(run.image)["x"] == "named"
    assert place.build("FROM base\nCOPY --from=nm d /d\nCOPY --from=nm x /\n", named=files).cached == 2


def test_a_named_context_as_an_image(place: Workplace, files: NamedContexts) -> None:
    run = place.build("FROM nm\nENV a=b\n", named=files)
    assert {"x": "named", "d/y": "deep"}.items() <= place.tree(run.image).items()
    assert place.build("FROM nm\nENV a=b\n", named=files).image == run.image


def test_an_image_in_the_place_of_another(place: Workplace, files: NamedContexts) -> None:
    run = place.build("FROM debian:12\nENV a=b\n", named=files)
    assert place.store.get(run.image).parent == place.store.get("base").id
    assert not place.workshop.pulled


def test_an_image_in_the_place_of_a_stage(place: Workplace, files: NamedContexts) -> None:
    text = "FROM base AS stage\nRUN write made 1\nFROM base\nCOPY --from=stage /etc/passwd /copied\n"
    run = place.build(text, named=files)
    assert not place.workshop.ran, "the stage is not needed any more"
    assert "copied" in place.tree(run.image)


def test_a_mount_of_a_named_context(place: Workplace, files: NamedContexts) -> None:
    place.build("FROM base\nRUN --mount=type=bind,from=nm,source=d,target=/m write a b\n", named=files)
    assert place.workshop.steps[0].mounts[0].target == "/m"


def test_stages_that_are_built_anew(place: Workplace) -> None:
    text = "FROM base AS one\nRUN write a 1\nFROM base AS two\nRUN write b 2\nCOPY --from=one a /\n"
    place.build(text)
    assert place.build(text, fresh_stages=frozenset({"one"})).cached == 2
    assert sorted(place.workshop.ran) == ["write a 1", "write a 1", "write b 2"]
    with pytest.raises(InvalidParameter, match="no stage three"):
        place.build(text, fresh_stages=frozenset({"three"}))


def test_rights_that_the_client_grants(place: Workplace) -> None:
    text = "FROM base\nRUN --security=insecure write a b\n"
    place.build(text, allow=frozenset({"security.insecure"}))
    assert place.workshop.steps[0].is_privileged
    place.build("FROM base\nRUN --network=host write c d\n", allow=frozenset({"network.host"}))
    assert not place.workshop.steps[1].is_privileged


def test_a_secret_as_a_variable(place: Workplace) -> None:
    run = place.build("FROM base\nRUN --mount=type=secret,id=k,env=KEY write a b\n", secrets={"k": b"hidden"})
    step = place.workshop.steps[0]
    assert "KEY=hidden" in step.environment
    assert not step.mounts
    assert "hidden" not in str(place.store.get(run.image).config)
    both = "FROM base\nRUN --mount=type=secret,id=k,env=KEY,target=/k write a c\n"
    place.build(both, secrets={"k": b"hidden"})
    assert [mount.target for mount in place.workshop.steps[1].mounts] == ["/k"]


def test_a_cache_begins_with_what_it_is_made_from(place: Workplace) -> None:
    text = "FROM base\nRUN --mount=type=cache,target=/c,from=base,source=etc write a b\n"
    place.build(text)
    source = Path(place.workshop.steps[0].mounts[0].source)
    assert (source / "passwd").exists()
    with pytest.raises(NotFound):
        place.build("FROM base\nRUN --mount=type=cache,target=/e,from=base,source=nowhere write a b\n")
    caches = place.place.cache_directory
    assert [path.name for path in caches.iterdir()] == [source.parent.name], "a beginning that failed is gone"


def one_layer(store: ImageStore, image: str) -> int:
    return len(store.get(image).layers)


def test_squashed_and_with_fixed_times(place: Workplace) -> None:
    text = "FROM base\nCOPY x /x\nRUN write y 1\nRUN remove x\nRUN write z 2\n"
    plain = place.build(text, {"x": "1"})
    assert one_layer(place.store, plain.image) == 5
    run = place.build(text, {"x": "1"}, squash=True)
    assert one_layer(place.store, run.image) == 2
    assert place.tree(run.image) == place.tree(plain.image)
    assert len(place.store.get(run.image).config["history"]) == len(place.store.get(plain.image).config["history"]) + 1
    again = place.build(text, {"x": "1"}, squash=True)
    assert again.image == run.image
    fixed = place.build(text, {"x": "1"}, rewrite_times=True, arguments={"SOURCE_DATE_EPOCH": "1000"})
    assert place.stat(fixed.image, "y")[3] == 1000
    assert place.stat(fixed.image, "etc/passwd")[3] == 1_600_000_000, "the base stays as it is"
    with pytest.raises(InvalidParameter, match="SOURCE_DATE_EPOCH"):
        place.build(text, {"x": "1"}, rewrite_times=True)


# -- agents -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    """Answers every message with the same in capitals."""
    path = str(tmp_path / "real-agent")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(8)

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                while data := client.recv(1000):
                    client.sendall(data.upper())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield path
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


def ask(path: str, question: bytes) -> bytes:
    with connected(path) as sock:
        sock.settimeout(10)
        sock.sendall(question)
        return sock.recv(100)


def test_an_agent_is_reached_through_a_socket_of_the_step(tmp_path: Path, agent: str) -> None:
    place = tmp_path / ("long" * 40)  # more than the kernel takes of a socket's path
    place.mkdir()
    with forwarded(agent, str(place), 0o640, (0, 0)) as path:
        assert ask(path, b"hello") == b"HELLO"
        assert ask(path, b"again") == b"AGAIN"
        assert Path(path).stat().st_mode & 0o777 == 0o640
    with pytest.raises(OSError):  # noqa: PT011 nobody listens any more
        ask(path, b"late")


def test_an_agent_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        with forwarded(str(tmp_path / "nobody"), str(tmp_path), 0o600, (0, 0)):
            pass


def test_a_step_with_an_agent(place: Workplace, agent: str) -> None:
    text = "FROM base\nRUN --mount=type=ssh write a b\n"
    place.build(text, agents={"default": agent})
    step = place.workshop.steps[0]
    assert [mount.target for mount in step.mounts] == ["/run/buildkit/ssh_agent.0"]
    assert "SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0" in step.environment
    assert place.build(text).cached == 1, "an agent is no input"


@pytest.mark.parametrize(
    "line", ["docker/dockerfile:1.7-labs", "mirror.example:5000/docker/dockerfile", "docker.io/docker/dockerfile:1 \t"]
)
def test_the_standard_frontend_is_built_in(place: Workplace, line: str) -> None:
    assert place.build(f"# syntax={line}\nFROM base\nENV a=b\n").image


def test_other_frontends_are_other_languages(place: Workplace) -> None:
    for line in ("example.com/mockerfile", "dockerfile", "///"):
        with pytest.raises(InvalidParameter, match="frontend"):
            place.build(f"# syntax={line}\nFROM base\nENV a=b\n")


def test_a_misspelled_stage_is_told(place: Workplace) -> None:
    with pytest.raises(NotFound, match="did you mean build"):
        place.build("FROM base AS build\nFROM base\nCOPY --from=biuld x y\n")


@pytest.mark.parametrize(
    ("space", "kept"),
    [
        (Space(), 0),
        (Space(reserved=30), 30),
        (Space(max_used=40), 40),
        (Space(max_used=400), 100),
        (Space(min_free=60), 90),
        (Space(min_free=20), 100),
        (Space(reserved=95, min_free=60), 95),
        (Space(max_used=80, min_free=60), 80),
        (Space(max_used=95, min_free=60), 90),
    ],
)
def test_how_much_of_the_cache_stays(space: Space, kept: int) -> None:
    assert space.keep(100, 50) == kept
