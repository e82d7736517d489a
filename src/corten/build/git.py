"""Contexts from git repositories: ``https://host/repository.git#ref:subdirectory``.

git runs as a program of its own with an environment of its own.  Addresses and refs never become options (they are
checked, and follow "--"), no other protocol than the asked one is allowed, also for submodules, and links of the
checkout mean nothing outside of it (CVE-2019-13139, CVE-2022-39253, CVE-2026-33748).
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from corten.build import fetch
from corten.build.context import Context
from corten.build.layer_tar import LayerTar, Wanted
from corten.build.selection import Source
from corten.build.tree import RootTree, cleaned, resolve
from corten.build.workshop import Cancellation
from corten.errors import Forbidden, InvalidParameter, Unavailable
from corten.image.pipes import iterated

_SCHEMES = ("https", "http", "git", "ssh")
_SHORT = re.compile(r"(?:[A-Za-z0-9_.-]+@)[A-Za-z0-9.-]+:[^\s]+\Z")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+@-]{0,200}\Z")
_REFS = ("ref", "branch", "tag", "commit")
_TIMEOUT_S = 1800
_NO_DEPTH = "does not support shallow"
_HEADER, _TOKEN = "GIT_AUTH_HEADER", "GIT_AUTH_TOKEN"
_NOTHING: Mapping[str, bytes] = {}


def is_git(address: str) -> bool:
    """Whether dockerd would clone it: by scheme, or by ".git" at the path's end."""
    plain = address.partition("#")[0]
    if address.startswith(("git://", "git@", "ssh://")) or _SHORT.match(plain):
        return True
    if address.startswith("github.com/"):
        return True
    return fetch.is_url(address) and urlsplit(plain).path.endswith(".git")


def clone_into(
    context: Context,
    address: str,
    scratch: Path,
    cancellation: Cancellation,
    *,
    host_network: bool,
    keep_git: bool = False,
    secrets: Mapping[str, bytes] = _NOTHING,
) -> str:
    """Clone a ref of a repository, with submodules, and take the (sub)directory as the context; the commit.

    keep_git: the directory ``.git`` comes along; secrets: of the client, see ``authorization``
    Errors: InvalidParameter (address, ref, subdirectory), Forbidden, Unavailable (git fails), Cancelled.
    """
    url, ref, subdirectory = split_address(address)
    if shutil.which("git") is None:
        raise Unavailable("a git context needs the program git on the daemon's machine")
    if not host_network:
        _check_host(url)
    place = tempfile.mkdtemp(dir=scratch)
    try:
        checkout = f"{place}/checkout"
        os.mkdir(checkout, 0o700)
        run = _Git(url, place, cancellation, authorization(url, secrets))
        run("init", "--quiet", "--", checkout)
        run.directory = checkout
        run("remote", "add", "--", "origin", url)  # what relative addresses of submodules count from
        try:
            depth = ["--depth=1"]
            run("fetch", "--quiet", "--no-tags", *depth, "--", "origin", ref or "HEAD")
        except Unavailable as error:
            if _NO_DEPTH not in error.message:
                raise
            depth = []  # files of a plain web server
            run("fetch", "--quiet", "--no-tags", "--", "origin", ref or "HEAD")
        run("-c", "core.symlinks=true", "checkout", "--quiet", "--detach", "FETCH_HEAD", "--")
        run("submodule", "--quiet", "update", "--init", "--recursive", *depth)
        _take(context, checkout, subdirectory, keep_git=keep_git)
        return run("rev-parse", "--verify", "FETCH_HEAD").strip()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def authorization(url: str, secrets: Mapping[str, bytes]) -> str:
    """What a repository is told of its client: secrets of BuildKit's names, those of the host first; "" for nothing.

    Errors: InvalidParameter for what no header can hold.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    for host in (f".{parts.netloc.rpartition('@')[2]}", ""):
        for name in (_HEADER, _TOKEN):
            content = secrets.get(f"{name}{host}")
            if content is None:
                continue
            if name == _TOKEN:
                return "basic " + base64.b64encode(b"x-access-token:" + content.strip()).decode()
            text = content.decode("latin-1").strip()
            if not text.isprintable():
                raise InvalidParameter(f"the secret {name}{host} is no header")
            return text
    return ""


def split_address(address: str) -> tuple[str, str, str]:
    """(address without fragment, ref, subdirectory).  Errors: InvalidParameter."""
    url, _, fragment = address.partition("#")
    if url.startswith("github.com/"):
        url = f"https://{url}"
    ref, _, subdirectory = fragment.partition(":")
    if "?" in url:
        url, ref, subdirectory = _queried(url, fragment)
    if url.startswith("-") or any(letter.isspace() or letter < " " for letter in url):
        raise InvalidParameter(f"invalid git address: {address[:200]}")
    if not _SHORT.match(url) and urlsplit(url).scheme not in _SCHEMES:
        raise InvalidParameter(f"invalid git address: {address[:200]}")
    if ref and (not _REF.match(ref) or ".." in ref):
        raise InvalidParameter(f"invalid git ref: {ref[:100]}")
    try:
        subdirectory = cleaned(subdirectory.lstrip("/"))
    except InvalidParameter:
        raise InvalidParameter(f"invalid subdirectory of a git context: {subdirectory[:100]}") from None
    return url, ref, subdirectory


def _queried(url: str, fragment: str) -> tuple[str, str, str]:
    """``?ref=…&subdir=…`` in the place of a fragment.  Source: Docker's documentation of contexts, "URL queries"."""
    url, _, query = url.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    wanted = {"ref" if name in _REFS else name: value for name, value in given}
    if fragment or len(wanted) != len(given) or not wanted.keys() <= {"ref", "subdir"}:
        raise InvalidParameter(
            f"invalid query of a git address: {query[:100]} (one of {', '.join(_REFS)}; subdir; and no fragment beside)"
        )
    return url, wanted.get("ref", ""), wanted.get("subdir", "")


