"""The API on TCP: mutual TLS with streams that end one direction apart, refusals, and what web pages may not do."""

import contextlib
import logging
import socket
import ssl
import threading

import pytest
from api_fakes import ApiServer, Client, frame

from certificates import HAS_OPENSSL, make_certificates
from corten import config, tls
from corten.api.http.messages import Limits
from corten.api.listen import parse_host
from corten.api.tcp import TcpOptions
from corten.client.address import Tls
from corten.client.api import Api
from corten.errors import DataLoss, InvalidParameter, Unavailable
from waiting import until

PLAIN = TcpOptions(allow_unauthenticated=True, names=("docker",))


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    if not HAS_OPENSSL:
        pytest.skip("openssl is not installed")
    return make_certificates(tmp_path_factory.mktemp("pki"))


def mutual(pki, **changes) -> TcpOptions:
    return TcpOptions(
        **{
            "tls": True,
            "verify": True,
            "ca": pki / "ca.pem",
            "cert": pki / "server-cert.pem",
            "key": pki / "server-key.pem",
            **changes,
        }
    )


def on_tcp(tcp: TcpOptions, **options) -> ApiServer:
    return ApiServer(hosts=["tcp://127.0.0.1:0"], tcp=tcp, **options)


def port_of(server) -> int:
    return server.server.tcp_addresses[0][1]


class TcpClient(Client):
    def __init__(self, server, context: ssl.SSLContext | None = None) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port_of(server)), timeout=10)
        self.buffer = b""
        if context is not None:
            self.sock = context.wrap_socket(self.sock, server_hostname="127.0.0.1")


def client_context(pki, *, certificate=True) -> ssl.SSLContext:
    context = tls.client_context(system=False)
    tls.trust(context, pki / "ca.pem")
    if certificate:
        context.load_cert_chain(pki / "cert.pem", pki / "key.pem")
    return context


def api(server, pki, **changes) -> Api:
    files = {"ca": str(pki / "ca.pem"), "cert": str(pki / "cert.pem"), "key": str(pki / "key.pem")}
    return Api(f"tcp://127.0.0.1:{port_of(server)}", Tls(verify=True, **{**files, **changes}))


# -- who may come ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:0", "tcp://localhost:0", "tcp://0.0.0.0:0", "tcp://[::1]:0"])
def test_plain_tcp_is_refused_everywhere(host):
    with pytest.raises(InvalidParameter, match="everyone who can connect would be root"):
        with ApiServer(hosts=[host]):
            pass


def test_tls_that_verifies_nobody_is_refused(pki):
    with pytest.raises(InvalidParameter, match="without verifying clients"):
        with on_tcp(mutual(pki, verify=False)):
            pass


def test_plain_tcp_is_served_when_forced_and_warned_of(caplog):
    with caplog.at_level(logging.WARNING), on_tcp(PLAIN) as server, TcpClient(server) as client:
        assert client.ask("GET", "/_ping").body == b"OK"
    assert "WHOEVER CAN CONNECT IS ROOT" in caplog.text


