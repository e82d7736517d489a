"""Image archives between engines: skopeo, umoci and dockerd read ours, we read theirs, bytes stay the same."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
import image_archives as archives
from tar_builder import Tar

from corten.image.store import ImageStore
from corten.snapshot.overlay import OverlaySnapshotter

FIRST = (
    Tar()
    .dir("etc", mode=0o755)
    .file("etc/passwd", b"root:x:0:0::/:/bin/sh\n", uid=0)
    .file("etc/" + "long" * 40, b"x")
    .symlink("etc/link", "passwd")
    .hardlink("etc/hard", "etc/passwd")
    .file("capable", b"x" * 1000, mode=0o755, xattrs={"user.note": "1"})
    .bytes()
)
SECOND = Tar().dir("etc").file("etc/.wh.link").file("new", b"content").bytes()
EXPECTED = ("etc/passwd", "etc/hard", "new", "capable")


class Place:
    def __init__(self, directory: Path) -> None:
        self.data_root = directory / "data"
        self.data_root.mkdir(parents=True)
        self.store = ImageStore(self.data_root, OverlaySnapshotter(self.data_root), exec_root=directory / "run")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    made.store.archives.load(
        io.BytesIO(archives.tar(archives.docker_members([FIRST, SECOND], tags=["example.com/ours:1"])))
    )
    yield made
    made.store.close()


@pytest.fixture
def saved(place: Place, tmp_path: Path) -> Path:
    archive = tmp_path / "ours.tar"
    archive.write_bytes(b"".join(place.store.archives.save(["example.com/ours:1"])))
    return archive


def run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def layers_of(place: Place, name: str) -> list[str]:
    return place.store.get(name).config["rootfs"]["diff_ids"]


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_skopeo_reads_ours_and_we_read_its(place, saved, tmp_path, kind):
    seen = json.loads(run("skopeo", "inspect", "--config", f"{kind}:{saved}"))
    assert seen == place.store.get("example.com/ours:1").config
    for target in ("docker-archive", "oci-archive"):
        copy = tmp_path / f"{target}.tar"
        run("skopeo", "--insecure-policy", "copy", f"{kind}:{saved}", f"{target}:{copy}:example.com/theirs:2")
        other = Place(tmp_path / target)
        with open(copy, "rb") as file:
            assert other.store.archives.load(file) == ["example.com/theirs:2"]
        assert layers_of(other, "example.com/theirs:2") == layers_of(place, "example.com/ours:1")
        other.store.close()


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_layouts_of_skopeo(place, saved, tmp_path, compression):
    layout = tmp_path / "layout"
    run(
        "skopeo", "--insecure-policy", "copy", "--dest-compress-format", compression, "--dest-compress",
        f"docker-archive:{saved}", f"oci:{layout}:example.com/theirs:2",
    )  # fmt: skip
    other = Place(tmp_path / "other")
    assert other.store.archives.load_directory(layout) == ["example.com/theirs:2"]
    assert layers_of(other, "example.com/theirs:2") == layers_of(place, "example.com/ours:1")
    other.store.close()


@pytest.mark.needs("umoci")
def test_umoci_unpacks_ours_and_we_read_its(place, tmp_path):
    layout = tmp_path / "layout"
    place.store.archives.save_directory(["example.com/ours:1"], layout)
    run("umoci", "unpack", "--image", f"{layout}:1", tmp_path / "bundle")
    rootfs = tmp_path / "bundle/rootfs"
    for name in EXPECTED:
        assert (rootfs / name).is_file(), name
    assert not (rootfs / "etc/link").is_symlink()
    (rootfs / "added").write_text("by umoci")
    (rootfs / "new").unlink()
    run("umoci", "repack", "--image", f"{layout}:2", tmp_path / "bundle")
    other = Place(tmp_path / "other")
    assert other.store.archives.load_directory(layout) == ["example.com/ours:1", "example.com/ours:2"]
    image = other.store.get("example.com/ours:2")
    assert len(image.layers) == 3
    with OverlaySnapshotter(other.data_root).open_layer(image.layers[-1]) as root:
        names = os.listdir(f"/proc/self/fd/{root}")
    assert "added" in names
    assert "new" not in names
    other.store.close()


class Dockerd:
    """Debian's dockerd and containerd with roots and sockets of their own, without networks."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: list[subprocess.Popen] = []
        self.host = f"unix://{directory}/docker.sock"

    def start(self) -> None:
        place = self.directory
        log = open(place / "log", "wb")  # noqa: SIM115
        containerd = [
            "containerd", "--root", place / "c", "--state", place / "cs", "--address", place / "containerd.sock",
            "--log-level", "error",
        ]  # fmt: skip
        self.processes.append(subprocess.Popen(list(map(str, containerd)), stdout=log, stderr=log))
        self._wait(lambda: (place / "containerd.sock").exists())
        dockerd = [
            "dockerd", "--containerd", place / "containerd.sock", "--data-root", place / "d",
            "--exec-root", place / "e",
            "-H", self.host, "--pidfile", place / "pid", "--bridge=none", "--iptables=false", "--ip-forward=false",
            "--ip-masq=false", "--userland-proxy=false", "--storage-driver=overlay2",
        ]  # fmt: skip
        self.processes.append(subprocess.Popen(list(map(str, dockerd)), stdout=log, stderr=log))
        self._wait(
            lambda: (
                subprocess.run(["docker", "-H", self.host, "version"], capture_output=True, check=False).returncode == 0
            )
        )

    def _wait(self, ready) -> None:
        deadline = time.monotonic() + 30
        while not ready():
            assert time.monotonic() < deadline, (self.directory / "log").read_text()[-3000:]
            time.sleep(0.05)

    def docker(self, *arguments: object) -> str:
        return run("docker", "-H", self.host, *arguments)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            process.wait(30)


