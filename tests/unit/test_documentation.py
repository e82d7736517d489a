"""What the documentation names is there: modules, tests, pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
MODULE = re.compile(r"`((?:[\w-]+/)*[\w-]+\.py)`")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
PLACES = ("", "src", "src/corten", "tests")


@pytest.fixture(scope="module")
def names() -> set[str]:
    """Every Python file by its name alone: where a page speaks of one room it leaves the room out."""
    return {path.name for top in ("src", "tests", "bench") for path in (ROOT / top).rglob("*.py")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_and_pages_exist(page: Path, names: set[str]) -> None:
    text = page.read_text()
    modules = set(MODULE.findall(text))
    lost = {name for name in modules if "/" not in name and name not in names}
    lost |= {name for name in modules if "/" in name and not any((ROOT / place / name).is_file() for place in PLACES)}
    lost |= {link for link in LINK.findall(text) if not (page.parent / link).exists()}
    assert not lost
