"""``corten images --tree``: images under the image whose layers they begin with."""

from __future__ import annotations

from corten.cli.render import short_id
from corten.cli.tabwriter import align
from corten.cli.units import decimal_size
from corten.client.api import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.context import Context

Layers = tuple[str, ...]


class _Node:
    __slots__ = ("children", "document", "layers", "parent")

    def __init__(self, document: dict[str, Any], layers: Layers) -> None:
        self.document = document
        self.layers = layers
        self.parent: _Node | None = None
        self.children: list[_Node] = []

    @property
    def title(self) -> str:
        return ", ".join(self.document.get("RepoTags") or ()) or "<none>"


def _linked(nodes: list[_Node]) -> list[_Node]:
    """Each node under the one with the longest beginning of its layers; the roots, in the order of their names."""
    by_layers: dict[Layers, _Node] = {}
    roots = []
    for node in sorted(nodes, key=lambda node: (len(node.layers), node.title)):
        for length in range(len(node.layers), 0, -1):
            parent = by_layers.get(node.layers[:length])
            if parent is not None:
                node.parent = parent
                parent.children.append(node)
                break
        else:
            roots.append(node)
        by_layers.setdefault(node.layers, node)
    return roots


def _lines(nodes: list[_Node], indent: str, *, is_root: bool) -> list[str]:
    lines = []
    ordered = sorted(nodes, key=lambda node: node.title)
    for node in ordered:
        is_last = node is ordered[-1]
        branch = "" if is_root else ("└─ " if is_last else "├─ ")
        size = node.document["Size"]
        added = size - (node.parent.document["Size"] if node.parent else 0)
        cells = (
            indent + branch + node.title,
            short_id(node.document["Id"]),
            decimal_size(size, 3),
            decimal_size(max(added, 0), 3),
        )
        lines.append("\t".join(cells))
        below = indent if is_root else indent + ("   " if is_last else "│  ")
        lines += _lines(node.children, below, is_root=False)
    return lines


def show_tree(context: Context, documents: list[dict[str, Any]]) -> None:
    """Print the tree; ADDED is what an image has beyond its parent.

    Errors: the daemon's.
    """
    nodes = []
    for document in documents:
        details = context.api.get(path_of("/images/", document["Id"], "/json"))
        nodes.append(_Node(document, tuple((details.get("RootFS") or {}).get("Layers") or ())))
    lines = ["IMAGE\tIMAGE ID\tSIZE\tADDED", *_lines(_linked(nodes), "", is_root=True)]
    context.print(align("\n".join(lines)))
