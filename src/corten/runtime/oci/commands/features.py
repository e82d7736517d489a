"""features: what the runtime can do.  Source: runtime-spec features.md."""

from __future__ import annotations

import argparse
import json
from typing import Any

from corten.linux import process as kernel
from corten.linux import selinux
from corten.runtime import hooks, labels, mount_options, seccomp, spec_check
from corten.runtime.oci.call import Call


def arguments(command: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(call: Call) -> int:
    call.print(json.dumps(features(), indent=2))
    return 0


def features() -> dict[str, Any]:
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": list(hooks.NAMES),
        "mountOptions": mount_options.names(),
        "linux": {
            "namespaces": list(spec_check.NAMESPACES),
            "capabilities": list(kernel.known_capabilities()),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": False, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": list(seccomp.ACTIONS),
                "operators": list(seccomp.OPERATORS),
                "archs": list(seccomp.ARCHITECTURES),
                "knownFlags": list(seccomp.FLAGS),
                "supportedFlags": list(seccomp.FLAGS),
            },
            "apparmor": {"enabled": labels.has_apparmor()},
            "selinux": {"enabled": selinux.is_enabled()},
            "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
            "memoryPolicy": {},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": {"io.github.seccomp.libseccomp.version": ""},
    }
