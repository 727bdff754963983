"""A SQLite study in short, for lists of many studies: a few queries, without Optuna, SQLAlchemy or a single policy.

Where the tables are not those that are known, or anything else is unusual, there is no overview, and ``view`` reads
the study as a whole.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.analysis.pareto import best_within
from autoprune.core.json_values import DAMAGE
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import Metric
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Candidate, Completed, Trial, Untimed, outcome_from_json
from autoprune.study.later_latencies import LATENCY, untimed, with_later_latencies
from autoprune.study.sqlite_rows import facts_of, known_study, open_to_read
from autoprune.study.study_facts import StudyFacts
from autoprune.study.table_schema import CANDIDATE, OUTCOME

_TRIALS = """
    SELECT trials.trial_id, trials.state, attributes.value_json FROM trials
    LEFT JOIN trial_user_attributes AS attributes ON attributes.trial_id = trials.trial_id AND attributes.key = ?
    WHERE trials.study_id = ? ORDER BY trials.number
"""
_CANDIDATE = "SELECT value_json FROM trial_user_attributes WHERE trial_id = ? AND key = ?"


@dataclass(frozen=True)
class Overview:
    """What a line of a list shows of a study.

    Attributes:
        finished: how many trials have ended.
        running: how many candidates have no outcome yet.
        facts: what is stored about the study as a whole.
        best_number: of the best trial within the last run's budget; ``None`` if none meets it.
        best: what was measured of it.
        is_leased: whether a worker on any machine evaluates a candidate now, where the study was read as a whole.
    """

    finished: int
    running: int
    facts: StudyFacts
    best_number: int | None
    best: Measurement | None
    is_leased: bool = False


def overview(database: Path, name: str, quality: Metric) -> Overview | None:
    """Return what a list shows of a study; ``None`` if it has to be read as a whole.

    Args:
        database: a SQLite file, which a search may be writing.
        name: of the study in it.
        quality: what its networks are judged by.
    """
    try:
        with closing(open_to_read(database)) as connection:
            return _read(connection, name, quality)
    except (sqlite3.Error, *DAMAGE):
        return None  # whoever reads it as a whole says what is wrong


def _read(connection: sqlite3.Connection, name: str, quality: Metric) -> Overview | None:
    study = known_study(connection, name)
    if study is None:
        return None
    kept = facts_of(connection, study)
    facts = StudyFacts.from_json({key: json.loads(value) for key, value in kept.items()})
    rows = connection.execute(_TRIALS, (OUTCOME, study)).fetchall()
    ended = [
        (trial_id, json.loads(json.loads(text))["outcome"])
        for trial_id, state, text in rows
        if text is not None and state not in ("RUNNING", "WAITING")
    ]
    running = sum(state == "RUNNING" for _, state, _ in rows)
    best = _best(connection, ended, kept, facts, quality)
    number, measured = best if best else (None, None)
    return Overview(len(ended), running, facts, number, measured)


def _best(
    connection: sqlite3.Connection,
    ended: list[tuple[int, dict[str, Any]]],
    kept: Mapping[str, str],
    facts: StudyFacts,
    quality: Metric,
) -> tuple[int, Measurement] | None:
    """Return the number of the best trial within the budget, and what it measured.

    Args:
        connection: to the database.
        ended: record → outcome, as JSON data.
        kept: what is stored about the study as a whole, as JSON by key.
        facts: the same, read.
        quality: what networks are judged by.
    """
    nobody = PruningPolicy()
    trials = [  # under the number of their record: of all candidates only the best one's is read
        Trial(Candidate(trial_id, nobody, 0, ""), outcome, {}, 0)
        for trial_id, data in ended
        if isinstance(outcome := outcome_from_json(data), Completed | Untimed)
    ]
    trials = with_later_latencies(trials, lambda: _by_record(connection, trials, kept))
    found = best_within(trials, facts.budget, quality, dense=facts.dense)
    if found is None or not isinstance(found.outcome, Completed):
        return None
    return _number_of(connection, found.number), found.outcome.measurement


def _number_of(connection: sqlite3.Connection, trial_id: int) -> int:
    """Return the number of the candidate in a record."""
    (text,) = connection.execute(_CANDIDATE, (trial_id, CANDIDATE)).fetchone()
    return int(json.loads(json.loads(text))["number"])


def _by_record(connection: sqlite3.Connection, trials: Sequence[Trial], kept: Mapping[str, str]) -> dict[str, str]:
    """Return the latencies that came later as they are stored, under the record's number instead of the trial's."""
    records = [trial.number for trial in untimed(trials)]
    return {
        f"{LATENCY}{record}": kept[key]
        for record in records
        if (key := f"{LATENCY}{_number_of(connection, record)}") in kept
    }
