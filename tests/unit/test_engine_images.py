"""Images as the API sees them: documents, filters, progress and events, over a store of our own."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from corten.dockerapi.container import ContainerConfig
from corten.dockerapi.queries import CommitQuery, ImportQuery
from corten.engine.container import State, Status
from corten.engine.events import Events
from corten.engine.image_documents import committed_config, created_ns, inspected, reference_matches
from corten.engine.images import Images
from corten.engine.metrics import Metrics
from corten.errors import Conflict, InvalidParameter, NotFound
from corten.image.store import Image
from records import record


def image(number, *, tags=(), digests=(), parent="", layers=("base",), sizes=(100,), **config):
    """Image number n was made at second n."""
    return Image(
        id=f"sha256:{number:064x}",
        config={"created": f"1970-01-01T00:00:{number:02d}Z", "architecture": "amd64", "os": "linux", **config},
        layers=layers,
        tags=tags,
        digests=digests,
        size=sum(sizes),
        parent=parent,
        layer_sizes=sizes,
    )


BASE = image(1)
WEB = image(
    2,
    tags=("web:1", "ghcr.io/a/web:2"),
    digests=("web@sha256:" + "d" * 64,),
    parent=BASE.id,
    layers=("base", "top"),
    sizes=(100, 20),
    config={"Labels": {"tier": "front"}, "Cmd": ["run"], "Env": ["A=b"]},
    history=[{"comment": "first"}, {"created_by": "x"}, {"comment": "last"}],
    rootfs={"type": "layers", "diff_ids": ["sha256:" + "1" * 64]},
    variant="v3",
)
LOOSE = image(3, layers=("other",), sizes=(7,))


class FakeStore:
    def __init__(self, *images):
        self.images = list(images or (BASE, WEB, LOOSE))
        self.calls = []
        self.failure = None
        self.archives = self
        self.snapshotter = SimpleNamespace(name="overlay2", layer_data=lambda layer: {"UpperDir": f"/{layer}/diff"})

    def get(self, ref):
        for item in self.images:
            if ref in (item.id, *item.tags, *(tag.partition(":")[0] for tag in item.tags)):
                return item
        raise NotFound(f"No such image: {ref}")

    look_up = get

    def all(self):
        return list(self.images)

    def tagged_ns(self, image_id):
        return 10**9

    def history(self, ref):
        self.get(ref)
        return [{"Id": "x"}]

    def tag(self, source, target):
        self.calls.append(("tag", source, target))
        found = self.get(source)
        self.images.remove(found)
        self.images.append(Image(**{**{n: getattr(found, n) for n in Image.__slots__}, "tags": (*found.tags, target)}))

    def remove(self, ref, *, force, prune, in_use):
        self.calls.append(("remove", ref, force, prune, in_use(self.get(ref).id)))
        return [{"Untagged": "web:1"}, {"Deleted": WEB.id}]

    def prune(self, *, in_use, every, wanted):
        chosen = [item for item in self.images if (every or not item.tags) and wanted(item)]
        return [{"Deleted": item.id} for item in chosen], 42

    def load(self, stream, progress, *, platform=None):
        content = stream.read()
        if content == b"bad":
            raise InvalidParameter("invalid tar archive")
        progress({"status": "Loading layer", "progressDetail": {"current": 1}})
        return ["web:1", WEB.id] if content == b"two" else ["web:1"]

    def save(self, refs, *, format):
        self.calls.append(("save", refs, format))
        yield b"tar"
        yield b"end"

    def import_tar(self, stream, *, reference, changes, message, platform, progress):
        self.calls.append(("import", stream.read(), reference, changes, message, platform))
        progress({"status": "Importing"})
        return LOOSE.id

    def commit(self, container_id, base, config, **rest):
        self.calls.append(("commit", container_id, base, config, rest))
        if self.failure:
            raise self.failure
        return LOOSE.id


class FakeContainers:
    metrics = Metrics()

    def __init__(self, status=Status.EXITED):
        self.container = record(
            id="c" * 64,
            image_id=WEB.id,
            config=ContainerConfig(cmd=["run", "it"], env=["A=b"], user="bob", hostname="h", tty=True, image="web"),
            state=State(status=status),
        )
        self.live = SimpleNamespace(container=self.container, removing=False, lock=asyncio.Lock())
        self.notes = []
        self.pauses = []

    def all(self):
        return [self.container]

    def find(self, reference):
        if reference != "box":
            raise NotFound(f"No such container: {reference}")
        return self.live

    @contextlib.asynccontextmanager
    async def paused(self, live, *, wanted):
        self.pauses.append(wanted)
        yield
        self.pauses.append("over")

    def note_commit(self, *arguments):
        self.notes.append(arguments)


def run(scenario, *, store=None, status=Status.EXITED):
    """The scenario's result and the events that were told."""

    async def whole():
        events, used, containers = Events(), store or FakeStore(), FakeContainers(status)
        subscription = events.subscribe(None, None, {})
        result = await scenario(Images(used, events, containers), used, containers)
        told = []
        while subscription._queue:
            event = await anext(subscription)
            told.append((event["Action"], event["Actor"]["ID"], event["Actor"]["Attributes"].get("name")))
        return result, told

    return asyncio.run(whole())


