"""The daemon's command line: dockerd's names, and some of our own."""

from __future__ import annotations

import argparse
from typing import NoReturn

from corten import __version__, places
from corten.errors import InvalidParameter

LOG_LEVELS = {"debug": 10, "info": 20, "warn": 30, "error": 40, "fatal": 50}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidParameter(message)


def parser() -> argparse.ArgumentParser:
    made = _Parser(
        prog="cortend",
        description="The Corten daemon: containers and images behind the Docker Engine API.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    text = made.add_argument
    text("--config-file", metavar="FILE", help=f"daemon configuration file (default {places.configuration_file()})")
    text("--data-root", metavar="DIR", help="root directory of persistent state")
    text("--exec-root", metavar="DIR", help="root directory of execution state")
    text(
        "-H",
        "--host",
        action="append",
        dest="hosts",
        metavar="ADDRESS",
        help="where to listen: unix://PATH, tcp://HOST:PORT or fd://",
    )
    text("--tls", action="store_true", help="use TLS on TCP; implied by --tlsverify")
    text("--tlsverify", action="store_true", help="use TLS on TCP and verify the clients")
    text("--tlscacert", metavar="FILE", help='trust clients whose certificate it signed (default "~/.docker/ca.pem")')
    text("--tlscert", metavar="FILE", help='TLS certificate of the daemon (default "~/.docker/cert.pem")')
    text("--tlskey", metavar="FILE", help='key of the certificate (default "~/.docker/key.pem")')
    text(
        "--add-runtime",
        action="append",
        dest="runtimes",
        metavar="NAME=PATH",
        help="another OCI runtime that containers may ask for",
    )
    text("--default-runtime", metavar="NAME", help='OCI runtime of containers that ask for none (default "corten")')
    text("--metrics-addr", metavar="HOST:PORT", help="where everyone may read the metrics (Prometheus)")
    text(
        "--allow-unauthenticated-tcp",
        action="store_true",
        help="listen on TCP without --tlsverify: everyone who can connect is root here",
    )
    text(
        "--tcp-name",
        action="append",
        dest="tcp_names",
        metavar="NAME",
        help="name by which clients may call this daemon on TCP without TLS",
    )
    text("-p", "--pidfile", metavar="FILE", help="path of the daemon's PID file")
    text("-G", "--group", metavar="NAME", help='group of the unix socket (default "docker")')
    text("-l", "--log-level", choices=sorted(LOG_LEVELS), help='logging level (default "info")')
    text("--log-format", choices=("text", "json"), help='format of the daemon\'s own log (default "text")')
    text("-D", "--debug", action="store_true", help="enable debug mode")
    text("--log-driver", metavar="NAME", help='default driver for container logs (default "json-file")')
    text("--log-opt", action="append", dest="log_opts", metavar="KEY=VALUE", help="default log driver option")
    text(
        "-s", "--storage-driver", metavar="NAME", help="overlay2, fuse-overlayfs or vfs (default: the first that works)"
    )
    text(
        "--live-restore",
        action=argparse.BooleanOptionalAction,
        help="keep containers when the daemon stops (default on)",
    )
    text("--label", action="append", dest="labels", metavar="KEY=VALUE", help="label of this daemon")
    text("--default-ulimit", action="append", dest="default_ulimits", metavar="NAME=SOFT[:HARD]", help="default ulimit")
    text("--default-shm-size", metavar="BYTES", help="default size of /dev/shm (default 64m)")
    text("--default-pids-limit", type=int, metavar="N", help="processes of a container by default (4096; -1: no limit)")
    text("--default-ipc-mode", choices=("private", "shareable"), help='default IPC mode (default "private")')
    text("--default-cgroupns-mode", choices=("private", "host"), help="default cgroup namespace mode")
    text(
        "--cgroup-parent",
        metavar="PATH",
        help='parent cgroup of all containers (default "/corten"; with systemd a slice, default "system.slice")',
    )
    text(
        "--exec-opt",
        action="append",
        dest="exec_opts",
        metavar="KEY=VALUE",
        help="native.cgroupdriver=cgroupfs or systemd: who makes the containers' cgroups",
    )
    text("--seccomp-profile", metavar="FILE", help="default seccomp profile, or unconfined")
    text("--no-new-privileges", action="store_true", help="set no-new-privileges by default for new containers")
    text("--selinux-enabled", action="store_true", help="give containers SELinux labels of their own")
    text("--init", action="store_true", help="run an init in containers by default")
    text("--shutdown-timeout", type=int, metavar="SECONDS", help="time for containers to end at shutdown (default 15)")
    text("--idle-exit", type=int, metavar="SECONDS", help="leave after this time without containers and clients")
    text("-b", "--bridge", metavar="NAME", help='bridge of the default network, or none (default "corten0")')
    text("--bip", metavar="CIDR", help="address and subnet of the bridge of the default network")
    text(
        "--default-address-pool",
        action="append",
        dest="default_address_pools",
        metavar="base=CIDR,size=BITS",
        help="where subnets of networks are taken from",
    )
    text("--fixed-cidr", metavar="CIDR", help="part of the default network's subnet that containers get; with --bip")
    text("--ipv6", action="store_true", help="give containers of the default network IPv6 addresses")
    text("--fixed-cidr-v6", metavar="CIDR", help="IPv6 subnet of the default network; with --ipv6")
    text("--mtu", type=int, metavar="BYTES", help="MTU of the default network (default 1500)")
    text("--icc", metavar="BOOL", help="let containers of the default network reach each other (default true)")
    text("--ip", metavar="ADDRESS", help="host address of ports that are published without one (default 0.0.0.0)")
    text("--ip-masq", metavar="BOOL", help="give what leaves the default network an address of the host (default true)")
    text(
        "--default-network-opt",
        action="append",
        dest="default_network_opts",
        metavar="DRIVER=KEY=VALUE",
        help="option of networks that are made without it",
    )
    text("--host-gateway-ip", metavar="ADDRESS", help='what "host-gateway" stands for in --add-host')
    text("--dns", action="append", metavar="ADDRESS", help="name server of containers that ask for none")
    text("--dns-opt", action="append", dest="dns_opts", metavar="OPTION", help="resolver option of containers")
    text("--dns-search", action="append", metavar="DOMAIN", help="search domain of containers")
    text("--iptables", metavar="BOOL", help="manage firewall rules (default true); false needs --bridge none")
    text(
        "--registry-mirror",
        action="append",
        dest="registry_mirrors",
        metavar="URL",
        help="mirror that is asked before Docker Hub",
    )
    text(
        "--insecure-registry",
        action="append",
        dest="insecure_registries",
        metavar="HOST",
        help="registry (host[:port] or a range of addresses) that needs no TLS",
    )
    text("--max-concurrent-downloads", type=int, metavar="N", help="layers downloaded at a time (default 3)")
    text("--max-concurrent-uploads", type=int, metavar="N", help="layers uploaded at a time (default 5)")
    text("--max-download-attempts", type=int, metavar="N", help="attempts for each download (default 5)")
    text(
        "--userns-remap", metavar="USER[:GROUP]", help='run containers with the subordinate ids of a user, or "default"'
    )
    text(
        "--userns-pool",
        metavar="FIRST:COUNT",
        help="ids for --userns=auto (default: the subordinate ids of user corten, or containers)",
    )
    text("--http-proxy", metavar="URL", help="proxy for http URLs, instead of HTTP_PROXY")
    text("--https-proxy", metavar="URL", help="proxy for https URLs, instead of HTTPS_PROXY")
    text("--no-proxy", metavar="HOSTS", help="hosts that are asked without a proxy, instead of NO_PROXY")
    text("--oom-score-adjust", type=int, metavar="N", help="oom_score_adj of the daemon")
    made.add_argument("-v", "--version", action="version", version=f"cortend {__version__}")
    return made
