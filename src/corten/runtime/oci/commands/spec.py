"""spec: a config.json to start from."""

from __future__ import annotations

import argparse
import json
import os

from corten.errors import Conflict
from corten.runtime.defaults import default_spec, for_ordinary_user
from corten.runtime.oci.call import Call


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("-b", "--bundle", default=".", metavar="DIR")
    command.add_argument(
        "--rootless", dest="for_caller", action="store_true", help="for whoever calls this, in a user namespace"
    )


def run(call: Call) -> int:
    path = os.path.join(call.options.bundle, "config.json")
    try:
        with open(path, "x") as file:
            spec = for_ordinary_user(os.geteuid(), os.getegid()) if call.options.for_caller else default_spec()
            json.dump(spec, file, indent=4)
            file.write("\n")
    except FileExistsError:
        raise Conflict(f"file {path} exists: remove it first") from None
    return 0
