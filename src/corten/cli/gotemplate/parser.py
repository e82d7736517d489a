"""From tokens to a tree of nodes."""

from __future__ import annotations

from corten.cli.gotemplate.functions import BUILTINS
from corten.cli.gotemplate.lexer import Token, failure, tokens

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Text:
    """Plain text."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Literal:
    """A constant."""

    __slots__ = ("text", "value")

    def __init__(self, value: Any, text: str) -> None:
        self.value = value
        self.text = text


class Chain:
    """``.A.B``, ``$x.A``, ``(…).A``: names to follow from a start.

    start: None for the dot, a variable's name, or a pipeline
    """

    __slots__ = ("column", "line", "names", "start")

    def __init__(self, start: str | Pipeline | None, names: list[str], line: int, column: int) -> None:
        self.start = start
        self.names = names
        self.line = line
        self.column = column

    @property
    def text(self) -> str:
        """As it stands in messages."""
        start = self.start if isinstance(self.start, str) else ("(…)" if self.start else "")
        return start + "".join(f".{name}" for name in self.names) or "."


class Function:
    """A function's name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


Operand = Literal | Chain | Function


class Command:
    """A function, method or value, and arguments."""

    __slots__ = ("column", "line", "operands")

    def __init__(self, operands: list[Operand], line: int, column: int) -> None:
        self.operands = operands
        self.line = line
        self.column = column


class Pipeline:
    """Commands, each taking the result of the one before as its last argument.

    variables: set to the result; two only in ``range``
    declares:  ``:=`` rather than ``=``
    """

    __slots__ = ("commands", "declares", "variables")

    def __init__(self, commands: list[Command], variables: list[str], *, declares: bool) -> None:
        self.commands = commands
        self.variables = variables
        self.declares = declares


class Action:
    """``{{pipeline}}``."""

    __slots__ = ("pipeline",)

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline


class Branch:
    """``if``, ``with`` or ``range``."""

    __slots__ = ("body", "keyword", "otherwise", "pipeline")

    def __init__(self, keyword: str, pipeline: Pipeline, body: list[Node], otherwise: list[Node]) -> None:
        self.keyword = keyword
        self.pipeline = pipeline
        self.body = body
        self.otherwise = otherwise


class Jump:
    """``break`` or ``continue``."""

    __slots__ = ("keyword",)

    def __init__(self, keyword: str) -> None:
        self.keyword = keyword


Node = Text | Action | Branch | Jump

_BRANCHES = ("if", "with", "range")
_REFUSED = ("define", "template", "block")
_MAX_DEPTH = 100


