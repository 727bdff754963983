"""Log to MLflow: one parent run for the study, and a nested run for each trial.

Nested runs are what MLflow's table of runs, its charts and its search compare; the parent has the course of the search
as metrics by trial number. Runs go where MLflow is set to track, by ``MLFLOW_TRACKING_URI`` or in Python, and otherwise
into SQLite in the study's folder. What is logged is read from MLflow itself: a trial counts once its run has ended,
and a run that a killed process left open is deleted and logged again.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from autoprune.core.atomic_write import write_text
from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.core.trial import Trial, kind_of
from autoprune.loggers.flatten import chosen_of, measured_of, reason_of, seconds_of, standing_of, values_of
from autoprune.loggers.protocol import HowEnded, LoggedStudy, Standing, missing_library
from autoprune.study.folder import StudyFolder

EXPERIMENT = "autoprune"  # unless MLFLOW_EXPERIMENT_NAME names another
NUMBER = "autoprune.trial"
PARENT = "mlflow.parentRunId"
TRIALS = "search/trials"  # a metric of the parent that every trial adds a step to
_STATUS = {
    "completed": "FINISHED",
    "stopped": "KILLED",
    "over_budget": "KILLED",
    "failed": "FAILED",
    "untimed": "FINISHED",
}
_ENDED: Mapping[HowEnded, str] = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_PER_BATCH = 100  # parameters or tags that MLflow takes at once
_LONGEST_KEY, _LONGEST_VALUE, _LONGEST_TAG = 250, 6000, 5000
_PAGE = 1000


class MlflowLogger:
    """A logger that uses MLflow's client, which touches no run that the user has open.

    Raises:
        UsageError: if the library is not installed.
    """

    def __init__(self) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise missing_library("mlflow", error) from error
        for talkative in ("mlflow", "alembic"):  # they write to the terminal, where the display is
            logging.getLogger(talkative).setLevel(logging.WARNING)
        self._mlflow: Any = mlflow
        self._client: Any = None
        self._experiment = self._parent = ""
        self._steps: set[int] = set()

    def began(self, study: LoggedStudy, stored: Sequence[Trial]) -> Collection[int]:
        """Open the study's parent run; return the trials whose nested runs have ended.

        A new one is opened if there is none, or if it has trials that the study lacks, because the study was started
        again.
        """
        folder = StudyFolder(study.folder)
        is_set = self._mlflow.is_tracking_uri_set()
        uri = self._mlflow.get_tracking_uri() if is_set else f"sqlite:///{folder.mlflow_database.absolute()}"
        self._client = self._mlflow.MlflowClient(tracking_uri=uri)
        known = _read_parents(folder.mlflow_parents)
        key = _without_secrets(uri) if is_set else folder.mlflow_database.name  # a study may be moved
        run = self._find(known.get(key, ""))
        logged = self._logged(run) if run else set()
        if run is None or not logged <= {trial.number for trial in stored}:
            run, logged = self._new_parent(study, None if is_set else folder.mlflow_artifacts), set()
            write_text(folder.mlflow_parents, json.dumps({**known, key: run.info.run_id}, indent=1))
        self._parent, self._experiment = run.info.run_id, run.info.experiment_id
        self._client.update_run(self._parent, status="RUNNING")
        self._describe(study)
        self._steps = {point.step for point in self._client.get_metric_history(self._parent, TRIALS)}
        return logged

    def told(self, trial: Trial, standing: Standing) -> None:
        """Log where the search stands to the parent, and the trial as a nested run."""
        if trial.number not in self._steps:
            self._log(self._parent, metrics=standing_of(standing), step=trial.number)
            self._steps.add(trial.number)
        now = round(1000 * time.time())
        tags = {PARENT: self._parent, NUMBER: str(trial.number), **_tags(trial)}
        run = self._client.create_run(
            self._experiment, now - round(1000 * trial.total_seconds), tags, run_name=f"trial {trial.number}"
        ).info.run_id
        seconds = {f"seconds/{phase}": value for phase, value in seconds_of(trial).items()}
        self._log(run, measured_of(trial) | seconds, chosen_of(trial), step=trial.number)
        self._client.log_dict(run, json.loads(trial.candidate.policy.to_json()), "policy.json")
        self._client.set_terminated(run, _STATUS[kind_of(trial.outcome)], now)

    def ended(self, how: HowEnded) -> None:
        """End the parent run; a later session continues it."""
        self._client.set_terminated(self._parent, _ENDED[how])

    def _find(self, run_id: str) -> Any:
        """Return a run by its id, ``None`` if there is none or it was deleted."""
        if not run_id:
            return None
        try:
            run = self._client.get_run(run_id)
        except self._mlflow.exceptions.MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _new_parent(self, study: LoggedStudy, artifacts: Path | None) -> Any:
        """Return a new parent run, with what never changes of the study."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        experiment = self._client.get_experiment_by_name(name)
        location = artifacts.absolute().as_uri() if artifacts else None
        made = experiment.experiment_id if experiment else self._client.create_experiment(name, location)
        run = self._client.create_run(made, run_name=study.name, tags={"autoprune.study": study.name})
        dense = {f"dense/{name}": value for name, value in values_of(study.dense).items()}
        self._log(run.info.run_id, dense, study.settings, step=0)
        return run

    def _describe(self, study: LoggedStudy) -> None:
        """Log what may change from session to session: tags, which MLflow lets change, and the resolved spec."""
        session = {"budget": study.budget.describe(), "sampler": study.sampler, "trials": study.wanted}
        versions = {f"version.{name}": version for name, version in study.versions.items()}
        self._log(self._parent, tags={f"autoprune.{name}": value for name, value in (session | versions).items()})
        if (resolved := StudyFolder(study.folder).resolved).exists():
            self._client.log_artifact(self._parent, str(resolved))

    def _logged(self, parent: Any) -> set[int]:
        """Return the trials whose nested runs have ended, and delete those that a killed process left open."""
        within = f"tags.`{PARENT}` = '{parent.info.run_id}'"
        found, token = set[int](), None
        while True:
            page = self._client.search_runs([parent.info.experiment_id], within, max_results=_PAGE, page_token=token)
            for run in page:
                if NUMBER not in run.data.tags:
                    continue  # somebody else's run beneath the study's
                if run.info.status in _STATUS.values():
                    found.add(int(run.data.tags[NUMBER]))
                else:
                    self._client.delete_run(run.info.run_id)
            token = page.token
            if not token:
                return found

    def _log(
        self,
        run: str,
        metrics: Mapping[str, float] | None = None,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, object] | None = None,
        step: int = 0,
    ) -> None:
        """Log to a run in as few requests as MLflow allows; an empty value is no value."""
        entities, now = self._mlflow.entities, round(1000 * time.time())
        points = [entities.Metric(_key(name), value, now, step) for name, value in (metrics or {}).items()]
        named = [entities.Param(_key(name), str(v)[:_LONGEST_VALUE]) for name, v in (params or {}).items() if str(v)]
        marks = [entities.RunTag(_key(name), str(v)[:_LONGEST_TAG]) for name, v in (tags or {}).items()]
        if points or marks:
            self._client.log_batch(run, metrics=points, tags=marks)
        for batch in _batches(named):
            self._client.log_batch(run, params=batch)


