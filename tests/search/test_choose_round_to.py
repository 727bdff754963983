"""``round_to = auto``: a multiple is taken only where what lies on it is faster than what is narrower."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_fakes import space_of
from tiny import write_task
from tiny_study import tiny_spec

from autoprune.errors import ExportError
from autoprune.export.timing_runtimes import engine_of
from autoprune.search.setup import choose_round_to
from autoprune.search.setup.choose_round_to import decide, with_round_to
from autoprune.search.setup.from_spec import resolve
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.search.stored_spec import remember, with_stored_choices
from autoprune.study.folder import StudyFolder

SPACE = space_of([32, 64, 128])


def vector_machine(step: int, seen: list[dict[str, int]]) -> Any:
    """Return a race on a machine that computes a whole number of channels at once, where odd ones cost twice."""

    def takes(widths: dict[str, int]) -> float:
        return sum(-(-one // step) * (1 if one % step == 0 else 2) for one in widths.values())

    def race(one: dict[str, int], other: dict[str, int]) -> tuple[float, float]:
        seen.append(one)
        assert all(other[name] < width for name, width in one.items())
        return takes(one) / takes(other), 0.01

    return race


@pytest.mark.parametrize(("step", "expected"), [(4, 4), (8, 8), (16, 16)])
def test_the_multiple_is_what_the_machine_computes_at_once(step: int, expected: int) -> None:
    seen: list[dict[str, int]] = []
    found, said = decide(SPACE, vector_machine(step, seen))
    assert found == expected
    assert "on multiples of 4 ×" in said
    assert all(
        width % multiple == 0 for widths, multiple in zip(seen, (4, 8, 16), strict=True) for width in widths.values()
    )


@pytest.mark.parametrize(("ratio", "stderr"), [(1.02, 0.01), (0.9, 0.1)])
def test_it_is_one_where_nothing_is_faster_beyond_noise(ratio: float, stderr: float) -> None:
    assert decide(SPACE, lambda one, other: (ratio, stderr))[0] == 1


def test_it_is_one_where_networks_cannot_be_timed_or_groups_are_narrow() -> None:
    def fails(one: dict[str, int], other: dict[str, int]) -> tuple[float, float]:
        raise ExportError("no such operator")

    assert decide(SPACE, fails) == (1, "no such operator")
    assert decide(space_of([3]), fails) == (1, "no group is wide enough for another")


def test_a_multiple_on_which_a_group_could_not_be_cut_is_not_tried() -> None:
    seen: list[dict[str, int]] = []
    assert decide(space_of([16, 32, 64]), vector_machine(16, seen))[0] < 16
    assert len(seen) == 2
    assert decide(space_of([3, 32, 64]), vector_machine(8, seen))[0] == 8


def test_what_was_decided_is_said_once_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, heard = StudyFolder(tmp_path / "study"), list[str]()
    folder.create()
    spec = resolve(tiny_spec(write_task(tmp_path), space={"importances": ("l1",), "round_to": "auto"}))
    raced: list[int] = []

    def racing(*_: object) -> Any:
        return lambda one, other: (raced.append(1), (0.5, 0.01))[1]

    monkeypatch.setattr(choose_round_to, "_racing", racing)
    study = prepare_study(spec, folder, heard.append)
    assert (study.spec.space.round_to, study.space.round_to) == (4, 4)
    assert sum("kept channels are a multiple of 4 (space.round_to)" in line for line in heard) == 1
    assert {count % 4 for counts in study.space.channel_choices.values() for count in counts} == {0}
    remember(study.spec, {}, folder)
    times = len(raced)
    again = prepare_study(with_stored_choices(spec, folder), folder, heard.append)
    assert (again.space.round_to, len(raced)) == (4, times)


def test_two_networks_are_timed(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "study")
    folder.create()
    study = prepare_study(resolve(tiny_spec(write_task(tmp_path))), folder, lambda message: None)
    wish = study.spec.space.model_copy(update={"round_to": "auto"})
    context = replace(study.context, spec=study.spec.model_copy(update={"space": wish}))
    decided, pruner = with_round_to(context, study.pruner, engine_of("torch"))
    assert decided.spec.space.round_to == pruner.space.round_to
    assert pruner.space.round_to in (1, 4)
