"""Files of a client: what comes of its directory, what goes into it, and clients that lie about either."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from buildkit_client import DIRECTORY, SYMLINK, Sender, Target, stat

from corten.build.context import Context
from corten.build.contexts import narrowed
from corten.build.selection import find_sources, followed
from corten.build.small_files import read
from corten.build.tree import resolve, walk
from corten.build.workshop import Cancellation, Cancelled
from corten.buildkit.context import SessionContext, read_files
from corten.buildkit.filesend import send_file, send_tree
from corten.buildkit.filesync import Wanted
from corten.buildkit.listing import Entry, Listing
from corten.buildkit.narrow import NarrowContext
from corten.buildkit.proto.fsutil_pb2 import Packet, Stat
from corten.buildkit.remembered import Remembered
from corten.buildkit.sessions import Session, SessionInfo
from corten.errors import Conflict, CortenError, InvalidParameter, NotFound, NotImplementedYet, Unavailable
from corten.grpc.client import Channel
from corten.grpc.server import Handler, ServerCall, ServerLink, serve
from corten.grpc.status import Code, GrpcError

HOUR_AGO = 10**18
FILES = {"a": b"first", "d/b": b"x" * 100_000, "d/c": b"", "d/e/f": b"deep"}
LISTED = [
    stat("a", 0o644, FILES["a"]),
    stat("d", DIRECTORY | 0o755),
    stat("d/b", 0o755 | 1 << 23, FILES["d/b"]),
    stat("d/c", 0o600, b""),
    stat("d/e", DIRECTORY | 0o700),
    stat("d/e/f", 0o644, FILES["d/e/f"]),
    stat("d/link", SYMLINK | 0o777, link="../a"),
    stat("d-", 0o644),
]


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await work()

    asyncio.run(bounded())


@contextlib.asynccontextmanager
async def client(handlers: Mapping[str, Handler], key: str = "key") -> AsyncIterator[tuple[Session, ServerLink]]:
    """A session whose other side serves these handlers."""
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_unix_connection(asyncio.Protocol, sock=theirs)
    link = serve(transport, handlers)
    transport, _ = await loop.create_unix_connection(asyncio.Protocol, sock=ours)
    channel = Channel(transport)
    info = SessionInfo("id", "name", key, frozenset(path.lower() for path in handlers))
    try:
        yield Session(info, channel), link
    finally:
        channel.close()
        await asyncio.wait([channel.closed, link.closed])


@contextlib.asynccontextmanager
async def opened(
    session: Session, scratch: Path, known: Remembered | None = None, **wanted: Any
) -> AsyncIterator[SessionContext]:
    session.remembered = known or session.remembered
    made = await SessionContext.open(session, Wanted(name="context", **wanted), scratch)
    try:
        yield made
    finally:
        made.close()


def content(context: SessionContext | NarrowContext, path: str) -> bytes:
    """In a thread."""
    node = context.node(path)
    assert node is not None
    return b"".join(context.chunks(path, node))


def digest(context: SessionContext, path: str) -> bytes:
    node = context.node(path)
    assert node is not None
    return context.digest(path, node)


# -- what comes ------------------------------------------------------------------------------------------------------


def test_a_directory_is_listed_and_nothing_is_asked_for(tmp_path: Path) -> None:
    sender = Sender(LISTED, FILES)

    def look(context: SessionContext) -> None:
        root = context.node("")
        assert root is not None
        assert [path for path, _ in walk(context, "", root)] == [
            "a", "d", "d/b", "d/c", "d/e", "d/e/f", "d/link", "d-",
        ]  # fmt: skip
        node = context.node("d/b")
        assert node is not None
        assert (node.mode, node.size, node.mtime_ns, node.uid, node.gid) == (0o4755, 100_000, HOUR_AGO, 0, 0)
        found = resolve(context, "d/link")
        assert found is not None
        assert found[0] == "a"

    async def work() -> None:
        async with client(sender.handlers) as (session, _):
            async with opened(session, tmp_path) as context:
                look(context)
            while not sender.finished:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    run(work)
    assert sender.asked == []


def test_contents_come_when_they_are_needed(tmp_path: Path) -> None:
    sender = Sender(LISTED, FILES)

    async def work() -> None:
        async with client(sender.handlers) as (session, _), opened(session, tmp_path) as context:
            assert await asyncio.to_thread(content, context, "d/e/f") == b"deep"
            assert sender.asked == ["d/e/f"]
            assert await asyncio.to_thread(content, context, "d/b") == FILES["d/b"]
            assert await asyncio.to_thread(digest, context, "d/b") == hashlib.sha256(FILES["d/b"]).digest()
            assert await asyncio.to_thread(content, context, "d/c") == b""
            assert await asyncio.to_thread(digest, context, "d/c") == hashlib.sha256().digest()
            assert await asyncio.to_thread(read, context, "d/link") == b"first"
            assert context.transferred == sum(map(len, FILES.values()))
        assert sorted(sender.asked) == ["a", "d/b", "d/e/f"]

    run(work)


def test_many_threads_ask_at_once(tmp_path: Path) -> None:
    files = {f"f{number:04}": str(number).encode() * 50 for number in range(1500)}
    sender = Sender([stat(path, 0o644, data) for path, data in files.items()], files)

    async def work() -> None:
        async with client(sender.handlers) as (session, _), opened(session, tmp_path) as context:
            found = await asyncio.gather(*(asyncio.to_thread(content, context, path) for path in files))
            assert found == list(files.values())

    run(work)
    assert sorted(sender.asked) == list(files)  # each once


def test_unchanged_files_are_not_sent_again(tmp_path: Path) -> None:
    known = Remembered()

    async def build(sender: Sender, key: str = "key") -> bytes:
        async with client(sender.handlers, key) as (session, _), opened(session, tmp_path, known) as context:
            return await asyncio.to_thread(digest, context, "a")

    async def work() -> None:
        first, same = Sender(LISTED, FILES), Sender(LISTED, FILES)
        assert await build(first) == await build(same) == hashlib.sha256(b"first").digest()
        assert first.asked
        assert not same.asked
        changed = Sender([stat("a", 0o644, b"other", mtime=HOUR_AGO + 1)], {"a": b"other"})
        assert await build(changed) == hashlib.sha256(b"other").digest()
        stranger, nobody = Sender(LISTED, FILES), Sender(LISTED, FILES)
        await build(stranger, "another key")
        assert stranger.asked
        await build(nobody, "")
        await build(nobody, "")
        assert nobody.asked.count("a") == 2

    run(work)


def test_what_is_listed_again_is_not_read_again(tmp_path: Path) -> None:
    known = Remembered()
    nodes = []

    async def work() -> None:
        for listed in (LISTED, [*LISTED[:2], stat("d/b", 0o644, b"new", mtime=HOUR_AGO + 1)]):
            async with client(Sender(listed).handlers) as (session, _), opened(session, tmp_path, known) as context:
                nodes.append([context.node(path) for path in ("a", "d", "d/b")])

    run(work)
    assert all(node is not None for node in nodes[0])
    assert [one is other for one, other in zip(*nodes, strict=True)] == [True, True, False]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corten.buildkit.remembered.MAX_ENTRIES", 8)
    remembered = Remembered()
    first = remembered.directory("key", "first")
    entry = Entry(stat("a"))
    for number in range(20):
        first.put(b"%d" % number, entry)
        assert len(first) <= 8
    assert first.get(b"19") is entry
    assert first.get(b"0") is None
    first.put(b"x" * 1000, entry)
    assert first.get(b"x" * 1000) is None
    second = remembered.directory("key", "second")
    for number in range(6):
        second.put(b"%d" % number, entry)
    assert remembered.directory("key", "second") is second
    assert remembered.directory("key", "first") is not first  # it had gone for the other one's sake


def test_a_remembered_content_that_is_another_one_now(tmp_path: Path) -> None:
    """The file's time was put back: what was said of it, and of others, is asked for anew by whoever built on it."""
    known = Remembered()
    changed = {**FILES, "a": b"FIRST", "d/e/f": b"DEEP"}

    async def work() -> None:
        async with client(Sender(LISTED, FILES).handlers) as (session, _), opened(session, tmp_path, known) as context:
            for path in ("a", "d/e/f"):
                await asyncio.to_thread(digest, context, path)
        async with (
            client(Sender(LISTED, changed).handlers) as (session, _),
            opened(session, tmp_path, known) as context,
        ):
            for path in ("a", "d/e/f"):
                assert await asyncio.to_thread(digest, context, path) == hashlib.sha256(FILES[path]).digest()
            assert context.revision == 0
            assert await asyncio.to_thread(content, context, "a") == b"FIRST"
            assert context.revision == 1
            for path in ("a", "d/e/f"):
                assert await asyncio.to_thread(digest, context, path) == hashlib.sha256(changed[path]).digest()
            assert context.revision == 1

    run(work)


