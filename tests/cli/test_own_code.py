"""Networks and files as people bring them, through the command line: they work, or one line says what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny import SOURCE, stored_trials

from autoprune.cli import main

pytestmark = pytest.mark.usefixtures("checks_in_this_process", "process_is_left_as_it_was")

QUICK = (
    *("--objectives", "accuracy,mflops", "--sampler", "random", "--threads", "1", "--device", "cpu"),
    *("--latency-runtime", "torch", "--dense-epochs", "1", "--finetune-epochs", "0.5", "--budget-mflops", "70%"),
    *("--no-sensitivity", "--no-screening", "--trials", "2"),
)
HEAD = "import torch\nfrom torch import nn\nfrom tiny_neighbour import Net, data\n"
VIEWS = """
class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 16, 3), nn.Linear(256, 3)
    def forward(self, x):
        x = self.conv2(self.conv1(x).relu()).relu()
        return self.fc(x.view(len(x), -1))
def net(): return Views()
"""
PARSES = "import argparse\nparser = argparse.ArgumentParser()\nparser.parse_args(['--unknown'])\n"


def run(*arguments: str | Path) -> Result:
    result = CliRunner(env={"COLUMNS": "160", "AUTOPRUNE_STORAGE": ""}).invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def written(folder: Path, code: str) -> Path:
    """Write a file that imports what lies beside it, and return it."""
    folder.mkdir()
    (folder / "tiny_neighbour.py").write_text(SOURCE, encoding="utf-8")
    (folder / "mine.py").write_text(HEAD + code, encoding="utf-8")
    return folder / "mine.py"


def search(folder: Path, code: str, *more: str) -> Result:
    file = written(folder / "code", code)
    given = ("--root", folder / "studies", "--model", f"{file}:net", "--data", f"{file}:data")
    return run("search", "mine", *given, *QUICK, *more)


def last_line(result: Result) -> str:
    assert "Traceback" not in result.output
    return result.stderr.strip().splitlines()[-1]


def test_a_layout_that_fails_falls_back_is_stored_and_not_decided_again(tmp_path: Path) -> None:
    first = search(tmp_path, VIEWS)
    assert first.exit_code == 0, first.output
    line = next(line for line in first.stderr.splitlines() if line.startswith("layout is contiguous"))
    assert "channels_last" in line
    assert "mine.py:11, in forward" in line
    resolved = (tmp_path / "studies" / "mine" / "resolved.toml").read_text(encoding="utf-8")
    assert 'layout = "contiguous"' in resolved
    assert 'precision = "auto"' not in resolved, "bf16 or fp32, as this machine has it: decided once"
    again = run("search", "mine", "--root", tmp_path / "studies", "--trials", "3")
    assert again.exit_code == 0, again.output
    assert "layout is" not in again.stderr
    assert [trial["number"] for trial in stored_trials(tmp_path / "studies" / "mine")] == [0, 1, 2]
    assert "failed" not in first.output + again.output


def test_a_kill_between_the_dense_training_and_the_rest_keeps_what_was_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("autoprune.search.setup.find_space.find_groups", die)
        search(tmp_path, VIEWS)
    assert (tmp_path / "studies" / "mine" / "dense.safetensors").exists()
    again = run("search", "mine", "--root", tmp_path / "studies")
    assert again.exit_code == 0, again.output
    assert "layout is" not in again.stderr


@pytest.mark.parametrize(
    ("code", "more", "exit_code", "said"),
    [
        (VIEWS, ("--layout", "channels_last"), 2, "--layout channels_last (runtime.layout) was asked for"),
        (
            VIEWS.replace("x.view(len(x), -1)", "torch.from_numpy(x.detach().numpy()).flatten(1)"),
            ("--precision", "bf16"),
            2,
            "--precision bf16 (runtime.precision) was asked for",
        ),
        (
            VIEWS.replace("x.view(len(x), -1)", "x.nothing if self.training else x.flatten(1)"),
            (),
            1,
            "mine.py:11, in forward",
        ),
        (VIEWS.replace("x.view(len(x), -1)", "nn.functional.dropout(x.flatten(1))"), (), 1, "answers at random"),
        ("import threading\ndef net(): n = Net(3, 1); n.lock = threading.Lock(); return n\n", (), 1, "'lock' of"),
        ("raise SystemExit(4)\n", (), 2, "mine.py:4, in <module>"),
        (PARSES, (), 2, "mine.py:6, in <module>"),
    ],
)
def test_what_cannot_work_is_one_line(
    tmp_path: Path, code: str, more: tuple[str, ...], exit_code: int, said: str
) -> None:
    result = search(tmp_path, code, *more)
    assert result.exit_code == exit_code, result.output
    assert said in last_line(result)
    assert not (tmp_path / "studies" / "mine" / "dense.safetensors").exists()


PRINTS = """
print("importing")
class Prints(Net):
    def forward(self, x):
        print("running")
        return super().forward(x)