def shown(filters=None, **options):
    rows, _ = run(lambda images, store, containers: images.list(filters=filters, **options))
    return {row["Id"]: row for row in rows}


def test_rows_newest_first_without_steps_below():
    rows, _ = run(lambda images, *_: images.list())
    assert [row["Id"] for row in rows] == [LOOSE.id, WEB.id]
    assert rows[1] == {
        "Id": WEB.id,
        "ParentId": BASE.id,
        "RepoTags": ["web:1", "ghcr.io/a/web:2"],
        "RepoDigests": ["web@sha256:" + "d" * 64],
        "Created": 2,
        "Size": 120,
        "SharedSize": -1,
        "Labels": {"tier": "front"},
        "Containers": 1,
    }
    assert BASE.id in shown(all=True)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"dangling": ["true"]}, {LOOSE.id}),
        ({"dangling": ["false"]}, {WEB.id}),
        ({"label": ["tier"]}, {WEB.id}),
        ({"label": ["tier=back"]}, set()),
        ({"label!": ["tier"]}, {LOOSE.id}),
        ({"before": [LOOSE.id]}, {WEB.id}),
        ({"since": [BASE.id]}, {WEB.id, LOOSE.id}),
        ({"until": ["3"]}, {WEB.id, LOOSE.id}),
        ({"until": ["2.5"]}, {WEB.id}),
        ({"reference": ["web"]}, {WEB.id}),
        ({"reference": ["nothing"]}, set()),
        ({"reference": ["nothing", "ghcr.io/*/web"]}, {WEB.id}),
    ],
)
def test_list_filters(filters, expected):
    assert set(shown(filters)) == expected


def test_only_the_names_that_were_asked_for_are_shown():
    assert shown({"reference": ["ghcr.io/a/*"]})[WEB.id]["RepoTags"] == ["ghcr.io/a/web:2"]


@pytest.mark.parametrize(
    ("filters", "kind"),
    [
        ({"colour": ["red"]}, InvalidParameter),
        ({"dangling": ["maybe"]}, InvalidParameter),
        ({"until": ["yesterday"]}, InvalidParameter),
        ({"before": ["nothing"]}, NotFound),
    ],
)
def test_bad_filters(filters, kind):
    with pytest.raises(kind):
        shown(filters)


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("busybox:latest", "busybox", True),
        ("busybox:latest", "busybox:latest", True),
        ("busybox:latest", "busy*", True),
        ("busybox:latest", "busybox:1", False),
        ("busybox:latest", "busy", False),
        ("a/busybox:latest", "busybox", False),
        ("a/busybox:latest", "*box", False),
        ("a/busybox:latest", "*/*box", True),
        ("a/busybox:1.2", "a/*:1.*", True),
        ("localhost:5000/x:1", "localhost:5000/x", True),
    ],
)
def test_patterns_of_references(name, pattern, expected):
    assert reference_matches(name, pattern) is expected