def test_patterns_go_as_metadata(tmp_path: Path) -> None:
    sender = Sender([])

    async def work() -> None:
        async with client(sender.handlers) as (session, _):
            async with opened(session, tmp_path, include=["a", "b/**"], exclude=["*.tmp", "ü +%"], follow=["x"]):
                pass

    run(work)
    found = {name: sender.metadata[name] for name in sender.metadata if name.rpartition("-")[2] in
             ("patterns", "encoded", "followpaths", "name")}  # fmt: skip
    assert found == {
        "include-patterns": ["a", "b/**"],
        "exclude-patterns": ["%2A.tmp", "%C3%BC+%2B%25"],
        "exclude-patterns-encoded": ["1"],
        "followpaths": ["x"],
        "dir-name": ["context"],
    }


def test_hard_links_are_one_content(tmp_path: Path) -> None:
    sender = Sender([stat("a", 0o644, b"same"), stat("b", 0o644, link="a")], {"a": b"same"})

    async def work() -> None:
        async with client(sender.handlers) as (session, _), opened(session, tmp_path) as context:
            assert await asyncio.to_thread(content, context, "b") == b"same"
            assert await asyncio.to_thread(content, context, "a") == b"same"

    run(work)
    assert sender.asked == ["a"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    sender = Sender([Stat(path=b"\xff\xfe", mode=0o644, size=0)])

    async def work() -> None:
        async with client(sender.handlers) as (session, _), opened(session, tmp_path) as context:
            assert context.names("") == ["\udcff\udcfe"]

    run(work)


def test_a_few_files_at_once(tmp_path: Path) -> None:
    sender = Sender([stat("Dockerfile", SYMLINK, link="real"), stat("real", 0o644, b"FROM x")], {"real": b"FROM x"})

    async def work() -> None:
        async with client(sender.handlers) as (session, _):
            wanted = Wanted(name="dockerfile", follow=["Dockerfile", "Dockerfile.dockerignore"])
            found = await read_files(session, wanted, wanted.follow, tmp_path)
            assert found == {"Dockerfile": b"FROM x"}

    run(work)


def test_a_client_that_sends_no_files(tmp_path: Path) -> None:
    async def work() -> None:
        async with client({}) as (session, _):
            with pytest.raises(NotImplementedYet, match="sends no files"):
                await SessionContext.open(session, Wanted(name="context"), tmp_path)

    run(work)


def test_a_directory_that_the_client_does_not_give(tmp_path: Path) -> None:
    async def refuse(call: ServerCall) -> None:
        raise GrpcError(Code.NOT_FOUND, 'no access allowed to dir "context"')

    async def work() -> None:
        async with client({"/moby.filesync.v1.FileSync/DiffCopy": refuse}) as (session, _):
            with pytest.raises(NotFound, match="no access allowed"):
                await SessionContext.open(session, Wanted(name="context"), tmp_path)

    run(work)


# -- clients that lie ------------------------------------------------------------------------------------------------

HOSTILE = {
    "absolute": [stat("/etc/passwd")],
    "upwards": [stat("../x")],
    "upwards within": [stat("a", DIRECTORY), stat("a/../../x")],
    "dot": [stat(".")],
    "nothing": [stat("")],
    "slash at the end": [stat("a/", DIRECTORY)],
    "zero byte": [stat("a\0b")],
    "unsorted": [stat("b"), stat("a")],
    "twice": [stat("a"), stat("a")],
    "below a file": [stat("a"), stat("a/b")],
    "below a link": [stat("a", SYMLINK, link="/etc"), stat("a/b")],
    "below nothing": [stat("a/b")],
    "back into a directory": [stat("a", DIRECTORY), stat("a/x"), stat("b"), stat("a/y")],
    "link to nothing": [stat("a", SYMLINK)],
    "hard link out": [stat("a", link="../../etc/shadow")],
    "hard link forward": [stat("a", link="b"), stat("b")],
    "hard link to a directory": [stat("a", DIRECTORY), stat("b", link="a")],
    "two kinds": [stat("a", DIRECTORY | SYMLINK, link="x")],
    "irregular": [stat("a", 1 << 19)],
    "socket": [stat("a", 1 << 24)],
    "negative size": [Stat(path=b"a", mode=0o644, size=-1)],
    "huge size": [Stat(path=b"a", mode=0o644, size=1 << 60)],
    "impossible device": [Stat(path=b"a", mode=1 << 26, devmajor=-1)],
    "long name": [stat("a" * 5000)],
    "attribute with a zero byte": [Stat(path=b"a", mode=0o644, xattrs={"user.a\0b": b""})],
    "huge attribute": [Stat(path=b"a", mode=0o644, xattrs={"user.a": bytes(65537)})],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_listings_that_are_refused(name: str, tmp_path: Path) -> None:
    sender = Sender(HOSTILE[name])

    async def work() -> None:
        async with client(sender.handlers) as (session, _):
            with pytest.raises(InvalidParameter, match="listing is invalid"):
                await SessionContext.open(session, Wanted(name="context"), tmp_path)
            while not sender.error:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    run(work)
    assert "listing is invalid" in sender.error


def test_attributes_count_as_names_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corten.buildkit.listing.MAX_NAMES", 150_000)
    listing = Listing()
    stats = [Stat(path=b"%09d" % number, mode=0o644, xattrs={"user.a": bytes(60_000)}) for number in range(3)]
    listing.take(Entry(stats[0]))
    listing.take(Entry(stats[1]))
    with pytest.raises(InvalidParameter, match="too many files"):
        listing.take(Entry(stats[2]))


def test_an_endless_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corten.buildkit.listing.MAX_ENTRIES", 1000)

    async def endless(call: ServerCall) -> None:
        number = 0
        while True:
            number += 1
            await call.send(Packet(type=Packet.PACKET_STAT, stat=stat(f"{number:09}")).SerializeToString())

    async def work() -> None:
        async with client({"/moby.filesync.v1.FileSync/DiffCopy": endless}) as (session, _):
            with pytest.raises(InvalidParameter, match="too many files"):
                await SessionContext.open(session, Wanted(name="context"), tmp_path)

    run(work)


class Liar(Sender):
    """Says how it answers."""

    def __init__(self, *packets: Packet, end: bool = True) -> None:
        super().__init__([stat("a", 0o644, b"12345"), stat("b", 0o644, b"123")])
        self.contents = {"a": b"", "b": b""}
        self.packets = packets

    async def answer(self, call: ServerCall, number: int, content: bytes) -> None:
        if number == 0:
            for packet in self.packets:
                await call.send(packet.SerializeToString())


def data(number: int, content: bytes) -> Packet:
    return Packet(type=Packet.PACKET_DATA, ID=number, data=content)


@pytest.mark.parametrize(
    ("packets", "kind", "message"),
    [
        ([data(0, b"123456")], Conflict, "a was changed"),
        ([data(0, b"1234"), data(0, b"")], Conflict, "a was changed"),
        ([data(7, b"x")], InvalidParameter, "nobody has asked for"),
        ([data(0, b"12345"), data(0, b""), data(0, b"x")], InvalidParameter, "nobody has asked for"),
        ([Packet(type=Packet.PACKET_STAT, stat=stat("z"))], InvalidParameter, "something else than contents"),
        ([Packet(type=Packet.PACKET_ERR, data=b"disk on fire")], InvalidParameter, "disk on fire"),
        ([Packet(type=Packet.PACKET_FIN)], Unavailable, "ended the transfer"),
    ],
    ids=["longer", "shorter", "unknown number", "twice", "listing again", "error", "end"],
)
def test_contents_that_are_refused(
    packets: list[Packet], kind: type[CortenError], message: str, tmp_path: Path
) -> None:
    sender = Liar(*packets)

    async def work() -> None:
        async with client(sender.handlers) as (session, _), opened(session, tmp_path) as context:
            with pytest.raises(kind, match=message):  # noqa: PT012
                await asyncio.to_thread(content, context, "a")
                await asyncio.to_thread(content, context, "b")

    run(work)


def test_a_client_that_leaves_while_it_sends(tmp_path: Path) -> None:
    async def work() -> None:
        async with client(Liar().handlers) as (session, link), opened(session, tmp_path) as context:
            waiting = asyncio.ensure_future(asyncio.to_thread(content, context, "a"))
            await asyncio.sleep(0.1)
            link.abort()
            with pytest.raises(Unavailable):
                await waiting

    run(work)


def test_a_build_that_ends_while_a_client_sends(tmp_path: Path) -> None:
    async def work() -> None:
        async with client(Liar().handlers) as (session, _):
            async with opened(session, tmp_path) as context:
                waiting = asyncio.ensure_future(asyncio.to_thread(content, context, "a"))
                await asyncio.sleep(0.1)
            with pytest.raises(Unavailable, match="the build is over"):
                await waiting

    run(work)


class Slow(Sender):
    """Sends the first half of a file, and the rest when it is told to."""

    def __init__(self, content: bytes, rest: bytes | None = None) -> None:
        super().__init__([stat("a", 0o644, content)], {"a": content})
        self.rest = content[len(content) // 2 :] if rest is None else rest
        self.go_on = asyncio.Event()

    async def answer(self, call: ServerCall, number: int, content: bytes) -> None:
        await call.send(data(number, content[: len(content) // 2]).SerializeToString())
        await self.go_on.wait()
        await call.send(data(number, self.rest).SerializeToString())
        await call.send(data(number, b"").SerializeToString())


def test_a_large_file_is_read_while_it_comes(tmp_path: Path) -> None:
    async def work() -> None:
        whole = b"1" * 1_000_000 + b"2" * 1_000_000
        slow = Slow(whole)
        async with client(slow.handlers) as (session, _), opened(session, tmp_path) as context:
            node = context.node("a")
            assert node is not None
            chunks = context.chunks("a", node)
            first = await asyncio.to_thread(next, chunks)
            assert first == whole[: len(first)]
            slow.go_on.set()
            assert first + await asyncio.to_thread(b"".join, chunks) == whole

    run(work)


def test_what_was_read_while_it_came_is_no_file_when_its_end_is_wrong(tmp_path: Path) -> None:
    async def work() -> None:
        for rest in (b"2" * 999_999, b"2" * 1_000_001):
            slow = Slow(b"1" * 1_000_000 + b"2" * 1_000_000, rest)
            slow.go_on.set()
            async with client(slow.handlers) as (session, _), opened(session, tmp_path) as context:
                with pytest.raises(Conflict, match="a was changed"):
                    await asyncio.to_thread(content, context, "a")

    run(work)


# -- what goes -------------------------------------------------------------------------------------------------------


def test_an_archive_for_the_client() -> None:
    target = Target()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"a" * 600_000
        yield b"b"

    async def work() -> None:
        async with client({"/moby.filesync.v1.FileSend/DiffCopy": target.take_bytes}) as (session, _):
            await send_file(session, 2, chunks(), {"image.name": "x:1"})

    run(work)
    assert target.data == b"a" * 600_000 + b"b"
    assert target.metadata["buildkit-attachable-exporter-id"] == ["2"]
    assert target.metadata["exporter-md-image.name"] == ["x:1"]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Context]:
    made = Context(tmp_path)
    for path, data in FILES.items():
        made.add_file(path, data, 0o640)
    yield made
    made.close()


def test_a_tree_for_the_client(tree: Context) -> None:
    target = Target()

    async def work() -> None:
        async with client({"/moby.filesync.v1.FileSend/DiffCopy": target.take_tree}) as (session, _):
            await send_tree(session, 1, tree, mirror=True)

    run(work)
    assert target.contents == FILES
    assert [item.path.decode() for item in target.stats] == ["a", "d", "d/b", "d/c", "d/e", "d/e/f"]
    assert target.stats[1].mode == DIRECTORY | 0o755
    assert target.stats[0].mode == 0o640
    assert target.metadata["buildkit-exporter-multi-platform"] == ["1"]


def test_a_client_that_cannot_take_the_result(tree: Context) -> None:
    async def refuse(call: ServerCall) -> None:
        await call.receive()
        await call.send(Packet(type=Packet.PACKET_ERR, data=b"read-only file system").SerializeToString())
        await call.receive()

    async def exists(call: ServerCall) -> None:
        raise GrpcError(Code.ALREADY_EXISTS, "target already exists")

    async def greedy(call: ServerCall) -> None:
        await call.send(Packet(type=Packet.PACKET_REQ, ID=77).SerializeToString())
        while await call.receive():
            pass

    async def work() -> None:
        path = "/moby.filesync.v1.FileSend/DiffCopy"
        async with client({path: refuse}) as (session, _):
            with pytest.raises(InvalidParameter, match="read-only file system"):
                await send_tree(session, 0, tree)
        async with client({path: exists}) as (session, _):
            with pytest.raises(Conflict, match="target already exists"):
                await send_tree(session, 0, tree)
        async with client({path: greedy}) as (session, _):
            with pytest.raises(InvalidParameter, match="the file 77"):
                await send_tree(session, 0, tree)
        async with client({}) as (session, _):
            with pytest.raises(NotImplementedYet, match="takes no results"):
                await send_tree(session, 0, tree)

    run(work)


def test_a_client_that_has_all_and_does_not_end_the_call(tree: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corten.buildkit.filesend._FAREWELL_S", 0.1)

    async def lingers(call: ServerCall) -> None:
        await Target().take_tree(call)
        await asyncio.Event().wait()

    async def work() -> None:
        async with client({"/moby.filesync.v1.FileSend/DiffCopy": lingers}) as (session, _):
            await asyncio.wait_for(send_tree(session, 0, tree), 10)

    run(work)


# -- parts of a directory --------------------------------------------------------------------------------------------


class Directory:
    """A client that keeps to the paths that it is told to follow, for names without links and wildcards."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files
        self.followed: list[list[str]] = []

    async def send(self, call: ServerCall) -> None:
        wanted = list(call.metadata.get("followpaths", ()))
        self.followed.append(wanted)
        chosen = {
            path: data
            for path, data in self.files.items()
            if not wanted or any(path == item or path.startswith(f"{item}/") for item in wanted)
        }
        above = {"/".join(path.split("/")[:count]) for path in chosen for count in range(1, path.count("/") + 1)}
        listed = [stat(path, 0o644, data) for path, data in chosen.items()]
        listed += [stat(path, DIRECTORY | 0o755) for path in above]
        await Sender(sorted(listed, key=lambda item: item.path.split(b"/")), chosen).send(call)


def test_instructions_have_their_own_parts_listed(tmp_path: Path) -> None:
    directory = Directory({"src/a": b"1", "src/b/c": b"2", "other/x": b"3", "readme": b"4"})

    async def work() -> None:
        async with client({"/moby.filesync.v1.FileSync/DiffCopy": directory.send}) as (session, _):

            async def load(follow: Sequence[str]) -> SessionContext:
                return await SessionContext.open(session, Wanted(name="context", follow=follow), tmp_path)

            context = NarrowContext(asyncio.get_running_loop(), load, Cancellation())

            def use() -> None:
                part = narrowed(context, ["./src/"])
                assert part.names("") == ["src"]
                assert [item.path for item in find_sources(part, ["src/*"])] == ["src/a", "src/b"]
                assert narrowed(context, ["/src"]) is part
                assert find_sources(narrowed(context, ["readme"]), ["readme"])[0].node.size == 1
                assert directory.followed == [["src"], ["readme"]]
                whole = narrowed(context, ["."])
                assert whole.names("") == ["other", "readme", "src"]
                assert narrowed(context, ["other/x"]) is whole
                assert context.names("src/b") == ["c"]
                assert len(directory.followed) == 3

            await asyncio.to_thread(use)
            context.close()

    run(work)


def test_a_cancelled_build_waits_for_no_client(tmp_path: Path) -> None:
    """Neither for a listing that does not come, nor for contents."""

    async def silent(call: ServerCall) -> None:
        await call.receive()

    async def scene(send: Handler, use: Callable[[NarrowContext], object]) -> None:
        async with client({"/moby.filesync.v1.FileSync/DiffCopy": send}) as (session, _):

            async def load(follow: Sequence[str]) -> SessionContext:
                return await SessionContext.open(session, Wanted(name="context", follow=follow), tmp_path)

            cancellation = Cancellation()
            context = NarrowContext(asyncio.get_running_loop(), load, cancellation)
            waiting = asyncio.ensure_future(asyncio.to_thread(use, context))
            await asyncio.sleep(0.2)
            assert not waiting.done()
            cancellation.cancel()
            with pytest.raises(Cancelled):
                await waiting
            context.close()

    run(lambda: scene(silent, lambda context: context.names("")))
    run(lambda: scene(Liar().send, lambda context: content(context, "a")))


@pytest.mark.parametrize(
    ("patterns", "paths"),
    [
        ([], ()),
        (["."], ()),
        (["/"], ()),
        (["a", "b"], ("a", "b")),
        (["b/../a/"], ("a",)),
        (["/../a"], ("a",)),
        (["a/./b"], ("a/b",)),
        (["src/*.go"], ("src/*.go",)),
        (["src/**/x"], ("src",)),
        (["**/x"], ()),
        (["a", "!b"], ()),
        ([" a"], ()),
    ],
)
def test_what_a_client_has_to_list(patterns: list[str], paths: tuple[str, ...]) -> None:
    assert followed(patterns) == paths


def test_patterns_that_lead_out() -> None:
    with pytest.raises(InvalidParameter, match="outside the build context"):
        followed(["../x"])
