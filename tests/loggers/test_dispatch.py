"""Loggers beside the display: what each receives, what a failing one does to a search, and how yours is checked."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from autoprune.analysis import pareto
from autoprune.core.builtin_names import LOGGERS
from autoprune.core.metrics import ACCURACY
from autoprune.core.trial import KINDS, Trial
from autoprune.errors import UnknownNameError, UsageError
from autoprune.loggers.check_logger import OBJECTIVES, check_logger, example_study, example_trials
from autoprune.loggers.dispatch import Loggers, make_logger
from autoprune.loggers.standing_tracker import StandingTracker

TRIALS = example_trials()


class Recorder:
    """Remember what was told; ``held`` is what it says it holds, ``breaks`` the method that raises."""

    def __init__(self, held: Sequence[int] = (), breaks: str = "") -> None:
        self.held, self.breaks, self.log = held, breaks, list[str]()

    def _see(self, what: str, method: str) -> None:
        self.log.append(what)
        if method == self.breaks:
            raise ConnectionError("the server is away")

    def began(self, study: Any, stored: Sequence[Trial]) -> Sequence[int]:
        self._see(f"began {len(stored)}", "began")
        return self.held

    def told(self, trial: Trial, standing: Any) -> None:
        assert sum(standing.counts.values()) == trial.number + 1
        self._see(f"told {trial.number}", "told")

    def ended(self, how: str) -> None:
        self._see(how, "ended")


def run(loggers: Loggers, folder: Path, stored: int, total: int) -> None:
    with loggers.session(example_study(folder), TRIALS[:stored]):
        for trial in TRIALS[stored:total]:
            loggers.told(trial)


def test_each_is_told_what_it_lacks_and_then_what_is_new(tmp_path: Path) -> None:
    new, one_short, said = Recorder(), Recorder(held=range(2)), list[str]()
    run(Loggers({"new": new, "short": one_short}, pytest.fail, said.append), tmp_path, stored=3, total=5)
    assert new.log == ["began 3", *(f"told {number}" for number in range(5)), "finished"]
    assert one_short.log == ["began 3", "told 2", "told 3", "told 4", "finished"]
    assert [sentence.rpartition(": ")[2] for sentence in said] == ["3 of 3 stored trials", "1 of 3 stored trials"]


@pytest.mark.parametrize(
    ("breaks", "log"),
    [
        ("began", ["began 1"]),
        ("told", ["began 1", "told 0"]),
        ("ended", ["began 1", "told 0", "told 1", "told 2", "finished"]),
    ],
)
def test_one_that_raises_is_warned_about_once_and_told_no_more(tmp_path: Path, breaks: str, log: list[str]) -> None:
    broken, sound, warnings = Recorder(breaks=breaks), Recorder(), list[str]()
    run(Loggers({"broken": broken, "sound": sound}, warnings.append), tmp_path, stored=1, total=3)
    assert broken.log == log
    assert sound.log == ["began 1", "told 0", "told 1", "told 2", "finished"]
    (warning,) = warnings
    for part in ("logger broken", "ConnectionError: the server is away", "switched off", "resumes"):
        assert part in warning


@pytest.mark.parametrize(("error", "how"), [(KeyboardInterrupt, "interrupted"), (ValueError, "failed")])
def test_a_session_says_how_it_ended(tmp_path: Path, error: type[BaseException], how: str) -> None:
    logger = Recorder()
    loggers = Loggers({"one": logger}, pytest.fail)
    with pytest.raises(error), loggers.session(example_study(tmp_path), []):
        raise error
    assert logger.log == ["began 0", how]


def test_one_that_never_began_is_not_ended(tmp_path: Path) -> None:
    class Interrupted(Recorder):
        def began(self, study: Any, stored: Sequence[Trial]) -> Sequence[int]:
            raise KeyboardInterrupt

    first, last = Recorder(), Recorder()
    with pytest.raises(KeyboardInterrupt):
        run(Loggers({"first": first, "dies": Interrupted(), "last": last}, pytest.fail), tmp_path, stored=1, total=2)
    assert (first.log, last.log) == (["began 1", "interrupted"], [])


def test_the_standing_is_that_of_all_trials_so_far(tmp_path: Path) -> None:
    study = example_study(tmp_path)
    course = StandingTracker(OBJECTIVES, study.budget, study.dense, ACCURACY)
    for count, trial in enumerate(TRIALS, 1):
        course.add(trial)
        if count % 2 == 0:  # asking in between changes nothing
            standing = course.standing
            assert standing.best is pareto.best_within(TRIALS[:count], study.budget, ACCURACY, dense=study.dense)
            assert standing.hypervolume == pytest.approx(pareto.hypervolume(TRIALS[:count], OBJECTIVES, study.dense))
    standing = course.standing
    assert standing.counts == {"completed": 3, "stopped": 1, "over_budget": 1, "failed": 1, "untimed": 1}
    assert tuple(standing.counts) == KINDS


# -- making one -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "module"), [("mlflow", "mlflow"), ("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")]
)
def test_a_missing_library_is_an_error_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=re.escape(f"pip install 'autoprune[{name}]'")):
        make_logger(name)


def test_every_shipped_logger_has_an_extra_of_its_name() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert [name for name in LOGGERS.builtins if f"\n{name} = [" not in text] == []


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("def make(): raise OSError('no such board')", "OSError: no such board"),
        ("def make(path): return None", "without arguments"),
        ("def make(): return 3", "without began, told, ended"),
    ],
)
def test_what_is_no_logger_is_named(tmp_path: Path, body: str, part: str) -> None:
    (tmp_path / "mine.py").write_text(body, encoding="utf-8")
    with pytest.raises(UsageError, match=part):
        make_logger(f"{tmp_path / 'mine.py'}:make")


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'tensorboard'"):
        make_logger("tensorbord")


# -- the contract -----------------------------------------------------------------------------------------------------


def test_the_example_of_the_docs_keeps_the_contract(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "log-trials.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- file: my_logger.py -->\n```python\n(.*?)```", page, re.DOTALL)
    assert found
    (tmp_path / "my_logger.py").write_text(found[1], encoding="utf-8")
    check_logger(f"{tmp_path / 'my_logger.py'}:Lines", tmp_path)
    lines = (tmp_path / "lines.txt").read_text().splitlines()
    assert lines[:2] == ["0 Completed, best: 0", "1 OverBudget, best: 0"]
    assert len(lines) == len(TRIALS)


@pytest.mark.parametrize("held", [(), (0, 1, 2, 3, 99)])
def test_one_that_forgets_or_makes_up_what_it_holds_breaks_the_contract(tmp_path: Path, held: Sequence[int]) -> None:
    sessions = iter([(), held])
    with pytest.raises(AssertionError, match=r"Recorder\.began holds the trials"):
        check_logger(lambda: Recorder(next(sessions)), tmp_path)


def test_testing_offers_it() -> None:
    from autoprune import testing

    assert testing.check_logger is check_logger
