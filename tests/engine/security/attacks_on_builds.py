"""Images, contexts and Dockerfiles that are traps for who builds or runs them: T33 to T38."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from typing import Any

from attacker import SECRET, Entry, Link, Target, add_entry, attack, escaped_if

from daemons import Daemon


def _context(files: dict[str, Entry]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for path, entry in files.items():
            add_entry(made, path, entry)
    return buffer.getvalue()


def _build(target: Target, dockerfile: str, files: dict[str, Entry] | None = None, query: str = "") -> str:
    """All that a build says, errors included."""
    body = _context({"Dockerfile": dockerfile, **(files or {})})
    _, answer = target.request("POST", f"/build?{query}", body, content_type="application/x-tar")
    said = ""
    for line in answer.splitlines():
        document: dict[str, Any] = json.loads(line) if line.strip() else {}
        said += document.get("stream", "") + document.get("error", "") + document.get("message", "")
    return said


@attack("T33", "an image's configuration as commands and paths of the host")
def configuration(target: Target) -> str:
    """CVE-2026-53488, CVE-2022-23648."""
    touch = f"touch {target.canary}/touched"
    image = target.image(
        {}, f'LABEL a="$({touch})" b="`{touch}`"', f'ENV X="$({touch})"', f"VOLUME {target.upwards}",
        f"WORKDIR {target.upwards}", f"HEALTHCHECK --interval=100ms CMD {touch}", f"ONBUILD RUN {touch}; {touch}2",
    )  # fmt: skip
    shown = target.sh('pwd; cat file 2>/dev/null; echo "$X"', image=image)
    assert shown, "the image was run"
    escaped_if(SECRET in shown, "a volume was filled from the host")
    said = _build(target, f"FROM {image}\nRUN echo done\n")
    assert "done" in said, said
    return "labels, variables and volumes are data, triggers run inside"


@attack("T34", "volumes that are filled from links of an image")
def copy_up(target: Target) -> str:
    """CVE-2020-1726."""
    image = target.image(
        {"data": Link(str(target.canary)), "own/": "", "own/file": "from the image"}, 'VOLUME ["/own"]'
    )
    shown = target.sh("ls -l / /data/; cat /data/*", "-v", "/data", image=image)
    assert shown, "the image was run"
    escaped_if(SECRET in shown, "a volume holds what is outside of the image")
    volume = f"filled{abs(hash(target.canary)) % 10**8}"
    try:
        target.sh("echo changed > /own/file", "-v", f"{volume}:/own", image=image)
        shown = target.sh("cat /own/file", "-v", f"{volume}:/own", image=image)
    finally:
        target.docker("volume", "rm", "-f", volume)
    assert shown == "changed\n", "what is in a volume stays"
    return "filled once, out of the image alone"


@attack("T35", "mounts of steps whose places are exchanged for links")
def mounts_of_steps(target: Target) -> str:
    """CVE-2024-23651, CVE-2024-23652, and CVE-2024-9675 of buildah."""
    said: list[str] = []
    dockerfile = f"""FROM busybox AS one
RUN --mount=type=cache,id=race,target=/c i=0; while [ $i -lt 300 ]; do \\
    rm -rf /c/x; mkdir /c/x; rm -rf /c/x; ln -s {target.canary} /c/x; i=$((i+1)); done; touch /one
FROM busybox AS two
RUN --mount=type=cache,id=race,target=/c i=0; while [ $i -lt 300 ]; do \\
    echo dead > /c/x/file; rm -rf /c/x/file; i=$((i+1)); done 2> /dev/null; touch /two
