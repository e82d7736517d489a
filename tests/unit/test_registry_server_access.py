"""Who may do what at ``corten registry serve``: passwords, tokens, rights."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from registry_server_place import Client, Place, served, sha256

from corten.errors import InvalidParameter
from corten.registry.server import rights
from corten.registry.server.access import Guard, Open, Principal
from corten.registry.server.failures import Refusal
from corten.registry.server.htpasswd import Htpasswd
from corten.registry.server.htpasswd import parse as parse_passwords
from corten.registry.server.tokens import Tokens, TokenSettings

bcrypt = pytest.importorskip("bcrypt")
jwt = pytest.importorskip("jwt")

LAYER = b"layer" * 1000
RIGHTS = """
[groups]
dev = ["alice", "bob"]

[[allow]]
users = ["anonymous", "*"]
repositories = ["public/**"]
actions = ["pull"]

[[allow]]
users = ["@dev"]
repositories = ["team/*", "public/**", "home/{user}/**"]
actions = ["pull", "push"]

[[allow]]
users = ["bob"]
repositories = ["team/*"]
actions = ["delete"]

[[allow]]
users = ["root"]
repositories = ["**"]
actions = ["pull", "push", "delete"]
"""


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def passwords(path: Path, **users: str) -> Path:
    lines = [f"{user}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}" for user, word in users.items()]
    path.write_text("# users\n\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    users = passwords(tmp_path / "users", alice="a", bob="b", carol="c", root="r")
    (tmp_path / "rights.toml").write_text(RIGHTS)
    with served(tmp_path / "registry", htpasswd=users, rights=tmp_path / "rights.toml") as place:
        yield place


def as_user(place: Place, user: str) -> Client:
    return place.client(Authorization=basic(user, user[0]))


def status(client: Client, method: str, path: str, body: Any = None) -> int:
    found = client(method, path, body).status
    client.close()
    return found


# -- passwords --------------------------------------------------------------------------------------------------------


def test_passwords(place: Place) -> None:
    nobody = place.client()
    answer = nobody("GET", "/v2/")
    assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
    assert answer.headers["www-authenticate"] == 'Basic realm="corten registry"'
    for wrong in (basic("alice", "b"), basic("nobody", "x"), "Basic ???", "Basic " + "eA==", "Bearer x", "x"):
        assert nobody("GET", "/v2/", Authorization=wrong).status == 401
        assert nobody("GET", "/v2/public/x/tags/list", Authorization=wrong).status == 401
    nobody.close()
    assert status(as_user(place, "alice"), "GET", "/v2/") == 200


def test_without_rights_users_may_do_everything_and_others_nothing(tmp_path: Path) -> None:
    users = passwords(tmp_path / "users", alice="a")
    with served(tmp_path / "registry", htpasswd=users) as place:
        alice = as_user(place, "alice")
        digest = alice.push_manifest("any/where", "1")
        assert status(place.client(), "GET", "/v2/any/where/manifests/1") == 401
        assert status(place.client(), "GET", "/v2/_catalog") == 200
        assert json.loads(place.client()("GET", "/v2/_catalog").body) == {"repositories": []}
        assert alice("DELETE", f"/v2/any/where/manifests/{digest}").status == 202
        alice.close()


def test_a_changed_password_counts_at_once_and_a_broken_file_does_not(tmp_path: Path, place: Place) -> None:
    alice = as_user(place, "alice")
    alice.push_manifest("team/x", "1")
    for _ in range(3):
        assert alice("GET", "/v2/team/x/manifests/1").status == 200
    passwords(tmp_path / "users", alice="other", root="r")
    deadline = time.monotonic() + 20
    while alice("GET", "/v2/team/x/manifests/1").status == 200:
        assert time.monotonic() < deadline
    assert alice("GET", "/v2/team/x/manifests/1").status == 401
    (tmp_path / "users").write_text("not a line")
    root = as_user(place, "root")
    begin = time.monotonic()
    while time.monotonic() - begin < 0.8:  # longer than files are believed without a look
        assert root("GET", "/v2/").status == 200
    root.close()
    alice.close()


@pytest.mark.parametrize("text", ["alice", "alice:secret", "alice:{SHA}xx", ":$2y$05$" + "x" * 53])
def test_password_files_that_are_none(text: str) -> None:
    with pytest.raises(InvalidParameter, match="line 1"):
        parse_passwords(Path("users"), text.encode())


def test_a_password_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match=r"cannot read .*users: No such file"):
        Htpasswd(tmp_path / "users", "realm")


# -- rights -----------------------------------------------------------------------------------------------------------


def test_rights_of_repositories(place: Place) -> None:
    alice, carol, root = as_user(place, "alice"), as_user(place, "carol"), as_user(place, "root")
    nobody = place.client()
    public = root.push_manifest("public/app", "1", layers=(LAYER,))
    root.push_manifest("secret/app", "1", layers=(LAYER,))
    alice.push_manifest("team/app", "1")
    alice.push_manifest("home/alice/app", "1")
    for client, path, wanted in (
        (nobody, "public/app/manifests/1", 200), (nobody, "team/app/manifests/1", 401),
        (nobody, f"public/app/blobs/{sha256(LAYER)}", 200), (nobody, f"secret/app/blobs/{sha256(LAYER)}", 401),
        (carol, "public/app/manifests/1", 200), (carol, "team/app/manifests/1", 403),
        (carol, f"secret/app/blobs/{sha256(LAYER)}", 403), (carol, f"secret/app/referrers/{public}", 403),
        (carol, "secret/app/tags/list", 403), (alice, "team/app/manifests/1", 200),
        (alice, "team/app/deeper/manifests/1", 403), (alice, "home/alice/app/manifests/1", 200),
        (alice, "home/bob/app/manifests/1", 403), (root, "secret/app/manifests/1", 200),
    ):  # fmt: skip
        for method in ("GET", "HEAD"):
            assert client(method, f"/v2/{path}").status == wanted, path
    for client, method, path, wanted in (
        (nobody, "POST", "public/app/blobs/uploads/", 401), (carol, "POST", "public/app/blobs/uploads/", 403),
        (carol, "PUT", "public/app/manifests/2", 403), (alice, "POST", "home/bob/x/blobs/uploads/", 403),
        (alice, "DELETE", "team/app/manifests/1", 403), (carol, "DELETE", f"public/app/manifests/{public}", 403),
    ):  # fmt: skip
        assert client(method, f"/v2/{path}", b"").status == wanted, path
    bob = as_user(place, "bob")
    assert bob("DELETE", "/v2/team/app/manifests/1").status == 202
    assert nobody("GET", "/v2/_catalog").document["repositories"] == ["public/app"]
    assert root("GET", "/v2/_catalog?n=1").headers["link"]
    for client in (alice, bob, carol, root, nobody):
        client.close()


def test_nothing_is_mounted_from_where_it_may_not_be_read(place: Place) -> None:
    root, alice = as_user(place, "root"), as_user(place, "alice")
    root.push_manifest("secret/app", "1", layers=(LAYER,))
    for query in (f"mount={sha256(LAYER)}&from=secret/app", f"mount={sha256(LAYER)}"):
        assert alice("POST", f"/v2/team/x/blobs/uploads/?{query}", b"").status == 202
    assert alice("HEAD", f"/v2/team/x/blobs/{sha256(LAYER)}").status == 404
    root.push_manifest("public/app", "1", layers=(LAYER,))
    assert alice("POST", f"/v2/team/x/blobs/uploads/?mount={sha256(LAYER)}", b"").status == 201
    root.close()
    alice.close()


def test_memory_does_not_answer_for_somebody_else(place: Place) -> None:
    root, carol = as_user(place, "root"), as_user(place, "carol")
    root.push_manifest("secret/app", "1")
    for _ in range(3):
        assert root("GET", "/v2/secret/app/manifests/1").status == 200
        assert carol("GET", "/v2/secret/app/manifests/1").status == 403
        assert place.client()("GET", "/v2/secret/app/manifests/1").status == 401
    root.close()
    carol.close()


def test_rights_that_change_while_somebody_is_found_out(tmp_path: Path) -> None:
    class Changing(Open):
        asked = 0

        async def principal(self, authorization: str) -> Principal:
            self.asked += 1
            return await super().principal(authorization)

        def generation(self) -> object:
            return self.asked

    with served(tmp_path / "registry") as place:
        client = place.client()
        client.push_manifest("a", "1")
        authenticator = Changing()
        place.service.guard = Guard(authenticator)
        for _ in range(3):
            assert client("GET", "/v2/a/manifests/1").status == 200
        assert authenticator.asked == 3
        client.close()


def test_rights_that_change(tmp_path: Path, place: Place) -> None:
    root = as_user(place, "root")
    root.push_manifest("secret/app", "1")
    assert root("GET", "/v2/secret/app/manifests/1").status == 200
    (tmp_path / "rights.toml").write_text('[[allow]]\nusers=["root"]\nrepositories=["x"]\nactions=["pull"]\n')
    deadline = time.monotonic() + 20
    while root("GET", "/v2/secret/app/manifests/1").status == 200:
        assert time.monotonic() < deadline
    assert root("GET", "/v2/secret/app/manifests/1").status == 403
    root.close()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[[allow]]\nusers = ['a']\n", "users, repositories and actions are needed"),
        ("[[allow]]\nusers = ['a']\nrepositories = ['x']\nactions = ['fly']\n", "pull, push and delete"),
        ("[[allow]]\nusers = ['@x']\nrepositories = ['x']\nactions = ['pull']\n", "no group 'x'"),
        ("[[allow]]\nusers = ['a']\nrepositories = ['UP']\nactions = ['pull']\n", "invalid pattern 'UP'"),
        ("[[allow]]\nusers = ['a']\nrepositories = ['{name}/x']\nactions = ['pull']\n", "invalid pattern"),
        ("[[allow]]\nusers = 'a'\nrepositories = ['x']\nactions = ['pull']\n", "a list of texts is needed"),
        ("deny = 1\n", "unknown: deny"),
        ("[[", "Invalid initial character"),
    ],
)
def test_rights_files_that_are_none(text: str, what: str) -> None:
    with pytest.raises(InvalidParameter, match=what):
        rights.parse(Path("rights.toml"), text.encode())


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("a", "a", True), ("a", "ab", False), ("a.b", "axb", False), ("a/*", "a/b", True), ("a/*", "a/b/c", False),
        ("a/**", "a/b/c", True), ("**", "a/b", True), ("*", "a/b", False), ("home/{user}/*", "home/u.x/a", True),
        ("home/{user}/*", "home/uyx/a", False), ("a*", "abc", True),
    ],
)  # fmt: skip
def test_patterns(pattern: str, name: str, fits: bool) -> None:
    assert (rights.pattern_of(pattern, "u.x").fullmatch(name) is not None) is fits


# -- tokens -----------------------------------------------------------------------------------------------------------


class Issuer:
    """A token service's signing side."""

    def __init__(self, directory: Path, kind: str = "ec") -> None:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

        made: dict[str, Any] = {
            "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
            "rsa": lambda: rsa.generate_private_key(65537, 2048),
            "ed": ed25519.Ed25519PrivateKey.generate,
        }
        self.algorithm = {"ec": "ES256", "rsa": "RS256", "ed": "EdDSA"}[kind]
        self.key = made[kind]()
        self.public = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.path = directory / f"{kind}.pem"
        self.path.write_bytes(self.public)

    def token(self, *access: dict[str, Any], headers: dict[str, Any] | None = None, **claims: Any) -> str:
        now = int(time.time())
        whole = {
            "iss": "issuer", "aud": "service", "sub": "alice", "nbf": now - 5, "exp": now + 300, "access": list(access),
            **claims,
        }  # fmt: skip
        whole = {name: value for name, value in whole.items() if value is not None}
        return str(jwt.encode(whole, self.key, self.algorithm, headers=headers))


