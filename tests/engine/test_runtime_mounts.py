"""Mounts on the real kernel: every kind of option, and what reaches the host and what does not."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime_support import CAPABILITIES, World, mount_options

from corten.errors import CortenError, InvalidParameter, SystemFailure
from corten.runtime import seccomp_profile

pytestmark = pytest.mark.needs("busybox")


def bind(source: Path | str, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", *options]}


def tmpfs(destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[Path]:
    """A directory with a mount below it."""
    outer = tmp_path / "outer"
    (outer / "inner").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "inner", str(outer / "inner")], check=True)
    (outer / "inner/file").write_text("inner\n")
    (outer / "file").write_text("outer\n")
    yield outer
    subprocess.run(["umount", str(outer / "inner")], check=True)


def test_options_become_attributes(world: World) -> None:
    spec = world.spec("cat", "/proc/self/mountinfo")
    (world.directory / "data").mkdir()
    spec["mounts"] += [
        tmpfs("/one", "nosuid", "nodev", "noexec", "size=64k", "mode=1777", "noatime"),
        tmpfs("/two", "ro"),
        bind(world.directory / "data", "/three", "ro", "nosuid", "nosymfollow", "nodiratime"),
        bind(world.directory / "data", "/four", "noexec", "exec", "strictatime"),
    ]
    text = world.run(spec).text
    assert mount_options(text, "/one") >= {"rw", "nosuid", "nodev", "noexec", "noatime"}
    assert "size=64k" in text
    assert "ro" in mount_options(text, "/two")
    assert mount_options(text, "/three") >= {"ro", "nosuid", "nosymfollow", "nodiratime"}
    assert not mount_options(text, "/four") & {"noexec", "relatime", "noatime"}
    assert mount_options(text, "/proc") >= {"nosuid", "nodev", "noexec"}


def test_recursive_read_only_reaches_the_mounts_below(world: World, nested: Path) -> None:
    script = "cat /m/file /m/inner/file; touch /m/x || echo one; touch /m/inner/x || echo two"
    spec = world.script(f"({script}) 2>/dev/null")
    spec["mounts"].append(bind(nested, "/m", "rro"))
    assert world.run(spec).words == ["outer", "inner", "one", "two"]
    plain = world.script(f"({script}) 2>/dev/null")
    plain["mounts"].append(bind(nested, "/m", "ro"))
    assert world.run(plain).words == ["outer", "inner", "one"]


def test_bind_without_recursion_leaves_the_mounts_below(world: World, nested: Path) -> None:
    spec = world.script("cat /m/file; ls /m/inner | wc -l")
    spec["mounts"].append({"destination": "/m", "source": str(nested), "options": ["bind"]})
    assert world.run(spec).words == ["outer", "0"]


def test_sources_relative_to_the_bundle_files_and_missing_places(world: World) -> None:
    (world.directory / "note").write_text("note\n")
    spec = world.script("cat /deep/er/note; stat -c '%a %u' /deep /deep/er")
    spec["mounts"].append(bind("note", "/deep/er/note", "ro"))
    assert world.run(spec).lines == ["note", "755 0", "755 0"]
    assert (world.rootfs / "deep/er/note").read_text() == ""


def test_source_that_is_not_there(world: World) -> None:
    spec = world.spec("true")
    spec["mounts"].append(bind("/nope/x", "/m"))
    with pytest.raises(InvalidParameter, match="bind source path does not exist: /nope/x"):
        world.run(spec)


def test_file_over_a_directory_is_refused(world: World) -> None:
    (world.directory / "note").write_text("")
    spec = world.spec("true")
    spec["mounts"].append(bind("note", "/tmp"))
    with pytest.raises(SystemFailure, match=r"/tmp: not a directory"):
        world.run(spec)


@pytest.mark.parametrize(
    ("mount", "text"),
    [
        (tmpfs("/m", "nosuchoption=1"), "nosuchoption"),
        ({"destination": "/m", "type": "nosuchfs", "source": "x"}, "mount x at /m: .*no such device"),
        (bind("/tmp", "/m", "size=5"), "mount option 'size=5' cannot be used with the bind of /tmp"),
        (bind("/tmp", "/"), "cannot replace the container's root"),
        (bind("/tmp", "/m", "idmap"), "needs uidMappings and gidMappings"),
    ],
)
def test_mounts_that_cannot_be_made(world: World, mount: dict[str, Any], text: str) -> None:
    spec = world.spec("true")
    spec["mounts"].append(mount)
    with pytest.raises(CortenError, match=text):
        world.run(spec)


def test_tmpfs_takes_the_mode_of_the_place_or_its_content(world: World) -> None:
    place = world.rootfs / "full"
    (place / "sub/deep").mkdir(parents=True)
    (place / "sub").chmod(0o751)
    place.chmod(0o1770)
    os.chown(place, 5, 6)
    (place / "file").write_text("content\n")
    (place / "file").chmod(0o4640)
    os.chown(place / "sub", 7, 8)
    os.utime(place / "file", (1_000_000_000, 1_000_000_000))
    os.setxattr(place / "file", "trusted.mark", b"x")
    (place / "link").symlink_to("/etc/shadow-of-the-host")
    os.mkfifo(place / "pipe", 0o600)
    script = "cd /full; stat -c '%n %F %a %u:%g' . file sub link pipe; cat file; stat -c %Y file; readlink link"
    spec = world.script(script)
    spec["mounts"].append(tmpfs("/full", "tmpcopyup", "nosuid"))
    lines = world.run(spec).lines
    assert lines == [
        ". directory 1770 5:6",
        "file regular file 4640 0:0",
        "sub directory 751 7:8",
        "link symbolic link 777 0:0",
        "pipe fifo 600 0:0",
        "content",
        "1000000000",
        "/etc/shadow-of-the-host",
    ]
    plain = world.script("stat -c %a /full; ls /full | wc -l")
    plain["mounts"].append(tmpfs("/full"))
    assert world.run(plain).words == ["1770", "0"]
    absent = world.script("stat -c %a /made")
    absent["mounts"].append(tmpfs("/made"))
    assert world.run(absent).words == ["1777"]
    wanted = world.script("stat -c %a /full; cat /full/file")
    wanted["mounts"].append(tmpfs("/full", "tmpcopyup", "mode=700"))
    assert world.run(wanted).words == ["700", "content"]


def test_remount_changes_what_is_there(world: World) -> None:
    spec = world.script("touch /m/x 2>/dev/null || echo refused")
    spec["mounts"] += [tmpfs("/m"), {"destination": "/m", "type": "tmpfs", "options": ["remount", "ro"]}]
    assert world.run(spec).words == ["refused"]


def test_read_only_root_leaves_its_mounts_writable(world: World) -> None:
    script = "touch /x 2>/dev/null || echo root; touch /dev/x && echo dev; touch /m/x && echo mount; pwd"
    spec = world.script(script, cwd="/made/before")
    spec["root"]["readonly"] = True
    spec["mounts"].append(tmpfs("/m"))
    assert world.run(spec).words == ["root", "dev", "mount", "/made/before"]


def test_id_mapped_bind(world: World) -> None:
    data = world.directory / "data"
    data.mkdir()
    (data / "file").write_text("")
    os.chown(data, 0, 0)
    spec = world.script("stat -c '%u:%g' /m/file; touch /m/new")
    maps = [{"containerID": 0, "hostID": 3000, "size": 100}]
    spec["mounts"].append({**bind(data, "/m"), "uidMappings": maps, "gidMappings": maps})
    assert world.run(spec).lines[0] == "3000:3000"


@pytest.mark.needs("userns")
@pytest.mark.parametrize("option", ["idmap", "ridmap"])
def test_bind_that_is_mapped_as_the_container_is(world: World, option: str) -> None:
    data = world.directory / "data"
    data.mkdir(mode=0o700)
    (data / "file").write_text("secret\n")
    os.chown(world.rootfs, 100000, 100000)
    spec = world.script("stat -c '%u:%g' /m/file; cat /m/file; touch /m/new")
    spec["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uid", "gid"):
        spec["linux"][f"{kind}Mappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    spec["mounts"].append(bind(data, "/m", option))
    assert world.run(spec).words == ["0:0", "secret"]
    assert (data / "new").stat().st_uid == 0  # as the file system has it


def test_sources_of_a_user_namespace_are_opened_by_the_host(world: World) -> None:
    data = world.directory / "closed/data"
    data.mkdir(parents=True)
    data.parent.chmod(0o700)
    (data / "file").write_text("there\n")
    os.chown(world.rootfs, 100000, 100000)
    spec = world.script("cat /m/file")
    spec["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uid", "gid"):
        spec["linux"][f"{kind}Mappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    spec["mounts"].append(bind(data, "/m"))
    assert world.run(spec).words == ["there"]


# -- propagation ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A shared mount of the host with a directory to mount on."""
    place = tmp_path / "shared"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "shared", str(place)], check=True)
    subprocess.run(["mount", "--make-shared", str(place)], check=True)
    (place / "in").mkdir()
    yield place
    for target in (place / "in", place):
        subprocess.run(["umount", "-q", str(target)], check=False)


