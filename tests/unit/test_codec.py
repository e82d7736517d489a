import json

import pytest

from corten.dockerapi.codec import decode, encode, to_builtins
from corten.dockerapi.container import ContainerCreate, HostConfig, Resources
from corten.errors import InvalidParameter


def test_null_is_not_given():
    document = decode(
        b'{"Image":"x","Env":null,"HostConfig":{"Binds":null,"Memory":null},"Cmd":["a",null]}', ContainerCreate
    )
    assert (document.env, document.host_config.binds, document.host_config.memory) == ([], [], 0)
    assert document.cmd == ["a"]


def test_null_in_a_map_is_a_key_without_value():
    body = {
        "ExposedPorts": {"80/tcp": None}, "Volumes": {"/v": None}, "Labels": {"a": None, "b": "c"},
        "HostConfig": {"PortBindings": {"80/tcp": None}, "LogConfig": {"Type": None, "Config": {"tag": None}}},
        "NetworkingConfig": {"EndpointsConfig": {"net": None}},
    }  # fmt: skip
    document = decode(json.dumps(body).encode(), ContainerCreate)
    assert (document.exposed_ports, document.volumes) == ({"80/tcp": None}, {"/v": None})
    assert document.labels == {"a": "", "b": "c"}
    assert document.host_config.port_bindings == {"80/tcp": None}
    assert (document.host_config.log_config.type, document.host_config.log_config.config) == ("", {"tag": ""})
    assert document.networking_config.endpoints_config == {"net": None}


def test_wire_names_that_no_rule_gives():
    names = to_builtins(HostConfig())
    for name in ("BlkioDeviceReadIOps", "UTSMode", "ContainerIDFile", "CpusetCpus", "OomScoreAdj", "IOMaximumIOps"):
        assert name in names
    assert "KernelMemoryTCP" in to_builtins(Resources())


def test_unknown_fields_are_ignored():
    assert decode(b'{"Image":"x","Nonsense":{"a":[1]}}', ContainerCreate).image == "x"


def test_errors_name_the_place():
    with pytest.raises(InvalidParameter, match=r"\$\.HostConfig\.Memory"):
        decode(b'{"HostConfig":{"Memory":"lots"}}', ContainerCreate)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"Image":"\xff"}',
        b'{"Image":"\\ud800"}',
        b'{"Image":"a\\u0000b"}',
        b'{"Labels":{"a\\u0000":"b"}}',
        b'{"HostConfig":{"Memory":9223372036854775808}}',
        b'{"HostConfig":{"Memory":' + b"9" * 10_000 + b"}}",
        b'{"HostConfig":{"Memory":1e999}}',
        b'{"HostConfig":{"Memory":1.5}}',
        b"[" * 200_000,
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
        b"[]",
        b'"x"',
    ],
)
def test_bad_documents(body):
    with pytest.raises(InvalidParameter):
        decode(body, ContainerCreate)


def test_what_is_written_has_wire_names():
    assert b'"OpenStdin":true' in encode(ContainerCreate(open_stdin=True))
