"""The daemon's command line: dockerd's names, and some of our own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from corten import __version__, places
from corten.errors import InvalidParameter

LOG_LEVELS = {"debug": 10, "info": 20, "warn": 30, "error": 40, "fatal": 50}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidParameter(message)


class _Group:
    """The flags of one subject.  A flag that is not given leaves no trace: the file may say what it would."""

    def __init__(self, parser: argparse.ArgumentParser, title: str) -> None:
        self._add = parser.add_argument_group(title).add_argument

    def value(self, *names: str, metavar: str, help: str) -> None:
        self._add(*names, metavar=metavar, help=help)

    def number(self, *names: str, metavar: str, help: str) -> None:
        self._add(*names, type=int, metavar=metavar, help=help)

    def choice(self, *names: str, choices: Sequence[str], help: str) -> None:
        self._add(*names, choices=choices, help=help)

    def switch(self, *names: str, help: str) -> None:
        self._add(*names, action="store_true", help=help)

    def on_or_off(self, *names: str, help: str) -> None:
        """``--name`` and ``--no-name``."""
        self._add(*names, action=argparse.BooleanOptionalAction, help=help)

    def many(self, *names: str, metavar: str, help: str, field: str = "") -> None:
        """A flag that may come several times.  field: of the configuration, where the flag's name is another"""
        if field:
            self._add(*names, action="append", dest=field, metavar=metavar, help=help)
        else:
            self._add(*names, action="append", metavar=metavar, help=help)


