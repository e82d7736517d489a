"""Lists as they are printed."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest

from corten.cli.commands import container_list, image, stats, volume
from corten.cli.commands.container_list import ContainerRow, displayed_ports
from corten.cli.context import Context
from corten.cli.gotemplate import TemplateError
from corten.cli.render import Kind, Listing, ellipsis, label_title, short_id
from corten.cli.tabwriter import align


@pytest.mark.parametrize(
    ("text", "aligned"),
    [
        ("", ""),
        ("a\tb", "a         b"),
        ("a\tb\nlonger than ten\tc", "a                 b\nlonger than ten   c"),
        ("1\t\t3", "1                   3"),
        # a line without the cell ends the column
        ("a very long cell\tx\nplain\nb\ty", "a very long cell   x\nplain\nb         y"),
        ("ä\tx", "ä         x"),
        ("漢字\tx", "漢字      x"),
    ],
)
def test_columns(text: str, aligned: str) -> None:
    assert align(text) == aligned


def test_columns_of_top_and_version() -> None:
    assert align("UID\tPID\nroot\t1", least=20) == "UID                 PID\nroot                1"
    assert align(" A:\tx", least=5, padding=1) == " A:  x"


@pytest.mark.parametrize(
    ("text", "width", "cut"),
    [
        ("short", 20, "short"),
        ("exactly-ten", 11, "exactly-ten"),
        ("a longer text", 8, "a longe…"),
        ("漢字漢字漢字", 6, "漢字…"),
    ],
)
def test_ellipsis(text: str, width: int, cut: str) -> None:
    assert ellipsis(text, width) == cut


def test_ids_and_titles() -> None:
    assert short_id("sha256:0123456789abcdef") == "0123456789ab"
    assert short_id("0123456789abcdef") == "0123456789ab"
    assert label_title("com.example.some-long_name") == "some long name"


def container(**changes: Any) -> dict[str, Any]:
    return {
        "Id": "7aa9ce245ffe7e738d5e4c92f7d4f803999092543840d9398f870b9fb1f379f8",
        "Names": ["/web", "/other/alias"],
        "Image": "nginx",
        "ImageID": "sha256:07b4bb32500658adb8a0e119e55dc1af982d31ce4737503f9f177c54fb4dd4e3",
        "Command": "nginx -g 'daemon off;'",
        "Created": int(time.time()) - 7300,
        "Ports": [],
        "Labels": {"b": "2", "com.example.role": "front"},
        "State": "running",
        "Status": "Up 2 hours (healthy)",
        "NetworkSettings": {"Networks": {"host": {}}},
        "Mounts": [{"Name": "data-volume-with-a-long-name", "Driver": "local"}, {"Source": "/srv"}],
        **changes,
    }


def listed(listing: Listing, *documents: dict[str, Any], trunc: bool = True) -> str:
    return listing.text(ContainerRow(document, trunc=trunc) for document in documents)


def test_containers() -> None:
    other = container(
        Id="f" * 64,
        Names=["/job"],
        Image="",
        Command='sh -c "x"',
        Status="Created",
        Ports=[{"PrivatePort": 80, "Type": "tcp"}],
    )
    assert listed(Listing(container_list.KIND), container(), other) == (
        "CONTAINER ID   IMAGE        COMMAND                  CREATED       STATUS                 PORTS     NAMES\n"
        '7aa9ce245ffe   nginx        "nginx -g \'daemon of…"   2 hours ago   Up 2 hours (healthy)             web\n'
        'ffffffffffff   <no image>   "sh -c \\"x\\""            2 hours ago   Created                80/tcp    job\n'
    )


def test_no_containers() -> None:
    titles = "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES\n"
    assert listed(Listing(container_list.KIND)) == titles
    assert listed(Listing(container_list.KIND, quiet=True)) == ""
    assert listed(Listing(container_list.KIND, "{{.ID}}")) == ""


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{.ID}}: {{.Names}}", "7aa9ce245ffe: web\n"),
        ("{{.Names}}\\t{{.State}}", "web\trunning\n"),
        ("table {{.Names}}\\t{{.HealthStatus}}", "NAMES     HEALTH STATUS\nweb       healthy\n"),
        ('table {{.Label "com.example.role"}}\\t{{upper .Names}}', "role      NAMES\nfront     WEB\n"),
        ("table {{json .Names}}", 'NAMES\n"web"\n'),
        (
            "{{.Labels}} {{.Networks}} {{.LocalVolumes}} {{.Mounts}}",
            "b=2,com.example.role=front host 1 data-volume-wi…,/srv\n",
        ),
        ("{{.Size}}", "1.5kB (virtual 187MB)\n"),
        ("{{json .Names}} {{if .Ports}}x{{else}}none{{end}}", '"web" none\n'),
    ],
)
def test_formats(source: str, text: str) -> None:
    document = container(SizeRw=1500, SizeRootFs=187_000_000)
    assert listed(Listing(container_list.KIND, source), document) == text


def test_json_has_every_field() -> None:
    import json

    document = json.loads(listed(Listing(container_list.KIND, "json"), container()))
    assert set(document) == set(container_list.KIND.fields)
    assert document["Status"] == "Up 2 hours (healthy)"


def test_nothing_is_cut_when_asked() -> None:
    text = listed(
        Listing(container_list.KIND, "{{.ID}} {{.Names}} {{.Command}} {{.Image}}"),
        container(Image="a@sha256:1"),
        trunc=False,
    )
    assert text == f"{container()['Id']} web,other/alias \"nginx -g 'daemon off;'\" a@sha256:1\n"


def test_unknown_fields_are_errors() -> None:
    listing = Listing(container_list.KIND, "{{.Nope}}")
    wanted = r"template parsing error: .* can't evaluate field Nope in type \*formatter.ContainerContext"
    with pytest.raises(TemplateError, match=wanted):
        listing.uses("Size")
    with pytest.raises(TemplateError, match=wanted):
        listed(listing, container())
    with pytest.raises(TemplateError, match="template parsing error: template: :1: unclosed action"):
        Listing(container_list.KIND, "{{.ID")


@pytest.mark.parametrize(
    ("source", "uses"),
    [
        ("", False),
        ("{{.Size}}", True),
        ("table {{.ID}}\t{{.Size}}", True),
        ("{{if .Size}}x{{end}}", True),
        ("json", False),
        ("{{slice .ID 0 60}}", False),
    ],
)
def test_costly_fields_are_noticed(source: str, uses: bool) -> None:
    assert Listing(container_list.KIND, source).uses("Size") is uses


@pytest.mark.parametrize(
    ("ports", "text"),
    [
        ([], ""),
        ([(80, "tcp", None, "")], "80/tcp"),
        ([(80, "tcp", None, ""), (81, "tcp", None, ""), (82, "tcp", None, "")], "80-82/tcp"),
        ([(80, "tcp", None, ""), (82, "tcp", None, "")], "80/tcp, 82/tcp"),
        ([(53, "tcp", None, ""), (53, "udp", None, "")], "53/tcp, 53/udp"),
        ([(80, "tcp", 8080, "0.0.0.0")], "0.0.0.0:8080->80/tcp"),
        ([(80, "tcp", 8080, "::")], "[::]:8080->80/tcp"),
        ([(80, "tcp", 80, "0.0.0.0"), (81, "tcp", 81, "0.0.0.0")], "0.0.0.0:80-81->80-81/tcp"),
        ([(80, "tcp", 8080, "0.0.0.0"), (443, "tcp", None, "")], "443/tcp, 0.0.0.0:8080->80/tcp"),
    ],
)
def test_ports(ports: list[tuple], text: str) -> None:
    documents = [
        {"PrivatePort": private, "Type": kind, **({"PublicPort": public, "IP": address} if public else {})}
        for private, kind, public, address in ports
    ]
    assert displayed_ports(documents) == text


DIGEST = "sha256:" + "d" * 64
IMAGE = {
    "Id": "sha256:" + "a" * 64,
    "Created": 0,
    "Size": 187_000_000,
    "RepoTags": ["web:1", "web:2", "host:5000/x:y"],
    "RepoDigests": [f"web@{DIGEST}"],
}


@pytest.mark.parametrize(
    ("document", "digests", "names"),
    [
        (IMAGE, False, [("web", "1", "<none>"), ("web", "2", "<none>"), ("host:5000/x", "y", "<none>")]),
        (IMAGE, True, [("web", "1", DIGEST), ("web", "2", DIGEST), ("host:5000/x", "y", "<none>")]),
        ({**IMAGE, "RepoTags": []}, False, [("web", "<none>", "")]),
        ({**IMAGE, "RepoTags": [], "RepoDigests": []}, False, [("<none>", "<none>", "<none>")]),
        ({**IMAGE, "RepoTags": None, "RepoDigests": None}, True, [("<none>", "<none>", "<none>")]),
        (
            {**IMAGE, "RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"]},
            False,
            [("<none>", "<none>", "<none>")],
        ),
    ],
)
def test_images_have_a_row_for_each_name(document: dict, digests: bool, names: list) -> None:
    rows = image.rows_of(document, digests=digests, trunc=True)
    assert [(row.repository, row.tag, row.digest) for row in rows] == names


def test_history() -> None:
    now = int(time.time())
    steps = [
        {"Id": "sha256:" + "b" * 64, "Created": now - 180, "CreatedBy": 'CMD ["nginx"]', "Size": 0, "Comment": "c"},
        {
            "Id": "<missing>",
            "Created": 0,
            "CreatedBy": "RUN\tapt-get install nginx and a lot of other things",
            "Size": 61_234_567,
        },
    ]
    rows = [image.HistoryRow(step, human=True, trunc=True) for step in steps]
    assert Listing(image.HISTORY_KIND).text(rows) == (
        "IMAGE          CREATED         CREATED BY                                      SIZE      COMMENT\n"
        'bbbbbbbbbbbb   3 minutes ago   CMD ["nginx"]                                   0B        c\n'
        "<missing>      N/A             RUN apt-get install nginx and a lot of other…   61.2MB    \n"
    )
    exact = image.HistoryRow(steps[1], human=False, trunc=False)
    assert Listing(image.HISTORY_KIND, "{{.Size}} {{.CreatedBy}}").text([exact]) == (
        "61234567 RUN apt-get install nginx and a lot of other things\n"
    )


def test_volumes() -> None:
    document = {"Name": "data", "Driver": "local", "Labels": {"a": "b"}, "UsageData": {"Size": 1500, "RefCount": 2}}
    assert Listing(volume.KIND).text([document]) == "DRIVER    VOLUME NAME\nlocal     data\n"
    assert Listing(volume.KIND, quiet=True).text([document]) == "data\n"
    assert Listing(volume.KIND, '{{.Size}} {{.Links}} {{.Label "a"}} {{.Labels}}').text([document]) == "1.5kB 2 b a=b\n"
    assert Listing(volume.KIND, "{{.Size}} {{.Links}}").text([{"Name": "x", "Driver": "local"}]) == "N/A N/A\n"


SAMPLE = {
    "id": "a" * 64,
    "name": "/web",
    "cpu_stats": {"cpu_usage": {"total_usage": 3_000_000_000}, "system_cpu_usage": 20_000_000_000, "online_cpus": 2},
    "precpu_stats": {"cpu_usage": {"total_usage": 2_000_000_000}, "system_cpu_usage": 16_000_000_000},
    "memory_stats": {"usage": 30 << 20, "limit": 100 << 20, "stats": {"total_inactive_file": 10 << 20}},
    "pids_stats": {"current": 7},
    "networks": {"eth0": {"rx_bytes": 1500, "tx_bytes": 20}},
    "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 4096}, {"op": "write", "value": 1}]},
}


def test_stats() -> None:
    row = stats.StatsRow("web")
    waiting = Listing(stats.KIND).text([row]).splitlines()[1]
    assert waiting.split() == ["--", "--", "--", "/", "--", "--", "--", "--", "--"]
    row.take(SAMPLE)
    assert Listing(stats.KIND).text([row]) == (
        "CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT   MEM %     NET I/O       BLOCK I/O    PIDS\n"
        "aaaaaaaaaaaa   web       50.00%    20MiB / 100MiB      20.00%    1.5kB / 20B   4.1kB / 1B   7\n"
    )


def test_stats_of_what_does_not_run_are_zero() -> None:
    row = stats.StatsRow("web")
    row.take({"id": "a" * 64, "name": "/web", "cpu_stats": {"cpu_usage": {"total_usage": 0}}, "memory_stats": {}})
    assert (
        Listing(stats.KIND, "{{.CPUPerc}} {{.MemUsage}} {{.MemPerc}} {{.PIDs}}").text([row])
        == "0.00% 0B / 0B 0.00% 0\n"
    )


def test_a_listing_goes_to_the_context() -> None:
    out = io.StringIO()
    kind = Kind("Any", {"ID": ("ID", str)}, ("ID",))
    Listing(kind).print(Context(out=out), ["x"])
    assert out.getvalue() == "ID\nx\n"
