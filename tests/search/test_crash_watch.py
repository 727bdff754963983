"""A candidate that processes die of is told as failed; one that was only killed is evaluated again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import call, stored_trials, write_study

from autoprune.analysis.early_stopping import EarlyStopper
from autoprune.core.measurement import Measurement
from autoprune.core.policy import GroupPolicy, PruningPolicy
from autoprune.core.trial import Candidate, Completed, Failed
from autoprune.search.crash_watch import CrashWatch
from autoprune.search.evaluation.evaluator import Evaluation
from autoprune.search.loop import Evaluate

GOOD = Evaluation(Completed(Measurement({"accuracy": 0.9})), {"score": 0.5})
CANDIDATE = Candidate(3, PruningPolicy({"a": GroupPolicy(0.5, "l1")}), 0, "sampler:fake")
DYING = """
import os, signal, sys
from pathlib import Path
from test_crash_watch import called

def fatal_kernel(*given):
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))

called(fatal_kernel, Path(sys.argv[1]))
"""


def called(evaluate: Evaluate, folder: Path, candidate: Candidate = CANDIDATE) -> Evaluation:
    return CrashWatch(evaluate, folder)(candidate, lambda phase: None, EarlyStopper(candidate, ()))


def dies(folder: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(folder), name],
        cwd=Path(__file__).parent,
        env={"PYTHONPATH": f"{Path(__file__).parent.parent / 'support'}:{Path(__file__).parent}", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode < 0, done.stderr


def evaluated(folder: Path, candidate: Candidate = CANDIDATE) -> Evaluation:
    return called(lambda asked, on_phase, stopper: GOOD, folder, candidate)


def test_what_two_processes_died_of_has_failed_and_says_of_what(tmp_path: Path) -> None:
    folder = tmp_path / "crashes"
    dies(folder, "SIGABRT")
    assert evaluated(folder) is GOOD, "once may be chance"
    dies(folder, "SIGSEGV")
    ended = evaluated(folder)
    assert isinstance(ended.outcome, Failed)
    assert ended.outcome.error == "ProcessDied"
    said = ended.outcome.message
    assert said.startswith("2 processes died while they evaluated it, the last of: Fatal Python error: ")
    assert "in fatal_kernel" in said
    assert str(folder) in said
    other = Candidate(3, PruningPolicy({"a": GroupPolicy(0.25, "l1")}), 0, "sampler:fake")
    assert evaluated(folder, other) is GOOD, "the same number in another study"


def test_what_was_killed_is_evaluated_however_often(tmp_path: Path) -> None:
    for _ in range(3):
        dies(tmp_path, "SIGKILL")
        assert len(list(tmp_path.iterdir())) == 1
    assert evaluated(tmp_path) is GOOD
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_leaves_nothing_however_it_ends(tmp_path: Path) -> None:
    def interrupted(*given: object) -> Evaluation:
        assert len(list(tmp_path.iterdir())) == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        called(interrupted, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert evaluated(tmp_path / "no folder" / "here") is GOOD, "a place that cannot be written keeps nobody"


@pytest.mark.long
def test_a_study_with_such_a_candidate_goes_on_without_it(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=6)
    code = tmp_path / "code" / "tiny.py"
    # the evaluation of one trial takes the process down, as a kernel that writes past its memory does
    code.write_text(
        code.read_text(encoding="utf-8")
        + "\n\nimport os\nfrom autoprune.search.evaluation.evaluator import Evaluator\n"
        + "_call = Evaluator.__call__\n"
        + "def _dies(self, candidate, *rest):\n"
        + "    if candidate.number == 4:\n"
        + "        os.abort()\n"
        + "    return _call(self, candidate, *rest)\n"
        + "Evaluator.__call__ = _dies\n",
        encoding="utf-8",
    )
    codes = [call("search", folder).returncode for _ in range(3)]
    assert codes == [-6, -6, 0]
    trials = stored_trials(folder)
    assert [trial["state"] for trial in trials if trial["state"] != "FAIL"] == ["COMPLETE"] * 5
    report = call("report", folder)
    assert report.returncode == 0, report.stderr
    assert "ProcessDied" in report.stdout + report.stderr
