"""Stored studies that never ran: a database, a spec and a few files, made without PyTorch in some milliseconds."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Candidate, Completed, Failed, Outcome, Stopped
from autoprune.study import trial_format as records
from autoprune.study.copy_trials import backup_sqlite
from autoprune.study.folder import StudyFolder
from autoprune.study.portable_trials import PortableStudy, write_portable
from autoprune.study.spec import StudySpec
from autoprune.study.spec_toml import write_resolved
from autoprune.study.storage import open_storage
from autoprune.study.storage_url import sqlite_url

DENSE = Measurement({"accuracy": 0.99, "mflops": 100.0, "latency_ms": 4.0}, {"accuracy": 0.005})
BUDGET = Budget.parse({"mflops": 50})
SAMPLERS_SPACE = {"name": "FloatDistribution", "attributes": {"step": None, "low": 0.0, "high": 0.9, "log": False}}


def good(accuracy: float = 0.97, mflops: float = 49.0) -> Completed:
    values = {"accuracy": accuracy, "loss": 0.1, "mflops": mflops, "mparams": mflops / 100, "size_mb": mflops / 25}
    return Completed(Measurement({**values, "latency_ms": mflops / 25}, {"accuracy": 0.01}))


STOPPED = Stopped("clearly worse", Measurement({"mflops": 49.0}))
FAILED = Failed("RuntimeError", "no /home/me/secret/data.bin", 'File "/home/me/secret/net.py", line 3, in f\nboom')
RUNNING = None


def record(
    number: int,
    outcome: Outcome | None,
    seconds: float = 10.0,
    objectives: Sequence[str] = ("accuracy", "mflops", "latency_ms"),
) -> dict[str, Any]:
    """Return a trial as an archive holds it; one without an outcome was lost."""
    candidate = Candidate(number, PruningPolicy.uniform(0.5, "l1", names=["conv1"]), number, "sampler:tpe", BUDGET)
    attributes = {"candidate": json.loads(records.candidate_record(candidate, 0))}
    state, values = records.told_as(outcome, tuple(objectives)) if outcome else (None, None)
    if outcome:
        attributes["outcome"] = json.loads(records.outcome_record(outcome, {"finetune": seconds}))
    return {
        "state": state.name if state else "FAIL",
        "values": values,
        "start": "2026-01-01T00:00:00.250000",
        "complete": "2026-01-01T00:00:10",
        "params": {"sparsity:conv1": 0.5},
        "distributions": {"sparsity:conv1": SAMPLERS_SPACE},
        "user_attrs": attributes,
        "system_attrs": {},
    }


@functools.cache
def empty_database() -> bytes:
    """Return a SQLite file with Optuna's tables, which take long to make."""
    with tempfile.TemporaryDirectory() as folder:
        file, copy = Path(folder) / "study.db", Path(folder) / "copy.db"
        open_storage(sqlite_url(file))
        backup_sqlite(file, copy)
        return copy.read_bytes()


def store(
    path: Path,
    outcomes: Sequence[Outcome | None],
    *,
    wanted: int = 10,
    storage: str | None = None,
    facts: dict[str, Any] | None = None,
    **spec: Any,
) -> StudyFolder:
    """Write a study that holds trials which ended so; return its folder."""
    folder = StudyFolder(path)
    folder.create()
    plan = StudySpec(name=spec.pop("name", "fake"), trials=wanted, **spec)
    write_resolved(plan, folder.resolved)
    folder.accepted_toml.write_text("{}")
    session = {"budget": BUDGET.to_json(), "trials": wanted, "runtime": {"device_name": "Abacus"}}
    known = {"dense": DENSE.to_json(), "session:0": session} if facts is None else facts
    trials = tuple(record(n, outcome, objectives=plan.objectives) for n, outcome in enumerate(outcomes))
    for left in path.glob("study.db*"):  # of an earlier moment, its log included
        left.unlink()
    if storage is None:
        folder.database.write_bytes(empty_database())
    write_portable(PortableStudy(known, trials), storage or sqlite_url(folder.database), plan.name, plan.objectives)
    (path / "dense.json").write_text(json.dumps({"measurement": DENSE.to_json()}))
    return folder
