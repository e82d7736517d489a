"""The daemon's configuration: daemon.json and dockerd's flag names, joined into one frozen ``Config``.

A key that is given both in the file and as a flag is an error, as with dockerd; a key that Corten does not know, or
knows and cannot honour, is an error too: nothing is parsed and ignored.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from corten import __version__
from corten.errors import InvalidParameter

LOG_LEVELS = {"debug": 10, "info": 20, "warn": 30, "error": 40, "fatal": 50}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that the composition root needs to know.

    hosts:             where the API listens: ``unix:///path``, ``fd://``
    shutdown_timeout:  seconds that containers get to end when the daemon stops without live-restore
    idle_exit:         seconds without containers and clients after which a daemon started by a client leaves, 0: never
    """

    data_root: Path
    exec_root: Path
    hosts: tuple[str, ...]
    pidfile: Path | None = None
    group: str = "docker"
    log_level: str = "info"
    log_format: str = "text"
    debug: bool = False
    log_driver: str = "json-file"
    log_opts: dict[str, str] = field(default_factory=dict)
    storage_driver: str = ""
    live_restore: bool = True
    labels: tuple[str, ...] = ()
    default_ulimits: dict[str, tuple[int, int]] = field(default_factory=dict)
    default_shm_size: int = 64 * 1024 * 1024
    default_ipc_mode: str = "private"
    default_cgroupns_mode: str = ""
    cgroup_parent: str = ""
    seccomp_profile: str = ""
    no_new_privileges: bool = False
    init: bool = False
    shutdown_timeout: int = 15
    idle_exit: int = 0
    bridge: str = "none"
    iptables: bool = False
    oom_score_adjust: int = 0


def default_roots() -> tuple[Path, Path]:
    """(data root, exec root) of this user: system-wide for root, below the home directory for anyone else."""
    if os.geteuid() == 0:
        return Path("/var/lib/corten"), Path("/run/corten")
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return Path(data) / "corten", Path(runtime) / "corten"


