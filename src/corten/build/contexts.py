"""Where the files of a build come from: its own context, and those that its client gives names.

A name stands for a stage, for an image of FROM, or for a source of COPY and of mounts, in front of what the Dockerfile
means by it.  Source: docs.docker.com, "docker buildx build", ``--build-context``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from corten.build.tree import Tree
from corten.oci import reference


class BuildContext(Tree, Protocol):
    """A tree that knows where its Dockerfile is.  Thread-safe."""

    def find_dockerfile(self, name: str) -> bytes | None:
        """Its content; "Dockerfile" may be written in lower case."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Narrowable(Protocol):
    """A tree that is far away: it has no more of it listed than somebody needs."""

    def narrowed(self, patterns: Sequence[str]) -> Tree:
        """A tree that has everything that the patterns of a COPY can mean; of other files it need not know.

        patterns: none for the whole tree
        """
        ...


@runtime_checkable
class Giving(Protocol):
    """A tree that has large files of its own on the disk, which are of no use to it when they have been read."""

    def given(self, path: str) -> int | None:
        """A descriptor, of the tree's, of a file without a name that holds a content: the caller may give it a name
        and attributes and must leave the content alone.  None when there is none, or somebody has it.
        """
        ...


@runtime_checkable
class Revised(Protocol):
    """A tree that tells digests from memory, and may learn that one was wrong when it has the content."""

    @property
    def revision(self) -> int:
        """How often that was so: whoever has asked for digests before has to ask again."""
        ...


def revision(trees: Iterable[Tree]) -> int:
    return sum(tree.revision for tree in trees if isinstance(tree, Revised))


def narrowed(tree: Tree, patterns: Sequence[str]) -> Tree:
    return tree.narrowed(patterns) if isinstance(tree, Narrowable) else tree


@dataclass(frozen=True, slots=True)
class NamedContexts:
    """trees: files; images: references of images"""

    trees: Mapping[str, Tree] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)

    def tree(self, name: str) -> Tree | None:
        return next((self.trees[key] for key in _spellings(name) if key in self.trees), None)

    def image(self, name: str) -> str:
        """The reference that the name stands for, "" without one."""
        return next((self.images[key] for key in _spellings(name) if key in self.images), "")

    def __contains__(self, name: str) -> bool:
        return self.tree(name) is not None or bool(self.image(name))


def _spellings(name: str) -> Iterator[str]:
    """A name, and what an image's name is written as otherwise."""
    yield name
    yield name.lower()
    parsed = reference.try_parse(name)
    if parsed is not None:
        tagged = parsed.with_default_tag()
        yield from (parsed.familiar, tagged.familiar, tagged.canonical, parsed.canonical)
