"""Mirrors: in order, the origin last, and none of them can fail a pull that the origin serves."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from fake_registry import FakeRegistry
from image_archives import config, sha
from registry_place import ME, QUICK, Place
from tar_builder import Tar

from corten.errors import InvalidParameter, NotFound, Unavailable
from corten.registry import hosts as hosts_module
from corten.registry.hosts import Hosts
from corten.registry.proxies import proxy_for
from corten.registry.settings import Settings
from corten.registry.trust import Trust, files_of, is_listed, netloc_of

BASE = Tar().dir("bin").file("bin/sh", b"#!" * 3000, mode=0o755).bytes()
TOP = Tar().file("noise", bytes(i * i % 251 for i in range(300_000))).bytes()


def pack(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=1, mtime=0)


@pytest.fixture
def origin(monkeypatch):
    """Docker Hub, for this test."""
    made = FakeRegistry()
    monkeypatch.setattr(hosts_module, "HUB", made.netloc)
    made.put_image("library/app", [BASE, TOP], "1", pack=pack)
    yield made
    made.close()


@pytest.fixture
def mirror():
    made = FakeRegistry("127.0.0.2")
    yield made
    made.close()


@pytest.fixture
def place(tmp_path, origin, mirror):
    made = Place(tmp_path, mirrors=(mirror.url,))
    yield made
    made.close()


def fill(mirror: FakeRegistry, origin: FakeRegistry) -> None:
    mirror.manifests.update(origin.manifests)
    mirror.blobs = {name: dict(blobs) for name, blobs in origin.blobs.items()}


def test_a_good_mirror_serves_everything_and_sees_no_secret(place, origin, mirror):
    fill(mirror, origin)
    assert place.pull("app:1", ME).is_new
    assert not origin.requests
    assert len(mirror.asked("blobs/")) == 3
    assert not mirror.secrets
    assert place.store.get("app:1").digests[0].startswith("app@sha256:")


def test_a_mirror_that_wants_a_password_gets_none(place, origin, mirror):
    fill(mirror, origin)
    mirror.basic, mirror.passwords = True, {"me": "s3cret"}
    assert place.pull("app:1", ME).is_new
    assert not mirror.secrets
    assert origin.asked("blobs/")


def _stall(exchange):
    exchange.stall()


def _lie(exchange):
    exchange.answer(200, b"x" * 1000)


def _flood(exchange):
    exchange.endless(200)


def _page(exchange):
    exchange.answer(200, b"<html>", content_type="text/html")


def _away(exchange):
    exchange.answer(307, location="http://192.0.2.1/")


FAULTS = {
    "dead": lambda exchange: exchange.reset(),
    "empty": lambda exchange: exchange.error(404, "MANIFEST_UNKNOWN"),
    "failing": lambda exchange: exchange.error(500, "UNKNOWN"),
    "busy": lambda exchange: exchange.error(429, "TOOMANYREQUESTS", retry_after="0"),
    "stalled": _stall,
    "lying": _lie,
    "flooding": _flood,
    "a web page": _page,
    "redirecting": _away,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("where", ["GET /v2/.*/manifests/", "GET /v2/.*/blobs/"], ids=["manifests", "blobs"])
def test_no_mirror_fails_a_pull(place, origin, mirror, fault, where):
    fill(mirror, origin)
    place.hurry(1.5 if fault == "stalled" else 20.0)
    mirror.on(where, FAULTS[fault])
    assert place.pull("app:1").is_new
    image = place.store.get("app:1")
    assert b"".join(place.store.open_layer_tar(image.layers[1])) == TOP


def test_a_mirror_that_breaks_in_the_midst_of_a_layer(place, origin, mirror):
    fill(mirror, origin)
    packed = pack(TOP)
    mirror.on(
        f"GET .*/blobs/{sha(packed)}", lambda exchange: exchange.cut(200, len(packed), packed[: len(packed) // 2])
    )
    assert place.pull("app:1").is_new
    assert origin.asked(f"blobs/{sha(packed)}")
    assert not origin.asked("manifests/")


def test_a_mirror_that_turns_bytes(place, origin, mirror):
    fill(mirror, origin)
    packed = bytearray(pack(TOP))
    packed[1000] ^= 1
    mirror.blobs["library/app"][sha(pack(TOP))] = bytes(packed)
    mirror.blobs["library/app"][sha(config(BASE, TOP))] = config(BASE, TOP)[:-1] + b" "
    assert place.pull("app:1").is_new


def test_a_mirror_that_nobody_listens_at(tmp_path, origin):
    place = Place(tmp_path / "x", mirrors=("http://127.0.0.1:1", "https://nowhere.invalid"))
    assert place.pull("app:1").is_new
    place.close()


def test_when_all_fail_the_origin_s_word_counts(place, origin, mirror):
    with pytest.raises(NotFound, match="manifest for app:2 not found"):
        place.pull("app:2")
    mirror.on("manifests", FAULTS["failing"])
    origin.on("manifests", FAULTS["failing"])
    with pytest.raises(Unavailable, match="unknown"):
        place.pull("app:1")
    assert place.is_untouched()


def test_mirrors_are_asked_in_order(tmp_path, origin, mirror):
    second = FakeRegistry("127.0.0.3")
    place = Place(tmp_path / "x", mirrors=(mirror.url, second.url))
    fill(second, origin)
    assert place.pull("app:1").is_new
    assert len(mirror.asked("manifests/")) == 1
    assert not origin.requests
    place.close()
    second.close()


def test_mirrors_are_for_docker_hub_and_pulls(place, mirror):
    hosts = place.registry.transport().hosts
    assert [item.netloc for item in hosts.endpoints("r.io", "pull")] == ["r.io"]
    assert all(item.is_origin for item in hosts.endpoints("docker.io", "push"))
    assert hosts.endpoints("docker.io", "pull")[0].netloc == mirror.netloc


# -- hosts.toml -------------------------------------------------------------------------------------------------------


def described(tmp_path: Path, text: str, domain: str = "r.io") -> Hosts:
    directory = tmp_path / "certs.d" / domain
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(text)
    return Hosts(Settings(**{**QUICK, "certificates": (tmp_path / "certs.d",)}))


def test_hosts_toml(tmp_path):
    hosts = described(
        tmp_path,
        """
        server = "https://r.io"
        token_hosts = ["auth.other.org"]
        [host."http://10.0.0.1:5000"]
          capabilities = ["pull", "resolve"]
          [host."http://10.0.0.1:5000".header]
            x-key = ["a", "b"]
        [host."https://mirror.example/team/v2"]
          capabilities = ["pull"]
          override_path = true
          skip_verify = true
          ca = "ca.pem"
          client = [["me.pem", "me.key"]]
        """,
    )
    first, second, origin = hosts.endpoints("r.io", "pull")
    assert (first.base, first.is_origin, first.namespace) == ("http://10.0.0.1:5000/v2", False, "r.io")
    assert first.headers == (("x-key", "a"), ("x-key", "b"))
    assert second.base == "https://mirror.example/team/v2"
    assert (origin.base, origin.is_origin, origin.token_hosts) == ("https://r.io/v2", True, ("auth.other.org",))
    assert [item.netloc for item in hosts.endpoints("r.io", "resolve")] == ["10.0.0.1:5000", "r.io"]
    assert [item.netloc for item in hosts.endpoints("r.io", "push")] == ["r.io"]
    assert hosts.trust("10.0.0.1:5000").plain
    directory = tmp_path / "certs.d" / "r.io"
    assert hosts.trust("mirror.example") == Trust(
        False, False, (directory / "ca.pem",), ((directory / "me.pem", directory / "me.key"),)
    )
    assert not hosts.trust("r.io").plain


def test_a_described_mirror_is_asked_with_its_namespace_and_its_headers_stay_there(tmp_path, origin, mirror):
    elsewhere = FakeRegistry("127.0.0.3")
    elsewhere.blobs = origin.blobs
    fill(mirror, origin)
    mirror.on("blobs/", lambda exchange: exchange.answer(307, location=f"{elsewhere.url}{exchange.seen.path}"))
    certificates = tmp_path / "certs.d"
    (certificates / "docker.io").mkdir(parents=True)
    (certificates / "docker.io" / "hosts.toml").write_text(
        f'[host."{mirror.url}"]\n[host."{mirror.url}".header]\nAuthorization = "Bearer own"\n'
    )
    place = Place(tmp_path / "x", certificates=(certificates,))
    assert place.pull("app:1", ME).is_new
    assert {tuple(seen.query["ns"]) for seen in mirror.requests} == {("docker.io",)}
    assert {seen.secret for seen in mirror.requests} == {"Bearer own"}
    assert elsewhere.requests
    assert not elsewhere.secrets
    assert not origin.requests
    place.close()
    elsewhere.close()


def test_the_registry_itself_described_gets_the_credentials(tmp_path, mirror):
    mirror.put_image("app", [BASE], "1", pack=pack)
    mirror.basic, mirror.passwords = True, {"me": "s3cret"}
    certificates = tmp_path / "certs.d"
    (certificates / mirror.netloc).mkdir(parents=True)
    (certificates / mirror.netloc / "hosts.toml").write_text(
        f'server = "{mirror.url}"\n[host."{mirror.url}"]\ncapabilities = ["pull", "resolve", "push"]\n'
    )
    place = Place(tmp_path / "x", certificates=(certificates,))
    assert place.pull(f"{mirror.netloc}/app:1", ME).is_new
    assert "ns" not in mirror.requests[0].query
    place.close()


@pytest.mark.parametrize(
    "text",
    [
        "server = 3",
        "[[host]]",
        'host = {"x" = 3}',
        '[host."https://a"]\ncapabilities = ["fly"]',
        '[host."https://a"]\nskip_verify = "yes"',
        '[host."https://a"]\nclient = [["a"]]',
        '[host."https://a"]\nheader = {a = 3}',
        '[host."ftp://a"]',
        'token_hosts = "x"',
        "no toml",
        'server = "https://me:x@r.io"',
    ],
)
def test_bad_descriptions_are_named(tmp_path, text):
    with pytest.raises(InvalidParameter):
        described(tmp_path, text).endpoints("r.io", "pull")


def test_a_description_for_all(tmp_path):
    hosts = described(tmp_path, '[host."https://cache.example"]', "_default")
    assert [item.netloc for item in hosts.endpoints("any.io", "pull")] == ["cache.example", "any.io"]
    # no domain leads out of the directory
    assert hosts.endpoints("..", "push")


# -- certificates and lists -------------------------------------------------------------------------------------------


def test_certificates_of_a_host(tmp_path):
    directory = tmp_path / "r.io:5000"
    directory.mkdir()
    for name in ("a.crt", "me.cert", "me.key", "hosts.toml", "notes.txt"):
        (directory / name).write_text("")
    assert files_of(directory) == ((directory / "a.crt",), ((directory / "me.cert", directory / "me.key"),))
    (directory / "me.key").unlink()
    with pytest.raises(InvalidParameter, match=r"missing key me\.key for client certificate me\.cert"):
        files_of(directory)
    (directory / "me.cert").rename(directory / "other.key")
    with pytest.raises(InvalidParameter, match=r"missing client certificate other\.cert"):
        files_of(directory)
    assert files_of(tmp_path / "nothing") == ((), ())
    hosts = Hosts(Settings(**{**QUICK, "certificates": (tmp_path,)}))
    with pytest.raises(InvalidParameter):
        hosts.trust("r.io:5000")


def test_certificates_that_cannot_be_used(tmp_path):
    (tmp_path / "a.crt").write_text("no certificate")
    with pytest.raises(InvalidParameter, match=r"a\.crt"):
        Trust(authorities=(tmp_path / "a.crt",)).context()


def test_insecure_registries():
    listed = ("r.io:5000", "plain.io", "10.0.0.0/8", "fd00::/8")
    for netloc in ("r.io:5000", "R.io:5000", "plain.io", "plain.io:80", "10.1.2.3:5000", "[fd00::1]:5000"):
        assert is_listed(netloc, listed), netloc
    for netloc in ("r.io", "r.io:5001", "sub.plain.io", "11.0.0.1", "10.0.0.1.evil.com", "[fe80::1]"):
        assert not is_listed(netloc, listed), netloc


def test_names_of_hosts():
    assert netloc_of("https://R.io:443/x") == "r.io"
    assert netloc_of("http://r.io:443/x") == "r.io:443"
    assert netloc_of("https://[::1]:5000/") == "[::1]:5000"
    for url in ("r.io", "https://", "https://a@r.io/", "https://r.io:x/", "gopher://r.io/"):
        with pytest.raises(InvalidParameter):
            netloc_of(url)


def test_proxies_of_the_environment(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example,.local")
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert proxy_for("https://r.io/v2/") == "http://proxy.example:3128"
    assert proxy_for("https://inside.example/") == proxy_for("https://a.local/") == ""
    assert proxy_for("https://127.0.0.1:5000/") == proxy_for("https://localhost/") == ""


def test_a_pull_through_a_proxy(tmp_path, monkeypatch):
    """A proxy sees whole URLs."""
    proxy = FakeRegistry()
    proxy.put_image("app", [BASE], "1", pack=pack)

    def relay(exchange):
        exchange.seen.path = exchange.seen.path.removeprefix("http://r.test:5000")
        proxy.answer(exchange)

    proxy.on("r\\.test", relay)
    monkeypatch.setenv("http_proxy", proxy.url)
    place = Place(tmp_path, insecure=("r.test:5000",))
    assert place.pull("r.test:5000/app:1").is_new
    assert proxy.requests
    place.close()
    proxy.close()


def test_tls_with_an_authority_of_the_host(tmp_path, tls_files):
    context, authority = tls_files
    registry = FakeRegistry(context=context)
    registry.put_image("app", [BASE], "1", pack=pack)
    name = f"localhost:{registry.netloc.partition(':')[2]}"
    directory = tmp_path / "certs.d" / name
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_bytes(authority)
    place = Place(tmp_path / "good", certificates=(tmp_path / "certs.d",))
    assert place.registry.transport().hosts.trust(name).verify
    assert place.pull(f"{name}/app:1").is_new
    place.close()
    # the certificate is not for the address
    (directory.parent / registry.netloc).mkdir()
    (directory.parent / registry.netloc / "ca.crt").write_bytes(authority)
    place = Place(tmp_path / "bad", certificates=(tmp_path / "certs.d",))
    with pytest.raises(Unavailable, match="x509: certificate is not valid for this address"):
        place.pull(f"{registry.netloc}/app:1")
    place.close()
    registry.close()


@pytest.fixture
def tls_files(tmp_path):
    """(a server's context for ``localhost``, the certificate of its authority)."""
    import ssl
    import subprocess

    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
        "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("openssl is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate.read_bytes()
