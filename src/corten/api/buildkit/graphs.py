"""Graphs of one node, which is all that this engine makes or takes: a result of its own, or a source.

A client that builds several targets gives one's result to another as such a graph.  Source: moby/buildkit, solver/pb: a
definition is a list of serialized operations, the last of which has the wanted one as its input.
"""

from __future__ import annotations

import fnmatch
import stat
from collections import OrderedDict

from corten.build.tree import Node, Tree, resolve
from corten.buildkit.proto import control_pb2 as pb
from corten.buildkit.wire import parsed
from corten.errors import InvalidParameter, NotFound
from corten.image import tarheader as header
from corten.oci.digest import digest_of

RESULT = "corten-result://"
_REMEMBERED = 256
_MAX_FILE = 16 << 20
Graphs = OrderedDict[str, str]


def remember(graphs: Graphs, name: str, image: str) -> None:
    """For other solves of the same client: which image a result is."""
    graphs[name] = image
    while len(graphs) > _REMEMBERED:
        graphs.popitem(last=False)


def of_result(name: str) -> pb.Definition:
    source = pb.Op(source=pb.SourceOp(identifier=f"{RESULT}{name}")).SerializeToString()
    last = pb.Op(inputs=[pb.Input(digest=digest_of(source), index=0)]).SerializeToString()
    made = pb.Definition(ops=[source, last])
    for operation in made.ops:
        made.metadata[digest_of(operation)].SetInParent()  # clients take a graph without metadata for none
    return made


def source_of(definition: pb.Definition, name: str) -> pb.SourceOp:
    """The source that a graph is.

    name: of the context that it stands for
    Errors: InvalidParameter for any other graph.
    """
    operations = [parsed(pb.Op, data) for data in definition.ops]
    sources = [item.source for item in operations if item.HasField("source")]
    if len(operations) != 2 or len(sources) != 1 or len(operations[-1].inputs) != 1:
        raise InvalidParameter(f"the context {name} is a build graph (LLB), which is not supported")
    return sources[0]


# -- files ------------------------------------------------------------------------------------------------------------


def _found(tree: Tree | None, path: str) -> tuple[Tree, str, Node]:
    found = resolve(tree, path) if tree is not None else None
    if tree is None or found is None:
        raise NotFound(f"{path}: no such file or directory")
    return tree, *found


def read_file(tree: Tree | None, path: str, offset: int, length: int) -> bytes:
    """Errors: NotFound, InvalidParameter (no file, or a large one)."""
    tree, place, node = _found(tree, path)
    if not node.is_regular:
        raise InvalidParameter(f"{path} is no regular file")
    end = offset + length if length else node.size
    if min(end, node.size) - offset > _MAX_FILE:
        raise InvalidParameter(f"{path} has {node.size} bytes, {_MAX_FILE} can be read at once")
    content = b"".join(tree.chunks(place, node)) if node.size <= _MAX_FILE * 4 else b""
    if len(content) != node.size:
        raise InvalidParameter(f"{path} has {node.size} bytes and is too large to be read")
    return content[offset:end]


_GO_KINDS = {
    header.DIRECTORY: 1 << 31, header.SYMLINK: 1 << 27, header.FIFO: 1 << 25,
    header.CHARACTER: 1 << 26 | 1 << 21, header.BLOCK_DEVICE: 1 << 26,
}  # fmt: skip
_GO_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


def _stat(path: str, node: Node) -> pb.FileStat:
    """mode: Go's ``os.FileMode``"""
    mode = (node.mode & 0o777) | _GO_KINDS.get(node.kind, 0)
    mode |= sum(bit for flag, bit in _GO_BITS if node.mode & flag)
    return pb.FileStat(
        path=path, mode=mode, uid=node.uid, gid=node.gid, size=node.size, mod_time=node.mtime_ns, linkname=node.link
    )


def stat_file(tree: Tree | None, path: str) -> pb.FileStat:
    """Errors: NotFound."""
    _, place, node = _found(tree, path)
    return _stat(place.rpartition("/")[2], node)


def read_directory(tree: Tree | None, path: str, pattern: str) -> list[pb.FileStat]:
    """Errors: NotFound, InvalidParameter (no directory)."""
    tree, place, node = _found(tree, path)
    if not node.is_directory:
        raise InvalidParameter(f"{path} is no directory")
    entries = []
    for name in tree.names(place):
        inner = tree.node(f"{place}/{name}" if place else name)
        if inner is not None and (not pattern or fnmatch.fnmatchcase(name, pattern)):
            entries.append(_stat(name, inner))
    return entries
