"""Options: each stands under one heading, help comes short or whole, and no list of names is kept twice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import click
import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from autoprune.cli import main
from autoprune.cli.budget_options import COSTS, flag_of
from autoprune.cli.headings import HeadedCommand, HeadedOption, Heading
from autoprune.cli.read_request import layer_of
from autoprune.cli.search import search
from autoprune.cli.spec_options import SPEC_OPTIONS
from autoprune.core.builtin_names import DATA, LOGGERS, MODELS, SAMPLERS
from autoprune.core.metrics import METRICS
from autoprune.study.optuna_sampler import GUIDED
from autoprune.study.optuna_sampler import SAMPLERS as OPTUNA
from autoprune.study.spec import StudySpec
from autoprune.study.spec_budget import BudgetSpec


def headed(group: click.Group, *names: str) -> Iterator[tuple[str, HeadedCommand]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, HeadedCommand):
            yield " ".join((*names, name)), command
        if isinstance(command, click.Group):
            yield from headed(command, *names, name)


HEADED = dict(headed(main))


def help_of(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments), terminal_width=100)
    assert result.exit_code == 0, result.output
    return result.output


def sections(text: str) -> dict[str, str]:
    """Return heading → what stands under it."""
    found = re.split(r"^(\w[\w ]*):\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


def explained(text: str) -> list[str]:
    """Return the options that have a line of their own, by their longest name."""
    lines = [match[1].split("  ")[0] for match in re.finditer(r"^  (-.*)$", text, re.MULTILINE)]
    return [max(re.findall(r"--?[a-z][a-z0-9-]*", line.split(" / ")[0]), key=len) for line in lines]


def flags(command: click.Command) -> list[str]:
    shown = (each for each in command.params if isinstance(each, click.Option) and not each.hidden)
    return [max(each.opts, key=len) for each in shown]


@pytest.mark.parametrize("name", HEADED)
def test_every_option_is_explained_once_under_its_heading(name: str) -> None:
    command = HEADED[name]
    text = help_of(*name.split(), "--help-all" if command.first else "--help")
    under = {heading: explained(part) for heading, part in sections(text).items()}
    assert sorted([*flags(command), "--help"]) == sorted(flag for part in under.values() for flag in part)
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert isinstance(parameter, HeadedOption), parameter.opts
            assert max(parameter.opts, key=len) in under[parameter.heading.value]


def test_the_headings_of_search_come_in_order() -> None:
    found = [heading for heading in sections(help_of("search", "--help-all")) if heading != "Examples"]
    assert found == [
        *("Budget", "Network and data", "What may go", "How candidates are trained", "How to search"),
        *("Latency", "Where it runs", "Output"),
    ]


def test_help_of_search_explains_what_a_newcomer_needs_and_names_the_rest() -> None:
    text = help_of("search", "--help")
    first = ["--budget-mflops", "--model", "--weights", "--data", "--dense-epochs", "--trials", "--workers"]
    assert explained(text.partition("Examples")[0]) == [*first, "--help-all", "--help"]
    for flag in flags(HEADED["search"]):
        assert len(re.findall(rf"{flag}(?![\w-])", text.partition("Examples")[0])) >= 1, flag
    assert len(text.splitlines()) < len(help_of("search", "--help-all").splitlines())


def test_help_that_is_asked_for_after_faulty_options_is_shown_all_the_same() -> None:
    assert "--latency-threads" in help_of("search", "--help-all", "--trials", "none")


def test_a_heading_has_one_place() -> None:
    assert len({heading.value for heading in Heading}) == len(Heading)


# -- nothing is spelt twice -------------------------------------------------------------------------------------------


def test_every_cost_has_an_option_and_a_value_of_the_spec() -> None:
    assert set(COSTS) == set(BudgetSpec.model_fields) == {name for name, one in METRICS.items() if one.is_cost}
    assert {flag_of(cost) for cost in COSTS} <= set(flags(HEADED["search"]))
    assert all(METRICS[cost].help for cost in COSTS)


def field_of(key: str) -> Any:
    model: Any = StudySpec
    *sections_, name = key.split(".")
    for section in sections_:
        model = model.model_fields[section].annotation
        assert issubclass(model, BaseModel)
    return model.model_fields[name]


@pytest.mark.parametrize("one", SPEC_OPTIONS, ids=lambda one: one.flag)
def test_an_option_overrides_a_value_of_the_spec_and_names_its_choices(one: Any) -> None:
    annotation = field_of(one.key).annotation
    if get_origin(annotation) is Literal:
        assert set(one.metavar.split("|")) == set(get_args(annotation))


def test_help_names_everything_that_ships() -> None:
    text = " ".join(help_of("search", "--help-all").split())
    for name in (*MODELS.builtins, *DATA.builtins, *LOGGERS.builtins, *SAMPLERS):
        assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text), name
    for form in ("torchvision:NAME", "imagefolder:PATH", "pkg.mod:fn", "file.py:fn"):
        assert form in text


def test_the_samplers_are_ours_and_those_of_optuna() -> None:
    assert set(SAMPLERS) == {"auto", GUIDED, *OPTUNA}


@pytest.mark.parametrize("given", [("--metric", "map,wer:min"), ("--metric", "map", "--metric", "wer:min")])
def test_a_list_may_be_given_part_by_part(given: tuple[str, ...]) -> None:
    with search.make_context("search", [*given, "--keep", "head*"]) as context:
        values = layer_of(context.params)
    assert values["metrics"] == ["map", "wer:min"]
    assert values["space"] == {"keep": ["head*"]}