def may(name: str, *actions: str) -> dict[str, Any]:
    return {"type": "repository", "name": name, "actions": list(actions)}


def settings(*keys: Path) -> TokenSettings:
    return TokenSettings(realm="https://tokens.example/", service="service", issuer="issuer", keys=keys)


@pytest.mark.parametrize("kind", ["ec", "rsa", "ed"])
def test_tokens(tmp_path: Path, kind: str) -> None:
    issuer = Issuer(tmp_path, kind)
    with served(tmp_path / "registry", tokens=settings(issuer.path)) as place:
        client = place.client()
        answer = client("GET", "/v2/a/manifests/1")
        assert answer.status == 401
        challenge = 'Bearer realm="https://tokens.example/",service="service",scope="repository:a:pull"'
        assert answer.headers["www-authenticate"] == challenge
        assert client("GET", "/v2/").headers["www-authenticate"] == challenge.partition(",scope")[0]
        writer = place.client(Authorization=f"Bearer {issuer.token(may('a', 'pull', 'push'), may('b', '*'))}")
        digest = writer.push_manifest("a", "1", layers=(LAYER,))
        writer.push_manifest("b", "1")
        assert writer("GET", "/v2/").status == 200
        refused = writer("DELETE", f"/v2/a/manifests/{digest}")
        assert refused.status == 401
        assert refused.headers["www-authenticate"].endswith('scope="repository:a:delete",error="insufficient_scope"')
        assert writer("DELETE", "/v2/b/manifests/1").status == 202
        assert writer("POST", f"/v2/b/blobs/uploads/?mount={sha256(LAYER)}&from=a", b"").status == 201
        assert writer("GET", "/v2/c/manifests/1").status == 401
        assert writer("GET", "/v2/_catalog").status == 401
        lister = place.client(
            Authorization=f"Bearer {issuer.token({'type': 'registry', 'name': 'catalog', 'actions': ['*']})}"
        )
        assert lister("GET", "/v2/_catalog").document["repositories"] == ["a", "b"]
        for item in (client, writer, lister):
            item.close()


