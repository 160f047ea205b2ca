"""The Python blocks of pages in docs, each section a program that runs in an empty directory."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
SHARED = "One file in Python and Node at once"

# What the Node program of the recipe does.
OTHER = """
import alknet_fs
main = alknet_fs.open("shared.store").branch()
with main.watch("question.txt", after=0) as events:
    next(events)
left, right = main.read_text("/question.txt").split("*")
main.write_text("/answer.txt", str(int(left) * int(right)))
"""


def sections(page: str) -> dict[str, str]:
    """Return the Python program of each section."""
    found: dict[str, str] = {}
    for section in re.split(r"^## ", (DOCS / page).read_text(), flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        if blocks:
            found[section.partition("\n")[0]] = "\n".join(blocks)
    return found


RECIPES = sections("recipes.md")
SYNC = sections("sync-python.md")
PROGRAMS = RECIPES | SYNC


def test_all_sections_are_found() -> None:
    assert (len(RECIPES), len(SYNC)) == (7, 6)
    assert SHARED in PROGRAMS


@pytest.mark.parametrize("section", PROGRAMS)
def test_recipe(section: str, tmp_path: Path) -> None:
    if "pandas" in section and sys.version_info < (3, 11):
        pytest.skip("the libraries are not installed")
    programs = [PROGRAMS[section]] if section != SHARED else [PROGRAMS[section], OTHER]
    strict = [sys.executable, "-W", "error::ResourceWarning", "-c"]
    running = [subprocess.Popen([*strict, program], cwd=tmp_path) for program in programs]
    try:
        assert [process.wait(timeout=60) for process in running] == [0] * len(running)
    finally:
        for process in running:
            process.kill()
            process.wait()
