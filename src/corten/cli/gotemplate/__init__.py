"""The part of Go's ``text/template`` that ``--format`` uses.

Fields and keys, pipelines, variables, ``if``, ``with``, ``range``, the comparison, boolean and printing functions, and
Docker's own (``json``, ``split``, ``join``, ``title``, ``lower``, ``upper``, ``pad``, ``truncate``).  ``define``,
``template`` and ``block`` have no use in one line and are refused.

Source: documentation of Go's ``text/template``; Docker's "Format command and log output".

>>> Template("{{range .Names}}{{upper .}} {{end}}").render({"Names": ["a", "b"]})
'A B '
"""

from __future__ import annotations

from corten.cli.gotemplate.execute import Executor
from corten.cli.gotemplate.parser import parse
from corten.cli.gotemplate.values import Object, TemplateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Object", "Template", "TemplateError"]


class Template:
    """A parsed template.

    Errors: TemplateError in the words of Go's parser.
    """

    __slots__ = ("_root",)

    def __init__(self, text: str) -> None:
        self._root = parse(text)

    def render(self, data: Any, *, functions: dict[str, Any] | None = None) -> str:
        """The text for ``data``: documents of dicts and lists, or an ``Object``.

        functions: take the place of those with the same name

        Errors: TemplateError when a field does not exist or a function does not take what it gets.
        """
        return Executor(functions).run(self._root, data)
