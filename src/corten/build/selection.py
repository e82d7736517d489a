"""What a COPY or ADD takes: its sources found in a tree, and one digest of all that they are.

The digest knows names, kinds, modes, owners, links, attributes and contents, and no times: touching a file is no change
(Dockerfile reference and Docker's build cache rules).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from corten.build.tree import Node, Tree, cleaned, resolve, walk
from corten.dockerfile.ignore import Ignore, matcher
from corten.errors import InvalidParameter, NotFound


@dataclass(frozen=True, slots=True)
class Source:
    """path, node: what is copied; name: how it was called, the last part of it

    kept: with ``--parents`` the directories above it that are made too, relative; None without
    unpack: an archive whose content is meant
    """

    tree: Tree
    path: str
    node: Node
    name: str
    kept: str | None = None
    unpack: bool = False


class MissingSource(NotFound):
    """Nothing is there; ``near`` is what may have been meant."""


def has_wildcards(pattern: str) -> bool:
    position = 0
    while position < len(pattern):
        if pattern[position] == "\\":
            position += 1
        elif pattern[position] in "*?[":
            return True
        position += 1
    return False


def find_sources(tree: Tree, patterns: Sequence[str], *, parents: bool = False) -> list[Source]:
    """The sources in the order they were named; those of a wildcard sorted.

    Errors: InvalidParameter (outside of the tree, bad pattern), MissingSource.
    """
    found: list[Source] = []
    for pattern in patterns:
        dropped = ""
        if parents:
            dropped, pattern = _pivot(pattern)
        path = cleaned(inside(pattern))
        matches = sorted(_matching(tree, path.split("/"), "")) if has_wildcards(path) else [path]
        for match in matches:
            source = _source(tree, match, pattern)
            if parents:
                source = Source(source.tree, source.path, source.node, source.name, _above(match, dropped))
            found.append(source)
    return found


def followed(patterns: Sequence[str]) -> tuple[str, ...]:
    """Paths, with wildcards, above or at everything that patterns can mean: what BuildKit's clients follow.

    () when that is the whole tree.
    Errors: InvalidParameter (outside of the tree).
    """
    found = set()
    for pattern in patterns:
        parts: list[str] = []
        for part in cleaned(inside(pattern)).split("/"):
            if part == "**":
                break
            parts.append(part)
        path = "/".join(parts)
        # a path that would be no path to the client's matcher
        if not path or path.startswith("!") or path != path.strip():
            return ()
        found.add(path)
    return tuple(sorted(found))


def kept_inside(pattern: str) -> str:
    """A pattern whose ``..`` would lead out of the tree without them.  Source: Dockerfile reference, COPY."""
    try:
        cleaned(inside(pattern))
    except InvalidParameter:
        return inside(f"/{pattern}") or "."
    return pattern


def inside(pattern: str) -> str:
    """An absolute path counts from the tree's root and cannot leave it."""
    if not pattern.startswith("/"):
        return pattern
    parts: list[str] = []
    for part in pattern.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _pivot(pattern: str) -> tuple[str, str]:
    """("above", whole) of "above/./kept": what stands before the dot is not kept."""
    above, pivot, _ = pattern.partition("/./")
    return (cleaned(inside(above)) if pivot else "", pattern)


def _above(path: str, dropped: str) -> str:
    relative = path.removeprefix(dropped).strip("/") if dropped else path
    return relative.rpartition("/")[0]


def _source(tree: Tree, path: str, asked: str) -> Source:
    found = resolve(tree, path)
    if found is None:
        near = _nearest(tree, path)
        hint = f" (did you mean {near}?)" if near else ""
        raise MissingSource(
            "file not found in build context or excluded by .dockerignore: "
            f"stat {cleaned(inside(asked))}: file does not exist{hint}"
        )
    return Source(tree, found[0], found[1], path.rpartition("/")[2])


def _nearest(tree: Tree, path: str) -> str:
    """The name in the deepest directory of the path that is most like the one that is not there."""
    here = ""
    for part in path.split("/"):
        found = resolve(tree, f"{here}/{part}" if here else part)
        if found is None:
            place = resolve(tree, here)
            names = tree.names(place[0]) if place and place[1].is_directory else []
            near = get_close_matches(part, names, n=1, cutoff=0.7)
            return (f"{here}/{near[0]}" if here else near[0]) if near else ""
        here = f"{here}/{part}" if here else part
    return ""


