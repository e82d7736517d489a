"""A machine whose kernel has SELinux switched on, with Debian's policy: the tests of labels run there."""

from __future__ import annotations

from pathlib import Path

import pytest
from guest import Guest, lacking

pytestmark = pytest.mark.timeout(1500)


def test_labels(tmp_path: Path) -> None:
    if reason := lacking():
        pytest.skip(f"this machine lacks: {reason}")
    found: dict[str, dict] = {}
    with Guest(tmp_path / "guest", options="security=selinux selinux=1 enforcing=0") as guest:
        assert guest.run("cat", "/sys/fs/selinux/enforce").output == "0"
        done = guest.pytest(
            ["tests/clients/test_selinux.py"],
            timeout=1200,
            report=lambda report: found.update({report.get("node", "collecting"): report}),
        )
    texts = [report["text"] for report in found.values() if report.get("outcome") != "passed"]
    assert not texts, "\n".join(texts)
    assert len(found) == 4, done.output[-3000:]