def parser() -> argparse.ArgumentParser:
    """Of ``cortend``; its errors are InvalidParameter."""
    made = _Parser(
        prog="cortend",
        description="The Corten daemon: containers and images behind the Docker Engine API.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    made.add_argument("-v", "--version", action="version", version=f"cortend {__version__}")
    _daemon(_Group(made, "the daemon"))
    _listening(_Group(made, "where it listens"))
    _containers(_Group(made, "containers, unless they ask for something else"))
    _isolation(_Group(made, "isolation"))
    _networks(_Group(made, "networks"))
    _registries(_Group(made, "registries"))
    return made


def _daemon(flags: _Group) -> None:
    file = places.configuration_file()
    flags.value("--config-file", metavar="FILE", help=f"daemon configuration file (default {file})")
    flags.value("--data-root", metavar="DIR", help="root directory of persistent state")
    flags.value("--exec-root", metavar="DIR", help="root directory of execution state")
    flags.value("-p", "--pidfile", metavar="FILE", help="path of the daemon's PID file")
    flags.value(
        "-s", "--storage-driver", metavar="NAME", help="overlay2, fuse-overlayfs or vfs (default: the first that works)"
    )
    flags.switch("-D", "--debug", help="enable debug mode")
    flags.choice("-l", "--log-level", choices=sorted(LOG_LEVELS), help='logging level (default "info")')
    flags.choice("--log-format", choices=("text", "json"), help='format of the daemon\'s own log (default "text")')
    flags.many(
        "--cdi-spec-dir",
        field="cdi_spec_dirs",
        metavar="DIR",
        help="directory of CDI files (default /etc/cdi and /var/run/cdi)",
    )
    flags.many("--feature", field="features", metavar="NAME[=BOOL]", help="cdi=false: know no devices of CDI files")
    flags.value("--metrics-addr", metavar="HOST:PORT", help="where everyone may read the metrics (Prometheus)")
    flags.many("--label", field="labels", metavar="KEY=VALUE", help="label of this daemon")
    flags.on_or_off("--live-restore", help="keep containers when the daemon stops (default on)")
    flags.number("--shutdown-timeout", metavar="SECONDS", help="time for containers to end at shutdown (default 15)")
    flags.number("--idle-exit", metavar="SECONDS", help="leave after this time without containers and clients")
    flags.number("--oom-score-adjust", metavar="N", help="oom_score_adj of the daemon")


def _listening(flags: _Group) -> None:
    flags.many(
        "-H", "--host", field="hosts", metavar="ADDRESS", help="where to listen: unix://PATH, tcp://HOST:PORT or fd://"
    )
    flags.value("-G", "--group", metavar="NAME", help='group of the unix socket (default "docker")')
    flags.switch("--tls", help="use TLS on TCP; implied by --tlsverify")
    flags.switch("--tlsverify", help="use TLS on TCP and verify the clients")
    flags.value(
        "--tlscacert", metavar="FILE", help='trust clients whose certificate it signed (default "~/.docker/ca.pem")'
    )
    flags.value("--tlscert", metavar="FILE", help='TLS certificate of the daemon (default "~/.docker/cert.pem")')
    flags.value("--tlskey", metavar="FILE", help='key of the certificate (default "~/.docker/key.pem")')
    flags.switch(
        "--allow-unauthenticated-tcp", help="listen on TCP without --tlsverify: everyone who can connect is root here"
    )
    flags.many(
        "--tcp-name",
        field="tcp_names",
        metavar="NAME",
        help="name by which clients may call this daemon on TCP without TLS",
    )


def _containers(flags: _Group) -> None:
    flags.value("--log-driver", metavar="NAME", help='default driver for container logs (default "json-file")')
    flags.many("--log-opt", field="log_opts", metavar="KEY=VALUE", help="default log driver option")
    flags.many("--default-ulimit", field="default_ulimits", metavar="NAME=SOFT[:HARD]", help="default ulimit")
    flags.value("--default-shm-size", metavar="BYTES", help="default size of /dev/shm (default 64m)")
    flags.number("--default-pids-limit", metavar="N", help="processes of a container by default (4096; -1: no limit)")
    flags.switch("--init", help="run an init in containers by default")
    flags.value(
        "--default-runtime", metavar="NAME", help='OCI runtime of containers that ask for none (default "corten")'
    )
    flags.many(
        "--add-runtime",
        field="runtimes",
        metavar="NAME=PATH",
        help="another OCI runtime that containers may ask for",
    )


def _isolation(flags: _Group) -> None:
    flags.value("--seccomp-profile", metavar="FILE", help="default seccomp profile, or unconfined")
    flags.switch("--no-new-privileges", help="set no-new-privileges by default for new containers")
    flags.switch("--selinux-enabled", help="give containers SELinux labels of their own")
    flags.choice("--default-ipc-mode", choices=("private", "shareable"), help='default IPC mode (default "private")')
    flags.choice("--default-cgroupns-mode", choices=("private", "host"), help="default cgroup namespace mode")
    flags.value(
        "--cgroup-parent",
        metavar="PATH",
        help='parent cgroup of all containers (default "/corten"; with systemd a slice, default "system.slice")',
    )
    flags.many(
        "--exec-opt",
        field="exec_opts",
        metavar="KEY=VALUE",
        help="native.cgroupdriver=cgroupfs or systemd: who makes the containers' cgroups",
    )
    flags.value(
        "--userns-remap", metavar="USER[:GROUP]", help='run containers with the subordinate ids of a user, or "default"'
    )
    flags.value(
        "--userns-pool",
        metavar="FIRST:COUNT",
        help="ids for --userns=auto (default: the subordinate ids of user corten, or containers)",
    )


def _networks(flags: _Group) -> None:
    flags.value("-b", "--bridge", metavar="NAME", help='bridge of the default network, or none (default "corten0")')
    flags.value("--bip", metavar="CIDR", help="address and subnet of the bridge of the default network")
    flags.many(
        "--default-address-pool",
        field="default_address_pools",
        metavar="base=CIDR,size=BITS",
        help="where subnets of networks are taken from",
    )
    flags.value(
        "--fixed-cidr", metavar="CIDR", help="part of the default network's subnet that containers get; with --bip"
    )
    flags.switch("--ipv6", help="give containers of the default network IPv6 addresses")
    flags.value("--fixed-cidr-v6", metavar="CIDR", help="IPv6 subnet of the default network; with --ipv6")
    flags.number("--mtu", metavar="BYTES", help="MTU of the default network (default 1500)")
    flags.value("--icc", metavar="BOOL", help="let containers of the default network reach each other (default true)")
    flags.value(
        "--ip", metavar="ADDRESS", help="host address of ports that are published without one (default 0.0.0.0)"
    )
    flags.value(
        "--ip-masq", metavar="BOOL", help="give what leaves the default network an address of the host (default true)"
    )
    flags.value("--iptables", metavar="BOOL", help="manage firewall rules (default true); false needs --bridge none")
    flags.many(
        "--default-network-opt",
        field="default_network_opts",
        metavar="DRIVER=KEY=VALUE",
        help="option of networks that are made without it",
    )
    flags.value("--host-gateway-ip", metavar="ADDRESS", help='what "host-gateway" stands for in --add-host')
    flags.many("--dns", metavar="ADDRESS", help="name server of containers that ask for none")
    flags.many("--dns-opt", field="dns_opts", metavar="OPTION", help="resolver option of containers")
    flags.many("--dns-search", metavar="DOMAIN", help="search domain of containers")


def _registries(flags: _Group) -> None:
    flags.many(
        "--registry-mirror",
        field="registry_mirrors",
        metavar="URL",
        help="mirror that is asked before Docker Hub",
    )
    flags.many(
        "--insecure-registry",
        field="insecure_registries",
        metavar="HOST",
        help="registry (host[:port] or a range of addresses) that needs no TLS",
    )
    flags.number("--max-concurrent-downloads", metavar="N", help="layers downloaded at a time (default 3)")
    flags.number("--max-concurrent-uploads", metavar="N", help="layers uploaded at a time (default 5)")
    flags.number("--max-download-attempts", metavar="N", help="attempts for each download (default 5)")
    flags.value("--http-proxy", metavar="URL", help="proxy for http URLs, instead of HTTP_PROXY")
    flags.value("--https-proxy", metavar="URL", help="proxy for https URLs, instead of HTTPS_PROXY")
    flags.value("--no-proxy", metavar="HOSTS", help="hosts that are asked without a proxy, instead of NO_PROXY")
