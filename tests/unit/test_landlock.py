"""A process that has locked itself in, tried from inside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from corten.linux import landlock

_TRY = """
import os, sys
from corten.linux import landlock
inside, outside = sys.argv[1:]
assert landlock.confine_writes([inside])
def tried(what, work):
    try:
        work()
        print(what, 'yes')
    except OSError as error:
        print(what, error.strerror)
tried('write inside', lambda: open(f'{inside}/new', 'w').write('x'))
os.mkdir(f'{inside}/deep')
tried('link inside', lambda: os.link(f'{inside}/new', f'{inside}/deep/linked'))
tried('move inside', lambda: os.rename(f'{inside}/new', f'{inside}/deep/moved'))
tried('write outside', lambda: open(f'{outside}/kept', 'w'))
tried('make outside', lambda: os.mkdir(f'{outside}/made'))
tried('remove outside', lambda: os.unlink(f'{outside}/kept'))
tried('link out', lambda: os.link(f'{inside}/deep/moved', f'{outside}/linked'))
tried('read outside', lambda: open(f'{outside}/kept').read())
tried('execute', lambda: os.execv('/bin/true', ['true']))
"""


def test_what_is_locked_in_stays_in(tmp_path: Path) -> None:
    if landlock.version() < 2:
        pytest.skip("this machine lacks: Landlock")
    for name in ("inside", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "outside/kept").write_text("kept")
    done = subprocess.run(
        [sys.executable, "-c", _TRY, str(tmp_path / "inside"), str(tmp_path / "outside")],
        capture_output=True,
        text=True,
        check=True,
    )
    answers = done.stdout.splitlines()
    allowed = {line.removesuffix(" yes") for line in answers if line.endswith(" yes")}
    assert allowed == {"write inside", "link inside", "move inside", "read outside"}
    assert len(answers) == 9
    assert (tmp_path / "outside/kept").read_text() == "kept"