@pytest.fixture(scope="module")
def dockerd(tmp_path_factory) -> Iterator[Dockerd]:
    made = Dockerd(tmp_path_factory.mktemp("dockerd"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _before_the_leak_check(request) -> None:
    """Start dockerd before what it mounts would count as left behind."""
    marks = [name for marker in request.node.iter_markers("needs") for name in marker.args]
    if "dockerd" in marks:
        request.getfixturevalue("dockerd")


@pytest.mark.needs("dockerd", "docker")
def test_dockerd_loads_ours_and_saves_the_same_layers(place, saved, tmp_path, dockerd):
    assert "Loaded image: example.com/ours:1" in dockerd.docker("load", "-i", saved)
    (theirs,) = json.loads(dockerd.docker("inspect", "example.com/ours:1"))
    image = place.store.get("example.com/ours:1")
    assert theirs["Id"] == image.id
    assert theirs["RootFS"]["Layers"] == image.config["rootfs"]["diff_ids"]
    assert theirs["Size"] == image.size
    sizes = [
        line.split()[0]
        for line in dockerd.docker("history", "--no-trunc", "--format", "{{.Size}}", image.id).splitlines()
    ]
    assert sizes == [
        f"{row['Size']}B" if row["Size"] < 1000 else f"{row['Size'] / 1000:.3g}kB"
        for row in place.store.history(image.id)
    ]
    dockerd.docker("save", "-o", tmp_path / "theirs.tar", "example.com/ours:1")
    other = Place(tmp_path / "other")
    with open(tmp_path / "theirs.tar", "rb") as file:
        assert other.store.archives.load(file) == ["example.com/ours:1"]
    assert other.store.get("example.com/ours:1").id == image.id
    assert b"".join(other.store.archives.save(["example.com/ours:1"])) == saved.read_bytes()
    other.store.close()


@pytest.mark.needs("dockerd", "docker")
def test_dockerd_imports_and_commits_and_we_load_it(tmp_path, dockerd):
    source = tmp_path / "fs.tar"
    source.write_bytes(FIRST)
    identity = dockerd.docker("import", "-c", 'CMD ["/x"]', "-c", "ENV A=1", source, "theirs:1").strip()
    dockerd.docker("create", "--name", "c1", "theirs:1")
    (tmp_path / "added").write_text("by docker")
    dockerd.docker("cp", tmp_path / "added", "c1:/added")
    dockerd.docker("commit", "-a", "someone", "-m", "why", "-c", "LABEL k=v", "c1", "theirs:2")
    dockerd.docker("rm", "c1")
    dockerd.docker("save", "-o", tmp_path / "two.tar", "theirs:1", "theirs:2")
    place = Place(tmp_path)
    with open(tmp_path / "two.tar", "rb") as file:
        assert sorted(place.store.archives.load(file)) == ["theirs:1", "theirs:2"]
    assert place.store.get("theirs:1").id == identity
    assert place.store.get("theirs:1").config["config"]["Cmd"] == ["/x"]
    assert place.store.get("theirs:2").layers[0] == place.store.get("theirs:1").layers[0]
    assert place.store.get("theirs:2").config["config"]["Labels"] == {"k": "v"}
    (theirs,) = json.loads(dockerd.docker("inspect", "theirs:2"))
    assert theirs["Size"] == place.store.get("theirs:2").size
    place.store.close()


@pytest.mark.needs("dockerd", "docker")
def test_dockerd_runs_what_we_committed(tmp_path, dockerd):
    """Layers that we made of changes, with long names, holes and whiteouts, give dockerd the same digests back."""
    place = Place(tmp_path)
    place.store.archives.load(
        io.BytesIO(archives.tar(archives.docker_members([FIRST, SECOND], tags=["example.com/ours:1"])))
    )
    base = place.store.get("example.com/ours:1")
    container = "e" * 64
    snapshotter = place.store.snapshotter
    snapshotter.create(container, base.layers[-1])
    with snapshotter.open_rootfs(container, False) as root:
        top = Path(f"/proc/self/fd/{root}")
        (top / "etc/passwd").unlink()
        (top / ("ö" * 90)).write_text("foreign")
        with open(top / "sparse", "wb") as file:
            file.truncate(1 << 20)
        os.setxattr(top / "new", "user.a", b"\0\xff")
    place.store.commit(container, base.id, {"Cmd": ["/x"]}, reference="example.com/ours:2")
    snapshotter.remove(container)
    raw = b"".join(place.store.archives.save(["example.com/ours:2"]))
    (tmp_path / "two.tar").write_bytes(raw)
    dockerd.docker("load", "-i", tmp_path / "two.tar")
    dockerd.docker("save", "-o", tmp_path / "back.tar", "example.com/ours:2")
    other = Place(tmp_path / "other")
    with open(tmp_path / "back.tar", "rb") as file:
        assert other.store.archives.load(file) == ["example.com/ours:2"]
    assert (
        hashlib.sha256(b"".join(other.store.archives.save(["example.com/ours:2"]))).digest()
        == hashlib.sha256(raw).digest()
    )
    other.store.close()
    place.store.close()
