"""spec: a config.json to start from."""

from __future__ import annotations

import argparse
import json
import os

from corten.errors import Conflict
from corten.runtime.defaults import default_spec
from corten.runtime.oci.call import Call


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("-b", "--bundle", default=".", metavar="DIR")


def run(call: Call) -> int:
    path = os.path.join(call.options.bundle, "config.json")
    try:
        with open(path, "x") as file:
            json.dump(default_spec(), file, indent=4)
            file.write("\n")
    except FileExistsError:
        raise Conflict(f"file {path} exists: remove it first") from None
    return 0
