"""``corten registry serve`` and ``corten registry gc``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.units import decimal_size, read_duration, read_size
from corten.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.cli.context import Context
    from corten.registry.server.settings import ProxySettings, Settings, StoreSettings
    from corten.registry.server.tokens import TokenSettings

_SECOND_NS = 10**9
_ROOT_SHARED = "/var/lib/corten-registry"


def _default_root() -> str:
    if os.geteuid() == 0:
        return _ROOT_SHARED
    return os.path.join(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"), "corten-registry")


def _size(name: str, summary: str) -> flags.Flag:
    return flags.single(name, "", summary, read_size, metavar="bytes", default=0)


def _duration(name: str, summary: str, default_s: int) -> flags.Flag:
    return flags.single(name, "", summary, _read_duration, metavar="duration", default=default_s * _SECOND_NS)


def _read_duration(text: str) -> int:
    """Errors: flags.BadValue."""
    duration = read_duration(text)
    if duration < 0:
        raise flags.BadValue("it must not be negative")
    return duration


_ROOT = flags.text(
    "root", "", f'Directory of the registry (default "{_ROOT_SHARED}", of a user: ~/.local/share/corten-registry)'
)
_STORE = (
    flags.text("store", "", "Keep content in an object store, s3://BUCKET[/PREFIX]; keys come from AWS_… variables"),
    flags.text("store-endpoint", "", "URL of the object store, when it is not Amazon's"),
    flags.text("store-region", "", "Region of the bucket"),
)
_GRACE = _duration("grace", "What is younger is not collected (default 1h)", 3600)
_UNTAGGED = flags.switch("delete-untagged", "", "Collect manifests that no tag, index or subject keeps")


def _serve(context: Context, options: flags.Options, _arguments: list[str]) -> int:
    import logging

    from corten.registry.server.workers import serve

    level = {"warn": "WARNING", "fatal": "CRITICAL"}.get(context.log_level, context.log_level.upper())
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    settings = _settings(options)

    def ready(addresses: list[str]) -> None:
        for address in addresses:
            context.print(f"Serving {settings.store or settings.root} on {address}")
        sys.stdout.flush()

    return serve(settings, ready)


def _settings(options: flags.Options) -> Settings:
    """Errors: InvalidParameter for options that do not fit together."""
    from corten.registry.server.settings import Settings

    certificate, key = options.text("tls-cert"), options.text("tls-key")
    if bool(certificate) != bool(key):
        raise InvalidParameter("--tls-cert and --tls-key belong together")
    if options.integer("workers") < 0:
        raise InvalidParameter("--workers must not be negative")
    return Settings(
        root=Path(options.text("root") or _default_root()).absolute(),
        store=_store(options),
        listen=tuple(options.many("listen")) or ("127.0.0.1:5000",),
        metrics_listen=options.text("metrics-listen"),
        workers=options.integer("workers"),
        tls=(Path(certificate), Path(key)) if certificate else None,
        htpasswd=_path(options, "htpasswd"),
        realm=options.text("realm"),
        tokens=_tokens(options),
        rights=_path(options, "rights"),
        read_only=options.switch("read-only"),
        no_delete=options.switch("no-delete"),
        max_blob_bytes=options.value("max-blob"),
        quota_bytes=options.value("quota"),
        access_log=options.text("access-log"),
        gc_every_s=options.value("gc-every") / _SECOND_NS,
        grace_s=options.value("grace") / _SECOND_NS,
        delete_untagged=options.switch("delete-untagged"),
        proxy=_proxy(options),
    )


def _proxy(options: flags.Options) -> ProxySettings | None:
    """Errors: InvalidParameter, also for a password that cannot be read."""
    from corten.registry.server.settings import ProxySettings

    url, user, file = (options.text(name) for name in ("proxy", "proxy-user", "proxy-password-file"))
    if not url:
        for name in ("proxy-user", "proxy-password-file", "proxy-insecure", "proxy-keep"):
            if options.is_given(name):
                raise InvalidParameter(f"--{name} needs --proxy")
        return None
    if bool(user) != bool(file):
        raise InvalidParameter("--proxy-user and --proxy-password-file belong together")
    if not url.startswith(("http://", "https://")):
        raise InvalidParameter(f"invalid URL {url!r}: http:// or https:// is needed")
    password = ""
    if file:
        try:
            password = Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidParameter(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
    return ProxySettings(
        url=url,
        username=user,
        password=password,
        keep_s=options.value("proxy-keep") / _SECOND_NS,
        insecure=options.switch("proxy-insecure"),
    )


def _store(options: flags.Options) -> StoreSettings | None:
    """Errors: InvalidParameter."""
    from corten.registry.server.settings import StoreSettings

    text, endpoint, region = (options.text(name) for name in ("store", "store-endpoint", "store-region"))
    if not text:
        if endpoint or region:
            raise InvalidParameter("--store-endpoint and --store-region need --store")
        return None
    bucket, _, prefix = text.removeprefix("s3://").partition("/")
    if not text.startswith("s3://") or not bucket:
        raise InvalidParameter(f"invalid store {text!r}: s3://BUCKET[/PREFIX] is needed")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise InvalidParameter(f"invalid URL {endpoint!r}")
    return StoreSettings(bucket=bucket, prefix=prefix.strip("/"), endpoint=endpoint, region=region)


def _path(options: flags.Options, name: str) -> Path | None:
    text = options.text(name)
    return Path(text) if text else None


def _tokens(options: flags.Options) -> TokenSettings | None:
    """Errors: InvalidParameter when something is missing."""
    from corten.registry.server.tokens import TokenSettings

    names = ("token-realm", "token-service", "token-issuer")
    values = [options.text(name) for name in names]
    keys = tuple(Path(item) for item in options.many("token-key"))
    if not any(values) and not keys:
        return None
    if not all(values) or not keys:
        raise InvalidParameter(f"tokens need all of {', '.join(f'--{name}' for name in (*names, 'token-key'))}")
    if any('"' in value or "\n" in value for value in values):
        raise InvalidParameter("realm, service and issuer of tokens cannot contain quotes")
    return TokenSettings(realm=values[0], service=values[1], issuer=values[2], keys=keys)


def _collect(context: Context, options: flags.Options, _arguments: list[str]) -> None:
    import asyncio

    from corten.registry.server import composition
    from corten.registry.server.settings import Settings

    root = Path(options.text("root") or _default_root()).absolute()
    if not root.is_dir():
        raise InvalidParameter(f"there is no registry in {root}")
    settings = Settings(
        root=root,
        store=_store(options),
        grace_s=options.value("grace") / _SECOND_NS,
        delete_untagged=options.switch("delete-untagged"),
    )
    dry = options.switch("dry-run")

    async def run() -> None:
        content = composition.content(settings)
        try:
            found = await content.collection(dry=dry).run()
        finally:
            await content.close()
        for name in found.damaged:
            context.complain(f"damaged: {name}")
        for name in (*found.manifests, *found.blobs):
            context.print(f"{'Would delete' if dry else 'Deleted'}: {name}")
        verb = "Would reclaim" if dry else "Reclaimed"
        context.print(f"{verb}: {decimal_size(found.bytes)} ({decimal_size(found.kept_bytes)} kept)")

    asyncio.run(run())


SERVE = Command(
    _serve,
    "[OPTIONS]",
    (
        _ROOT,
        *_STORE,
        flags.many("listen", "l", 'Address to serve on, HOST:PORT, may be repeated (default "127.0.0.1:5000")'),
        flags.integer("workers", "", "Worker processes (default: one for each processor)"),
        flags.text("access-log", "", "File for a line per request; '-' for standard output"),
        flags.text("metrics-listen", "", "Address for Prometheus' metrics, HOST:PORT, path /metrics"),
    ),
    sections={
        "Access": (
            flags.text("htpasswd", "", "File with users and bcrypt hashes (htpasswd -B)"),
            flags.text("realm", "", "What clients show when they ask for a password", default="corten registry"),
            flags.text("rights", "", "File that says who may pull, push and delete what (see docs/registry-server.md)"),
            flags.text("token-realm", "", "URL of the token service"),
            flags.text("token-service", "", "What tokens must be for (their audience)"),
            flags.text("token-issuer", "", "Who must have made tokens"),
            flags.many("token-key", "", "File with keys or certificates of the issuer: PEM, or a JSON Web Key Set"),
            flags.text("tls-cert", "", "Certificate with its chain (PEM)"),
            flags.text("tls-key", "", "Key of the certificate (PEM)"),
            flags.switch("read-only", "", "Refuse every change"),
            flags.switch("no-delete", "", "Refuse deletions"),
        ),
        "Proxy": (
            flags.text("proxy", "", "URL of a registry whose content is fetched when asked for and kept; no pushes"),
            flags.text("proxy-user", "", "User at that registry"),
            flags.text("proxy-password-file", "", "File with the user's password or token"),
            flags.switch("proxy-insecure", "", "Do not check that registry's certificate"),
            _duration("proxy-keep", "Collect what nobody has asked for so long, 0: never (default 168h)", 168 * 3600),
        ),
        "Space": (
            _size("max-blob", "Largest blob that is taken (default: no limit)"),
            _size("quota", "Most that all content together may take (default: no limit)"),
            _duration("gc-every", "Collect garbage that often while serving (default: never)", 0),
            _GRACE,
            _UNTAGGED,
        ),
    },
    description=(
        "A registry of one's own (OCI distribution specification 1.1), without a daemon. It listens on this machine "
        "alone until an address is given. Without --htpasswd or --token-realm whoever reaches it may do everything."
    ),
    examples=(
        "registry serve",
        "registry serve --root /srv/images -l :443 --tls-cert cert.pem --tls-key key.pem --htpasswd users",
        "push localhost:5000/app:1",
    ),
)
COLLECT = Command(
    _collect,
    "[OPTIONS]",
    (
        _ROOT,
        *_STORE,
        _GRACE,
        _UNTAGGED,
        flags.switch("dry-run", "", "Only say what would be deleted"),
    ),
    description="Deletes what no manifest needs. A server that uses the directory goes on, and pushes lose nothing.",
    examples=("registry gc --dry-run", "registry gc --delete-untagged --grace 24h"),
)
