"""AppArmor where the host has it: the default profile, another one, and none."""

from __future__ import annotations

import pytest

from daemons import Daemon

pytestmark = pytest.mark.needs("docker", "busybox", "apparmor")


def label(daemon: Daemon, *flags: str) -> str:
    return daemon.docker("run", "--rm", *flags, "busybox", "cat", "/proc/self/attr/current").stdout.strip("\0\n")


def test_containers_are_confined(daemon: Daemon) -> None:
    assert label(daemon) == "corten-default (enforce)"
    assert label(daemon, "--security-opt", "no-new-privileges", "-u", "1000") == "corten-default (enforce)"
    assert label(daemon, "--privileged") == "unconfined"
    assert label(daemon, "--security-opt", "apparmor=unconfined") == "unconfined"
    assert "name=apparmor" in daemon.docker("info", "-f", "{{json .SecurityOptions}}").stdout


def test_the_profile_forbids_what_capabilities_would_allow(daemon: Daemon) -> None:
    script = "mount -t tmpfs x /tmp; echo $?"
    mighty = ["--cap-add", "SYS_ADMIN"]
    assert daemon.docker("run", "--rm", *mighty, "busybox", "sh", "-c", script).stdout.strip() != "0"
    free = [*mighty, "--security-opt", "apparmor=unconfined"]
    assert daemon.docker("run", "--rm", *free, "busybox", "sh", "-c", script).stdout.strip() == "0"


def test_what_is_executed_later_is_confined_too(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "box", "busybox", "sleep", "60")
    assert daemon.inspect("box")["AppArmorProfile"] == "corten-default"
    read = ["cat", "/proc/self/attr/current"]
    assert daemon.docker("exec", "box", *read).stdout.startswith("corten-default")
    # as dockerd has it
    assert daemon.docker("exec", "--privileged", "box", *read).stdout.startswith("corten-default")
    # the daemon still signals, and is heard
    assert daemon.docker("stop", "-t", "0", "box").returncode == 0


def test_a_profile_that_is_not_loaded(daemon: Daemon) -> None:
    done = daemon.docker("run", "--rm", "--security-opt", "apparmor=nosuch", "busybox", "true", check=False)
    assert done.returncode != 0
    assert "nosuch" in done.stderr