def test_when_an_image_was_made():
    assert created_ns(WEB) == 2 * 10**9
    assert created_ns(image(1, created="rubbish")) == 0
    assert created_ns(image(1, created=None)) == 0


def test_inspect():
    found, _ = run(lambda images, *_: images.inspect("web:1"))
    assert found == inspected(WEB, driver="overlay2", graph={"UpperDir": "/top/diff"}, tagged_ns=10**9)
    assert found["Comment"] == "last"
    assert found["Variant"] == "v3"
    assert found["RootFS"] == {"Type": "layers", "Layers": ["sha256:" + "1" * 64]}
    assert found["GraphDriver"] == {"Name": "overlay2", "Data": {"UpperDir": "/top/diff"}}
    assert found["Metadata"] == {"LastTagTime": "1970-01-01T00:00:01Z"}
    assert found["Config"]["Cmd"] == ["run"]
    assert found["Config"]["Volumes"] is None
    bare, _ = run(lambda images, *_: images.inspect(LOOSE.id))
    assert bare["Config"]["Env"] == []
    assert bare["Config"]["Labels"] is None


def test_usage_counts_containers_and_shared_layers():
    rows, _ = run(lambda images, *_: images.usage())
    found = {row["Id"]: (row["SharedSize"], row["Containers"]) for row in rows}
    assert found == {BASE.id: (100, 0), WEB.id: (100, 1), LOOSE.id: (0, 0)}

    async def size(images, *_):
        return images.layers_size()

    assert run(size)[0] == 127


def test_tag():
    async def scenario(images, store, _):
        await images.tag("web:1", "other", "")
        await images.tag("web:1", "ghcr.io/x", "3")
        return store.calls

    calls, told = run(scenario)
    assert calls == [("tag", "web:1", "other:latest"), ("tag", "web:1", "ghcr.io/x:3")]
    assert told == [("tag", WEB.id, "other:latest"), ("tag", WEB.id, "ghcr.io/x:3")]
    with pytest.raises(InvalidParameter):
        run(lambda images, *_: images.tag("web:1", "UPPER", ""))


def test_remove_tells_of_each_name_and_image():
    async def scenario(images, store, _):
        return await images.remove("web:1", force=True, no_prune=True), store.calls

    (rows, calls), told = run(scenario)
    assert rows == [{"Untagged": "web:1"}, {"Deleted": WEB.id}]
    assert calls == [("remove", "web:1", True, False, [("c" * 64, False)])]
    assert told == [("untag", WEB.id, WEB.id), ("delete", WEB.id, WEB.id)]


@pytest.mark.parametrize(
    ("filters", "deleted"),
    [
        ({}, [BASE.id, LOOSE.id]),
        ({"dangling": ["true"]}, [BASE.id, LOOSE.id]),
        ({"dangling": ["false"]}, [BASE.id, WEB.id, LOOSE.id]),
        ({"dangling": ["false"], "label": ["tier=front"]}, [WEB.id]),
        ({"until": ["2"]}, [BASE.id]),
        ({"label": ["nothing"]}, None),
    ],
)
def test_prune(filters, deleted):
    document, told = run(lambda images, *_: images.prune(filters))
    assert document == {
        "ImagesDeleted": [{"Deleted": item} for item in deleted] if deleted else None,
        "SpaceReclaimed": 42,
    }
    assert told[-1][0] == "prune"


@pytest.mark.parametrize("filters", [{"name": ["x"]}, {"until": ["1h", "2h"]}, {"dangling": ["x"]}])
def test_bad_prune_filters(filters):
    with pytest.raises(InvalidParameter):
        run(lambda images, *_: images.prune(filters))


async def sent(*chunks):
    for chunk in chunks:
        yield chunk


def loaded(*chunks, quiet):
    async def scenario(images, *_):
        return [document async for document in images.load(sent(*chunks), quiet)]

    return run(scenario)