def test_tokens_that_count_for_nothing(tmp_path: Path) -> None:
    issuer, other = Issuer(tmp_path), Issuer(tmp_path, "rsa")
    other.path.unlink()
    now = int(time.time())
    access = may("a", "pull", "push")
    good = issuer.token(access)
    head, body, signature = good.split(".")
    forged = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT"}).encode()).decode().rstrip("=")
    symmetric = base64.urlsafe_b64encode(json.dumps({"alg": "HS256"}).encode()).decode().rstrip("=")
    wrong = [
        issuer.token(access, iss="somebody"), issuer.token(access, aud="elsewhere"),
        issuer.token(access, exp=now - 120), issuer.token(access, exp=None), issuer.token(access, nbf=now + 600),
        issuer.token(access, headers={"x5c": ["AAAA"]}), other.token(access), other.token(access, headers={"kid": "x"}),
        f"{forged}.{body}.", f"{symmetric}.{body}.{signature}", f"{head}.{body}.{'A' * len(signature)}",
        "a.b.c", "x", "", "." * 70_000,
    ]  # fmt: skip
    with served(tmp_path / "registry", tokens=settings(issuer.path)) as place:
        client = place.client()
        client.headers["Authorization"] = f"Bearer {good}"
        client.push_manifest("a", "1")
        for token in wrong:
            answer = client("GET", "/v2/a/manifests/1", Authorization=f"Bearer {token}"[:30_000])
            assert answer.status == 401, token[:200]
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        client.close()


