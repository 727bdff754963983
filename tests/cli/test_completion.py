"""What a shell offers on Tab, and what every command's help shows."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from command_lines import understood
from stored_fakes import FAILED, good, store

from autoprune.cli import main
from autoprune.cli.completion import SHELLS
from autoprune.cli.main import COMMANDS


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("completion") / "studies"
    store(root / "mine", [good(), FAILED, good()])
    return root


def offered(*words: str | Path) -> list[str]:
    """Return what is offered for the last of these words."""
    *before, incomplete = map(str, words)
    completion = ShellComplete(main, {}, "autoprune", "_AUTOPRUNE_COMPLETE")
    return [item.value for item in completion.get_completions(before, incomplete)]


def test_commands_and_options_are_offered() -> None:
    assert offered("st") == ["studies"]
    assert offered("studies", "e") == ["export"]
    assert offered("watch", "--on") == ["--once"]


def test_studies_and_recipes_are_offered_for_study(root: Path) -> None:
    assert "mine" in offered("report", "--root", root, "")
    assert offered("search", "--root", root, "cifar10-resnet2") == ["cifar10-resnet20"]
    assert offered("studies", "rm", "--root", root, "") == ["mine"]


def test_completed_trials_are_offered_for_pick(root: Path) -> None:
    assert offered("pick", "mine", "--root", root, "--trial", "") == ["0", "2"]
    assert offered("pick", "nosuch", "--root", root, "--trial", "") == []


def test_after_an_unknown_command_nothing_breaks() -> None:
    assert "search" in offered("serach", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_each_shell_names_the_command(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert f"_AUTOPRUNE_COMPLETE={shell}_complete" in result.output


def test_bash_takes_the_script() -> None:
    script = CliRunner().invoke(main, ["completion", "bash"]).output
    done = subprocess.run(
        ["bash", "-euc", f"{script}\ncomplete -p autoprune"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "autoprune" in done.stdout


def test_an_unknown_shell_is_named_with_those_that_are_known() -> None:
    result = CliRunner().invoke(main, ["completion", "csh"])
    assert result.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in result.output


# -- help -------------------------------------------------------------------------------------------------------------


def leaves(group: click.Group, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*names, name), command
        if isinstance(command, click.Group):
            yield from leaves(command, *names, name)


LEAVES = dict(leaves(main))


@pytest.mark.parametrize("names", LEAVES, ids=" ".join)
def test_every_command_has_examples_which_it_understands(names: tuple[str, ...]) -> None:
    examples = [line.strip() for line in (LEAVES[names].epilog or "").splitlines() if line.startswith("  ")]
    assert examples, f"autoprune {' '.join(names)} --help shows no example"
    for example in examples:
        words = shlex.split(re.split(r"\s{3,}| \| | >>? ", example)[0])
        assert words[0] == "autoprune"
        understood(main, words[1:])


@pytest.mark.parametrize("names", LEAVES, ids=" ".join)
def test_every_option_and_command_is_explained(names: tuple[str, ...]) -> None:
    command = LEAVES[names]
    assert command.help
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, f"{names} {parameter.opts}"


def test_the_list_of_commands_holds_every_module_of_commands() -> None:
    folder = Path(__file__).parents[2] / "autoprune" / "cli"
    others = {
        *("__init__", "main", "lazy_group", "headings", "output", "completed_values", "manage_studies", "read_request"),
        *(
            "budget_options",
            "shared_options",
            "spec_options",
            "conclude",
            "secrets",
            "standard_streams",
            "quality_options",
            "worker_plan",
            "measure_workers",
            "many_workers",
            "ray_plan",
            "ray_place",
            "ray_cluster",
            "ray_workers",
        ),
    }
    assert {path.stem for path in folder.glob("*.py")} - others == set(COMMANDS)
