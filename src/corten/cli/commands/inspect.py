"""``inspect`` of one kind of object, and of any."""

from __future__ import annotations

import json

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.messages import describe
from corten.cli.render import INSPECT_FORMAT_HELP, parse_template
from corten.client.api import path_of
from corten.errors import CortenError, InvalidParameter, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from corten.cli.context import Context
    from corten.cli.gotemplate import Template

# in the order in which a name is looked for
_PATHS = {"container": "/containers/", "image": "/images/", "network": "/networks/", "volume": "/volumes/"}


def _find(context: Context, kind: str, name: str, *, size: bool) -> dict[str, Any]:
    suffix = "" if kind in ("network", "volume") else "/json"
    query = {"size": True} if size and kind == "container" else None
    document: dict[str, Any] = context.api.get(path_of(_PATHS[kind], name, suffix), query)
    return document


def _find_any(context: Context, name: str, *, size: bool) -> dict[str, Any]:
    for kind in _PATHS:
        try:
            return _find(context, kind, name, size=size)
        except NotFound:
            continue
    raise NotFound(f"Error: No such object: {name}")


def _rendered(template: Template, document: Any) -> str:
    from corten.cli.gotemplate import TemplateError

    try:
        return template.render(document)
    except TemplateError as error:
        raise TemplateError(f"template parsing error: {error}") from None


def inspect(context: Context, options: flags.Options, names: Sequence[str], kind: str) -> int:
    """Print what is known of each name: an array of documents, or a line for each by the template."""
    source = options.text("format")
    size = options.switch("size") if kind in ("", "container") else False
    template = parse_template(source) if source and source != "json" else None
    documents: list[dict[str, Any]] = []
    errors: list[CortenError] = []
    for name in names:
        try:
            document = _find(context, kind, name, size=size) if kind else _find_any(context, name, size=size)
        except CortenError as error:
            errors.append(error)
            continue
        if template is not None:
            context.print(_rendered(template, document))
        documents.append(document)
    if source == "json":
        context.print(json.dumps(documents, separators=(",", ":"), ensure_ascii=False))
    elif not source:
        context.print(json.dumps(documents, indent=4, ensure_ascii=False) if documents else "[]")
    elif not documents:
        context.print()
    for problem in errors:
        context.complain(describe(problem))
    return 1 if errors else 0


def _container(context: Context, options: flags.Options, names: list[str]) -> int:
    return inspect(context, options, names, "container")


def _image(context: Context, options: flags.Options, names: list[str]) -> int:
    return inspect(context, options, names, "image")


def _volume(context: Context, options: flags.Options, names: list[str]) -> int:
    return inspect(context, options, names, "volume")


def _network(context: Context, options: flags.Options, names: list[str]) -> int:
    return inspect(context, options, names, "network")


def _any(context: Context, options: flags.Options, names: list[str]) -> int:
    kind = options.text("type")
    if kind and kind not in _PATHS:
        raise InvalidParameter(f'unknown type: "{kind}": must be one of {", ".join(_PATHS)}')
    if options.is_given("type") and not kind:
        raise InvalidParameter("type is empty: must be one of " + ", ".join(_PATHS))
    return inspect(context, options, names, kind)


_FORMAT = flags.text("format", "f", INSPECT_FORMAT_HELP)
_SIZE = flags.switch("size", "s", "Show how much space files of a container take")

CONTAINER = Command(
    _container,
    "[OPTIONS] CONTAINER [CONTAINER...]",
    (_FORMAT, _SIZE),
    least=1,
    most=None,
    examples=("container inspect -f '{{.State.Status}}' web",),
)
IMAGE = Command(
    _image,
    "[OPTIONS] IMAGE [IMAGE...]",
    (_FORMAT,),
    least=1,
    most=None,
    examples=("image inspect -f '{{json .Config.Env}}' debian",),
)
VOLUME = Command(
    _volume,
    "[OPTIONS] VOLUME [VOLUME...]",
    (_FORMAT,),
    least=1,
    most=None,
    examples=("volume inspect -f '{{.Mountpoint}}' data",),
)
NETWORK = Command(
    _network,
    "[OPTIONS] NETWORK [NETWORK...]",
    (_FORMAT, flags.switch("verbose", "v", "Accepted for docker's sake: there is no more to show", hidden=True)),
    least=1,
    most=None,
    examples=("network inspect -f '{{json .Containers}}' back",),
)
ANY = Command(
    _any,
    "[OPTIONS] NAME|ID [NAME|ID...]",
    (_FORMAT, _SIZE, flags.text("type", "", "Look only for this kind of object: container, image, network, volume")),
    least=1,
    most=None,
    examples=("inspect web", "inspect -f '{{.State.Pid}}' web", "inspect --type image debian"),
)
