"""``corten xray``: what a container is made of, and what this machine's kernel offers."""

from __future__ import annotations

import json

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.paint import Paint
from corten.cli.tabwriter import align
from corten.cli.units import binary_size, decimal_size
from corten.client.api import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.context import Context

    Document = dict[str, Any]

_STEP_WIDTH = 60
_SHOWN_PATHS = 12


def _xray(context: Context, options: flags.Options, arguments: list[str]) -> None:
    subject = arguments[0]
    path = "/corten/xray/host" if subject == "host" else path_of("/corten/xray/containers/", subject, "")
    document = context.api.get(path)
    if options.switch("json"):
        context.print(json.dumps(document, indent=4, ensure_ascii=False))
        return
    paint = Paint(context.out)
    lines = _host(document, paint) if subject == "host" else _container(document, paint)
    context.print("\n".join(lines))


# -- a container ------------------------------------------------------------------------------------------------------


def _container(document: Document, paint: Paint) -> list[str]:
    title = f"{document['Name']}  {document['Id'][:12]}  {document['Image']}  {document['State']}"
    lines = [paint.bold(title)]
    for name, explanation, body in (
        ("Processes", "ordinary processes of the machine, with two numbers each", _processes(document)),
        ("Namespaces", "what the kernel shows them instead of the machine's own", _namespaces(document, paint)),
        ("Privileges", "what its first process may do", _privileges(document)),
        ("Control groups", "how much they may take, and have taken", _groups(document)),
        ("Layers", "what its root is put together from, topmost first", _layers(document)),
        ("Mounts", "what is attached where, as it sees it", _mounts(document)),
        ("Network", "how it is reached, and reaches others", _network(document)),
    ):
        lines += ["", f"{paint.title(name)}  {paint.dim(explanation)}"]
        lines += [f"  {line}" for line in body or ["nothing: it does not run"]]
    return lines


def _table(titles: str, rows: list[list[Any]]) -> list[str]:
    if not rows:
        return []
    cells = [titles.split("|"), *([str(cell) for cell in row] for row in rows)]
    return align("\n".join("\t".join(row) for row in cells), least=0, padding=2).split("\n")


def _processes(document: Document) -> list[str]:
    return _table(
        "HOST PID|PID INSIDE|USER|STATE|THREADS|MEMORY|CPU|COMMAND",
        [
            [row["Pid"], row["ContainerPid"], row["User"], row["State"].partition(" ")[2].strip("()"), row["Threads"],
             binary_size(row["MemoryBytes"]), f"{row['CpuSeconds']}s", _short(row["Command"])]
            for row in document["Processes"]
        ],
    )  # fmt: skip


def _short(text: str, width: int = _STEP_WIDTH) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _namespaces(document: Document, paint: Paint) -> list[str]:
    rows = [
        [row["Kind"], row["Inode"], row["HostInode"], "the machine's" if row["Shared"] else "its own", row["Meaning"]]
        for row in document["Namespaces"]
    ]
    lines = _table("KIND|INSIDE|HOST|WHOSE|WHAT IT DECIDES", rows)
    return [paint.warn(line) if "the machine's" in line else line for line in lines]


def _privileges(document: Document) -> list[str]:
    held = document["Privileges"]
    if held is None:
        return []
    capabilities = held["Capabilities"]
    rows = [
        ["user", f"{held['Uid']}, group {held['Gid']}, groups {' '.join(map(str, held['Groups'])) or 'none'}"],
        *([name.lower(), _capabilities(capabilities[name])] for name in ("Effective", "Bounding", "Ambient")),
        ["seccomp", f"{held['Seccomp']}, {held['SeccompFilters']} filter(s) between it and the kernel"],
        ["setuid programs", "gain nothing" if held["NoNewPrivileges"] else "work as usual"],
        ["label", held["Label"] or "none: neither AppArmor nor SELinux confines it"],
        ["killed when memory is short", f"score {held['OomScoreAdj']:+d}" if held["OomScoreAdj"] else "as any other"],
        ["user ids", _ids(held["UidMap"])],
    ]
    return align("\n".join("\t".join(row) for row in rows), least=0, padding=2).split("\n")


def _capabilities(names: list[str]) -> str:
    short = [name.removeprefix("CAP_").lower() for name in names]
    return f"{len(short)}: {' '.join(short)}" if short else "none"


def _ids(rows: list[Document]) -> str:
    shown = [f"{row['Inside']} inside is {row['Outside']} outside ({row['Count']} of them)" for row in rows]
    if rows and rows[0]["Inside"] == rows[0]["Outside"] == 0 and rows[0]["Count"] >= 2**32 - 1:
        return "the machine's: root inside is root outside, held back by the rest of this page"
    return "; ".join(shown)


def _amount(value: Any, unit: str) -> str:
    if unit == "bytes" and isinstance(value, int):
        return binary_size(value)
    if value == "max":
        return "no limit"
    return _short(str(value), 34) or "-"


