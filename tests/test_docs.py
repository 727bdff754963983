"""The words are true: help and spec pages are up to date, links lead somewhere, and README's example runs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def block(kind, name):
    """Return the code block of README that stands under ``<!-- kind: name -->``."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {kind}: {re.escape(name)} -->\n```\w*\n(.*?)```", text, re.DOTALL)
    assert found, f"README has no block marked {kind}: {name}"
    return found[1]


@pytest.mark.parametrize(
    ("script", "function", "page"),
    [
        ("make_cli_docs", "cli_docs", "cli.md"),
        ("make_spec_docs", "spec_docs", "spec.md"),
    ],
)
def test_generated_pages_are_up_to_date(script, function, page):
    written = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    assert written == getattr(load_script(script), function)(), f"run: python scripts/{script}.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_is_named_exists(page):
    known = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", load_script("make_cli_docs").cli_docs()))
    others = {"--quiet", "--study", "--trials", "--rounds", "--steps", "--network", "--kind"}
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if "autoprune " in line or "`--" in line]
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(lines)):
        assert option in known | others, f"{page.name} names {option}, which no command has"


def test_the_readme_names_every_command():
    from autoprune.cli.main import COMMANDS

    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"autoprune {name}" not in text] == []


def test_the_example_of_your_own_network_and_data_runs(tmp_path):
    (tmp_path / "mine.py").write_text(block("file", "mine.py"), encoding="utf-8")
    for command in block("command", "mine").splitlines():
        words = command.split()
        assert words[0] == "autoprune"
        done = subprocess.run(
            [sys.executable, "-m", "autoprune", *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    picked = next((tmp_path / "studies" / "mine" / "picked").iterdir())
    names = {"model.safetensors", "architecture.json", "policy.json", "model.onnx", "card.md", "card.json"}
    assert {path.name for path in picked.iterdir()} == names
