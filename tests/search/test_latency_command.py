"""A study whose latency is another machine's: it goes on while that is away, and what is owed is timed later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from timing_machine import TimingMachine, timing_machine
from tiny import write_task
from tiny_study import tiny_spec

import autoprune
import autoprune.export.remote_timer
from autoprune.cli import main
from autoprune.core.trial import Completed, Untimed
from autoprune.errors import StudyMismatchError, UntrustedCodeError
from autoprune.export.onnx import missing_packages
from autoprune.loggers.events import EventDisplay
from autoprune.report.content.summary import summarise
from autoprune.search.session import run_search
from autoprune.search.time_owed import time_owed
from autoprune.study.dense_facts import read_dense_facts
from autoprune.study.folder import StudyFolder
from autoprune.study.named_code import ImportMark, code_in
from autoprune.study.spec import StudySpec, fingerprint
from autoprune.study.spec_toml import read_resolved
from autoprune.study.view import StudyView, open_view

pytestmark = [
    pytest.mark.skipif(bool(missing_packages()), reason=f"not installed: {', '.join(missing_packages())}"),
    pytest.mark.usefixtures("process_is_left_as_it_was"),
]


@pytest.fixture(autouse=True, scope="module")
def no_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoprune.export.remote_timer, "PAUSES", (0.0, 0.0))
        yield


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> TimingMachine:
    return timing_machine(tmp_path_factory.mktemp("machine"))


class Spoken:
    """Remember what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def display(self) -> EventDisplay:
        return EventDisplay(lambda event: self.lines.append(event.text))


def spec_for(folder: Path, machine: TimingMachine, **changes: Any) -> StudySpec:
    latency = {"runtime": "auto", "blocks": 5, "calls": 1, "command": machine.command, "command_seconds": 20.0}
    given = {"trials": 4, "objectives": ("accuracy", "latency_ms"), "sampler": "random", "budget": {"mflops": "60%"}}
    return tiny_spec(write_task(folder), **{"latency": latency, **given, **changes})


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, machine: TimingMachine) -> tuple[StudySpec, StudyFolder, Spoken]:
    """Return a study whose machine went away after the dense network and two trials."""
    folder, spoken = tmp_path_factory.mktemp("remote"), Spoken()
    spec, study = spec_for(folder, machine), StudyFolder(folder / "tiny")
    machine.will("down", after=3)
    run_search(spec, study, spoken.display())
    return spec, study, spoken


def view_of(study: StudyFolder) -> StudyView:
    return open_view(study.path)


def test_the_search_goes_on_without_its_machine_then_pays(
    searched: tuple[StudySpec, StudyFolder, Spoken], machine: TimingMachine
) -> None:
    spec, study, spoken = searched
    facts = read_dense_facts(study)
    assert (facts.latency_host and facts.latency_host.name, facts.latency_runtime) == ("pi", "onnxruntime")
    trials = view_of(study).trials
    assert [type(trial.outcome) for trial in trials] == [Completed, Completed, Untimed, Untimed]
    assert {t.outcome.latency_host for t in trials if isinstance(t.outcome, Completed)} == {"pi"}
    assert any("trying again" in line for line in spoken.lines)
    assert {"2.safetensors", "3.safetensors"} <= {path.name for path in study.weights.iterdir()}
    summary = summarise(view_of(study))
    assert {row.number for row in summary.rows} <= {0, 1}
    assert (summary.counts["completed"], summary.counts["untimed"]) == (2, 2)
    assert any("2 trials have no latency yet and are on no front" in note for note in summary.notes)
    assert any("on pi (aarch64, Pi 5, ONNX Runtime 1.20)" in note for note in summary.notes)

    page = autoprune.Study(study.path).report().read_text(encoding="utf-8")
    assert "Without a latency yet" in page

    asked = ["time", str(study.path), "--json", "--quiet"]
    away = CliRunner().invoke(main, asked)
    assert (away.exit_code, json.loads(away.stdout)) == (1, {"timed": 0, "owed": 2, "host": "pi"})
    machine.will("up", after=0)
    once = autoprune.Study(study.path).time_owed()
    assert (once.timed, once.owed, once.host) == (2, 0, "pi")
    paid = view_of(study)
    assert all(isinstance(trial.outcome, Completed) and trial.outcome.latency_host == "pi" for trial in paid.trials)
    assert all(trial.outcome.measurement["latency_ms"] < 8.0 for trial in paid.trials)  # type: ignore[union-attr]
    assert time_owed(spec, study, Spoken().display()).timed == 0
    listed = CliRunner().invoke(main, ["studies", "--root", str(study.path.parent), "--json"])
    assert json.loads(listed.stdout)["studies"][0]["finished"] == 4

    machine.will({"host": "another"})
    more = spec.model_copy(update={"trials": 5})
    run_search(more, study, spoken.display())
    last = view_of(study).trials[-1].outcome
    assert isinstance(last, Untimed)
    assert last.reason == "it waits for its turn on pi"
    assert any("trial 4 has no latency yet" in line and "a front mixes no machines" in line for line in spoken.lines)
    machine.will("up")
    run_search(spec.model_copy(update={"trials": 6}), study, spoken.display())  # pays before it goes on
    assert [type(trial.outcome) for trial in view_of(study).trials] == [Completed] * 6