@pytest.mark.parametrize("maximum", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_clients_with_a_certificate_of_ours_are_served(pki, maximum):
    context = client_context(pki)
    context.maximum_version = maximum
    with on_tcp(mutual(pki)) as server, TcpClient(server, context) as client:
        for _ in range(3):
            assert client.ask("GET", "/_ping").body == b"OK"
        assert client.ask("GET", "/containers/web/json").status == 200


def test_clients_without_a_certificate_are_not(pki):
    with on_tcp(mutual(pki)) as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            with TcpClient(server, client_context(pki, certificate=False)) as client:
                client.ask("GET", "/_ping")
        with TcpClient(server) as plain:
            plain.send(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"HTTP" not in plain.read_all()
        assert server.engine.calls.seen == []


def test_clients_of_another_authority_are_not(pki, tmp_path):
    other = make_certificates(tmp_path)
    context = client_context(pki, certificate=False)
    context.load_cert_chain(other / "cert.pem", other / "key.pem")
    with on_tcp(mutual(pki)) as server, pytest.raises((ssl.SSLError, ConnectionError)):
        with TcpClient(server, context) as client:
            client.ask("GET", "/_ping")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_not_spoken(pki):
    context = client_context(pki)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with on_tcp(mutual(pki)) as server, pytest.raises((ssl.SSLError, ConnectionError)):
        TcpClient(server, context)


def test_a_certificate_that_cannot_be_read_is_told(pki, tmp_path):
    (tmp_path / "bad.pem").write_text("no certificate")
    for changes, message in (
        ({"cert": tmp_path / "missing.pem"}, "could not load X509 key pair.*missing.pem.*No such file"),
        ({"ca": tmp_path / "missing.pem"}, "could not read CA certificate .*missing.pem: No such file"),
        ({"key": pki / "key.pem"}, "could not load X509 key pair.*KEY_VALUES_MISMATCH"),
        ({"ca": tmp_path / "bad.pem"}, "could not read CA certificate"),
    ):
        with pytest.raises(InvalidParameter, match=message):
            with on_tcp(mutual(pki, **changes)):
                pass


# -- limits ---------------------------------------------------------------------------------------------------


def test_a_handshake_that_does_not_come_is_not_waited_for(pki):
    with on_tcp(mutual(pki), limits=Limits(handshake_timeout_s=0.1)) as server, TcpClient(server) as silent:
        assert silent.read_all() == b""


def test_handshakes_under_way_are_limited(pki):
    with on_tcp(mutual(pki), limits=Limits(handshakes=2)) as server:
        with TcpClient(server) as first, TcpClient(server), TcpClient(server) as third:
            assert third.read_all() == b""
            first.sock.close()
            with contextlib.ExitStack() as stack:

                def served():
                    try:
                        client = stack.enter_context(TcpClient(server, client_context(pki)))
                        return client.ask("GET", "/_ping").status == 200
                    except OSError:
                        return False

                until(served)


def test_connections_are_limited():
    with ApiServer(limits=Limits(connections=2)) as server, server.connect() as first, server.connect() as second:
        assert first.ask("GET", "/_ping").status == second.ask("GET", "/_ping").status == 200
        with server.connect() as third:
            third.send(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = third.read_answer()
            assert answer.status == 503
            assert answer.message == "too many clients are connected"
        first.sock.close()
        until(lambda: server.ask("GET", "/_ping").status == 200)


# -- streams over TLS -------------------------------------------------------------------------------------------


def test_half_closed_streams_over_tls(pki):
    """The end of input reaches the program, and its output after that reaches the client, and its end too."""
    with on_tcp(mutual(pki)) as server:
        stream = api(server, pki).hijack("/containers/web/attach", {"stream": 1, "stdin": 1, "stdout": 1})
        with stream:
            assert server.engine.containers.attached.wait(5)
            program = server.engine.containers.program
            program.settimeout(10)
            payload = bytes(range(256)) * 2000
            sender = threading.Thread(target=lambda: (stream.send_all(payload), stream.end_input()))
            sender.start()
            received = b""
            while piece := program.recv(65536):
                received += piece
            sender.join(10)
            assert received == payload
            program.sendall(frame(1, b"after the end"))
            program.sendall(frame(1, payload))
            program.close()
            assert b"".join(stream) == frame(1, b"after the end") + frame(1, payload)


def test_output_may_end_before_input_over_tls(pki):
    with on_tcp(mutual(pki)) as server:
        stream = api(server, pki).hijack("/containers/web/attach", {"stream": 1, "stdin": 1, "stdout": 1})
        with stream:
            assert server.engine.containers.attached.wait(5)
            program = server.engine.containers.program
            program.sendall(frame(1, b"x" * 300_000))
            program.close()
            assert b"".join(stream) == frame(1, b"x" * 300_000)
        until(lambda: server.server.connections == 0)


def test_a_client_that_vanishes_over_tls_ends_its_stream(pki):
    with on_tcp(mutual(pki)) as server:
        client = TcpClient(server, client_context(pki))
        client.request("GET", "/containers/web/logs?stdout=1&follow=1")
        assert client.read_head()[0] == 200
        assert server.engine.containers.entered.wait(5)
        client.sock.close()
        until(lambda: server.engine.calls.finished == ["logs"])


def test_a_client_that_vanishes_over_plain_tcp_ends_its_stream():
    with on_tcp(PLAIN) as server:
        client = TcpClient(server)
        client.request("GET", "/containers/web/logs?stdout=1&follow=1")
        assert client.read_head()[0] == 200
        assert server.engine.containers.entered.wait(5)
        client.sock.close()
        until(lambda: server.engine.calls.finished == ["logs"])


def test_large_bodies_over_tls(pki):
    with on_tcp(mutual(pki)) as server:
        body = (b"x" * 100_000 for _ in range(40))
        api(server, pki).stream("PUT", "/containers/web/archive", {"path": "/x"}, body=body).close()
        assert server.engine.calls.last()[1][1] == 4_000_000
        with api(server, pki).stream("GET", "/containers/web/export") as response:
            assert len(response.read()) == 8 * 300_000


def test_a_server_that_ends_over_tls(pki):
    with on_tcp(mutual(pki)) as server:
        client = api(server, pki)
        with client.stream("GET", "/events") as response:
            assert response.read_some()
            server.run(server.server.close(1))
            with pytest.raises(DataLoss):  # the end is seen, and that it came in the middle
                response.read_some()
        with pytest.raises(Unavailable):
            client.get("/version")


def test_our_client_trusts_only_its_authority(pki, tmp_path):
    other = make_certificates(tmp_path)
    with on_tcp(mutual(pki)) as server:
        assert api(server, pki).get("/version")["Version"]
        with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
            api(server, pki, ca=str(other / "ca.pem")).get("/version")
        with pytest.raises(InvalidParameter, match="could not load X509 key pair"):
            api(server, pki, cert=str(tmp_path / "none.pem")).get("/version")


def test_the_environment_names_the_certificates(pki, monkeypatch):
    with on_tcp(mutual(pki)) as server:
        monkeypatch.setenv("CORTEN_HOST", f"tcp://localhost:{port_of(server)}")
        monkeypatch.setenv("CORTEN_CERT_PATH", str(pki))
        monkeypatch.setenv("CORTEN_TLS_VERIFY", "1")
        assert Api().get("/version")["Version"]


# -- web pages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:2375"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:2375"}, 200),
        ({"Host": socket.gethostname()}, 200),
        ({"Host": "build.example"}, 200),
        ({"Host": "attacker.example:2375"}, 403),
        ({"Host": "127.0.0.1.attacker.example"}, 403),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Host": "localhost", "Origin": "http://attacker.example"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
        ({"Host": "localhost", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "localhost", "Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_requests_of_web_pages_are_refused_on_tcp(headers, status):
    with on_tcp(TcpOptions(allow_unauthenticated=True, names=("build.example",))) as server:
        with TcpClient(server) as client:
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            client.send(f"GET /_ping HTTP/1.1\r\n{lines}\r\n".encode())
            answer = client.read_answer()
            assert answer.status == status
            if status == 403:
                assert answer.message


def test_tls_proves_the_name_and_the_origin_is_looked_at_nevertheless(pki):
    with on_tcp(mutual(pki)) as server:
        for headers, status in (({"Host": "any.name"}, 200), ({"Host": "x", "Origin": "https://evil.example"}, 403)):
            with TcpClient(server, client_context(pki)) as client:
                lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                client.send(f"GET /_ping HTTP/1.1\r\n{lines}\r\n".encode())
                assert client.read_answer().status == status


# -- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tls", "found"),
    [
        ("tcp://", False, ("localhost", 2375)),
        ("tcp://", True, ("localhost", 2376)),
        ("tcp://:4243", False, ("localhost", 4243)),
        ("tcp://0.0.0.0", True, ("0.0.0.0", 2376)),
        ("tcp://[::1]:99", False, ("::1", 99)),
        ("tcp://[::1]", False, ("::1", 2375)),
        ("tcp://name:1", False, ("name", 1)),
    ],
)
def test_tcp_addresses(text, tls, found):
    (address,) = parse_host(text, tcp=TcpOptions(tls=tls))
    assert (address.host, address.port) == found


@pytest.mark.parametrize(
    "text", ["tcp://a:b", "tcp://a:70000", "tcp://::1:1", "tcp://a/b", "tcp://[::1:4", "http://a:1"]
)
def test_bad_tcp_addresses(text):
    with pytest.raises(InvalidParameter, match="invalid"):
        parse_host(text)


def test_flags(tmp_path, monkeypatch):
    monkeypatch.setenv("CORTEN_CERT_PATH", str(tmp_path))
    settings = config.load(["--config-file", _empty(tmp_path), "--tlsverify", "--tlskey", "/k", "-H", "tcp://:1"])
    assert settings.tls
    assert settings.tlsverify
    assert settings.tlscacert == tmp_path / "ca.pem"
    assert str(settings.tlskey) == "/k"
    assert not settings.allow_unauthenticated_tcp


def _empty(tmp_path) -> str:
    path = tmp_path / "daemon.json"
    path.write_text("{}")
    return str(path)
