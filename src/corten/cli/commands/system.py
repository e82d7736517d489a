"""``corten version``, ``info``, ``events`` and ``daemon``."""

from __future__ import annotations

import json
import os
import sys

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.exit_codes import GENERAL, ExitStatus
from corten.cli.filters import filter_flag, gathered
from corten.cli.messages import describe
from corten.cli.render import INSPECT_FORMAT_HELP, parse_template
from corten.cli.tabwriter import align
from corten.cli.units import binary_size
from corten.errors import CortenError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.context import Context

    Document = dict[str, Any]


def _by_format(source: str, document: Any) -> str:
    from corten.cli.gotemplate import TemplateError

    template = parse_template("{{json .}}" if source == "json" else source)
    try:
        return template.render(document)
    except TemplateError as error:
        raise TemplateError(f"template parsing error: {error}") from None


# -- version --------------------------------------------------------------------------------------------------------


def _client_version() -> Document:
    import platform

    from corten import __version__
    from corten.dockerapi.version import API_VERSION

    return {
        "Version": __version__,
        "ApiVersion": API_VERSION,
        "PythonVersion": platform.python_version(),
        "Os": "linux",
        "Arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
    }


def _version_text(client: Document, server: Document | None) -> str:
    lines = [
        "Client:",
        f" Version:\t{client['Version']}",
        f" API version:\t{client['ApiVersion']}",
        f" Python version:\t{client['PythonVersion']}",
        f" OS/Arch:\t{client['Os']}/{client['Arch']}",
    ]
    if server is not None:
        name = (server.get("Platform") or {}).get("Name")
        lines += ["", f"Server: {name}" if name else "Server:"]
        for component in server.get("Components") or ():
            lines.append(f" {component['Name']}:")
            lines.append(f"  Version:\t{component['Version']}")
            lines += [f"  {label}:\t{value}" for label, value in _details(component)]
    return align("\n".join(lines), least=20, padding=1)


def _details(component: Document) -> list[tuple[str, str]]:
    details = component.get("Details") or {}
    if component["Name"] != "Engine":
        return sorted(details.items())
    pairs = [("API version", f"{details.get('ApiVersion')} (minimum version {details.get('MinAPIVersion')})")]
    labels = (("GoVersion", "Go version"), ("PythonVersion", "Python version"), ("GitCommit", "Git commit"))
    pairs += [(label, details[key]) for key, label in labels if details.get(key)]
    if details.get("BuildTime"):
        pairs.append(("Built", details["BuildTime"]))
    pairs.append(("OS/Arch", f"{details.get('Os')}/{details.get('Arch')}"))
    if "Experimental" in details:
        pairs.append(("Experimental", details["Experimental"]))
    return pairs


def _version(context: Context, options: flags.Options, _arguments: list[str]) -> int:
    source = options.text("format")
    if source:
        parse_template(source)
    problem: CortenError | None = None
    server: Document | None = None
    try:
        server = context.api.get("/version")
    except CortenError as error:
        problem = error
    client = _client_version()
    if source:
        context.print(_by_format(source, {"Client": client, "Server": server}))
    else:
        context.print(_version_text(client, server))
    if problem is not None:
        context.complain(describe(problem))
        return GENERAL
    return 0


# -- info -----------------------------------------------------------------------------------------------------------


def _section(lines: list[str], label: str, value: Any) -> None:
    """A line, unless there is nothing to say."""
    if value not in (None, ""):
        text = {True: "true", False: "false"}[value] if isinstance(value, bool) else value
        lines.append(f" {label}: {text}")


def _server_info(info: Document) -> list[str]:
    lines: list[str] = []
    _section(lines, "Containers", info.get("Containers"))
    for state in ("Running", "Paused", "Stopped"):
        lines.append(f"  {state}: {info.get(f'Containers{state}', 0)}")
    _section(lines, "Images", info.get("Images"))
    _section(lines, "Server Version", info.get("ServerVersion"))
    _section(lines, "Storage Driver", info.get("Driver"))
    lines += [f"  {key}: {value}" for key, value in info.get("DriverStatus") or ()]
    _section(lines, "Logging Driver", info.get("LoggingDriver"))
    _section(lines, "Cgroup Driver", info.get("CgroupDriver"))
    _section(lines, "Cgroup Version", info.get("CgroupVersion"))
    plugins = info.get("Plugins") or {}
    lines.append(" Plugins:")
    for kind in ("Volume", "Network", "Log"):
        lines.append(f"  {kind}: {' '.join(plugins.get(kind) or ())}".rstrip())
    if info.get("CDISpecDirs"):
        lines += [" CDI spec directories:", *(f"  {directory}" for directory in info["CDISpecDirs"])]
    if info.get("DiscoveredDevices"):
        lines.append(" Discovered Devices:")
        lines += [f"  {device['Source']}: {device['ID']}" for device in info["DiscoveredDevices"]]
    if info.get("Runtimes"):
        lines.append(f" Runtimes: {' '.join(sorted(info['Runtimes']))}")
        _section(lines, "Default Runtime", info.get("DefaultRuntime"))
    _section(lines, "Init Binary", info.get("InitBinary"))
    if info.get("SecurityOptions"):
        lines.append(" Security Options:")
        for option in info["SecurityOptions"]:
            fields = dict(pair.partition("=")[::2] for pair in option.split(","))
            lines.append(f"  {fields.pop('name', option)}")
            lines += [f"   {key.capitalize()}: {value}" for key, value in fields.items()]
    for label, key in (
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
        ("CPUs", "NCPU"),
    ):
        _section(lines, label, info.get(key))
    _section(lines, "Total Memory", binary_size(info.get("MemTotal") or 0))
    for label, key in (("Name", "Name"), ("ID", "ID"), ("Root Dir", "DockerRootDir"), ("Debug Mode", "Debug")):
        _section(lines, label, info.get(key))
    if info.get("Labels"):
        lines += [" Labels:", *(f"  {label}" for label in info["Labels"])]
    _section(lines, "Experimental", info.get("ExperimentalBuild"))
    _section(lines, "Live Restore Enabled", info.get("LiveRestoreEnabled"))
    return lines


