"""The edge to registries: queries and credentials as clients send them."""

import base64
import json

import pytest
from api_fakes import ApiServer

from corten.dockerapi.registry_auth import (
    RegistryAuth,
    auth_of,
    decode_config_header,
    decode_header,
    split_auth,
)
from corten.errors import InvalidParameter


@pytest.fixture
def server():
    with ApiServer() as made:
        yield made


def encoded(document) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode()


ME = RegistryAuth(username="me", password="wörd?", server="r.io")


def test_pull_passes_reference_platform_and_credentials(server):
    path = "/images/create?fromImage=r.io%2Fapp&tag=1&platform=linux/arm64"
    answer = server.ask("POST", path, b"", {"X-Registry-Auth": ME.header()})
    assert answer.status == 200
    assert b"Downloaded newer image" in answer.body
    assert server.engine.calls.last() == ("pull", ("r.io/app", "1", "linux/arm64", ME), {})


def test_a_failure_before_the_first_word_is_a_status_and_later_it_is_told_in_the_stream(server):
    assert server.ask("POST", "/images/create?fromImage=secret&tag=1").status == 404
    answer = server.ask("POST", "/images/create?fromImage=broken&tag=1")
    assert answer.status == 200
    assert json.loads(answer.body.splitlines()[-1])["error"] == "the registry went away"


@pytest.mark.parametrize("placeholder", ["", "123", "bnVsbA==", "e30=", "bm90IGpzb24="])
def test_credentials_that_cannot_be_read_are_none(server, placeholder):
    answer = server.ask("POST", "/images/a/b/push?tag=2", b"", {"X-Registry-Auth": placeholder})
    assert answer.status == 200
    assert server.engine.calls.last() == ("push", ("a/b", "2", RegistryAuth()), {})


def test_login_reads_its_body(server):
    body = json.dumps({"username": "me", "password": "word", "serveraddress": "r.io"}).encode()
    answer = server.ask("POST", "/auth", body, {"Content-Type": "application/json"})
    assert answer.json == {"Status": "Login Succeeded", "IdentityToken": ""}
    assert server.engine.calls.last()[1] == (RegistryAuth(username="me", password="word", server="r.io"),)
    assert server.ask("POST", "/auth", b"").status == 400
    assert server.ask("POST", "/auth", b'{"username": 3}', {"Content-Type": "application/json"}).status == 400


def test_questions(server):
    assert server.ask("GET", "/distribution/r.io/a/b/json").json["Descriptor"]["size"] == 1
    assert server.engine.calls.last()[1][0] == "r.io/a/b"
    assert server.ask("GET", '/images/search?term=x&limit=7&filters={"stars":["3"]}').json[0]["name"] == "x"
    assert server.engine.calls.last()[1][:3] == ("x", 7, {"stars": ["3"]})
    assert server.ask("GET", "/images/search?term=x&limit=y").status == 400


def test_a_check_of_the_store(server):
    header = encoded({"r.io": {"username": "me", "password": "word"}})
    answer = server.ask("POST", "/system/check?repair=1", b"", {"X-Registry-Config": header})
    documents = [json.loads(line) for line in answer.body.splitlines()]
    assert [document.get("Problem") for document in documents] == ["it is missing", None]
    options, credentials = server.engine.calls.last()[1]
    assert (options.quick, options.repair) == (False, True)
    assert credentials == {"r.io": RegistryAuth(username="me", password="word")}


def test_mirrors(server):
    kind = {"Content-Type": "application/json"}
    assert server.ask("GET", "/system/mirrors").json == {"Mirrors": ["https://mirror.example"]}
    wanted = {"Mirrors": ["https://other.example"]}
    assert server.ask("PUT", "/system/mirrors", json.dumps(wanted).encode(), kind).json == wanted
    for body in (b"[]", b"{}", b'{"Mirrors": "x"}', b'{"Mirrors": [], "Mirror": []}', b""):
        assert server.ask("PUT", "/system/mirrors", body, kind).status == 400
    assert server.engine.mirrors == wanted["Mirrors"]


def test_credentials_in_every_form():
    assert decode_header(ME.header()) == ME
    assert decode_header("") == RegistryAuth()
    pair = base64.b64encode(b"me:a:b").decode()
    assert auth_of({"auth": pair}) == RegistryAuth(username="me", password="a:b")
    assert decode_header(encoded({"identitytoken": "t"})).identity_token == "t"
    assert decode_config_header(encoded({"r.io": {"auth": pair}}))["r.io"].password == "a:b"
    assert decode_config_header("") == {}
    # without padding, and in the other base64 alphabet
    whole = encoded({"username": "ÿÿÿ>", "password": "??"})
    assert decode_header(whole.rstrip("=")) == decode_header(whole.replace("-", "+").replace("_", "/"))


@pytest.mark.parametrize("text", ["%%%", "x" * 70_000, encoded([1]), encoded({"username": 1}), encoded({"auth": "x"})])
def test_bad_credentials_are_refused(text):
    with pytest.raises(InvalidParameter, match="invalid"):
        decode_header(text)
    with pytest.raises(InvalidParameter):
        decode_config_header(text if len(text) > 20 else encoded([text]))


def test_secrets_are_not_shown():
    assert "word" not in repr(RegistryAuth(username="me", password="word", identity_token="word"))
    with pytest.raises(InvalidParameter):
        split_auth(base64.b64encode(b"nocolon").decode())
