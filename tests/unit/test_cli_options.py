"""From the options of ``corten run`` to the document that the daemon gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from corten.cli import flags
from corten.cli.options import environment, table
from corten.cli.options.container import document_of
from corten.errors import InvalidParameter


def document(*words: str) -> dict[str, Any]:
    options, arguments = flags.parse(table.ALL, [*words, "image", "cmd", "-x"], interspersed=False)
    return document_of(options, arguments[0], arguments[1:])


def host(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = document(*words)["HostConfig"]
    return found


def problem(*words: str) -> str:
    with pytest.raises(InvalidParameter) as caught:
        document(*words)
    return str(caught.value)


def test_nothing_but_an_image() -> None:
    assert document() == {
        "Image": "image",
        "Hostname": "",
        "Domainname": "",
        "User": "",
        "AttachStdin": False,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "Env": [],
        "Cmd": ["cmd", "-x"],
        "WorkingDir": "",
        "Labels": {},
        "StopSignal": "",
        "Volumes": {},
        "ExposedPorts": {},
        "HostConfig": {
            "NetworkMode": "default",
            "Dns": [],
            "DnsOptions": [],
            "DnsSearch": [],
            "LogConfig": {"Type": "", "Config": {}},
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        },
    }


def test_the_image_s_own_command() -> None:
    options, _ = flags.parse(table.ALL, ["image"])
    assert document_of(options, "image", [])["Cmd"] is None


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["-h", "box"], "Hostname", "box"),
        (["--domainname", "d"], "Domainname", "d"),
        (["-u", "1000:50"], "User", "1000:50"),
        (["-w", "/tmp"], "WorkingDir", "/tmp"),
        (["--entrypoint", "/bin/sh"], "Entrypoint", ["/bin/sh"]),
        (["--entrypoint="], "Entrypoint", [""]),
        (["--stop-signal", "INT"], "StopSignal", "INT"),
        (["--stop-timeout", "0"], "StopTimeout", 0),
        (["-t"], "Tty", True),
        (["-l", "a", "-l", "b=c=d"], "Labels", {"a": "", "b": "c=d"}),
        (["--expose", "80", "--expose", "90-91/udp"], "ExposedPorts", {"80/tcp": {}, "90/udp": {}, "91/udp": {}}),
        (["-v", "/data"], "Volumes", {"/data": {}}),
        (["--mac-address", "92:d0:c6:0a:29:33"], "MacAddress", "92:d0:c6:0a:29:33"),
        (["--no-healthcheck"], "Healthcheck", {"Test": ["NONE"]}),
        (["--health-retries", "3"], "Healthcheck", {"Retries": 3}),
        (
            ["--health-cmd", "true", "--health-interval", "1m30s", "--health-timeout=500ms"],
            "Healthcheck",
            {"Interval": 90 * 10**9, "Timeout": 5 * 10**8, "Test": ["CMD-SHELL", "true"]},
        ),
    ],
)
def test_the_program(words: list[str], field: str, value: Any) -> None:
    assert document(*words)[field] == value


@pytest.mark.parametrize(
    ("words", "attached", "open_stdin", "once"),
    [
        ([], (False, True, True), False, False),
        (["-i"], (True, True, True), True, True),
        (["-a", "stdout"], (False, True, False), False, False),
        (["-a", "STDERR", "-a", "stdin"], (True, False, True), False, False),
        (["-i", "-a", "stdin"], (True, False, False), True, True),
    ],
)
def test_streams(words: list[str], attached: tuple, open_stdin: bool, once: bool) -> None:
    found = document(*words)
    assert (found["AttachStdin"], found["AttachStdout"], found["AttachStderr"]) == attached
    assert (found["OpenStdin"], found["StdinOnce"]) == (open_stdin, once)


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["-m", "512m"], "Memory", 512 << 20),
        (["--memory-reservation", "1g"], "MemoryReservation", 1 << 30),
        (["--memory-swap", "-1"], "MemorySwap", -1),
        (["--memory-swappiness", "0"], "MemorySwappiness", 0),
        (["--oom-kill-disable"], "OomKillDisable", True),
        (["--oom-score-adj", "-500"], "OomScoreAdj", -500),
        (["--cpus", "1.5"], "NanoCpus", 1_500_000_000),
        (["-c", "512"], "CpuShares", 512),
        (["--cpu-period", "1000", "--cpu-quota", "500"], "CpuQuota", 500),
        (["--cpuset-cpus", "0-1"], "CpusetCpus", "0-1"),
        (["--pids-limit", "-1"], "PidsLimit", -1),
        (["--blkio-weight", "500"], "BlkioWeight", 500),
        (["--blkio-weight-device", "/dev/sda:200"], "BlkioWeightDevice", [{"Path": "/dev/sda", "Weight": 200}]),
        (["--device-read-bps", "/dev/sda:1mb"], "BlkioDeviceReadBps", [{"Path": "/dev/sda", "Rate": 1 << 20}]),
        (["--device-write-iops", "/dev/sda:7"], "BlkioDeviceWriteIOps", [{"Path": "/dev/sda", "Rate": 7}]),
        (["--shm-size", "64m"], "ShmSize", 64 << 20),
        (["--cap-add", "NET_ADMIN", "--cap-add", "all"], "CapAdd", ["NET_ADMIN", "all"]),
        (["--privileged"], "Privileged", True),
        (["--read-only"], "ReadonlyRootfs", True),
        (["--init=false"], "Init", False),
        (["--rm"], "AutoRemove", True),
        (["--ipc", "container:x"], "IpcMode", "container:x"),
        (["--pid", "container:x"], "PidMode", "container:x"),
        (["--uts", "host"], "UTSMode", "host"),
        (["--userns", "host"], "UsernsMode", "host"),
        (["--cgroupns", "private"], "CgroupnsMode", "private"),
        (["--cgroup-parent", "/x"], "CgroupParent", "/x"),
        (["--network", "none"], "NetworkMode", "none"),
        (["--net", "host"], "NetworkMode", "host"),
        (["--network", "container:web"], "NetworkMode", "container:web"),
        (["--restart", "on-failure:3"], "RestartPolicy", {"Name": "on-failure", "MaximumRetryCount": 3}),
        (["--restart", "always"], "RestartPolicy", {"Name": "always", "MaximumRetryCount": 0}),
        (
            ["--log-driver", "local", "--log-opt", "max-size=1m"],
            "LogConfig",
            {"Type": "local", "Config": {"max-size": "1m"}},
        ),
        (["--sysctl", "net.core.somaxconn=1024"], "Sysctls", {"net.core.somaxconn": "1024"}),
        (["--annotation", "a=b"], "Annotations", {"a": "b"}),
        (["--tmpfs", "/run:size=1m,mode=755", "--tmpfs", "/x"], "Tmpfs", {"/run": "size=1m,mode=755", "/x": ""}),
        (["--volumes-from", "db:ro"], "VolumesFrom", ["db:ro"]),
        (["--storage-opt", "size=10G"], "StorageOpt", {"size": "10G"}),
        (["--dns", "1.1.1.1", "--dns", "2001:db8:0::1"], "Dns", ["1.1.1.1", "2001:db8::1"]),
        (["--dns-opt", "ndots:2"], "DnsOptions", ["ndots:2"]),
        (["--dns-search", "."], "DnsSearch", ["."]),
        (
            ["--add-host", "a:10.0.0.1", "--add-host", "b=[::1]", "--add-host", "c:host-gateway"],
            "ExtraHosts",
            ["a:10.0.0.1", "b:::1", "c:host-gateway"],
        ),
        (["--link", "db:alias"], "Links", ["db:alias"]),
        (["--group-add", "50"], "GroupAdd", ["50"]),
        (["--security-opt", "no-new-privileges"], "SecurityOpt", ["no-new-privileges"]),
        (["--security-opt", "seccomp=unconfined"], "SecurityOpt", ["seccomp=unconfined"]),
        (["--security-opt", "systempaths=unconfined"], "MaskedPaths", []),
        (["--cidfile", "/x"], "ContainerIDFile", "/x"),
        (["-P"], "PublishAllPorts", True),
        (["--device-cgroup-rule", "c 1:3 rwm"], "DeviceCgroupRules", ["c 1:3 rwm"]),
        (["--runtime", "corten"], "Runtime", "corten"),
    ],
)
def test_the_host(words: list[str], field: str, value: Any) -> None:
    assert host(*words)[field] == value


def test_a_default_of_the_daemon_is_not_overwritten() -> None:
    """What was not given is not sent: "no limit" and "not asked for" are different things."""
    assert not {"PidsLimit", "MemorySwappiness", "Init", "OomKillDisable", "ShmSize", "Memory"} & set(host())


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("nofile=1024", {"Name": "nofile", "Soft": 1024, "Hard": 1024}),
        ("nofile=1024:2048", {"Name": "nofile", "Soft": 1024, "Hard": 2048}),
        ("core=-1", {"Name": "core", "Soft": -1, "Hard": -1}),
        ("core=0:-1", {"Name": "core", "Soft": 0, "Hard": -1}),
    ],
)
def test_ulimits(text: str, limit: dict) -> None:
    assert host("--ulimit", text)["Ulimits"] == [limit]


def test_the_last_ulimit_of_a_name_counts() -> None:
    found = host("--ulimit", "nofile=1", "--ulimit", "core=1", "--ulimit", "nofile=2")["Ulimits"]
    assert found == [{"Name": "nofile", "Soft": 2, "Hard": 2}, {"Name": "core", "Soft": 1, "Hard": 1}]


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("/dev/null", ("/dev/null", "/dev/null", "rwm")),
        ("/dev/null:/dev/x", ("/dev/null", "/dev/x", "rwm")),
        ("/dev/null:r", ("/dev/null", "/dev/null", "r")),
        ("/dev/null:/dev/x:rw", ("/dev/null", "/dev/x", "rw")),
        ("/dev//null", ("/dev/null", "/dev/null", "rwm")),
    ],
)
def test_devices(text: str, device: tuple[str, str, str]) -> None:
    assert host("--device", text)["Devices"] == [
        dict(zip(("PathOnHost", "PathInContainer", "CgroupPermissions"), device, strict=True))
    ]


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("type=bind,source=/a,target=/b", {"Type": "bind", "Source": "/a", "Target": "/b"}),
        ("type=bind,src=/a,dst=/b,readonly", {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True}),
        (
            "type=bind,src=/a,destination=/b,ro=false",
            {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": False},
        ),
        ("target=/b", {"Type": "volume", "Target": "/b"}),
        (
            "source=v,target=/b,volume-nocopy",
            {"Type": "volume", "Source": "v", "Target": "/b", "VolumeOptions": {"NoCopy": True}},
        ),
        (
            "target=/b,volume-label=a=b,volume-driver=local,volume-opt=o=x",
            {
                "Type": "volume",
                "Target": "/b",
                "VolumeOptions": {"Labels": {"a": "b"}, "DriverConfig": {"Name": "local", "Options": {"o": "x"}}},
            },
        ),
        (
            'type=volume,target=/b,"volume-opt=o=a,b"',
            {"Type": "volume", "Target": "/b", "VolumeOptions": {"DriverConfig": {"Options": {"o": "a,b"}}}},
        ),
        (
            "type=tmpfs,target=/b,tmpfs-size=1m,tmpfs-mode=1777",
            {"Type": "tmpfs", "Target": "/b", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1777}},
        ),
        (
            "type=bind,src=/a,dst=/b,bind-propagation=rshared",
            {"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"Propagation": "rshared"}},
        ),
        (
            "type=bind,src=/a,dst=/b,bind-recursive=disabled",
            {"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"NonRecursive": True}},
        ),
        ("type=bind,src=/a,dst=/b,bind-recursive=enabled", {"Type": "bind", "Source": "/a", "Target": "/b"}),
        ("TYPE=BIND,src=/a,dst=/b", {"Type": "bind", "Source": "/a", "Target": "/b"}),
        (
            "type=image,src=i,dst=/b,image-subpath=x",
            {"Type": "image", "Source": "i", "Target": "/b", "ImageOptions": {"Subpath": "x"}},
        ),
    ],
)
def test_mounts(text: str, mount: dict) -> None:
    assert host("--mount", text)["Mounts"] == [mount]


def test_paths_that_begin_with_a_dot_are_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert host("--mount", "type=bind,src=./a,dst=/b")["Mounts"][0]["Source"] == f"{tmp_path}/a"
    assert host("-v", "./a:/b", "-v", "..:/c:ro", "-v", "name:/d")["Binds"] == [
        f"{tmp_path}/a:/b",
        f"{tmp_path.parent}:/c:ro",
        "name:/d",
    ]


@pytest.mark.parametrize(
    ("text", "bindings"),
    [
        ("80", {"80/tcp": [("", "")]}),
        ("8080:80", {"80/tcp": [("", "8080")]}),
        ("127.0.0.1:8080:80/udp", {"80/udp": [("127.0.0.1", "8080")]}),
        ("127.0.0.1::80", {"80/tcp": [("127.0.0.1", "")]}),
        ("[::1]:8080:80", {"80/tcp": [("::1", "8080")]}),
        ("[::1]::80", {"80/tcp": [("::1", "")]}),
        ("8080-8081:80-81", {"80/tcp": [("", "8080")], "81/tcp": [("", "8081")]}),
        ("8080-8090:80", {"80/tcp": [("", "8080-8090")]}),
        ("target=80,published=8080,protocol=udp", {"80/udp": [("", "8080")]}),
    ],
)
def test_published_ports(text: str, bindings: dict) -> None:
    found = document("-p", text)
    expected = {port: [{"HostIp": ip, "HostPort": number} for ip, number in pairs] for port, pairs in bindings.items()}
    assert found["HostConfig"]["PortBindings"] == expected
    assert found["ExposedPorts"] == {port: {} for port in bindings}


@pytest.mark.parametrize(
    ("words", "mode", "endpoints"),
    [
        (["--network", "web"], "web", None),
        (
            ["--network", "web", "--network-alias", "a", "--ip", "10.0.0.5"],
            "web",
            {"web": {"Aliases": ["a"], "IPAMConfig": {"IPv4Address": "10.0.0.5"}}},
        ),
        (
            ["--network", "name=web,alias=a,ip6=::5,driver-opt=X=Y"],
            "web",
            {"web": {"Aliases": ["a"], "DriverOpts": {"x": "y"}, "IPAMConfig": {"IPv6Address": "::5"}}},
        ),
        (["--network", "a", "--network", "b"], "a", {"a": {}, "b": {}}),
        (["--network", "web", "--link", "db"], "web", {"web": {"Links": ["db"]}}),
        (["--link", "db"], "default", None),
    ],
)
def test_networks(words: list[str], mode: str, endpoints: dict | None) -> None:
    found = document(*words)
    assert found["HostConfig"]["NetworkMode"] == mode
    assert found.get("NetworkingConfig") == (endpoints and {"EndpointsConfig": endpoints})


def test_a_seccomp_profile_is_sent_with_its_contents(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text('{"defaultAction":\n "SCMP_ACT_ALLOW"}')
    assert host("--security-opt", f"seccomp={profile}")["SecurityOpt"] == ['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']
    profile.write_text("{")
    assert "compacting json for seccomp profile" in problem("--security-opt", f"seccomp={profile}")
    assert "opening seccomp profile" in problem("--security-opt", f"seccomp={tmp_path}/nope")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "5z"], 'invalid argument "5z" for "-m, --memory" flag: invalid suffix: \'z\''),
        (["--cpus", "x"], 'for "--cpus" flag: failed to parse x as a rational number'),
        (["-a", "stdfoo"], "valid streams are STDIN, STDOUT and STDERR"),
        (["-e", "=x"], 'invalid argument "=x" for "-e, --env" flag: invalid environment variable: =x'),
        (["-l", "=x"], "invalid label '=x': empty name"),
        (["-l", "a b=x"], "label 'a b' contains whitespaces"),
        (["--mount", "foo"], "invalid field 'foo' must be a key=value pair"),
        (["--mount", ""], "value is empty"),
        (["--mount", "type=bind,source=/a"], "target is required"),
        (["--mount", "type=,target=/a"], "invalid value for 'type': value is empty"),
        (
            ["--mount", "target=/a, readonly"],
            "invalid option 'readonly' in ' readonly': option should not have whitespace",
        ),
        (["--mount", "target= /a"], "invalid value for 'target' in 'target= /a': value should not have whitespace"),
        (["--mount", "target=/a,readonly=maybe"], "invalid value for 'readonly'"),
        (["--mount", "target=/a,nope=1"], "unknown option 'nope' in 'nope=1'"),
        (["--mount", "type=bind,target=/a,volume-nocopy"], "cannot mix 'volume-*' options with mount type 'bind'"),
        (["--mount", "type=tmpfs,target=/a,tmpfs-mode=9"], "invalid value for tmpfs-mode: 9"),
        (["--mount", "type=bind,target=/a,bind-recursive=x"], "invalid value for bind-recursive: x"),
        (["--mount", "type=bind,target=/a,bind-recursive=writable"], "requires 'readonly' to be specified"),
        (["--mount", "type=bind,target=/a,bind-nonrecursive"], "bind-nonrecursive is deprecated"),
        (["-v", ""], "invalid empty volume spec"),
        (["-v", "a::b"], "invalid spec: a::b: empty section between colons"),
        (["-v", "a:b:c:d"], "invalid spec: a:b:c:d: too many colons"),
        (["--ulimit", "nofile"], "invalid ulimit argument: nofile"),
        (["--ulimit", "nope=1"], "invalid ulimit type: nope"),
        (["--ulimit", "nofile=1:2:3"], "too many limit value arguments"),
        (["--ulimit", "nofile=x"], 'strconv.ParseInt: parsing "x": invalid syntax'),
        (["--ulimit", "nofile=5:3"], "ulimit soft limit must be less than or equal to hard limit: 5 > 3"),
        (["--ulimit", "nofile=-1:3"], "ulimit soft limit must be less than or equal to hard limit: -1 > 3"),
        (["--device", "/a:/b:/c:rwm"], "bad format for path: /a:/b:/c:rwm"),
        (["--device", ":/b"], "bad format for path: :/b"),
        (["--device", "/a:/b:x"], "bad mode specified: x"),
        (["--device", "/a:b"], "b is not an absolute path"),
        (["--device-cgroup-rule", "c 1:3"], "invalid device cgroup format 'c 1:3'"),
        (["--device-read-bps", "/dev/sda"], "bad format: /dev/sda"),
        (["--device-read-bps", "sda:1m"], "bad format for device path: sda:1m"),
        (["--device-read-bps", "/dev/sda:x"], "invalid rate for device: /dev/sda:x"),
        (["--device-read-iops", "/dev/sda:1m"], "invalid rate for device: /dev/sda:1m"),
        (["--blkio-weight", "70000"], "invalid syntax"),
        (["--blkio-weight-device", "/dev/sda:5"], "invalid weight for device: /dev/sda:5"),
        (["-p", "x"], "invalid containerPort: x"),
        (["-p", "70000:80"], "invalid hostPort: 70000"),
        (["-p", "80/icmp"], "invalid proto: icmp"),
        (["-p", "1.2.3:80:80"], "invalid IP address: 1.2.3"),
        (["-p", "80:"], "no port specified: 80:<empty>"),
        (["-p", "1-3:80-81"], "invalid ranges specified for container and host Ports: 80-81 and 1-3"),
        (["-p", "target=80,x"], "invalid publish opts format (should be name=value but got 'x')"),
        (["--expose", "80:80"], "invalid port format for --expose: 80:80"),
        (["--expose", "x"], "invalid range format for --expose: x"),
        (["--dns", "x"], "x is not an ip address"),
        (["--dns-search", "a_b"], "a_b is not a valid domain"),
        (["--add-host", "x"], 'bad format for add-host: "x"'),
        (["--add-host", "x:y"], 'invalid IP address in add-host: "y"'),
        (["--link", "a:b:c"], "bad format for links: a:b:c"),
        (["--mac-address", "zz"], "zz is not a valid mac address"),
        (["--pid", "x"], "--pid: invalid PID mode"),
        (["--pid", "container:"], "--pid: invalid PID mode"),
        (["--uts", "x"], "--uts: invalid UTS mode"),
        (["--userns", "x"], "--userns: invalid USER mode"),
        (["--cgroupns", "x"], "--cgroupns: invalid CGROUP mode"),
        (["--memory-swappiness", "101"], "invalid value: 101. Valid memory swappiness range is 0-100"),
        (["--restart", ":3"], "invalid restart policy format: no policy provided before colon"),
        (["--restart", "on-failure:x"], "maximum retry count must be an integer"),
        (["--restart", "always", "--rm"], "conflicting options: cannot specify both --restart and --rm"),
        (["--security-opt", "foo"], 'invalid --security-opt: "foo"'),
        (["--storage-opt", "foo"], "invalid storage option"),
        (["--log-driver", "none", "--log-opt", "a=b"], "invalid logging opts for driver none"),
        (["--sysctl", "x"], "KEY=VALUE is needed"),
        (["--no-healthcheck", "--health-cmd", "x"], "--no-healthcheck conflicts with --health-* options"),
        (["--health-interval", "-1s"], "--health-interval cannot be negative"),
        (["--health-interval", "5"], 'time: invalid duration "5"'),
        (["--health-retries", "-1"], "--health-retries cannot be negative"),
        (["--network", "alias=x,ip=1.2.3.4"], "network name/id is not specified"),
        (["--network", "name=x,nope=1"], "invalid field key nope"),
        (
            ["--network", "host", "--network-alias", "x"],
            "network-scoped aliases are only supported for user-defined networks",
        ),
        (["--network", "a", "--network", "a"], 'network "a" is specified multiple times'),
        (["--network", "a", "--network", "host"], "cannot attach both user-defined and non-user-defined network-modes"),
        (["--gpus", "nope=1"], "unexpected key 'nope' in 'nope=1'"),
    ],
)
def test_errors(words: list[str], message: str) -> None:
    assert message in problem(*words)


# -- environment ----------------------------------------------------------------------------------------------------


def test_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "value with = and space")
    monkeypatch.delenv("NOT_HERE", raising=False)
    file = tmp_path / "env"
    file.write_bytes(
        b'\xef\xbb\xbfFIRST=1\r\n\n# comment\n  INDENTED=x  \nQUOTED="a b"\nFROM_HERE\nNOT_HERE\nEMPTY=\nHASH=a # b\n'
    )
    found = document("--env-file", str(file), "-e", "FIRST=2", "-e", "FROM_HERE", "-e", "NOT_HERE")["Env"]
    assert found == [
        "FIRST=1",
        "INDENTED=x  ",
        'QUOTED="a b"',
        "FROM_HERE=value with = and space",
        "EMPTY=",
        "HASH=a # b",
        "FIRST=2",
        "FROM_HERE=value with = and space",
        "NOT_HERE",  # tells the daemon to take the variable out of the image's
    ]


def test_label_files_do_not_look_into_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "x")
    file = tmp_path / "labels"
    file.write_text("a=1\nFROM_HERE\nb=2\n")
    assert document("--label-file", str(file), "-l", "b=3")["Labels"] == {"a": "1", "b": "3"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"=x\n", "no variable name on line '=x'"),
        (b"A B=x\n", "variable 'A B' contains whitespaces"),
        (b"A =x\n", "variable 'A ' contains whitespaces"),
        (b"A=1\nB=\xff\n", "invalid utf8 bytes at line 2"),
    ],
)
def test_bad_files(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "env"
    file.write_bytes(data)
    assert f"--env-file: invalid env file ({file}): {message}" in problem("--env-file", str(file))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert problem("--env-file", f"{tmp_path}/nope") == f"--env-file: open {tmp_path}/nope: no such file or directory"


def test_pairs_as_a_map() -> None:
    assert environment.as_map(["a=b=c", "d", "a=e"]) == {"a": "e", "d": ""}


def test_every_document_is_json() -> None:
    assert json.loads(json.dumps(document("--cpus", "0.1", "-v", "/x", "--mount", "target=/y"))) == document(
        "--cpus", "0.1", "-v", "/x", "--mount", "target=/y"
    )


def test_devices_of_both_kinds() -> None:
    host = document("--device", "/dev/null", "--device", "vendor.com/class=a", "--gpus", "all")["HostConfig"]
    assert [item["PathOnHost"] for item in host["Devices"]] == ["/dev/null"]
    assert [item.get("DeviceIDs") for item in host["DeviceRequests"]] == [[], ["vendor.com/class=a"]]
