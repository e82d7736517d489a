"""What log options add to every entry of a container: chosen labels, variables of its environment, a tag.

Source: Docker documentation, "Customize log driver output".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from corten.errors import InvalidParameter
from corten.logdriver.options import ATTRIBUTE_OPTIONS

__all__ = ["ATTRIBUTE_OPTIONS", "LogSubject", "attributes", "expand_tag"]

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSubject:
    """The container that is logged.  ``command``: entry point and arguments; ``environment``: "NAME=value"."""

    id: str
    name: str
    image_id: str
    image_name: str
    command: list[str] = field(default_factory=list)
    environment: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)


def attributes(config: dict[str, str], subject: LogSubject) -> dict[str, str]:
    """The attributes of every entry, by name; empty when no option asks for any.

    Errors: InvalidParameter for a tag that is no template of known fields.
    """
    variables = dict(item.split("=", 1) for item in subject.environment if "=" in item)
    found: dict[str, str] = {}
    for option, values in (("labels", subject.labels), ("env", variables)):
        for name in config.get(option, "").split(","):
            if name in values:
                found[name] = values[name]
        if config.get(f"{option}-regex"):
            pattern = re.compile(config[f"{option}-regex"])
            found |= {name: value for name, value in values.items() if pattern.search(name)}
    tag = expand_tag(config.get("tag", ""), subject)
    if tag:
        found["tag"] = tag
    return found


def expand_tag(template: str, subject: LogSubject) -> str:
    """``{{.Name}}/{{.ID}}`` with the container's own values.

    Errors: InvalidParameter for an action that is no such field.
    """
    fields = {
        ".ID": subject.id[:12],
        ".FullID": subject.id,
        ".Name": subject.name.removeprefix("/"),
        ".ImageID": subject.image_id[:12],
        ".ImageFullID": subject.image_id,
        ".ImageName": subject.image_name,
        ".Command": " ".join(subject.command),
        ".DaemonName": "corten",
    }

    def value(match: re.Match[str]) -> str:
        if match[1] not in fields:
            raise InvalidParameter(f"template: log-tag: {match[0]} is not one of {', '.join(fields)}")
        return fields[match[1]]

    expanded = _ACTION.sub(value, template)
    if "{{" in _ACTION.sub("", template):
        raise InvalidParameter("template: log-tag: unclosed action")
    return expanded
