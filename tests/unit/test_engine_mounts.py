"""Mounts of containers: as clients write them, as one list, as the runtime and inspect see them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from corten.dockerapi.container import (
    BindOptions,
    DriverConfig,
    HostConfig,
    ImageOptions,
    Mount,
    TmpfsOptions,
    VolumeOptions,
)
from corten.engine.mount_parsing import check_tmpfs, parse_bind, parse_mount
from corten.engine.mount_points import MountPoint, inspect_mounts, oci_mounts, resolve_mount_points
from corten.engine.mount_sources import mount_of, prepare_sources
from corten.errors import InvalidParameter, NotFound, NotImplementedYet, SystemFailure


def nobody(reference):
    raise NotFound(f"No such container: {reference}")


def resolve(find=nobody, volumes=None, daemon_root="", **host):
    return resolve_mount_points(HostConfig(**host), volumes or {}, find, daemon_root=daemon_root)


# -- -v ---------------------------------------------------------------------------------------------------------------


def test_a_bind_of_a_path():
    assert parse_bind("/srv//data/./x/:/data/../www:ro,rslave") == MountPoint(
        type="bind",
        source="/srv/data/x",
        destination="/www",
        mode="ro,rslave",
        rw=False,
        propagation="rslave",
        create_source=True,
    )
    plain = parse_bind("/a:/b")
    assert (plain.mode, plain.rw, plain.propagation, plain.implied_propagation) == ("", True, "rprivate", True)


def test_a_named_volume():
    point = parse_bind("data:/data:nocopy,ro")
    assert (point.type, point.name, point.driver) == ("volume", "data", "local")
    assert (point.mode, point.rw, point.copy_up, point.propagation) == ("nocopy,ro", False, False, "")
    assert parse_bind("data:/data").mode == "z"
    assert parse_bind("data:/data").copy_up


def test_a_destination_alone_is_an_anonymous_volume():
    point = parse_bind("/data")
    assert point.anonymous
    assert re.fullmatch(r"[0-9a-f]{64}", point.name)
    assert point.copy_up


@pytest.mark.parametrize("mode", ["z", "Z", "rw", "cached", "delegated,ro", "rw,consistent,shared,z"])
def test_modes_that_are_understood(mode):
    assert parse_bind(f"/a:/b:{mode}").mode == mode


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("", "invalid volume specification: ''"),
        (":/b", "invalid volume specification: ':/b'"),
        ("/a:/b:ro:x", "invalid volume specification: '/a:/b:ro:x'"),
        ("/a:ro", "invalid volume specification: '/a:ro'"),
        ("/a:", "invalid volume specification: '/a:'"),
        ("/a:/b:readonly", "invalid mode: readonly"),
        ("/a:/b:ro,rw", "invalid mode: ro,rw"),
        ("/a:/b:shared,slave", "invalid mode: shared,slave"),
        (
            "/a:b",
            "invalid volume specification: '/a:b': invalid mount config for type \"bind\": "
            "invalid mount path: 'b' mount path must be absolute",
        ),
        (
            "/a:/",
            "invalid volume specification: '/a:/': invalid mount config for type \"bind\": "
            "invalid specification: destination can't be '/'",
        ),
        ("/a:/x/..", "destination can't be '/'"),
        ("/a://", "destination can't be '/'"),
        ("/a:/b:nocopy", 'invalid mount config for type "bind": field VolumeOptions must not be specified'),
        ("data:/b:shared", 'invalid mount config for type "volume": field BindOptions must not be specified'),
        ("x:/b", "create x: volume name is too short, names should be at least two alphanumeric characters"),
        ("a/b:/b", 'includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed'),
        ("../x:/b", "includes invalid characters for a local volume name"),
    ],
)
def test_bad_binds_in_dockers_words(spec, text):
    with pytest.raises(InvalidParameter) as caught:
        parse_bind(spec)
    assert text in str(caught.value)


def test_an_unknown_volume_driver_is_refused():
    with pytest.raises(
        InvalidParameter, match=r'^create data: error looking up volume plugin nfs: plugin "nfs" not found'
    ):
        parse_bind("data:/b", "nfs")
    assert parse_bind("data:/b", "local").driver == "local"
    assert parse_bind("/data:/b", "nfs").type == "bind"  # a path needs no driver


# -- --mount ----------------------------------------------------------------------------------------------------------


def test_a_bind_mount(tmp_path):
    options = BindOptions(propagation="shared", non_recursive=True, read_only_non_recursive=True)
    point = parse_mount(Mount(type="bind", source=str(tmp_path), target="/x", read_only=True, bind_options=options))
    assert point == MountPoint(
        type="bind",
        source=str(tmp_path),
        destination="/x",
        rw=False,
        propagation="shared",
        non_recursive=True,
        shallow_read_only=True,
    )


def test_an_absent_source_is_an_error_unless_it_is_to_be_made(tmp_path):
    absent = str(tmp_path / "absent")
    with pytest.raises(InvalidParameter) as caught:
        parse_mount(Mount(type="bind", source=absent, target="/x"))
    assert str(caught.value) == f'invalid mount config for type "bind": bind source path does not exist: {absent}'
    point = parse_mount(
        Mount(type="bind", source=absent, target="/x", bind_options=BindOptions(create_mountpoint=True))
    )
    assert point.create_source
    assert not Path(absent).exists()


def test_a_volume_mount():
    options = VolumeOptions(
        no_copy=True,
        labels={"a": "b"},
        subpath="x/./y",
        driver_config=DriverConfig(name="local", options={"type": "nfs"}),
    )
    point = parse_mount(Mount(type="volume", source="data", target="/x", volume_options=options))
    assert (point.name, point.copy_up, point.labels, point.subpath) == ("data", False, {"a": "b"}, "x/y")
    assert point.driver_options == {"type": "nfs"}
    assert parse_mount(Mount(type="volume", target="/x")).anonymous


def test_a_tmpfs_mount():
    options = TmpfsOptions(size_bytes=64 << 20, mode=0o1770, options=[["exec"]])
    point = parse_mount(Mount(type="tmpfs", target="/x", read_only=True, tmpfs_options=options))
    assert point.tmpfs_options == ("ro", "mode=1770", "size=64m", "exec")
    assert parse_mount(Mount(type="tmpfs", target="/x", tmpfs_options=TmpfsOptions(size_bytes=1000))).tmpfs_options == (
        "size=1000",
    )


@pytest.mark.parametrize(
    ("mount", "text"),
    [
        (Mount(type="bind", source="/"), 'invalid mount config for type "bind": field Target must not be empty'),
        (Mount(type="bind", target="/x"), 'invalid mount config for type "bind": field Source must not be empty'),
        (Mount(type="bind", source="a", target="/x"), "invalid mount path: 'a' mount path must be absolute"),
        (Mount(type="bind", source="/", target="x"), "invalid mount path: 'x' mount path must be absolute"),
        (Mount(type="bind", source="/", target="/"), "invalid specification: destination can't be '/'"),
        (
            Mount(type="bind", source="/", target="/x", bind_options=BindOptions(propagation="wide")),
            "invalid propagation mode: wide",
        ),
        (
            Mount(type="bind", source="/", target="/x", volume_options=VolumeOptions()),
            "field VolumeOptions must not be specified",
        ),
        (
            Mount(type="volume", target="/x", bind_options=BindOptions()),
            'invalid mount config for type "volume": field BindOptions must not be specified',
        ),
        (Mount(type="bind", source="/", target="/x", image_options=ImageOptions()), "field ImageOptions must not"),
        (Mount(type="volume", target="/x", tmpfs_options=TmpfsOptions()), "field TmpfsOptions must not be specified"),
        (
            Mount(type="volume", target="/x", volume_options=VolumeOptions(subpath="a")),
            "must not set Subpath when using anonymous volumes",
        ),
        (
            Mount(type="volume", source="data", target="/x", volume_options=VolumeOptions(subpath="a/../../b")),
            "subpath must be a relative path within the volume",
        ),
        (
            Mount(type="volume", source="data", target="/x", volume_options=VolumeOptions(subpath="/a")),
            "subpath must be a relative path within the volume",
        ),
        (
            Mount(
                type="volume",
                target="/x",
                volume_options=VolumeOptions(driver_config=DriverConfig(name="nfs")),
            ),
            'error looking up volume plugin nfs: plugin "nfs" not found',
        ),
        (Mount(type="tmpfs", source="a", target="/x"), "field Source must not be specified"),
        (
            Mount(type="tmpfs", target="/x", tmpfs_options=TmpfsOptions(options=[["suid"]])),
            "invalid option: suid",
        ),
        (
            Mount(type="tmpfs", target="/x", tmpfs_options=TmpfsOptions(options=[[]])),
            "invalid option array length",
        ),
        (Mount(type="tmpfs", target="/x", tmpfs_options=TmpfsOptions(size_bytes=-1)), "size must not be negative"),
        (Mount(type="ufo", target="/x"), 'invalid mount config for type "ufo": mount type unknown'),
        (Mount(target="/x"), 'invalid mount config for type "": mount type unknown'),
        (
            Mount(type="bind", source="/", target="/x", bind_options=BindOptions(read_only_non_recursive=True)),
            "mount options conflict: !ReadOnly && BindOptions.ReadOnlyNonRecursive",
        ),
        (
            Mount(type="bind", source="/", target="/x", bind_options=BindOptions(read_only_force_recursive=True)),
            "mount options conflict: !ReadOnly && BindOptions.ReadOnlyForceRecursive",
        ),
    ],
)
def test_bad_mounts_in_dockers_words(mount, text):
    with pytest.raises(InvalidParameter) as caught:
        parse_mount(mount)
    assert text in str(caught.value)


def test_an_image_is_mounted_read_only_and_in_parts():
    point = parse_mount(Mount(type="image", source="tools", target="/t/", image_options=ImageOptions(subpath="a/./b")))
    assert (point.type, point.source, point.destination, point.rw, point.subpath) == (
        *("image", "tools", "/t"),
        False,
        "a/./b",
    )
    for subpath in ("/abs", "..", "a/../../b"):
        with pytest.raises(InvalidParameter, match="relative path within the image"):
            parse_mount(Mount(type="image", source="x", target="/x", image_options=ImageOptions(subpath=subpath)))
    with pytest.raises(InvalidParameter, match="Source must not be empty"):
        parse_mount(Mount(type="image", target="/x"))


@pytest.mark.parametrize("kind", ["cluster", "npipe"])
def test_types_that_do_not_exist_yet_say_so(kind):
    with pytest.raises(NotImplementedYet, match=kind):
        parse_mount(Mount(type=kind, source="x", target="/x"))


# -- --tmpfs ----------------------------------------------------------------------------------------------------------


def test_options_of_tmpfs():
    assert check_tmpfs("") == []
    assert check_tmpfs("rw,size=64m,size=32m,mode=1777,exec") == ["rw", "size=32m", "mode=1777", "exec"]
    assert check_tmpfs("defaults") == []


@pytest.mark.parametrize("options", ["size", "size=", "exec=1", "colour=red", "remount", "bind"])
def test_bad_options_of_tmpfs(options):
    with pytest.raises(InvalidParameter) as caught:
        check_tmpfs(options)
    assert str(caught.value) == f'invalid tmpfs option ["{options}"]'


# -- all of a container -----------------------------------------------------------------------------------------------


def test_outer_directories_come_first():
    points = resolve(binds=["/a:/x/y/z", "/b:/x"], tmpfs={"/x/y": "size=1m"}, volumes={"/w": {}})
    assert [point.destination for point in points] == ["/w", "/x", "/x/y", "/x/y/z"]


@pytest.mark.parametrize(
    "host",
    [
        {"binds": ["/a:/x", "/b:/x/"]},
        {"binds": ["/a:/x"], "mounts": [Mount(type="tmpfs", target="/x/../x")]},
        {"binds": ["/a:/x"], "tmpfs": {"/x": ""}},
        {"mounts": [Mount(type="tmpfs", target="/x"), Mount(type="volume", target="/x")]},
    ],
)
def test_a_place_is_taken_once(host):
    with pytest.raises(InvalidParameter, match=r"^Duplicate mount point: /x$"):
        resolve(**host)


def test_a_volume_that_is_named_twice_is_made_as_the_first_one_wishes():
    def wish(target: str, size: str) -> Mount:
        driver = DriverConfig(options={"o": f"size={size}"})
        options = VolumeOptions(labels={"size": size}, driver_config=driver)
        return Mount(type="volume", source="data", target=target, volume_options=options)

    points = resolve(mounts=[wish("/z", "1m"), wish("/a", "2m")])
    assert [point.destination for point in points] == ["/a", "/z"]
    assert [point.labels for point in points] == [{"size": "1m"}] * 2
    assert [point.driver_options for point in points] == [{"o": "size=1m"}] * 2
    assert resolve(binds=["data:/b"], mounts=[wish("/a", "2m")])[0].driver_options == {}


def test_volumes_of_the_image_give_way():
    points = resolve(binds=["/a:/x"], tmpfs={"/t": ""}, volumes={"/x": {}, "/t/": {}, "/y": {}})
    assert {point.destination: point.type for point in points} == {"/x": "bind", "/t": "tmpfs", "/y": "volume"}
    assert next(point for point in points if point.destination == "/y").anonymous


def test_relative_places_of_an_images_volumes_count_from_the_root():
    assert [point.destination for point in resolve(volumes={"data/x": {}, "../y": {}})] == ["/y", "/data/x"]


@pytest.mark.parametrize("path", ["/", "relative", "/x/..", ""])
def test_bad_places_of_volumes_and_tmpfs(path):
    if path != "relative":
        with pytest.raises(InvalidParameter):
            resolve(volumes={path: {}})
    with pytest.raises(InvalidParameter):
        resolve(tmpfs={path: ""})


THEIRS = [
    MountPoint(
        type="volume", name="data", source="/v", destination="/data", anonymous=True, copy_up=True, attached="/p"
    ),
    MountPoint(type="bind", source="/srv", destination="/www", rw=False, propagation="rprivate", mode="ro"),
    MountPoint(type="tmpfs", destination="/t"),
]


def test_volumes_from_another_container():
    points = resolve(find=lambda reference: THEIRS, volumes_from=["other"])
    assert [(point.destination, point.rw) for point in points] == [("/data", True), ("/www", False)]
    taken = points[0]
    assert (taken.name, taken.anonymous, taken.copy_up, taken.attached) == ("data", False, False, "")


def test_volumes_from_read_only_and_overridden():
    points = resolve(find=lambda reference: THEIRS, volumes_from=["other:ro"], binds=["/mine:/www"])
    assert [(point.destination, point.source, point.rw) for point in points] == [
        ("/data", "/v", False),
        ("/www", "/mine", True),
    ]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("", "volumes-from specification cannot be an empty string"),
        ("other:wide", "invalid mode: wide"),
        ("other:shared", "invalid mode: shared"),
        ("other:nocopy", "invalid mode: nocopy"),
    ],
)
def test_bad_volumes_from(spec, text):
    with pytest.raises(InvalidParameter, match=text):
        resolve(find=lambda reference: THEIRS, volumes_from=[spec])


def test_an_unknown_container_is_a_bad_request_and_no_missing_image():
    with pytest.raises(InvalidParameter, match="No such container: other"):
        resolve(volumes_from=["other"])


@pytest.mark.parametrize(
    ("source", "propagation"),
    [("/", "rslave"), ("/var", "rslave"), ("/var/lib/corten/x", "rslave"), ("/var/lib/corten2", "rprivate")],
)
def test_a_bind_that_shows_the_daemons_root_follows_the_host(source, propagation):
    (point,) = resolve(binds=[f"{source}:/x"], daemon_root="/var/lib/corten")
    assert point.propagation == propagation
    (asked,) = resolve(binds=[f"{source}:/x:private"], daemon_root="/var/lib/corten")
    assert asked.propagation == "private"


# -- views ------------------------------------------------------------------------------------------------------------


def test_for_the_runtime():
    points = [
        parse_bind("/a:/x"),
        parse_bind("/a:/y:ro,shared"),
        MountPoint(type="bind", source="/a", destination="/z", rw=False, shallow_read_only=True, non_recursive=True),
        MountPoint(type="volume", name="v1", source="/v/v1/_data", destination="/v"),
        MountPoint(type="volume", name="v1", source="/v/v1/_data", attached="/s/1", destination="/s", subpath="a"),
        MountPoint(type="tmpfs", destination="/t", tmpfs_options=("size=1m", "exec")),
    ]
    assert oci_mounts(points) == [
        {"destination": "/x", "type": "bind", "source": "/a", "options": ["rbind", "rprivate"]},
        {"destination": "/y", "type": "bind", "source": "/a", "options": ["rbind", "rro", "shared"]},
        {"destination": "/z", "type": "bind", "source": "/a", "options": ["bind", "ro", "rprivate"]},
        {"destination": "/v", "type": "bind", "source": "/v/v1/_data", "options": ["rbind", "rprivate"]},
        {"destination": "/s", "type": "bind", "source": "/s/1", "options": ["rbind", "rprivate"]},
        {
            "destination": "/t",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["noexec", "nosuid", "nodev", "rprivate", "size=1m", "exec"],
        },
    ]


def test_for_inspect():
    points = [
        *resolve(binds=["/a:/x:ro"], tmpfs={"/hidden": ""}, mounts=[Mount(type="tmpfs", target="/shown")]),
        MountPoint(type="volume", name="v1", driver="local", source="/v", attached="/s", destination="/v", mode="z"),
    ]
    assert inspect_mounts(points) == [
        {"Type": "tmpfs", "Source": "", "Destination": "/shown", "Mode": "", "RW": True, "Propagation": ""},
        {"Type": "bind", "Source": "/a", "Destination": "/x", "Mode": "ro", "RW": False, "Propagation": "rprivate"},
        {
            "Type": "volume",
            "Name": "v1",
            "Source": "/v",
            "Destination": "/v",
            "Driver": "local",
            "Mode": "z",
            "RW": True,
            "Propagation": "",
        },
    ]


# -- at the start -----------------------------------------------------------------------------------------------------


def test_absent_directories_of_binds_are_made(tmp_path):
    prepare_sources([parse_bind(f"{tmp_path}/a/b:/x"), parse_bind("data:/y")])
    assert (tmp_path / "a/b").is_dir()
    prepare_sources([parse_bind(f"{tmp_path}/a/b:/x")])  # again is no error


def test_what_exists_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    prepare_sources([parse_bind(f"{tmp_path}/file:/x"), parse_bind(f"{tmp_path}/dangling:/y")])
    assert (tmp_path / "file").read_text() == "x"
    assert not (tmp_path / "nowhere").exists()


def test_only_those_who_ask_get_a_directory(tmp_path):
    prepare_sources([MountPoint(type="bind", source=str(tmp_path / "absent"), destination="/x")])
    assert not (tmp_path / "absent").exists()


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SystemFailure) as caught:
        prepare_sources([parse_bind(f"{tmp_path}/file/below:/x")])
    assert str(caught.value).startswith(f"error while creating mount source path '{tmp_path}/file/below': mkdir ")


def test_the_mount_of_a_path():
    target, _ = mount_of("/proc/self")
    assert target == "/proc"
    target, _ = mount_of("/")
    assert target == "/"


def test_propagation_that_cannot_be(tmp_path):
    # /proc is private to its namespace on every machine that tests run on, or shared: both answers are checked
    _, kinds = mount_of("/proc")
    point = parse_bind("/proc:/x:shared")
    if "shared" in kinds:
        prepare_sources([point])
    else:
        with pytest.raises(InvalidParameter, match="path /proc is mounted on /proc but it is not a shared mount"):
            prepare_sources([point])
    prepare_sources([parse_bind("/proc:/x")])
    prepare_sources(
        [MountPoint(type="bind", source="/proc", destination="/x", propagation="rslave", implied_propagation=True)]
    )
