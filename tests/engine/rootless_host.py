"""A program for tests: as an ordinary user, an outer and an inner process as ``network/rootless.py`` describes them.

Usage: rootless_host.py DIRECTORY UID.  Starts as root to give the user a /dev/net/tun, as most machines have it, and
servers for names on the loopback.  The inner process makes a network and a container's sandbox, publishes a port, then
does what it reads: one JSON list a line, a function's name and its arguments; it answers with its value.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from corten.linux import mount, process
from corten.network import namespaces, outside
from corten.network.outside import Outside
from corten.network.plans import EndpointPlan, NetworkPlan, PortPlan, Subnet
from corten.network.plumbing import Plumbing
from corten.network.proxy import Proxy
from corten.network.rootless import Uplink

NETWORK = NetworkPlan(id="a" * 64, device="br-mine", ipv4=(Subnet("172.31.0.0/16", "172.31.0.1"),))


def become_user(directory: Path, uid: int) -> None:
    process.unshare(process.CLONE_NEWNS)
    mount.mount("", "/", "", mount.MS_REC | mount.MS_PRIVATE)
    mount.mount("tmpfs", "/dev/net", "tmpfs")
    os.mknod("/dev/net/tun", 0o20666, os.makedev(10, 200))
    os.chmod("/dev/net/tun", 0o666)
    resolv_conf = directory / "host-resolv.conf"
    resolv_conf.write_text("search example.test\nnameserver 127.0.0.53\n")
    mount.mount(str(resolv_conf), "/etc/resolv.conf", "", mount.MS_BIND)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    process.prctl(process.PR_SET_DUMPABLE, 1)


def outer(directory: Path) -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ready, go = os.pipe(), os.pipe()
    uid, gid = os.getuid(), os.getgid()
    child = os.fork()
    if not child:
        ours.close()
        process.unshare(process.CLONE_NEWUSER | process.CLONE_NEWNS | process.CLONE_NEWNET)
        os.write(ready[1], b"1")
        os.read(go[0], 1)
        asyncio.run(inner(its, directory))
        os._exit(0)
    its.close()
    os.read(ready[0], 1)
    Path(f"/proc/{child}/setgroups").write_text("deny")
    Path(f"/proc/{child}/uid_map").write_text(f"0 {uid} 1")
    Path(f"/proc/{child}/gid_map").write_text(f"0 {gid} 1")
    os.write(go[1], b"1")
    uplink = Uplink.attach(child, directory)
    again = Uplink.attach(child, directory)  # as an outer process that comes later
    assert again.greeting == uplink.greeting
    thread = threading.Thread(target=outside.serve, args=(ours, uplink.greeting))
    thread.start()
    _, status = os.waitpid(child, 0)
    thread.join()
    uplink.close()
    sys.exit(os.waitstatus_to_exitcode(status))


async def inner(channel: socket.socket, directory: Path) -> None:
    there = Outside(channel)
    loop = asyncio.get_running_loop()
    # named, and so imported, while everything can be read
    loop.set_default_executor(ThreadPoolExecutor())
    there.use_resolver(directory)
    plumbing = Plumbing(directory=directory, outside=there)
    plumbing.create_network(NETWORK)
    ports = (PortPlan(protocol="tcp", port=80), PortPlan(protocol="udp", port=81))
    endpoint = EndpointPlan(id="b" * 64, network=NETWORK, mac="02:42:ac:1f:00:02", ipv4="172.31.0.2/16", ports=ports)
    box = plumbing.sandbox([endpoint])
    attached = box.endpoints[endpoint.id]
    proxies = []
    for protocol, sock, target in attached.proxied:
        proxy = Proxy(target)
        await proxy.open(protocol, sock.dup())
        proxies.append(proxy)
    namespaces.run_in(box.namespace, serve)
    tell(
        {
            "program": there.greeting.program,
            "lacking": there.lacking,
            "resolv_conf": Path("/etc/resolv.conf").read_text(),  # noqa: ASYNC240
            "ports": {item.protocol: item.host_port for item in attached.published},
            "versions": attached.published[0].versions,
        }
    )

    def act(name: str, *arguments: object) -> object:
        if name == "publish":
            try:
                plumbing.publish(box, endpoint.id, [PortPlan(**arguments[0])])
            except Exception as error:
                return f"{type(error).__name__}: {error}"
            return ""
        return namespaces.run_in(box.namespace, lambda: ask(*arguments))

    while line := await asyncio.to_thread(sys.stdin.readline):
        tell(await asyncio.to_thread(act, *json.loads(line)))
    for proxy in proxies:
        proxy.close()
    plumbing.release(box)
    plumbing.close()


def serve() -> None:
    """In the sandbox: who speaks to port 80 or 81 hears who he is."""
    listener = socket.create_server(("", 80))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("", 81))

    def streams() -> None:
        while True:
            connection, peer = listener.accept()
            with connection:
                connection.sendall(peer[0].encode())

    def packets() -> None:
        while True:
            _, peer = datagrams.recvfrom(100)
            datagrams.sendto(peer[0].encode(), peer)

    for work in (streams, packets):
        threading.Thread(target=work, daemon=True).start()


def ask(kind: str, address: str, port: int, question: str = "", timeout_s: float = 5) -> str:
    """What somebody answers to the sandbox, "" when nobody does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect((address, port))
            if question:
                sock.sendall(question.encode())
            return sock.recv(100).decode()
        except OSError:
            return ""


def tell(document: object) -> None:
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    become_user(Path(sys.argv[1]), int(sys.argv[2]))
    outer(Path(sys.argv[1]))