FROM busybox
COPY --from=one /one /
COPY --from=two /two /
RUN --mount=type=bind,target=/m/n/o rm -rf /m 2> /dev/null; true
RUN --mount=type=tmpfs,target=/t/u umount /t/u 2> /dev/null; rm -rf /t; ln -s {target.canary} /t; true
RUN --mount=type=secret,id=none,target=/s/file rm -rf /s; ln -s {target.canary} /s
RUN echo survived
"""
    threads = [threading.Thread(target=lambda: said.append(_build(target, dockerfile, query="nocache=1")))
               for _ in range(2)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(110)
    assert len(said) == 2
    if isinstance(target.engine, Daemon):
        assert all("survived" in text for text in said), said
    return "a cache is one directory by descriptor, what was put in place goes by descriptor"


@attack("T36", "steps with more rights than an ordinary container")
def rights_of_steps(target: Target) -> str:
    """CVE-2024-23653, CVE-2024-23650."""
    ordinary = next(line for line in target.sh("cat /proc/self/status").splitlines() if line.startswith("CapEff"))
    said = _build(target, "FROM busybox\nRUN grep CapEff /proc/self/status\n", query="nocache=1")
    assert "CapEff" in said, said
    escaped_if(ordinary not in said, f"a step has other rights than a container: {said}")
    for flag in (
        "--security=insecure", "--network=host", "--device=vendor.com/x=all,required", "--security=nonsense",
    ):  # fmt: skip
        said = _build(target, f"FROM busybox\nRUN {flag} echo reached\n")
        escaped_if("reached\n" in said.replace(f"{flag} echo reached", ""), f"{flag} without a grant")
    # a device that nobody has, and that need not be there: the step runs as any other does
    nodes = [_build(target, f"FROM busybox\nRUN {flag} find /dev | sort\n", query="nocache=1")
             for flag in ("", "--device=vendor.com/x=all")]  # fmt: skip
    assert "/dev/null" in nodes[0], nodes[0]
    seen = [{word for line in said.split("\n") for word in line.split() if word.startswith("/dev/")} for said in nodes]
    escaped_if(seen[1] - seen[0], f"devices without a grant: {seen[1] - seen[0]}")
    odd = ("memory=-9223372036854775809", "ulimits=%5B1%5D", "buildargs=%5B%5D", "cachefrom=%7B", "labels=1",
           "shmsize=x", "platform=..%2F..%2Fx", "networkmode=container%3A", "dockerfile=..%2F..%2Fetc%2Fpasswd",
           "outputs=x")  # fmt: skip
    for query in odd:
        _, answer = target.request("POST", f"/build?{query}", _context({"Dockerfile": "FROM busybox\n"}),
                                   content_type="application/x-tar")  # fmt: skip
        escaped_if(b"root:" in answer, f"{query} reads a file of the host")
        assert b"Traceback" not in answer
    for path in ("/session", "/grpc"):
        target.request("POST", path, b"\x00\xff" * 100, content_type="application/grpc")
    return f"refused without a grant; {len(odd)} odd requests answered"


@attack("T37", "git addresses that are options, and repositories that lead elsewhere")
def git_addresses(target: Target) -> str:
    """CVE-2019-13139, CVE-2022-39253, CVE-2026-33748."""
    touch = f"touch {target.canary}/touched"
    addresses = (
        f"git://127.0.0.1:1/x#--upload-pack={touch}", f"git://--upload-pack={touch}/x.git", f"ext::sh -c {touch}",
        f"file://{target.canary}", f"{target.canary}/x.git", "git://127.0.0.1:1/x.git#main:../../etc",
        f"https://127.0.0.1:1/x.git#$({touch})", f"git@-oProxyCommand={touch}:x.git", f"ssh://-oProxyCommand={touch}/x.git",
    )  # fmt: skip
    for address in addresses:
        query = "remote=" + "".join(f"%{byte:02X}" for byte in address.encode())
        status, answer = target.request("POST", f"/build?{query}", b"", content_type="application/x-tar")
        escaped_if(status < 400 and b"error" not in answer, f"{address} was built")
    return f"{len(addresses)} of {len(addresses)} refused"


@attack("T38", "a poisoned cache, links of a context, the daemon's environment")
def contexts_and_caches(target: Target) -> str:
    """CVE-2024-24557, CVE-2021-3602, CVE-2020-14370."""
    said = _build(target, "FROM busybox\nRUN echo honest > /made\n", query="t=honest")
    poisoned = target.image({"made": "poisoned"})
    history = target.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", "honest").stdout.splitlines()[0]
    assert "echo honest" in history
    said = _build(
        target, "FROM busybox\nRUN echo honest > /made\nRUN cat /made\n", query=f"cachefrom=%5B%22{poisoned}%22%5D"
    )
    escaped_if("poisoned" in said, "a step was taken from an image that only claims it")
    for link in ("/etc/passwd", "../../../../../../../etc/passwd", f"{target.canary}/file"):
        said = _build(target, "FROM busybox\nCOPY link /l\nRUN cat /l\n", {"link": Link(link)}, "nocache=1")
        escaped_if("root:x:0:0" in said.replace("root:x:0:0:root:/root:/bin/sh", "") or SECRET in said,
                   f"a link of the context to {link} was followed")  # fmt: skip
    files: dict[str, Entry] = {".dockerignore": Link("/etc/passwd"), "x": "1"}
    escaped_if("root:" in _build(target, "FROM busybox\nCOPY . /c\nRUN ls /c\n", files), "an ignore file of the host")
    said = _build(target, "FROM busybox\nRUN env\n", query="nocache=1")
    assert "PATH=" in said
    names = {line.partition("=")[0] for line in said.splitlines() if "=" in line and line[0].isupper()}
    escaped_if(names - {"PATH", "HOME", "HOSTNAME", "PWD", "SHLVL", "OLDPWD"}, f"variables of the daemon: {names}")
    target.docker("rmi", "-f", "honest")
    return "keys are made of contents, links stay inside, the environment is the image's"
