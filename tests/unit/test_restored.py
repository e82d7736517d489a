"""What came out of a checkpoint is looked at thread by thread."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from corten.errors import InvalidParameter
from corten.linux import process as kernel
from corten.runtime.oci import restored

# a thread is made first, then only the other one gives up what it may
PROGRAM = """
import ctypes, threading, sys
threading.Thread(target=sys.stdin.read, daemon=True).start()
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
print(flush=True)
threading.Event().wait()
"""


def test_a_thread_that_was_allowed_more_than_its_process() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        spec = {"process": {"noNewPrivileges": True, "capabilities": {"bounding": kernel.CAPABILITIES}}}
        with pytest.raises(InvalidParameter) as caught:
            restored.check([process.pid], spec, "/", [])
        found = re.search(rf"thread (\d+) of process {process.pid} may gain new privileges", caught.value.message)
        assert found is not None, caught.value.message
        assert int(found[1]) != process.pid
    finally:
        process.kill()
        process.communicate()
