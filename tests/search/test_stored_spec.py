"""A spec that would change what stored trials mean is refused, in words that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.errors import StudyMismatchError
from autoprune.search.stored_spec import check_same_meaning
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec, fingerprint


def test_a_folder_under_another_name_is_told_how_to_copy(tmp_path: Path) -> None:
    spec = StudySpec(name="mine")
    stored = fingerprint(spec) | {"name": "mine"}
    check_same_meaning(stored, spec, StudyFolder(tmp_path / "mine"))
    with pytest.raises(StudyMismatchError, match=r"holds the study 'mine'.* its name back.*`autoprune studies cp`"):
        check_same_meaning(stored, spec.model_copy(update={"name": "other"}), StudyFolder(tmp_path / "other"))
    changed = spec.model_copy(update={"name": "other", "seed": 7})
    with pytest.raises(StudyMismatchError, match=r"(?s)another spec.*seed: stored 0, given 7.*name: stored 'mine'"):
        check_same_meaning(stored, changed, StudyFolder(tmp_path / "other"))


def test_what_is_left_open_may_be_decided_by_another_worker_meanwhile(tmp_path: Path) -> None:
    folder, spec = StudyFolder(tmp_path / "mine"), StudySpec()
    stored = {**fingerprint(spec), "finetune.lr": 0.1, "latency.format": "int8"}
    undecided = {
        "finetune": spec.finetune.model_copy(update={"lr": "auto"}),
        "latency": spec.latency.model_copy(update={"format": "auto"}),
    }
    check_same_meaning(stored, spec.model_copy(update=undecided), folder)
    given = {**undecided, "finetune": spec.finetune.model_copy(update={"lr": 0.03})}
    with pytest.raises(StudyMismatchError, match=r"finetune\.lr: stored 0\.1, given 0\.03"):
        check_same_meaning(stored, spec.model_copy(update=given), folder)
