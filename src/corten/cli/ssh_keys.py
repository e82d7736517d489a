"""Private keys of files, for an agent that this command is itself: read and used by ``cryptography``.

Sources: RFC 4253, 5656, 8332 and 8709 (signatures), draft-miller-ssh-agent (flags of a request to sign).
"""

from __future__ import annotations

import base64
import os

from corten.errors import InvalidParameter, NotFound, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAX_FILE = 1 << 20
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_RSA_SHA2 = {2: ("rsa-sha2-256", "SHA256"), 4: ("rsa-sha2-512", "SHA512")}
_CURVES = {
    "secp256r1": ("nistp256", "SHA256"),
    "secp384r1": ("nistp384", "SHA384"),
    "secp521r1": ("nistp521", "SHA512"),
}


def string(data: bytes) -> bytes:
    """SSH's ``string``: a length and that many bytes."""
    return len(data).to_bytes(4, "big") + data


def _mpint(number: int) -> bytes:
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big"))  # a leading zero keeps it positive


class Key:
    """One private key.  blob: its public key as SSH has it; comment: for people"""

    def __init__(self, private: Any, comment: str) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        self.blob = base64.b64decode(public.split(b" ")[1])
        self.comment = comment
        self._private = private

    def sign(self, data: bytes, flags: int) -> bytes | None:
        """A signature as SSH has it; None for one that this agent does not make (RSA with SHA-1)."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, utils

        if isinstance(self._private, ed25519.Ed25519PrivateKey):
            return string(b"ssh-ed25519") + string(self._private.sign(data))
        if isinstance(self._private, ec.EllipticCurvePrivateKey):
            curve, algorithm = _CURVES[self._private.curve.name]
            der = self._private.sign(data, ec.ECDSA(getattr(hashes, algorithm)()))
            r, s = utils.decode_dss_signature(der)
            return string(f"ecdsa-sha2-{curve}".encode()) + string(_mpint(r) + _mpint(s))
        known = next((_RSA_SHA2[bit] for bit in (4, 2) if flags & bit), None)
        if known is None:
            return None
        signature = self._private.sign(data, padding.PKCS1v15(), getattr(hashes, known[1])())
        return string(known[0].encode()) + string(signature)


def read_key(path: str) -> Key:
    """An OpenSSH or PEM file.

    Errors: NotFound, InvalidParameter (encrypted, no key, of another kind), Unavailable without the library.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    except ImportError:
        raise Unavailable(
            f"--ssh with the key {path} needs the package cryptography (pip install 'corten[ssh]'), "
            "or an agent that has the key (ssh-add)"
        ) from None
    content = _content(path)
    if _is_encrypted(content):
        raise InvalidParameter(f"the key {path} is protected by a passphrase: add it to an agent (ssh-add)")
    private = _loaded(path, content)
    kinds = (rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey, ec.EllipticCurvePrivateKey)
    known = isinstance(private, kinds)
    if isinstance(private, ec.EllipticCurvePrivateKey):
        known = private.curve.name in _CURVES
    if not known:
        raise InvalidParameter(f"the key {path} is of a kind that is not supported: RSA, ECDSA and Ed25519 are")
    return Key(private, os.path.basename(path))


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_FILE)
    except OSError as error:
        raise NotFound(f"failed to read the key {path}: {(error.strerror or '').lower()}") from None


def _is_encrypted(content: bytes) -> bool:
    if not content.lstrip().startswith(_OPENSSH):
        return b"ENCRYPTED" in content
    try:
        body = base64.b64decode(b"".join(content.strip().splitlines()[1:-1]))
    except ValueError:
        return False
    magic = b"openssh-key-v1\0"  # PROTOCOL.key of OpenSSH: then the name of a cipher
    return body.startswith(magic) and not body.startswith(magic + string(b"none"))


def _loaded(path: str, content: bytes) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    load = load_ssh_private_key if content.lstrip().startswith(_OPENSSH) else load_pem_private_key
    try:
        return load(content, None)
    except UnsupportedAlgorithm:
        raise InvalidParameter(
            f"the key {path} is of a kind that is not supported: RSA, ECDSA and Ed25519 are"
        ) from None
    except (ValueError, TypeError):
        raise InvalidParameter(f"{path} is neither an agent's socket nor a private key") from None