def with_admin(spec: dict[str, Any]) -> dict[str, Any]:
    more = [*CAPABILITIES, "CAP_SYS_ADMIN"]
    spec["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), more)
    spec["linux"]["seccomp"] = seccomp_profile.resolve_profile(seccomp_profile.default_profile(), more)
    return spec


@pytest.mark.parametrize(
    ("option", "arrives"), [("rprivate", False), ("rslave", True), ("rshared", True), (None, False)]
)
def test_mounts_of_the_host_arrive_as_the_propagation_says(
    world: World, shared: Path, option: str | None, arrives: bool
) -> None:
    spec = world.spec("sleep", "60")
    spec["mounts"].append(bind(shared, "/s", *([option] if option else [])))
    running = world.start(spec)
    subprocess.run(["mount", "-t", "tmpfs", "late", str(shared / "in")], check=True)
    (shared / "in/late").write_text("")
    result = world.execute(running, "ls", "/s/in")
    assert result.words == (["late"] if arrives else [])
    subprocess.run(["umount", str(shared / "in")], check=True)


@pytest.mark.parametrize(("option", "arrives"), [("rprivate", False), ("rslave", False), ("rshared", True)])
def test_mounts_of_the_container_arrive_as_the_propagation_says(
    world: World, shared: Path, option: str, arrives: bool
) -> None:
    spec = with_admin(world.script("mount -t tmpfs late /s/in && touch /s/in/late && echo done; sleep 60"))
    spec["mounts"].append(bind(shared, "/s", option))
    running = world.start(spec)
    assert running.output.line() == "done"
    assert (shared / "in/late").exists() == arrives


def test_nothing_of_the_containers_own_mounts_reaches_the_host(world: World) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    world.start(world.spec("sleep", "60"))
    assert Path("/proc/self/mountinfo").read_text() == before


@pytest.mark.parametrize(
    ("propagation", "field"), [("", None), ("slave", None), ("shared", "shared:"), ("unbindable", "unbindable")]
)
def test_propagation_of_the_root(world: World, propagation: str, field: str | None) -> None:
    spec = world.spec("cat", "/proc/self/mountinfo")
    spec["linux"]["rootfsPropagation"] = propagation
    line = next(line for line in world.run(spec).lines if line.split()[4] == "/")
    optional = line.split(" - ")[0].split()[6:]
    assert [item for item in optional if not item.startswith("master:")] == (
        [item for item in optional if field and item.startswith(field)]
    )
    assert bool(field) == any(item.startswith(field or "-") for item in optional)


# -- cgroups, masks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("private", [True, False])
def test_cgroup_mount_shows_the_containers_own_groups_and_is_read_only(world: World, private: bool) -> None:
    spec = world.script(
        "cat /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null | sort -u | head -2;"
        "for f in $(find /sys/fs/cgroup -maxdepth 2 -name 'cgroup.procs');"
        "do (echo 1 > $f) 2>/dev/null && echo written; done;"
        "mkdir /sys/fs/cgroup/x 2>/dev/null && echo made; mkdir /sys/fs/cgroup/*/x 2>/dev/null && echo made; echo end"
    )
    if not private:
        spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != "cgroup"]
    spec["mounts"].append(
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["ro", "nosuid", "noexec", "nodev"],
        }
    )
    words = world.run(spec).words
    assert words[0] in ("0", "1")
    assert words[-1] == "end"
    assert not {"written", "made"} & set(words)


