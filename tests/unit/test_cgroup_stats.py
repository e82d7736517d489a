"""Memory and swap together, from the files of version 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from corten.cgroup import stats
from corten.cgroup.hierarchy import Hierarchies
from corten.cgroup.manager import Cgroup


@pytest.mark.parametrize(("most", "limit"), [("2000", 3000), ("max", (1 << 64) - 1)])
def test_memory_and_swap_as_version_1_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: str, limit: int
) -> None:
    files = {
        "memory.current": "700", "memory.swap.current": "30", "memory.max": "1000", "memory.swap.max": most,
        "memory.peak": "900", "memory.swap.peak": "90", "memory.swap.events": "high 1\nmax 4\nfail 2",
    }  # fmt: skip
    (tmp_path / "c").mkdir()
    for name, text in files.items():
        (tmp_path / "c" / name).write_text(f"{text}\n")
    monkeypatch.setattr(Hierarchies, "here", classmethod(lambda cls: Hierarchies({}, str(tmp_path))))
    assert stats.memory_and_swap(Cgroup("/c")) == {"usage": 730, "limit": limit, "max": 990, "failcnt": 4}