def net(num_classes, in_channels):
    print("building")
    return Prints(num_classes, in_channels)
def loud():
    print("loading")
    return data()
"""


ENDS = """
import sys
class Ends(Net):
    def forward(self, x):
        if self.training: {end}
        return super().forward(x)
def net(num_classes, in_channels): return Ends(num_classes, in_channels)
"""


@pytest.mark.parametrize("end", ["sys.exit(3)", "raise SystemExit", "sys.exit('enough')", "quit()"])
@pytest.mark.parametrize("command", ["inspect", "search"])
def test_a_network_that_ends_the_program_is_one_line_that_names_where(tmp_path: Path, command: str, end: str) -> None:
    file = written(tmp_path / "code", ENDS.format(end=end))
    options = ("--model", f"{file}:net", "--data", f"{file}:data")
    where = (tmp_path / "studies" / "s", *QUICK) if command == "search" else ()
    ended = run(command, *where, *options, "--json")
    assert ended.exit_code == 1, ended.stderr
    assert "SystemExit" in ended.stderr.splitlines()[-1]
    assert "mine.py:" in ended.stderr.splitlines()[-1]
    assert "exit code enough" not in ended.stderr
    assert json.loads(ended.stdout)["error"]["exit_code"] == 1


def test_json_stays_one_document_whatever_user_code_prints(tmp_path: Path) -> None:
    file = written(tmp_path / "code", PRINTS)
    found = run("inspect", f"{file}:net", "--input", "1x8x8", "--classes", "3", "--json")
    assert json.loads(found.stdout)["groups"]
    done = run(
        *("search", "mine", "--root", tmp_path / "studies", "--model", f"{file}:net", "--data", f"{file}:loud"),
        *(*QUICK, "--json"),
    )
    assert json.loads(done.stdout)
    assert {"importing", "building", "running", "loading"} <= set(done.stderr.split()) | set(found.stderr.split())


def test_a_program_of_the_users_own_sees_none_of_our_arguments_and_its_folder(tmp_path: Path) -> None:
    code = "import argparse\nfrom sizes import WIDTH\nparser = argparse.ArgumentParser()\n"
    code += "parser.add_argument('--classes', type=int, default=3)\nasked = parser.parse_args()\n"
    code += "def net(): return nn.Sequential(nn.Conv2d(1, WIDTH, 3), nn.ReLU(), nn.Conv2d(WIDTH, asked.classes, 6), "
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "sizes.py").write_text("WIDTH = 8\n", encoding="utf-8")
    (tmp_path / "zoo" / "mine.py").write_text(f"from torch import nn\n{code}nn.Flatten())\n", encoding="utf-8")
    given = ("--input", "1x8x8", "--classes", "3", "--json")
    command = (sys.executable, "-m", "autoprune", "inspect", "zoo/mine.py:net", *given)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["groups"][0]["channels"] == 8


@pytest.mark.parametrize(
    ("recipe", "groups"), [("diabetes-mlp", 2), ("digits-unet", 12), ("digits-two-heads", 12), ("digits-detector", 5)]
)
def test_inspect_looks_at_a_recipe_of_any_task(tmp_path: Path, recipe: str, groups: int) -> None:
    found = run("inspect", recipe, "--root", tmp_path, "--json")
    assert found.exit_code == 0, found.output
    assert len(json.loads(found.stdout)["groups"]) == groups