def test_masked_paths_are_empty_and_read_only_paths_refuse(world: World) -> None:
    spec = world.script(
        "cat /etc/secret | wc -c; ls -A /etc/hidden | wc -l; (touch /etc/hidden/x) 2>/dev/null || echo refused;"
        "echo x > /etc/secret; cat /etc/secret | wc -c;"
        "(echo x > /etc/fixed) 2>/dev/null || echo refused; cat /etc/fixed; stat -c %t:%T /etc/secret"
    )
    (world.rootfs / "etc/secret").write_text("secret")
    (world.rootfs / "etc/fixed").write_text("fixed\n")
    for name in ("hidden", "hidden2"):
        (world.rootfs / "etc" / name).mkdir()
        (world.rootfs / "etc" / name / "file").write_text("")
    spec["linux"]["maskedPaths"] = ["/etc/secret", "/etc/hidden", "/etc/hidden2", "/etc/nosuch", "/etc/secret/below"]
    spec["linux"]["readonlyPaths"] = ["/etc/fixed", "/etc/nosuch"]
    assert world.run(spec).words == ["0", "0", "refused", "0", "refused", "fixed", "1:3"]
    assert (world.rootfs / "etc/secret").read_text() == "secret"


def test_overlay_with_more_layers_than_one_option_holds(world: World) -> None:
    layers = []
    for number in range(12):
        layer = world.directory / f"layer-with-a-long-name-{number}"
        layer.mkdir()
        (layer / f"file{number}").write_text("")
        layers.append(str(layer))
    for name in ("upper", "work"):
        (world.directory / name).mkdir()
    spec = world.script("ls /m | wc -l; touch /m/new")
    options = [f"lowerdir={':'.join(layers)}", f"upperdir={world.directory}/upper", f"workdir={world.directory}/work"]
    spec["mounts"].append({"destination": "/m", "type": "overlay", "source": "overlay", "options": options})
    assert world.run(spec).words == ["12"]
    assert (world.directory / "upper/new").exists()
    with contextlib.suppress(OSError):
        os.rmdir(world.directory / "work/work")