def default_host() -> str:
    """The socket that the CLI tries and the daemon listens on when nobody says otherwise."""
    return f"unix://{default_roots()[1]}/corten.sock"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidParameter(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cortend",
        description="The Corten daemon: containers and images behind the Docker Engine API.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    text = parser.add_argument
    text("--config-file", metavar="FILE", help="daemon configuration file (default /etc/corten/daemon.json)")
    text("--data-root", metavar="DIR", help="root directory of persistent state")
    text("--exec-root", metavar="DIR", help="root directory of execution state")
    text("-H", "--host", action="append", dest="hosts", metavar="ADDRESS", help="where to listen: unix://PATH or fd://")
    text("-p", "--pidfile", metavar="FILE", help="path of the daemon's PID file")
    text("-G", "--group", metavar="NAME", help='group of the unix socket (default "docker")')
    text("-l", "--log-level", choices=sorted(LOG_LEVELS), help='logging level (default "info")')
    text("--log-format", choices=("text", "json"), help='format of the daemon\'s own log (default "text")')
    text("-D", "--debug", action="store_true", help="enable debug mode")
    text("--log-driver", metavar="NAME", help='default driver for container logs (default "json-file")')
    text("--log-opt", action="append", dest="log_opts", metavar="KEY=VALUE", help="default log driver option")
    text("-s", "--storage-driver", metavar="NAME", help="overlay2 or vfs (default: the best that works)")
    text(
        "--live-restore",
        action=argparse.BooleanOptionalAction,
        help="keep containers when the daemon stops (default on)",
    )
    text("--label", action="append", dest="labels", metavar="KEY=VALUE", help="label of this daemon")
    text("--default-ulimit", action="append", dest="default_ulimits", metavar="NAME=SOFT[:HARD]", help="default ulimit")
    text("--default-shm-size", metavar="BYTES", help="default size of /dev/shm (default 64m)")
    text("--default-ipc-mode", choices=("private", "shareable"), help='default IPC mode (default "private")')
    text("--default-cgroupns-mode", choices=("private", "host"), help="default cgroup namespace mode")
    text("--cgroup-parent", metavar="PATH", help='parent cgroup of all containers (default "/corten")')
    text("--seccomp-profile", metavar="FILE", help="default seccomp profile, or unconfined")
    text("--no-new-privileges", action="store_true", help="set no-new-privileges by default for new containers")
    text("--init", action="store_true", help="run an init in containers by default")
    text("--shutdown-timeout", type=int, metavar="SECONDS", help="time for containers to end at shutdown (default 15)")
    text("--idle-exit", type=int, metavar="SECONDS", help="leave after this time without containers and clients")
    text("-b", "--bridge", metavar="NAME", help="bridge of the default network; only none is supported so far")
    text("--iptables", metavar="BOOL", help="manage firewall rules; only false is supported so far")
    text("--oom-score-adjust", type=int, metavar="N", help="oom_score_adj of the daemon")
    parser.add_argument("-v", "--version", action="version", version=f"cortend {__version__}")
    return parser


# keys of daemon.json -> field of Config; where dockerd's plural differs from the flag it is dockerd's key
_FILE_KEYS = {
    **{f.name.replace("_", "-"): f.name for f in fields(Config)},
    "no-new-privileges": "no_new_privileges",
    "default-ulimits": "default_ulimits",
}


def _size(value: Any) -> int:
    text = str(value).strip().lower().removesuffix("b")
    factor = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(text[-1:], 1)
    number = text[:-1] if factor > 1 else text
    if not number.isdigit() or int(number) <= 0:
        raise InvalidParameter(f"invalid size: '{value}'")
    return int(number) * factor


def _ulimits(value: Any) -> dict[str, tuple[int, int]]:
    limits: dict[str, tuple[int, int]] = {}
    if isinstance(value, dict):
        for name, limit in value.items():
            if (
                not isinstance(limit, dict)
                or not isinstance(limit.get("Soft"), int)
                or not isinstance(limit.get("Hard"), int)
            ):
                raise InvalidParameter(f"invalid default ulimit {name}: Soft and Hard numbers are needed")
            limits[name] = (limit["Soft"], limit["Hard"])
        return limits
    for item in value:
        name, _, numbers = item.partition("=")
        soft, _, hard = numbers.partition(":")
        try:
            limits[name] = (int(soft), int(hard or soft))
        except ValueError:
            raise InvalidParameter(f"invalid ulimit argument: {item}") from None
    return limits


def _pairs(option: str, value: Any) -> dict[str, str]:
    if isinstance(value, dict):
        return {str(key): str(item) for key, item in value.items()}
    pairs = {}
    for item in value:
        key, equals, text = str(item).partition("=")
        if not equals or not key:
            raise InvalidParameter(f"invalid {option} '{item}': KEY=VALUE is needed")
        pairs[key] = text
    return pairs


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("1", "true", "t", "yes"):
        return True
    if str(value).lower() in ("0", "false", "f", "no"):
        return False
    raise InvalidParameter(f"invalid boolean for {name}: '{value}'")


def _converted(name: str, value: Any) -> Any:
    if name in ("data_root", "exec_root", "pidfile"):
        return Path(value).absolute()
    if name == "hosts":
        return tuple(value)
    if name == "labels":
        return tuple(f"{key}={text}" for key, text in _pairs("label", value).items())
    if name == "log_opts":
        return _pairs("log option", value)
    if name == "default_ulimits":
        return _ulimits(value)
    if name == "default_shm_size":
        return _size(value)
    if name in ("debug", "live_restore", "no_new_privileges", "init", "iptables"):
        return _boolean(name.replace("_", "-"), value)
    if name in ("shutdown_timeout", "idle_exit", "oom_score_adjust"):
        if not isinstance(value, int):
            raise InvalidParameter(f"invalid {name.replace('_', '-')}: '{value}' is not a number")
        return value
    return str(value)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InvalidParameter(f"unable to configure the daemon with file {path}: invalid JSON: {error}") from error
    except OSError as error:
        raise InvalidParameter(f"unable to configure the daemon with file {path}: {error.strerror}") from error
    if not isinstance(document, dict):
        raise InvalidParameter(f"unable to configure the daemon with file {path}: an object is needed")
    unknown = sorted(set(document) - set(_FILE_KEYS))
    if unknown:
        raise InvalidParameter(
            f"unable to configure the daemon with file {path}: "
            f"the following directives don't match any configuration option: {', '.join(unknown)}"
        )
    return {_FILE_KEYS[key]: value for key, value in document.items()}


def _check(config: Config) -> Config:
    if config.log_level not in LOG_LEVELS:
        raise InvalidParameter(f"invalid logging level: {config.log_level}")
    if config.storage_driver not in ("", "overlay2", "vfs"):
        raise InvalidParameter(f"unknown storage driver '{config.storage_driver}': overlay2 and vfs are supported")
    if config.bridge != "none":
        raise InvalidParameter(f"--bridge {config.bridge}: bridge networks are not supported yet, only none is")
    if config.iptables:
        raise InvalidParameter("--iptables true: firewall rules are not managed yet, only false is supported")
    for host in config.hosts:
        if not host.startswith(("unix://", "fd://")):
            raise InvalidParameter(f"invalid host '{host}': unix://PATH and fd:// are supported so far")
    if config.data_root == config.exec_root:
        raise InvalidParameter("--data-root and --exec-root must differ")
    return config


def load(arguments: list[str]) -> Config:
    """Read flags and file.

    Errors: InvalidParameter for an unknown flag or key, a bad value, or a key that is given in both places.
    """
    given = vars(_parser().parse_args(arguments))
    named_file = given.pop("config_file", None)
    path = Path(named_file or "/etc/corten/daemon.json")
    from_file = _read_file(path) if named_file or path.exists() else {}
    both = sorted(set(from_file) & set(given))
    if both:
        raise InvalidParameter(
            f"unable to configure the daemon with file {path}: the following directives are specified both as a flag "
            f"and in the configuration file: {', '.join(name.replace('_', '-') for name in both)}"
        )
    data_root, exec_root = default_roots()
    values = {name: _converted(name, value) for name, value in {**from_file, **given}.items()}
    config = Config(data_root=data_root, exec_root=exec_root, hosts=())
    config = replace(config, **values)
    if not config.hosts:
        config = replace(config, hosts=(f"unix://{config.exec_root}/corten.sock",))
    if config.debug:
        config = replace(config, log_level="debug")
    return _check(config)