@pytest.mark.usefixtures("checks_in_this_process")
def test_a_pick_shows_the_latency_of_the_search_while_the_machine_is_away(
    searched: tuple[StudySpec, StudyFolder, Spoken], machine: TimingMachine
) -> None:
    _, study, _ = searched
    machine.will("down")
    card = autoprune.Study(study.path).pick(trial=0, epochs=0.5, export="none").card
    (first, *_) = view_of(study).trials
    assert isinstance(first.outcome, Completed)
    assert card.scores.validation["latency_ms"] == first.outcome.measurement["latency_ms"]
    assert any("so that the search's is shown: the latency command" in what for what in card.uncounted)
    assert card.latency.host == "pi"


def test_it_goes_on_where_it_was_timed_and_nowhere_else(
    searched: tuple[StudySpec, StudyFolder, Spoken],
) -> None:
    spec, study, _ = searched
    here = spec.latency.model_copy(update={"command": "", "runtime": "onnxruntime"})
    assert fingerprint(read_resolved(study.resolved)) == fingerprint(spec.model_copy(update={"latency": here}))
    with pytest.raises(StudyMismatchError, match=r"latency is that of pi .*give --latency-command"):
        run_search(spec.model_copy(update={"latency": here, "trials": 9}), study, Spoken().display())


def test_a_command_of_an_imported_study_is_code_that_needs_trust(
    searched: tuple[StudySpec, StudyFolder, Spoken], tmp_path: Path
) -> None:
    spec, study, _ = searched
    named = code_in(spec)["latency.command"]
    assert named == (spec.latency.command,)
    mark = ImportMark("elsewhere.zip", {"latency.command": named})
    mark.write(study)
    try:
        with pytest.raises(UntrustedCodeError, match=r"\(latency.command\)"):
            time_owed(spec, study, Spoken().display())
    finally:
        study.imported.unlink()


def test_a_search_does_not_begin_without_its_machine(tmp_path: Path, machine: TimingMachine) -> None:
    machine.will("down")
    study = autoprune.Study(
        tmp_path / "new",
        f"{write_task(tmp_path)}:net",
        f"{write_task(tmp_path)}:data",
        settings={"latency.command": machine.command, "dense.epochs": 1, "dense.batch_size": 32},
    )
    with pytest.raises(autoprune.errors.TimingError, match="Connection refused"):
        study.search({"mflops": "60%"}, trials=1)


def test_a_command_excludes_other_runtimes_than_onnx(tmp_path: Path) -> None:
    with pytest.raises(autoprune.errors.SpecError, match=r"latency.runtime.*a command times in ONNX Runtime"):
        autoprune.Study(tmp_path, settings={"latency.command": "ssh pi", "latency.runtime": "torch"})
    with pytest.raises(autoprune.errors.SpecError, match="quotes in pairs"):
        autoprune.Study(tmp_path, settings={"latency.command": "ssh 'pi"})


def test_a_command_is_sent_files_in_float32(tmp_path: Path) -> None:
    with pytest.raises(autoprune.errors.SpecError, match=r"latency.format.*a command is sent files in float32"):
        autoprune.Study(tmp_path, settings={"latency.command": "ssh pi", "latency.format": "int8"})
