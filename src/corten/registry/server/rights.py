"""The file that says who may do what with which repositories.

```toml
[groups]
dev = ["alice", "bob"]

[[allow]]
users = ["anonymous"]            # names, "@group", "anonymous" (no credentials), "*" (anybody who has some)
repositories = ["public/**"]     # "*" within one component, "**" across them, "{user}" the user's own name
actions = ["pull"]               # pull, push, delete

[[allow]]
users = ["@dev"]
repositories = ["team/**", "home/{user}/**"]
actions = ["pull", "push"]
```
What no rule allows is refused.  A changed file counts from the next request on; one that cannot be read changes
nothing, and is told in the log.
"""

from __future__ import annotations

import logging
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corten.errors import InvalidParameter
from corten.registry.server.watched import WatchedFile

logger = logging.getLogger(__name__)

ACTIONS = frozenset({"pull", "push", "delete"})
_ANONYMOUS = "anonymous"
_PATTERN = re.compile(r"[a-z0-9._/*{}-]+")


@dataclass(frozen=True, slots=True)
class Rule:
    users: frozenset[str]
    repositories: tuple[str, ...]
    actions: frozenset[str]

    def is_for(self, user: str, *, is_anonymous: bool) -> bool:
        if is_anonymous:
            return _ANONYMOUS in self.users
        return "*" in self.users or (user in self.users and user != _ANONYMOUS)


def pattern_of(text: str, user: str) -> re.Pattern[str]:
    """What a pattern of the file matches for one user."""
    parts = []
    for piece in re.split(r"(\*\*|\*|\{user\})", text):
        parts.append({"**": ".*", "*": "[^/]*", "{user}": re.escape(user)}.get(piece, re.escape(piece)))
    return re.compile("".join(parts))


class Rights:
    """Rules, of a file or for good."""

    def __init__(self, rules: tuple[Rule, ...] = (), path: Path | None = None) -> None:
        """Errors: InvalidParameter naming the file, OSError."""
        self._rules = rules
        self._file: WatchedFile[tuple[Rule, ...]] | None = None
        if path is not None:
            self._file = WatchedFile(path, parse)

    @property
    def rules(self) -> tuple[Rule, ...]:
        return self._file.value if self._file is not None else self._rules

    def generation(self) -> object:
        return self._file.generation() if self._file is not None else 0

    def of(self, user: str, *, is_anonymous: bool = False) -> Callable[[str, str], bool]:
        """(action, repository) -> whether that user may."""
        mine = [
            (rule.actions, [pattern_of(item, user) for item in rule.repositories])
            for rule in self.rules
            if rule.is_for(user, is_anonymous=is_anonymous)
        ]

        def may(action: str, repository: str) -> bool:
            return any(
                action in actions and any(pattern.fullmatch(repository) for pattern in patterns)
                for actions, patterns in mine
            )

        return may


EVERYTHING = Rights((Rule(frozenset({"*", _ANONYMOUS}), ("**",), ACTIONS),))
AUTHENTICATED = Rights((Rule(frozenset({"*"}), ("**",), ACTIONS),))


def parse(path: Path, text: bytes) -> tuple[Rule, ...]:
    """Errors: InvalidParameter naming the file and the place."""
    try:
        document = tomllib.loads(text.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidParameter(f"{path}: {error}") from None
    unknown = set(document) - {"groups", "allow"}
    if unknown:
        raise InvalidParameter(f"{path}: unknown: {', '.join(sorted(unknown))}")
    groups = document.get("groups", {})
    if not isinstance(groups, dict):
        raise InvalidParameter(f"{path}: groups must be a table")
    members = {name: _strings(path, f"groups.{name}", value) for name, value in groups.items()}
    rules = document.get("allow", [])
    if not isinstance(rules, list):
        raise InvalidParameter(f"{path}: allow must be tables: [[allow]]")
    return tuple(_rule(path, number, rule, members) for number, rule in enumerate(rules, 1))


def _rule(path: Path, number: int, rule: Any, groups: dict[str, list[str]]) -> Rule:
    where = f"allow {number}"
    if not isinstance(rule, dict) or set(rule) != {"users", "repositories", "actions"}:
        raise InvalidParameter(f"{path}: {where}: users, repositories and actions are needed, and nothing else")
    users: set[str] = set()
    for user in _strings(path, f"{where}: users", rule["users"]):
        if user.startswith("@") and user[1:] not in groups:
            raise InvalidParameter(f"{path}: {where}: there is no group {user[1:]!r}")
        users.update(groups[user[1:]] if user.startswith("@") else [user])
    repositories = _strings(path, f"{where}: repositories", rule["repositories"])
    for item in repositories:
        if not _PATTERN.fullmatch(item) or re.search(r"[{}]", item.replace("{user}", "")):
            raise InvalidParameter(f"{path}: {where}: invalid pattern {item!r}")
    actions = _strings(path, f"{where}: actions", rule["actions"])
    if not set(actions) <= ACTIONS:
        raise InvalidParameter(f"{path}: {where}: actions are pull, push and delete, not {actions}")
    return Rule(frozenset(users), tuple(repositories), frozenset(actions))


def _strings(path: Path, where: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise InvalidParameter(f"{path}: {where}: a list of texts is needed")
    return value
