"""``corten info --security``: what a careful person would look at, looked at.

Each check is one row: passed, a warning with what to do, or a note.  In the spirit of the CIS Docker Benchmark, about
what Corten has.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from corten.config import Config
from corten.engine.container import Container
from corten.engine.host_support import LimitSupport, read_text
from corten.engine.preparation import HostFacts

PASS, WARN, INFO = "pass", "warn", "info"
# what a container may do with these is as good as being root of the machine
_MIGHTY = frozenset(
    "ALL SYS_ADMIN SYS_MODULE SYS_RAWIO SYS_PTRACE DAC_READ_SEARCH BPF SYS_BOOT NET_ADMIN SYS_TIME MKNOD".split()
)
_MEMORY = ("/dev/mem", "/dev/kmem", "/dev/port")
_SENSITIVE = ("/", "/boot", "/dev", "/etc", "/lib", "/proc", "/root", "/run", "/sys", "/usr", "/var/run", "/var/lib")


@dataclass(frozen=True, slots=True)
class Check:
    """group: "daemon", "host" or "containers";  do: what to do about it"""

    group: str
    title: str
    level: str
    why: str
    do: str = ""

    def document(self) -> dict[str, str]:
        return {"Group": self.group, "Check": self.title, "Result": self.level, "Why": self.why, "Do": self.do}


def checks(
    config: Config,
    facts: HostFacts,
    support: LimitSupport,
    containers: Iterable[Container],
    *,
    apparmor_problem: str = "",
) -> list[Check]:
    """All rows; reads files, changes nothing.

    apparmor_problem: why there is no profile although the host has AppArmor
    """
    running = [container for container in containers if container.is_running]
    problem = [Check("host", "AppArmor confines containers", WARN, apparmor_problem, "install apparmor_parser")]
    return [
        *_daemon(config),
        *_host(config, facts, support),
        *(problem if apparmor_problem else []),
        *_containers(config, running),
    ]


def _row(group: str, title: str, fine: bool, why: str, do: str, level: str = WARN) -> Check:
    return Check(group, title, PASS if fine else level, why, "" if fine else do)


# -- daemon -----------------------------------------------------------------------------------------------------------


def _daemon(config: Config) -> Iterator[Check]:
    for host in config.hosts:
        if host.startswith("tcp://"):
            yield _row(
                "daemon", f"{host} asks for a certificate", config.tlsverify,
                "whoever can connect to the API is root of this machine", "--tlsverify with --tlscacert",
            )  # fmt: skip
        elif host.startswith("unix://"):
            yield _closed("daemon", Path(host.removeprefix("unix://")), 0o007, "the API's socket")
    yield _closed("daemon", config.data_root, 0o027, "the data root")
    yield _closed("daemon", config.exec_root, 0o022, "the exec root")
    if config.tlskey.exists():
        yield _closed("daemon", config.tlskey, 0o077, "the key")
    yield _row(
        "daemon", "the default seccomp profile is in force", not config.seccomp_profile,
        "it keeps some hundred system calls out of reach", "start the daemon without --seccomp-profile",
    )  # fmt: skip
    yield _row(
        "daemon", "new containers cannot gain privileges", config.no_new_privileges,
        "setuid programs give a user inside the rights of root inside", "--no-new-privileges", INFO,
    )  # fmt: skip
    yield _row(
        "daemon", "the number of processes is limited by default", config.default_pids_limit > 0,
        "one fork bomb stops the machine", "--default-pids-limit 4096",
    )  # fmt: skip
    yield _row(
        "daemon", "containers of the default network cannot reach each other", not config.icc,
        "one that is taken over can look for others", "--icc=false, or networks of one's own", INFO,
    )  # fmt: skip
    yield _row(
        "daemon", "firewall rules are kept", config.iptables,
        "without them nothing keeps networks apart", "start the daemon without --iptables=false",
    )  # fmt: skip
    insecure = [name for name in config.insecure_registries if not name.startswith(("127.", "localhost", "::1"))]
    yield _row(
        "daemon", "registries are only spoken to with TLS", not insecure,
        f"without it anybody in between can change images: {', '.join(insecure) or 'none'}",
        "take them out of insecure-registries",
    )  # fmt: skip
    unlimited = config.log_driver == "json-file" and "max-size" not in config.log_opts
    yield _row(
        "daemon", "logs are limited by default", not unlimited,
        "what a program writes fills the disk", "--log-opt max-size=20m, or --log-driver local", INFO,
    )  # fmt: skip
    yield _row(
        "daemon", "live-restore is on", config.live_restore,
        "a daemon can be replaced for a security fix without stopping anything", "--live-restore",
    )  # fmt: skip


def _closed(group: str, path: Path, forbidden: int, what: str) -> Check:
    """Whether a file gives others none of these rights."""
    try:
        status = path.stat()
    except OSError as error:
        return Check(group, f"{what} is closed to others", INFO, f"{path}: {(error.strerror or '').lower()}")
    mode = stat.S_IMODE(status.st_mode)
    owned = status.st_uid in (0, os.geteuid())
    return _row(
        group, f"{what} is closed to others", owned and not mode & forbidden,
        f"{path} has mode {mode:04o}, owner {status.st_uid}", f"chmod {mode & ~forbidden:04o} {path}",
    )  # fmt: skip


# -- host -------------------------------------------------------------------------------------------------------------


def _host(config: Config, facts: HostFacts, support: LimitSupport) -> Iterator[Check]:
    yield _row(
        "host", "control groups are version 2", facts.cgroup_v2,
        "version 1 has no private view by default, and its release agent was a way out",
        "boot with systemd.unified_cgroup_hierarchy=1", INFO,
    )  # fmt: skip
    yield _row(
        "host", "every limit works", not support.missing,
        "; ".join(text.removeprefix("WARNING: ") for text in support.missing) or "none is missing",
        "see corten xray host", INFO,
    )  # fmt: skip
    yield _row(
        "host", "seccomp is there", bool(read_text("/proc/sys/kernel/seccomp/actions_avail")),
        "without it every system call is open", "a kernel with CONFIG_SECCOMP_FILTER",
    )  # fmt: skip
    yield _row(
        "host", "AppArmor or SELinux is there", facts.apparmor or facts.selinux,
        "a second wall, for what the first one missed", "install and enable one of them", INFO,
    )  # fmt: skip
    if facts.selinux:
        yield _row(
            "host", "SELinux confines containers", config.selinux_enabled,
            "it is there, and containers run without labels of their own", "start the daemon with --selinux-enabled",
        )  # fmt: skip
    for name, wanted, why in (
        ("kernel.dmesg_restrict", "1", "the kernel's log tells addresses to everybody"),
        ("kernel.kptr_restrict", "12", "addresses of the kernel help an attacker"),
        ("kernel.unprivileged_bpf_disabled", "12", "programs in the kernel, by anybody"),
        ("kernel.yama.ptrace_scope", "123", "any process reads another one's memory"),
        ("fs.protected_symlinks", "1", "links in /tmp lead programs astray"),
        ("fs.protected_hardlinks", "1", "links to files of others"),
        ("dev.tty.legacy_tiocsti", "0", "keys can be typed into a terminal by a program"),
    ):
        value = read_text(f"/proc/sys/{name.replace('.', '/')}")
        if value:
            found = f"it is {value}: {why}"
            yield _row("host", f"{name} = {wanted[0]}", value in wanted, found, f"sysctl {name}={wanted[0]}", INFO)
    yield _row(
        "host", "the data root has a file system of its own", _own_file_system(config.data_root),
        "images and logs fill the machine's root", f"mount one at {config.data_root}", INFO,
    )  # fmt: skip


def _own_file_system(path: Path) -> bool:
    return os.stat(path).st_dev != os.stat("/").st_dev


# -- containers -------------------------------------------------------------------------------------------------------


def _containers(config: Config, running: list[Container]) -> Iterator[Check]:
    if not running:
        yield Check("containers", "no container runs", INFO, "there is nothing to look at")
        return
    for title, why, do, level, names in _findings(config, running):
        shown = f"{why}: {', '.join(names)}" if names else why
        yield _row("containers", title, not names, shown, do, level)


def _findings(config: Config, running: list[Container]) -> Iterator[tuple[str, str, str, str, list[str]]]:
    """(what should be, why, what to do, how bad it is, containers where it is not so)."""

    def where(test: Callable[[Container], object]) -> list[str]:
        return [container.name for container in running if test(container)]

    yield (
        "none is privileged", "it is root of this machine", "--cap-add and --device for what is needed", WARN,
        where(lambda one: one.host_config.privileged),
    )  # fmt: skip
    yield (
        "none has mighty capabilities", "each is a way out", "drop what is not needed", WARN,
        where(lambda one: _MIGHTY & {name.upper().removeprefix("CAP_") for name in one.host_config.cap_add}),
    )  # fmt: skip
    yield (
        "none runs unconfined", "no filter, or no masks", "take out the --security-opt", WARN,
        where(lambda one: any("unconfined" in option for option in one.host_config.security_opt)),
    )  # fmt: skip
    yield (
        "none has a disk or the memory of the machine", "what lies on it is open, past all rights of files",
        "take the --device out", WARN, where(_has_a_whole_device),
    )  # fmt: skip
    for kind, attribute in (("network", "network_mode"), ("processes", "pid_mode"), ("IPC", "ipc_mode")):
        yield (
            f"none shares the machine's {kind}", "what is there can be seen and disturbed", "a namespace of its own",
            WARN, [one.name for one in running if getattr(one.host_config, attribute) == "host"],
        )  # fmt: skip
    yield (
        "none has a place of the system writable", "it can change the machine", "mount it read-only, or less of it",
        WARN, where(lambda one: _writes_the_system(config, one)),
    )  # fmt: skip
    yield (
        "none has the API's socket", "it is root of this machine", "take the mount out", WARN,
        where(lambda one: _has_the_socket(config, one)),
    )  # fmt: skip
    yield (
        "memory is limited", "one can take all there is", "--memory", INFO,
        where(lambda one: not one.host_config.memory),
    )  # fmt: skip
    yield (
        "the number of processes is limited", "one fork bomb stops the machine", "--pids-limit", WARN,
        where(lambda one: (one.host_config.pids_limit or config.default_pids_limit) <= 0),
    )  # fmt: skip
    yield (
        "programs run as a user", "root inside is a good start for a way out", "USER in the image, or --user", INFO,
        where(lambda one: one.config.user.partition(":")[0] in ("", "0", "root")),
    )  # fmt: skip
    yield (
        "roots are read-only", "what breaks in can stay", "--read-only and --tmpfs", INFO,
        where(lambda one: not one.host_config.readonly_rootfs),
    )  # fmt: skip
    yield (
        "programs cannot gain privileges", "setuid programs make root", "--security-opt no-new-privileges", INFO,
        where(lambda one: not (config.no_new_privileges or _asks_for_no_new_privileges(one))),
    )  # fmt: skip


def _asks_for_no_new_privileges(container: Container) -> bool:
    return any(
        option in ("no-new-privileges", "no-new-privileges=true", "no-new-privileges:true")
        for option in container.host_config.security_opt
    )


def _writes_the_system(config: Config, container: Container) -> bool:
    places = (*_SENSITIVE, str(config.data_root))
    return any(
        point.type == "bind" and point.rw and (os.path.normpath(point.source) in places)
        for point in container.mount_points
    )


def _has_a_whole_device(container: Container) -> bool:
    return any(
        _is_disk(device.path_on_host) or device.path_on_host in _MEMORY for device in container.host_config.devices
    )


def _is_disk(path: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def _has_the_socket(config: Config, container: Container) -> bool:
    """It, or a directory in which it lies: to connect to a socket nothing has to be writable."""
    sockets = {host.removeprefix("unix://") for host in config.hosts if host.startswith("unix://")}
    sockets |= {"/var/run/docker.sock", "/run/docker.sock"}
    sources = {os.path.normpath(point.source) for point in container.mount_points if point.type == "bind"}
    return any(
        socket == source or socket.startswith(f"{source.rstrip('/')}/") for socket in sockets for source in sources
    )