def test_a_token_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    issuer = Issuer(tmp_path)
    tokens = Tokens(settings(issuer.path))
    header = f"Bearer {issuer.token(may('a', 'pull'))}"
    principal = asyncio.run(tokens.principal(header))
    assert principal.may("pull", "a")
    assert principal.until > time.time()
    later = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: later)
    tokens._checked.clear()  # forgotten, as after many others
    tokens._checked["x"] = principal
    with pytest.raises(Refusal):
        asyncio.run(tokens.principal("Bearer x"))


def test_keys_by_name_and_by_chain(tmp_path: Path) -> None:
    import asyncio
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import NameOID

    authority, leaf = Issuer(tmp_path), Issuer(tmp_path, "rsa")

    def certificate(subject: str, key: Any, signer: Any, *, ca: bool) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
        by = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(by)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
            .not_valid_after(datetime.now(UTC) + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(signer, hashes.SHA256())
        )

    root = certificate("authority", authority.key, authority.key, ca=True)
    (tmp_path / "bundle.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    tokens = Tokens(settings(tmp_path / "bundle.pem"))

    def chained(signer: Any, version: bytes = b"\2") -> str:
        made = certificate("leaf", leaf.key, signer, ca=False).public_bytes(serialization.Encoding.DER)
        made = made.replace(b"\xa0\3\2\1\2", b"\xa0\3\2\1" + version, 1)
        return f"Bearer {leaf.token(may('a', 'pull'), headers={'x5c': [base64.b64encode(made).decode()]})}"

    assert asyncio.run(tokens.principal(chained(authority.key))).may("pull", "a")
    with pytest.raises(Refusal):
        asyncio.run(tokens.principal(chained(leaf.key)))
    with pytest.raises(Refusal):  # a certificate that the library has another exception for
        asyncio.run(tokens.principal(chained(authority.key, version=b"\5")))

    key_set = {"keys": [json.loads(jwt.algorithms.ECAlgorithm.to_jwk(authority.key.public_key())) | {"kid": "first"}]}
    (tmp_path / "keys.json").write_text(json.dumps(key_set))
    tokens = Tokens(settings(tmp_path / "keys.json"))
    for name in ("first", "unknown"):
        token = authority.token(may("a", "pull"), headers={"kid": name})
        assert asyncio.run(tokens.principal(f"Bearer {token}")).name == "alice"


@pytest.mark.parametrize("content", [b"", b"{}", b'{"keys": []}', b"-----BEGIN PUBLIC KEY-----\nAAAA\n"])
def test_key_files_that_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(InvalidParameter, match="no usable key"):
        Tokens(settings(tmp_path / "key"))


def test_a_private_key_is_not_wanted(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = Issuer(tmp_path).key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key").write_bytes(key)
    with pytest.raises(InvalidParameter, match="private key"):
        Tokens(settings(tmp_path / "key"))
