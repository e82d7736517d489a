"""Running a template over data."""

from __future__ import annotations

from corten.cli.gotemplate.functions import BUILTINS
from corten.cli.gotemplate.parser import Action, Branch, Chain, Command, Function, Jump, Literal, Node, Pipeline, Text
from corten.cli.gotemplate.values import NO_VALUE, Object, TemplateError, child, is_true, show, type_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class Executor:
    """One run: output and variables."""

    def __init__(self, functions: dict[str, Callable[..., Any]] | None = None) -> None:
        self._functions = {**BUILTINS, **functions} if functions else BUILTINS
        self._output: list[str] = []
        self._scopes: list[dict[str, Any]] = []

    def run(self, nodes: list[Node], data: Any) -> str:
        """The text.  Errors: TemplateError."""
        self._scopes.append({"$": data})
        self._nodes(nodes, data)
        return "".join(self._output)

    def _nodes(self, nodes: list[Node], dot: Any) -> None:
        for node in nodes:
            if isinstance(node, Text):
                self._output.append(node.text)
            elif isinstance(node, Action):
                value = self._pipeline(node.pipeline, dot)
                if not node.pipeline.variables:
                    self._output.append(show(value))
            elif isinstance(node, Branch):
                self._branch(node, dot)
            elif isinstance(node, Jump):
                raise _Break if node.keyword == "break" else _Continue

    def _inside(self, nodes: list[Node], dot: Any, variables: dict[str, Any] | None = None) -> None:
        self._scopes.append(variables or {})
        try:
            self._nodes(nodes, dot)
        finally:
            self._scopes.pop()

    def _branch(self, node: Branch, dot: Any) -> None:
        self._scopes.append({})
        try:
            if node.keyword == "range":
                self._range(node, dot)
                return
            value = self._pipeline(node.pipeline, dot)
            if is_true(value):
                self._inside(node.body, value if node.keyword == "with" else dot)
            else:
                self._inside(node.otherwise, dot)
        finally:
            self._scopes.pop()

    def _range(self, node: Branch, dot: Any) -> None:
        value = self._pipeline(node.pipeline, dot, sets_variables=False)
        names = node.pipeline.variables
        empty = True
        for key, item in _items(value):
            empty = False
            values = [item] if len(names) == 1 else [key, item]
            variables = dict(zip(names, values, strict=False))
            if not node.pipeline.declares:
                for name, each in variables.items():
                    self._assign(name, each)
                variables = {}
            try:
                self._inside(node.body, item, variables)
            except _Break:
                break
            except _Continue:
                continue
        if empty:
            self._inside(node.otherwise, dot)

    def _assign(self, name: str, value: Any) -> None:
        for scope in reversed(self._scopes):
            if name in scope:
                scope[name] = value
                return

    def _variable(self, name: str) -> Any:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        return NO_VALUE

    def _pipeline(self, pipeline: Pipeline, dot: Any, *, sets_variables: bool = True) -> Any:
        value: Any = None
        for position, command in enumerate(pipeline.commands):
            value = self._command(command, dot, [value] if position else [])
        if sets_variables:
            for name in pipeline.variables:
                if pipeline.declares:
                    self._scopes[-1][name] = value
                else:
                    self._assign(name, value)
        return value

    def _command(self, command: Command, dot: Any, piped: list[Any]) -> Any:
        first, *others = command.operands
        if isinstance(first, Function):
            return self._call(first.name, command, others, dot, piped)
        if isinstance(first, Chain) and first.names:
            arguments = [self._operand(other, dot, command) for other in others] + piped
            return self._chain(first, dot, arguments)
        if others or piped:
            what = first.text
            raise TemplateError(f"{_where(command)} can't give argument to non-function {what}")
        return self._operand(first, dot, command)

    def _operand(self, operand: Literal | Chain | Function, dot: Any, command: Command) -> Any:
        if isinstance(operand, Literal):
            return operand.value
        if isinstance(operand, Function):
            return self._call(operand.name, command, [], dot, [])
        return self._chain(operand, dot, [])

    def _chain(self, chain: Chain, dot: Any, arguments: list[Any]) -> Any:
        if chain.start is None:
            value = dot
        elif isinstance(chain.start, Pipeline):
            value = self._pipeline(chain.start, dot)
        else:
            value = self._variable(chain.start)
        for position, name in enumerate(chain.names):
            given = arguments if position == len(chain.names) - 1 else []
            try:
                value = _field(value, name, given)
            except TemplateError as error:
                raise TemplateError(
                    f'template: :{chain.line}:{chain.column}: executing "" at <{chain.text}>: {error}'
                ) from None
        return value

    def _call(self, name: str, command: Command, operands: list[Any], dot: Any, piped: list[Any]) -> Any:
        try:
            if name in ("and", "or"):
                return self._decide(name, command, operands, dot, piped)
            arguments = [self._operand(operand, dot, command) for operand in operands] + piped
            return self._functions[name](*arguments)
        except TypeError:
            raise TemplateError(
                f"{_where(command)} <{name}>: wrong number of args for {name}: got {len(operands) + len(piped)}"
            ) from None
        except TemplateError as error:
            if str(error).startswith("template:"):
                raise
            raise TemplateError(f"{_where(command)} <{name}>: error calling {name}: {error}") from None

    def _decide(self, name: str, command: Command, operands: list[Any], dot: Any, piped: list[Any]) -> Any:
        if not operands and not piped:
            raise TemplateError(f"{_where(command)} <{name}>: wrong number of args for {name}: want at least 1 got 0")
        value: Any = None
        for operand in operands:
            value = self._operand(operand, dot, command)
            if is_true(value) == (name == "or"):
                return value
        return piped[0] if piped else value


def _where(command: Command) -> str:
    return f'template: :{command.line}:{command.column}: executing "" at'


def _field(value: Any, name: str, arguments: list[Any]) -> Any:
    if isinstance(value, Object):
        try:
            return value.field(name, arguments)
        except KeyError:
            raise TemplateError(f"can't evaluate field {name} in type *formatter.{value.type_name}") from None
        except TypeError:
            raise TemplateError(f"wrong number of args for {name}: got {len(arguments)}") from None
    if arguments:
        raise TemplateError(f"{name} has arguments but cannot be invoked as function")
    return child(value, name)


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        yield from ((key, value[key]) for key in sorted(value))
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield from ((number, number) for number in range(value))
    elif value is not None and value is not NO_VALUE:
        raise TemplateError(f"range can't iterate over {show(value)} ({type_name(value)})")
