"""Documents keep their word: Python blocks run, and every environment variable is listed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = [
    (path.relative_to(ROOT).as_posix(), number, block)
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.S))
]


@pytest.mark.parametrize("path,number,block", BLOCKS, ids=[f"{p}:{n}" for p, n, _ in BLOCKS])
def test_python_blocks_run(path, number, block, capsys):
    exec(compile(block, f"{path} block {number}", "exec"), {})
    assert "steps" in capsys.readouterr().out or path != "README.md"


def test_environment_variables_are_documented():
    sources = [*ROOT.glob("core/src/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
    used = {name for path in sources for name in re.findall(r"\bTALLOW_[A-Z]+\b", path.read_text())} - {
        "TALLOW_API"
    }
    listed = set(re.findall(r"`(TALLOW_[A-Z]+)`", (ROOT / "docs/command.md").read_text()))
    assert used == listed
