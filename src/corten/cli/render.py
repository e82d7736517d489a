"""Lists: rows with fields, printed as a table, by a template or as JSON.

A kind of row is a table of fields: name, title of its column, and the function that gives its value.  Formats without a
template of their own (every plain ``corten ps``) do not touch the template engine.
"""

from __future__ import annotations

from corten.cli.tabwriter import align

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from corten.cli.context import Context
    from corten.cli.gotemplate import Template

    Field = tuple[str, Callable[[Any], Any]]

FORMAT_HELP = (
    "How to print:\n"
    "'table':           a table with titles (default)\n"
    "'table TEMPLATE':  a table whose lines the Go template makes\n"
    "'json':            a JSON document in each line\n"
    "'TEMPLATE':        what the Go template makes of each"
)
INSPECT_FORMAT_HELP = (
    "How to print:\n'json':            JSON in one line\n'TEMPLATE':        what the Go template makes of it"
)


class Kind:
    """What can be printed of one kind of row.

    type_name: as messages about a wrong field name it
    fields:    name -> (title, function of the row); in the order of ``{{json .}}`` once sorted
    methods:   fields that take an argument: name -> function of the row and the argument
    columns:   the table that is printed by default
    quiet:     the field that ``-q`` prints
    """

    def __init__(
        self,
        type_name: str,
        fields: dict[str, Field],
        columns: Sequence[str],
        *,
        quiet: str = "ID",
        methods: dict[str, Callable[[Any, str], str]] | None = None,
    ) -> None:
        self.type_name = type_name
        self.fields = fields
        self.columns = tuple(columns)
        self.quiet = quiet
        self.methods = methods or {}


class Listing:
    """How a list is to be printed.

    source: the value of ``--format``; empty for the default
    quiet:  only what identifies a row
    extra:  columns after those of the default

    Errors: TemplateError, before anything is asked of the daemon.
    """

    def __init__(
        self, kind: Kind, source: str = "", *, quiet: bool = False, columns: Sequence[str] = (), default: str = ""
    ) -> None:
        self.kind = kind
        self.columns = tuple(columns) or kind.columns
        self.quiet = quiet
        self._template: Template | None = None
        self.is_table = False
        source = source or default
        if quiet:
            return
        if source in ("", "table"):
            self.is_table = True
            return
        self.is_table = source.startswith("table")
        text = source.removeprefix("table").strip(" ") if self.is_table else source
        text = "{{json .}}" if text == "json" else text.strip(" ").replace("\\t", "\t").replace("\\n", "\n")
        self._template = parse_template(text)

    def uses(self, field: str) -> bool:
        """Whether a template mentions the field: some cost the daemon time."""
        if self._template is None:
            return field in self.columns and not self.quiet
        from corten.cli.gotemplate import TemplateError
        from corten.cli.rows import Probe

        probe = Probe(self.kind)
        try:
            self._template.render(probe)
        except TemplateError as error:
            # with titles in the place of values, only what is wrong with every row counts
            if "can't evaluate field" in str(error):
                raise TemplateError(f"template parsing error: {error}") from None
        return field in probe.used

    def text(self, rows: Iterable[Any]) -> str:
        """All of the output.

        Errors: TemplateError.
        """
        fields = self.kind.fields
        if self.quiet:
            value = fields[self.kind.quiet][1]
            return "".join(f"{value(row)}\n" for row in rows)
        if self._template is None:
            lines = ["\t".join(fields[name][0] for name in self.columns)]
            lines += ["\t".join(str(fields[name][1](row)) for name in self.columns) for row in rows]
            return align("\n".join(lines)) + "\n"
        return self._by_template(self._template, rows)

    def _by_template(self, template: Template, rows: Iterable[Any]) -> str:
        from corten.cli.gotemplate import TemplateError
        from corten.cli.gotemplate.functions import HEADERS
        from corten.cli.rows import Row, Titles

        try:
            text = "".join(template.render(Row(self.kind, row)) + "\n" for row in rows)
            if self.is_table:
                text = align(template.render(Titles(self.kind), functions=HEADERS) + "\n" + text)
        except TemplateError as error:
            raise TemplateError(f"template parsing error: {error}") from None
        return text

    def print(self, context: Context, rows: Iterable[Any]) -> None:
        """Write all of the output.  Errors: TemplateError."""
        context.write(self.text(rows))


def parse_template(text: str) -> Template:
    """Errors: TemplateError in Docker's words."""
    from corten.cli.gotemplate import Template, TemplateError

    try:
        return Template(text)
    except TemplateError as error:
        raise TemplateError(f"template parsing error: {error}") from None


def label_title(name: str) -> str:
    """The column title of ``.Label "com.example.some-name"``: "some name"."""
    return name.rsplit(".", 1)[-1].replace("-", " ").replace("_", " ")


def ellipsis(text: str, width: int) -> str:
    """The text, cut to ``width`` columns with an ellipsis."""
    from corten.cli.tabwriter import display_width

    if display_width(text) <= width:
        return text
    while display_width(text) > width - 1:
        text = text[:-1]
    return text + "…"


def short_id(identifier: str) -> str:
    """The first twelve digits, without the name of a digest algorithm."""
    return identifier.rpartition(":")[2][:12]


def go_time(epoch_s: int) -> str:
    """Local time as Go prints it: "2024-05-01 12:00:00 +0200 CEST"."""
    import time

    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(epoch_s))