def _check_host(url: str) -> None:
    """No address of this machine.  git connects by itself later: a name that changes meanwhile is not caught."""
    import socket

    host = urlsplit(url).hostname if "://" in url else url.partition(":")[0].rpartition("@")[2]
    if not host:
        raise InvalidParameter(f"invalid git address: {url[:200]}")
    try:
        addresses = {str(item[4][0]) for item in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise Unavailable(f"failed to resolve {host}: {error.strerror or error}") from error
    if any(fetch.is_ours(item) for item in addresses):
        raise Forbidden(
            f"{host} is this machine or on its link; it can be reached from a build with the host's network "
            "(--network=host)"
        )


class _Git:
    def __init__(self, url: str, home: str, cancellation: Cancellation, authorization: str) -> None:
        scheme = "ssh" if "://" not in url else urlsplit(url).scheme
        self._cancellation = cancellation
        self.directory = home
        self._environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": home,
            "LANG": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "GIT_ALLOW_PROTOCOL": ":".join({scheme, "https"}),
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_SSH_COMMAND": "ssh -F /dev/null -o BatchMode=yes",
        }
        if authorization:  # for this host alone, and where no list of processes shows it
            parts = urlsplit(url)
            self._environment |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"http.{parts.scheme}://{parts.netloc.rpartition('@')[2]}/.extraHeader",
                "GIT_CONFIG_VALUE_0": f"Authorization: {authorization}",
            }

    def __call__(self, *arguments: str) -> str:
        """What git writes.  Errors: Unavailable with what git said, Cancelled."""
        process = subprocess.Popen(
            ["git", "-c", "core.hooksPath=/dev/null", "-c", "protocol.file.allow=never", *arguments],
            cwd=self.directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

        def stop() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        try:
            with self._cancellation.calling(stop):
                written, said = process.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            stop()
            process.communicate()
            raise Unavailable(f"git {arguments[0]} took more than {_TIMEOUT_S} s") from None
        self._cancellation.check()
        if process.returncode:
            text = said.decode("utf-8", "replace").strip()[-1000:]
            raise Unavailable(f"failed to fetch the git context: {text or f'exit code {process.returncode}'}")
        return written.decode("utf-8", "replace")


def _take(context: Context, checkout: str, subdirectory: str, *, keep_git: bool) -> None:
    descriptor = os.open(checkout, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        tree = RootTree(descriptor)
        try:
            found = resolve(tree, subdirectory)
            if found is None or not found[1].is_directory:
                raise InvalidParameter(f"the git context has no directory {subdirectory!r}")
            source = Source(tree, found[0], found[1], "context")
            context.read_tar(iterated(LayerTar(Wanted([source], "/", True, 0), None).chunks()))
            if not keep_git:
                context.remove(".git")
        finally:
            tree.close()
    finally:
        os.close(descriptor)
