"""TLS contexts: whom they trust, and files that cannot be used."""

from __future__ import annotations

import ssl
import subprocess

import pytest

from certificates import HAS_OPENSSL, make_certificates
from corten import tls
from corten.errors import InvalidParameter
from corten.registry.trust import Trust

needs_openssl = pytest.mark.skipif(not HAS_OPENSSL, reason="openssl makes the certificates")


def shaken(client: ssl.SSLContext, server: ssl.SSLContext) -> str:
    """Let both shake hands in memory; the version that they agreed on.  Errors: ssl.SSLError."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(back, there, server_hostname="localhost")
    far = server.wrap_bio(there, back, server_side=True)
    for _ in range(4):
        for side in (near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return str(near.version())


@pytest.fixture
def made(tmp_path):
    return make_certificates(tmp_path / "made")


@needs_openssl
def test_an_authority_as_openssl_makes_it_is_good_enough(made) -> None:
    """Without the key usage extension that Python 3.13 asks for by default."""
    context = tls.client_context(system=False)
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    tls.trust(context, made / "ca.pem")
    assert shaken(context, tls.server_context(made / "server-cert.pem", made / "server-key.pem")) == "TLSv1.3"


@needs_openssl
def test_a_certificate_may_be_trusted_by_itself(made) -> None:
    context = Trust(authorities=(made / "server-cert.pem",)).context()
    assert shaken(context, tls.server_context(made / "server-cert.pem", made / "server-key.pem"))


@needs_openssl
def test_others_are_not_trusted(made) -> None:
    server = tls.server_context(made / "server-cert.pem", made / "server-key.pem")
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken(Trust().context(), server)
    assert shaken(Trust(verify=False).context(), server)


@needs_openssl
def test_a_key_with_a_password_is_refused_and_nobody_is_asked(made) -> None:
    locked = made / "locked.pem"
    subprocess.run(
        ["openssl", "pkey", "-in", made / "server-key.pem", "-aes256", "-passout", "pass:word", "-out", locked],
        check=True,
    )
    with pytest.raises(InvalidParameter, match=r"could not load X509 key pair .*locked\.pem\): the key is encrypted"):
        Trust(identity=((made / "server-cert.pem", locked),)).context()


def test_files_that_hold_no_certificate_are_named(tmp_path) -> None:
    wrong = tmp_path / "wrong.crt"
    wrong.write_text("nothing")
    with pytest.raises(InvalidParameter, match=r"could not read CA certificate .*wrong\.crt: "):
        Trust(authorities=(wrong,)).context()
    with pytest.raises(InvalidParameter, match=r"could not read CA certificate .*gone\.crt: No such file"):
        Trust(authorities=(tmp_path / "gone.crt",)).context()
