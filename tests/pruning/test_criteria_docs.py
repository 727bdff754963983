"""The page about criteria names every one of them, and its example runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from autoprune.core.builtin_names import IMPORTANCES
from autoprune.pruning.criteria import ablation

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "criteria.md").read_text(encoding="utf-8")


def test_every_criterion_has_a_row_and_a_source() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", PAGE.partition("## A criterion")[0], re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(IMPORTANCES.builtins)
    for name, source in rows:
        author, year = re.fullmatch(r"(\w+ et al\.) (\d{4}).*", source).groups()
        assert f"{author} {year}" in re.sub(r"\s+", " ", IMPORTANCES.get(name).__doc__), name


def test_the_limits_of_ablation_are_the_real_ones() -> None:
    assert f"{ablation.PASSES} / channels images, but at least {ablation.LEAST_IMAGES}" in PAGE


def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "mine.py").write_text(example, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "mine.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "both keep the contract\n", "")