def _tags(trial: Trial) -> dict[str, str]:
    """Return how a trial ended and why, in words."""
    tags = {"autoprune.outcome": kind_of(trial.outcome), "autoprune.origin": trial.candidate.origin}
    return tags | ({"autoprune.reason": reason} if (reason := reason_of(trial)) else {})


def _key(name: str) -> str:
    """Return a name with only characters that MLflow takes on every platform."""
    return re.sub(r"[^/\w.\- ]", "_", name)[:_LONGEST_KEY]


def _batches(params: Iterable[Any]) -> Iterable[list[Any]]:
    source = iter(params)
    return iter(lambda: list(islice(source, _PER_BATCH)), [])


def _read_parents(path: Path) -> dict[str, str]:
    """Return tracking URI → the study's parent run there; empty if the file is not there or damaged."""
    try:
        return {str(uri): str(run) for uri, run in parse_json(path.read_text(encoding="utf-8")).items()}
    except (OSError, *DAMAGE):
        return {}


def _without_secrets(uri: str) -> str:
    """Return a URI without a user, a password and a query, as it may stand in a file.

    >>> _without_secrets("https://me:secret@host:5000/mlflow?token=1")
    'https://host:5000/mlflow'
    """
    scheme, colon, rest = uri.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}{colon}{host.rpartition('@')[2]}{slash}{path}"
