"""An authority and certificates of it, made for one test run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

HAS_OPENSSL = shutil.which("openssl") is not None
_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


def make_certificates(directory: Path) -> Path:
    """``ca.pem``; ``server-*.pem`` for localhost and 127.0.0.1; ``cert.pem`` and ``key.pem`` of a client."""
    directory.mkdir(parents=True, exist_ok=True)
    _openssl(
        directory, "req", "-x509", *_EC, "-days", "2", "-keyout", "ca-key.pem", "-out", "ca.pem", "-subj", "/CN=tests",
        "-addext", "basicConstraints=critical,CA:TRUE",
    )  # fmt: skip
    for usage, certificate, key in (("server", "server-cert.pem", "server-key.pem"), ("client", "cert.pem", "key.pem")):
        _openssl(directory, "req", *_EC, "-keyout", key, "-out", "request", "-subj", f"/CN={usage}")
        extensions = f"subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage={usage}Auth\n"
        (directory / "extensions").write_text(extensions)
        _openssl(
            directory, "x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
            "-days", "2", "-extfile", "extensions", "-out", certificate,
        )  # fmt: skip
    return directory