class _Parser:
    def __init__(self, template: str) -> None:
        self._tokens = list(tokens(template))
        self._position = 0
        self._line = 1
        self._scopes: list[set[str]] = [{"$"}]
        self._ranges = 0
        self._depth = 0

    def peek(self) -> Token | None:
        return self._tokens[self._position] if self._position < len(self._tokens) else None

    def next(self) -> Token:
        token = self.peek()
        if token is None:
            raise failure(self._line, "unexpected EOF")
        self._position += 1
        self._line = token.line
        return token

    def parse(self) -> list[Node]:
        nodes, stop = self._nodes()
        if stop:
            raise failure(self._line, f"unexpected {{{{{stop}}}}}")
        return nodes

    def _nodes(self) -> tuple[list[Node], str]:
        """Nodes up to ``end`` or ``else`` (whose keyword has been read) or the end of the template."""
        nodes: list[Node] = []
        while (token := self.peek()) is not None:
            self.next()
            if token.kind == "text":
                nodes.append(Text(token.text))
                continue
            keyword = token.text if token.kind == "word" else ""
            if keyword == "end":
                self._expect_end("end")
                return nodes, "end"
            if keyword == "else":
                return nodes, "else"
            nodes.append(self._node(token, keyword))
        return nodes, ""

    def _node(self, token: Token, keyword: str) -> Node:
        if keyword in _REFUSED:
            raise failure(token.line, f"{{{{{keyword}}}}} is not supported in a format")
        if keyword in _BRANCHES:
            return self._branch(keyword)
        if keyword in ("break", "continue"):
            if not self._ranges:
                raise failure(token.line, f"{{{{{keyword}}}}} outside {{{{range}}}}")
            self._expect_end(keyword)
            return Jump(keyword)
        self._position -= 1
        if token.kind == "end":
            raise failure(token.line, "missing value for command")
        return Action(self._pipeline("command", closing="end"))

    def _expect_end(self, keyword: str) -> None:
        token = self.next()
        if token.kind != "end":
            raise failure(token.line, f"unexpected <{token.text}> in {keyword}")

    def _branch(self, keyword: str) -> Branch:
        self._deeper()
        self._scopes.append(set())
        pipeline = self._pipeline(keyword, closing="end", in_range=keyword == "range")
        if keyword == "range":
            self._ranges += 1
        self._scopes.append(set())
        body, stop = self._nodes()
        self._scopes.pop()
        if keyword == "range":
            self._ranges -= 1
        otherwise: list[Node] = []
        if stop == "else":
            otherwise, stop = self._else(keyword)
        self._scopes.pop()
        self._depth -= 1
        if stop != "end":
            raise failure(self._line, "unexpected EOF")
        return Branch(keyword, pipeline, body, otherwise)

    def _else(self, keyword: str) -> tuple[list[Node], str]:
        token = self.next()
        if token.kind == "word" and token.text == keyword and keyword in ("if", "with"):
            return [self._branch(keyword)], "end"
        if token.kind != "end":
            raise failure(token.line, f"unexpected <{token.text}> in else")
        self._scopes.append(set())
        nodes, stop = self._nodes()
        self._scopes.pop()
        if stop == "else":
            raise failure(self._line, "expected end; found {{else}}")
        return nodes, stop

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise failure(self._line, "nested too deeply")

    def _pipeline(self, context: str, *, closing: str, in_range: bool = False) -> Pipeline:
        variables, declares = self._declarations(in_range=in_range)
        commands = []
        while True:
            commands.append(self._command(context, closing))
            token = self.next()
            if token.kind == closing or token.text == closing:
                break
            # the only other thing that ends a command is a bar
        if declares:
            self._scopes[-1].update(variables)
        return Pipeline(commands, variables, declares=declares)

    def _declarations(self, *, in_range: bool) -> tuple[list[str], bool]:
        first = self.peek()
        if first is None or first.kind != "variable":
            return [], False
        after = [token.text for token in self._tokens[self._position + 1 : self._position + 4]]
        names: list[str] = []
        if after[:1] in ([":="], ["="]):
            names = [first.text]
        elif in_range and after[:1] == [","] and after[2:3] in ([":="], ["="]):
            names = [first.text, after[1]]
        if not names:
            return [], False
        self._position += 2 * len(names)
        declares = self._tokens[self._position - 1].text == ":="
        if not declares:
            for name in names:
                self._check_variable(name)
        return names, declares

    def _check_variable(self, name: str) -> None:
        if not any(name in scope for scope in self._scopes):
            raise failure(self._line, f'undefined variable "{name}"')

    def _command(self, context: str, closing: str) -> Command:
        operands: list[Operand] = []
        start = self.peek()
        while (token := self.peek()) is not None:
            if token.text in ("|", ")") or token.kind == "end":
                break
            operands.append(self._operand(context))
        if token is None:
            raise failure(self._line, "unclosed action")
        if not operands:
            raise failure(token.line, f"missing value for {context}")
        if token.kind == "end" and closing != "end":
            raise failure(token.line, "unclosed left paren")
        if token.text == ")" and closing != ")":
            raise failure(token.line, "unexpected right paren")
        if token.kind != closing and token.text not in (closing, "|"):
            raise failure(token.line, f"unexpected <{token.text}> in {context}")
        assert start is not None
        return Command(operands, start.line, start.position)

    def _operand(self, context: str) -> Operand:
        token = self.next()
        if token.kind in ("string", "raw", "char", "number"):
            return Literal(token.value, token.text)
        if token.kind == "word":
            if token.text in ("true", "false", "nil"):
                return Literal({"true": True, "false": False, "nil": None}[token.text], token.text)
            if token.text not in BUILTINS:
                raise failure(token.line, f'function "{token.text}" not defined')
            return Function(token.text)
        start: str | Pipeline | None
        names: list[str] = []
        if token.kind == "dot":
            start = None
        elif token.kind == "field":
            start = None
            names.append(token.text[1:])
        elif token.kind == "variable":
            self._check_variable(token.text)
            start = token.text
        elif token.text == "(":
            self._deeper()
            start = self._pipeline("parenthesized pipeline", closing=")")
            self._depth -= 1
        else:
            raise failure(token.line, f'unexpected "{token.text}" in {context}')
        while (following := self.peek()) is not None and following.kind == "field" and not following.spaced:
            names.append(self.next().text[1:])
        return Chain(start, names, token.line, token.position)


def parse(template: str) -> list[Node]:
    """The nodes of a template.  Errors: TemplateError."""
    return _Parser(template).parse()
