"""Credentials of registries: ``login``, ``logout``."""

from __future__ import annotations

import sys

from corten.cli import flags
from corten.cli.command import Command
from corten.client.credentials import CredentialFile, server_key
from corten.client.references import HUB
from corten.dockerapi.registry_auth import HUB_SERVER, RegistryAuth
from corten.errors import InvalidParameter, Unauthorized

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.context import Context

_LONGEST_SECRET = 64 << 10


def _login(context: Context, options: flags.Options, arguments: list[str]) -> None:
    server = arguments[0] if arguments else HUB_SERVER
    if options.is_given("password") and options.switch("password-stdin"):
        raise InvalidParameter("--password and --password-stdin are mutually exclusive")
    if options.switch("password-stdin") and not options.text("username"):
        raise InvalidParameter("Must provide --username with --password-stdin")
    if options.is_given("password"):
        context.warning("Using --password via the CLI is insecure. Use --password-stdin.")
    file = CredentialFile()
    given = options.text("username") or options.text("password")
    if not given:
        known = file.get(server)
        if known.username or known.identity_token:
            context.print("Authenticating with existing credentials...")
            try:
                _finish(context, file, _ask(context, known, server), known, server)
                return
            except Unauthorized as error:
                context.complain(f"Login did not succeed, error: {error}")
    auth = RegistryAuth(
        username=options.text("username") or _typed(context, "Username: "),
        password=_password(context, options),
        server=server_key(server),
    )
    _finish(context, file, _ask(context, auth, server), auth, server)


def _ask(context: Context, auth: RegistryAuth, server: str) -> dict[str, Any]:
    """Whether the registry takes them, asked by the daemon, who will use them."""
    document = {**auth.document(), "serveraddress": server_key(server)}
    answer: dict[str, Any] = context.api.post("/auth", document=document)
    return answer


def _finish(context: Context, file: CredentialFile, answer: dict[str, Any], auth: RegistryAuth, server: str) -> None:
    token = answer.get("IdentityToken") or auth.identity_token
    kept = RegistryAuth(
        username=auth.username,
        password="" if token else auth.password,
        identity_token=token,
        server=server_key(server),
    )
    if file.is_plain(server):
        context.warning(
            f"Your credentials are stored unencrypted in '{file.path}'.\n"
            "Configure a credential helper to keep them elsewhere ('credsStore' in that file)."
        )
    file.store(kept)
    context.print(answer.get("Status") or "Login Succeeded")


def _password(context: Context, options: flags.Options) -> str:
    """Errors: InvalidParameter for an empty one."""
    if options.switch("password-stdin"):
        text = sys.stdin.read(_LONGEST_SECRET).rstrip("\r\n")
    elif options.is_given("password"):
        text = options.text("password")
    elif sys.stdin.isatty():
        import getpass

        text = getpass.getpass("Password: ")
    else:
        raise InvalidParameter("Error: Cannot perform an interactive login from a non TTY device")
    if not text:
        raise InvalidParameter("password is empty")
    return text


def _typed(context: Context, prompt: str) -> str:
    if not sys.stdin.isatty():
        raise InvalidParameter("Error: Cannot perform an interactive login from a non TTY device")
    context.write(prompt)
    context.out.flush()
    text = sys.stdin.readline().strip()
    if not text:
        raise InvalidParameter("username is empty")
    return text


def _logout(context: Context, _options: flags.Options, arguments: list[str]) -> None:
    server = arguments[0] if arguments else HUB_SERVER
    key = server_key(server)
    shown = HUB if key == HUB_SERVER else key
    file = CredentialFile()
    if not file.has(server):
        context.print(f"Not logged in to {shown}")
        # what is left of it (an entry without credentials) goes all the same
        file.erase(server)
        return
    context.print(f"Removing login credentials for {shown}")
    file.erase(server)


LOGIN = Command(
    _login,
    "[OPTIONS] [SERVER]",
    (
        flags.text("username", "u", "Name of the user"),
        flags.text("password", "p", "Password or token: others on this machine can see it in the list of processes"),
        flags.switch("password-stdin", "", "Read the password from standard input"),
    ),
    most=1,
    description="Without a server Docker Hub is meant.  Credentials are kept in ~/.docker/config.json or its helpers.",
    examples=("login -u me --password-stdin registry.example:5000 < token",),
)
LOGOUT = Command(_logout, "[SERVER]", most=1, examples=("logout registry.example:5000",))
