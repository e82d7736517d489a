"""Every row of the table of attacks, tried on a running daemon; the same rows meet dockerd in bench/attacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attacks_beside
import attacks_from_inside
import attacks_on_builds
import attacks_on_the_start
import pytest
from attacker import ATTACKS, Attack, Target

from daemons import Daemon

pytestmark = pytest.mark.needs("docker", "busybox", "openat2")
_MODULES = (attacks_beside, attacks_from_inside, attacks_on_builds, attacks_on_the_start)
ROWS = [f"T{number:02d}" for number in (*range(1, 24), *range(33, 39), 41, 44, 51, 52)]


@pytest.fixture
def target(daemon: Daemon, tmp_path: Path, busybox_tar: Path) -> Iterator[Target]:
    made = Target(daemon, tmp_path, busybox_tar)
    yield made
    made.close()


def test_every_row_has_one_attack() -> None:
    assert sorted(attack.row for attack in ATTACKS) == ROWS


@pytest.mark.parametrize("attack", sorted(ATTACKS, key=lambda attack: attack.row), ids=lambda attack: attack.row)
def test_attack_is_withstood(target: Target, attack: Attack) -> None:
    assert attack.run(target)
    target.check()