def _matching(tree: Tree, parts: list[str], above: str) -> Iterator[str]:
    """Paths that match, one part of the pattern after the other: ``*`` never crosses a slash.  ``**`` does."""
    part, rest = parts[0], parts[1:]
    place = resolve(tree, above)
    if place is None or not place[1].is_directory:
        return
    if part == "**":
        if rest:
            yield from _matching(tree, rest, above)
        for name in tree.names(place[0]):
            child = f"{above}/{name}" if above else name
            if not rest:
                yield child
            node = tree.node(f"{place[0]}/{name}" if place[0] else name)
            if node is not None and node.is_directory:
                yield from _matching(tree, parts, child)
        return
    expression = matcher(part) if has_wildcards(part) else None
    if expression is None:
        names = [part.replace("\\", "")]
    else:
        names = [name for name in tree.names(place[0]) if expression.match(name)]
    for name in names:
        child = f"{above}/{name}" if above else name
        if rest:
            found = resolve(tree, child, follow=False)
            # a wildcard does not go through links, which would name the same files twice
            if expression is None or (found is not None and found[1].is_directory):
                yield from _matching(tree, rest, child)
        elif resolve(tree, child, follow=False) is not None:
            yield child


def members(source: Source, exclude: Ignore) -> Iterator[tuple[str, Node]]:
    """(path relative to the source, node) of what a source consists of; "" is the source itself."""
    if not source.node.is_directory:
        if not exclude.excludes(source.name):
            yield "", source.node
        return
    yield "", source.node
    for relative, node in walk(source.tree, source.path, source.node):
        if exclude and exclude.excludes(relative) and not (node.is_directory and exclude.has_exceptions):
            continue
        yield relative, node


def digest_of(source: Source, exclude: Ignore) -> str:
    """Hexadecimal SHA-256 of everything that copying a source depends on."""
    running = hashlib.sha256()
    for relative, node in members(source, exclude):
        place = f"{source.path}/{relative}" if relative and source.path else relative or source.path
        # the root of a copied directory is made new: its own mode counts for nothing
        running.update(_line(relative or source.name, node, is_top=not relative))
        if node.is_regular:
            running.update(source.tree.digest(place, node))
    if source.kept is not None:
        running.update(b"kept " + source.kept.encode("utf-8", "surrogateescape"))
    return running.hexdigest()


def file_digests(source: Source, exclude: Ignore, limit: int) -> dict[str, str]:
    """Short digests by path, to tell later what has changed; {} for more than ``limit`` files."""
    found: dict[str, str] = {}
    for relative, node in members(source, exclude):
        if len(found) >= limit:
            return {}
        place = f"{source.path}/{relative}" if relative and source.path else relative or source.path
        running = hashlib.sha256(_line("", node, is_top=not relative and node.is_directory))
        if node.is_regular:
            running.update(source.tree.digest(place, node))
        found[place or "."] = running.hexdigest()[:16]
    return found


def _line(name: str, node: Node, *, is_top: bool) -> bytes:
    mode = 0 if is_top and node.is_directory else node.mode
    text = f"{name}\0{node.kind}\0{mode}\0{node.uid}\0{node.gid}\0{node.size}\0{node.link}\0{node.device}\0"
    parts = [text.encode("utf-8", "surrogateescape")]
    for key, value in node.xattrs:
        parts.append(b"%d %s %d %s" % (len(key), key, len(value), value))
    return b"".join(parts) + b"\n"


def check_several(sources: Sequence[object], keyword: str, *, to_directory: bool, may_be_none: bool = False) -> None:
    """Errors: InvalidParameter, Docker's wording."""
    if not sources and not may_be_none:
        raise InvalidParameter(f"{keyword} failed: no source files were specified")
    if len(sources) > 1 and not to_directory:
        raise InvalidParameter(
            f"When using {keyword} with more than one source file, the destination must be a directory and end with a /"
        )