def test_load():
    documents, told = loaded(b"tw", b"o", quiet=False)
    assert documents == [
        {"status": "Loading layer", "progressDetail": {"current": 1}},
        {"stream": "Loaded image: web:1\n"},
        {"stream": f"Loaded image ID: {WEB.id}\n"},
    ]
    assert told == [("load", WEB.id, "web:1"), ("load", WEB.id, WEB.id)]
    assert loaded(b"one", quiet=True)[0] == [{"stream": "Loaded image: web:1\n"}]
    with pytest.raises(InvalidParameter, match="invalid tar archive"):
        loaded(b"bad", quiet=True)


def test_save():
    async def scenario(images, store, _):
        return [chunk async for chunk in images.save(["web:1"])], store.calls

    (chunks, calls), told = run(scenario)
    assert chunks == [b"tar", b"end"]
    assert calls == [("save", ["web:1"], "docker")]
    assert told == [("save", WEB.id, "web:1")]

    async def unknown(images, *_):
        await anext(images.save(["web:1", "nothing"]))

    with pytest.raises(NotFound):
        run(unknown)


def test_import():
    query = ImportQuery(repo="new", tag="1", message="m", platform="linux/arm64", changes=["CMD x"])

    async def scenario(images, store, _):
        return [document async for document in images.import_(sent(b"tar"), query)], store.calls

    (documents, calls), told = run(scenario)
    assert documents == [{"status": "Importing"}, {"status": LOOSE.id}]
    assert calls == [("import", b"tar", "new:1", ["CMD x"], "m", "linux/arm64")]
    assert told == [("tag", LOOSE.id, "new:1"), ("import", LOOSE.id, LOOSE.id)]


def test_commit_of_a_running_container_holds_it_still():
    query = CommitQuery(container="box", repo="new", tag="1", comment="c", author="a", changes=["USER x"])
    given = ContainerConfig(env=["B=c"], labels={"l": "v"})

    async def scenario(images, store, containers):
        return await images.commit(query, given), store.calls, containers.pauses, containers.notes

    (document, calls, pauses, notes), told = run(scenario, status=Status.RUNNING)
    assert told == [("tag", LOOSE.id, "new:1")]
    assert document == {"Id": LOOSE.id}
    (name, container_id, base, config, rest) = calls[0]
    assert (name, container_id, base) == ("commit", "c" * 64, WEB.id)
    assert config == {"Cmd": ["run", "it"], "Env": ["B=c"], "User": "bob", "Labels": {"l": "v"}}
    assert rest == {"command": "run it", "author": "a", "comment": "c", "reference": "new:1", "changes": ["USER x"]}
    assert pauses == [True, "over"]
    assert notes[0][1:] == (LOOSE.id, "new:1", "c")


def test_commit_of_a_stopped_container_lets_nothing_start_meanwhile():
    async def scenario(images, store, containers):
        async with containers.live.lock:
            running = asyncio.ensure_future(images.commit(CommitQuery(container="box"), None))
            await asyncio.sleep(0.01)
            assert not store.calls
        await running
        return store.calls, containers.pauses

    (calls, pauses), _ = run(scenario)
    assert len(calls) == 1
    assert pauses == []


def test_commit_refusals():
    with pytest.raises(InvalidParameter, match="container name is required"):
        run(lambda images, *_: images.commit(CommitQuery(container=""), None))
    with pytest.raises(NotFound):
        run(lambda images, *_: images.commit(CommitQuery(container="other"), None))

    async def removing(images, store, containers):
        containers.live.removing = True
        await images.commit(CommitQuery(container="box"), None)

    with pytest.raises(Conflict, match="which is being removed"):
        run(removing)


def test_what_of_a_container_belongs_to_an_image():
    config = ContainerConfig(hostname="h", tty=True, cmd="run", stop_timeout=3, exposed_ports={"80/tcp": {}})
    assert committed_config(config, None) == {"Cmd": "run", "StopTimeout": 3, "ExposedPorts": {"80/tcp": {}}}
    assert committed_config(config, ContainerConfig(cmd=["other"], hostname="x"))["Cmd"] == ["other"]