def _groups(document: Document) -> list[str]:
    groups = document["Groups"]
    if groups is None:
        return []
    rows = []
    for row in groups["Limits"]:
        limit, use = row["Limit"], row["Use"]
        share = ""
        if row["Unit"] in ("bytes", "count") and isinstance(limit, int) and isinstance(use, int) and limit:
            share = _bar(use / limit)
        part = row["UseFile"].partition(" ")[2]  # of a file that counts several things
        used = f"{part} {use}" if part else _amount(use, row["Unit"])
        rows.append([row["File"] or row["UseFile"], _amount(limit, row["Unit"]), used, share, row["Meaning"]])
    lines = [f"version {groups['Version']}, {groups['Path']}"]
    lines += _table("FILE|LIMIT|USED||WHAT IT IS", rows)
    lines += [f"waiting for {name}: {text}" for name, text in groups["Pressure"].items()]
    return lines


def _bar(share: float, width: int = 10) -> str:
    full = min(width, round(share * width))
    return f"{'█' * full}{'░' * (width - full)} {share:.0%}"


def _layers(document: Document) -> list[str]:
    layers = document["Layers"]
    rows = [
        [row["Kind"], row["Id"][:12], decimal_size(row["SizeBytes"]), _short(row["Step"]) or "-"]
        for row in layers["Layers"]
    ]
    lines = [f"{layers['Driver']}, seen as one at {layers['Root']}" if layers["Root"] else layers["Driver"]]
    lines += _table("KIND|ID|SIZE|WHAT MADE IT", rows)
    changes = layers["Changes"]
    lines.append(f"changes: {changes['Added']} added, {changes['Changed']} changed, {changes['Deleted']} deleted"
                 + (f"; limited to {layers['Limit']}" if layers["Limit"] else ""))  # fmt: skip
    lines += [f"  {path}" for path in changes["Paths"][:_SHOWN_PATHS]]
    if len(changes["Paths"]) > _SHOWN_PATHS:
        lines.append(f"  … see corten diff {document['Name']}")
    return lines


def _mounts(document: Document) -> list[str]:
    return _table(
        "TARGET|TYPE|SOURCE|OPTIONS",
        [
            [row["Target"], row["Type"], _short(_source(row), 48), row["Options"]]
            for row in document["Mounts"]
        ],
    )  # fmt: skip


def _source(row: Document) -> str:
    return row["Source"] if row["Root"] == "/" else f"{row['Source']}:{row['Root']}"


def _network(document: Document) -> list[str]:
    network = document["Network"]
    lines = [f"mode {network['Mode']}"]
    for endpoint in network["Endpoints"]:
        address = endpoint["IPAddress"] or endpoint["GlobalIPv6Address"] or "no address"
        lines.append(f"{endpoint['Network']}: {address}, gateway {endpoint['Gateway'] or 'none'},"
                     f" {endpoint['MacAddress'] or 'no MAC address'}")  # fmt: skip
        for port in endpoint["Published"]:
            lines += [f"  {host} of the machine leads to {port['Port']}" for host in port["Host"]]
    lines += _table(
        "INTERFACE|RECEIVED|SENT|DROPPED",
        [[row["Name"], f"{decimal_size(row['ReceivedBytes'])}, {row['ReceivedPackets']} packets",
          f"{decimal_size(row['SentBytes'])}, {row['SentPackets']} packets", row["Dropped"]]
         for row in network["Interfaces"]],
    )  # fmt: skip
    lines += [f"route {row['Destination']} by {row['Gateway'] or 'nobody: it is here'}, {row['Interface']}"
              for row in network["Routes"]]  # fmt: skip
    lines += [f"listens on {row['Protocol']} {row['Address']}" for row in network["Listening"]]
    firewall = network["Firewall"]
    if firewall:
        chains = ", ".join(f"{name} {count}" for name, count in sorted(firewall["Chains"].items()))
        lines.append(f"firewall table {firewall['Table']}: rules in {chains}; its sets: {', '.join(firewall['Sets'])}")
    return lines


# -- the host ---------------------------------------------------------------------------------------------------------


def _host(document: Document, paint: Paint) -> list[str]:
    lines = [paint.bold(f"{document['System']}, Linux {document['Kernel']}, {document['Machine']}")]
    names = list(dict.fromkeys(row["Group"] for row in document["Features"]))
    for name in names:
        rows = [row for row in document["Features"] if row["Group"] == name]
        cells = [
            [_mark(row["Present"]), row["Feature"], row["Found"] if row["Found"] not in ("", "yes") else "",
             row["Purpose"] if row["Present"] else f"{row['Purpose']}: {row['Missing']}"]
            for row in rows
        ]  # fmt: skip
        block = align("\n".join("\t".join(row) for row in cells), least=0, padding=2).split("\n")
        lines += ["", paint.title(name)]
        lines += [f"  {line if row['Present'] else paint.warn(line)}" for line, row in zip(block, rows, strict=True)]
    missing = document["Missing"]
    lines += ["", f"{len(document['Features']) - missing} there, {missing} missing"]
    return lines


def _mark(present: bool) -> str:
    return "✓" if present else "✗"


XRAY = Command(
    _xray,
    "[OPTIONS] CONTAINER|host",
    (flags.switch("json", "", "Print everything as JSON"),),
    least=1,
    most=1,
    description=(
        "Shows, from the live kernel, what a container is made of: processes, namespaces, privileges, control groups, "
        "layers, mounts, network. 'corten xray host' shows what this machine's kernel offers to containers, and what "
        "is missing."
    ),
    examples=("xray web", "xray --json web", "xray host"),
)