def _security(context: Context, *, as_json: bool) -> int:
    """The self check; 1 when there are warnings, so that a script can ask."""
    from corten.cli.commands import security
    from corten.cli.paint import Paint

    document = context.api.get("/corten/security")
    if as_json:
        context.print(json.dumps(document, indent=4, ensure_ascii=False))
    else:
        context.print("\n".join(security.lines(document, Paint(context.out))))
    return GENERAL if document["Counts"]["warn"] else 0


def _info(context: Context, options: flags.Options, _arguments: list[str]) -> int:
    from corten import __version__

    if options.switch("security"):
        return _security(context, as_json=options.switch("json"))
    if options.switch("json"):
        raise flags.UsageError("--json goes with --security: use --format json")
    source = options.text("format")
    if source:
        parse_template(source)
    problem: CortenError | None = None
    info: Document = {}
    try:
        info = context.api.get("/info")
    except CortenError as error:
        problem = error
    if source:
        if problem is not None:
            raise problem
        context.print(_by_format(source, info))
        return 0
    context.print(f"Client:\n Version: {__version__}\n\nServer:")
    if problem is not None:
        context.complain(f"ERROR: {describe(problem)}\nerrors pretty printing info")
        return GENERAL
    context.print("\n".join(_server_info(info)) + "\n")
    for warning in info.get("Warnings") or ():
        context.complain(warning)
    return 0


# -- events ---------------------------------------------------------------------------------------------------------


def _event_line(event: Document) -> str:
    import time

    from corten.dockerapi.timestamps import SECOND_NS

    moment = int(event.get("timeNano") or event["time"] * SECOND_NS)
    local = time.localtime(moment // SECOND_NS)
    zone = time.strftime("%z", local)
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{moment % SECOND_NS:09d}"
    stamp += "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    attributes = (event.get("Actor") or {}).get("Attributes") or {}
    text = f"{stamp} {event['Type']} {event['Action']} {(event.get('Actor') or {}).get('ID', '')}"
    if attributes:
        text += " (" + ", ".join(f"{key}={attributes[key]}" for key in sorted(attributes)) + ")"
    return text


def _events(context: Context, options: flags.Options, _arguments: list[str]) -> None:
    source = options.text("format")
    if source:
        parse_template(source)
    query = {
        "since": _moment(options.text("since")),
        "until": _moment(options.text("until")),
        "filters": gathered(options.many("filter")),
    }
    with context.api.stream("GET", "/events", query) as response:
        for line in response.lines():
            if line.strip():
                event = json.loads(line)
                context.print(_by_format(source, event) if source else _event_line(event))
                context.out.flush()


def _moment(text: str) -> str | None:
    """Seconds since the epoch, as the API takes them."""
    if not text:
        return None
    from corten.dockerapi.timestamps import SECOND_NS, parse_moment

    moment = parse_moment(text)
    return f"{moment // SECOND_NS}.{moment % SECOND_NS:09d}"


# -- daemon ---------------------------------------------------------------------------------------------------------


def _daemon(_context: Context, _options: flags.Options, arguments: list[str]) -> int:
    try:
        os.execv(sys.executable, [sys.executable, "-m", "corten.daemon", *arguments])
    except OSError as error:
        raise ExitStatus(GENERAL, f"cannot start the daemon: {error.strerror}") from None


VERSION = Command(
    _version,
    "[OPTIONS]",
    (flags.text("format", "f", INSPECT_FORMAT_HELP),),
    examples=("version -f '{{.Server.Version}}'",),
)
INFO = Command(
    _info,
    "[OPTIONS]",
    (
        flags.text("format", "f", INSPECT_FORMAT_HELP),
        flags.switch("security", "", "Check daemon, host and containers for weaknesses; exit code 1 for warnings"),
        flags.switch("json", "", "With --security: print the rows as JSON"),
    ),
    examples=("info -f '{{.Driver}}'", "info --security"),
)
EVENTS = Command(
    _events,
    "[OPTIONS]",
    (
        filter_flag(),
        flags.text("format", "", INSPECT_FORMAT_HELP),
        flags.text("since", "", "Begin with events from this time or age on"),
        flags.text("until", "", "Stream events until this time"),
    ),
    examples=("events --filter type=container --filter event=die", "events --since 10m --until 0s --format json"),
)
DAEMON = Command(
    _daemon,
    "[-- OPTIONS OF cortend]",
    most=None,
    interspersed=False,
    description=(
        "Commands start a daemon by themselves when none listens on the default socket; it leaves when it is idle. "
        "Run one by hand to choose its directories and sockets: see 'cortend --help'."
    ),
    examples=("daemon -- --data-root /srv/corten -H unix:///run/my.sock", "-H unix:///run/my.sock ps"),
)
