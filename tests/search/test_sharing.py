"""A search shares what it prepares, and goes on without the teacher's answers of others if the store fails."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from study_fakes import fake_outcome, make_proposals, open_ledger

from autoprune.core.trial import Candidate, Trial
from autoprune.errors import StudyMismatchError
from autoprune.search.sharing import Sharing
from autoprune.study.folder import StudyFolder

PROPOSALS = make_proposals(with_baselines=True)
TEACHER = "teacher/teacher-ab-seed0-batch8-epoch0.safetensors"


class Seen:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def asked(self, candidate: Candidate) -> None:
        self.events.append(f"asked {candidate.number}")

    def phase(self, name: str) -> None:
        self.events.append(name)

    def told(self, trial: Trial) -> None:
        self.events.append(f"told {trial.number}")


@pytest.fixture
def sharing(tmp_path: Path) -> Sharing:
    (tmp_path / "store").mkdir()
    folder = StudyFolder(tmp_path / "study")
    (folder.path / "teacher").mkdir(parents=True)
    for name in ("resolved.toml", "dense.safetensors"):
        (folder.path / name).write_text(name, encoding="utf-8")
    return Sharing.through(str(tmp_path / "store"), folder, "fake", lambda sentence: None)


def sent(root: Path) -> list[str]:
    return sorted(path.name.rpartition("-")[0] for path in (root / "store").iterdir())


def test_what_is_prepared_is_sent_once_and_another_network_is_refused(sharing: Sharing, tmp_path: Path) -> None:
    with open_ledger(sharing.files.folder.path) as ledger:
        ledger.preparation.claim(False, shares=True)
        sharing.send(ledger)
        assert sent(tmp_path) == ["fake-dense.safetensors", "fake-resolved.toml"]
        sharing.send(ledger)
        assert len(sent(tmp_path)) == 2
        sharing.files.folder.dense_weights.write_text("another one", encoding="utf-8")
        with pytest.raises(StudyMismatchError, match="another network"):
            sharing.send(ledger)


def test_the_teacher_s_answers_follow_a_trial_and_a_store_that_fails_is_said_once(
    sharing: Sharing, tmp_path: Path
) -> None:
    seen, warnings, folder = Seen(), list[str](), sharing.files.folder
    with open_ledger(folder.path) as ledger:
        ledger.preparation.claim(False, shares=True)
        sharing.send(ledger)
        observer = sharing.watch(seen, ledger, warnings.append)
        candidate = ledger.ask(PROPOSALS, 0)
        observer.asked(candidate)
        (folder.path / TEACHER).write_text("answers", encoding="utf-8")
        trial = ledger.tell(candidate, fake_outcome(PROPOSALS, candidate), {})
        observer.told(trial)
        assert f"fake-{TEACHER.replace('/', '-')}" in sent(tmp_path)
        (folder.path / TEACHER).unlink()
        observer.asked(candidate)  # as a machine that has not computed them
        assert (folder.path / TEACHER).read_text(encoding="utf-8") == "answers"
        (folder.path / TEACHER).unlink()
        shutil.rmtree(tmp_path / "store")
        observer.asked(candidate)
        observer.asked(candidate)
    assert seen.events == ["asked 0", "told 0", "asked 0", "asked 0", "asked 0"]
    (warning,) = warnings
    assert "The search goes on" in warning
