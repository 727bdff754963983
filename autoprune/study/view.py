"""A stored study, read only: safe beside a running search, and without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from autoprune.core.budget import Budget
from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.core.measurement import Measurement
from autoprune.core.paired_scores import PairedScores
from autoprune.core.trial import Completed, Trial
from autoprune.errors import StudyError
from autoprune.study.at_work import AtWork, at_work
from autoprune.study.folder import StudyFolder
from autoprune.study.lapsed_leases import GRACE_SECONDS, still_held
from autoprune.study.later_int8 import with_int8_losses
from autoprune.study.later_latencies import with_later_latencies
from autoprune.study.spec import StudySpec
from autoprune.study.spec_toml import read_resolved
from autoprune.study.sqlite_rows import StoredStudy, read_sqlite
from autoprune.study.storage_url import sqlite_path, sqlite_url, without_password
from autoprune.study.study_facts import SessionFacts, StudyFacts
from autoprune.study.table_schema import RUNNING
from autoprune.study.trial_format import StoredTrial, read_trials
from autoprune.study.workers import WorkerName, home_in


@dataclass(frozen=True)
class StudyView:
    """Everything stored about a study, at one moment.

    Attributes:
        folder: where it lies.
        spec: what its trials were made by.
        trials: finished trials, by number.
        running: how many candidates have no outcome yet (of a live search, or of one that died).
        at_work: these candidates, with who was given each, and when.
        facts: what is stored about the study as a whole.
    """

    folder: StudyFolder
    spec: StudySpec
    trials: tuple[Trial, ...]
    running: int
    facts: StudyFacts
    at_work: tuple[AtWork, ...] = ()

    @property
    def is_leased(self) -> bool:
        """Return whether a living worker, here or on another machine, evaluates a candidate."""
        return any(one.is_leased for one in self.at_work)

    @property
    def dense(self) -> Measurement:
        """Return what was measured of the dense network on validation.

        Raises:
            StudyError: if the study was interrupted before that.
        """
        if self.facts.dense is None:
            raise StudyError(
                f"the study in {str(self.folder.path)!r} has no dense network yet; run `autoprune search` on it first"
            )
        return self.facts.dense

    def machine_of(self, trial: Trial) -> str:
        """Return the machine that evaluated a trial in another folder than this one; empty if that is not known."""
        worker = self.sessions[trial.session].worker if trial.session < len(self.sessions) else ""
        name = WorkerName.parse(worker) if worker else None
        return "" if name is None or name.home == home_in(self.folder.path) else name.host

    @property
    def sessions(self) -> tuple[SessionFacts, ...]:
        """Return what is stored of each run, in order."""
        return self.facts.sessions

    @property
    def budget(self) -> Budget:
        """Return the absolute budget of the last run, empty if there was none."""
        return self.facts.budget


def storage_url(folder: StudyFolder, storage: str | None) -> str:
    """Return where a study's trials are: the URL given, or else SQLite in its folder.

    A URL is not remembered in the folder, because it may hold a password.
    """
    return storage or sqlite_url(folder.database)


def open_view(path: str | Path, storage: str | None = None) -> StudyView:
    """Read a stored study.

    Raises:
        StudyError: if there is no study in the folder, or it cannot be read.
    """
    folder = StudyFolder(Path(path))
    file = sqlite_path(storage) if storage else folder.database
    if not folder.resolved.exists() or (file is not None and not file.exists()):
        raise StudyError(
            f"there is no stored study in {str(path)!r}; `autoprune studies` lists those there are, "
            f"`autoprune search {path}` begins one"
        )
    spec = read_resolved(folder.resolved)
    found = read_sqlite(file, spec.name, folder.path) if file is not None else None
    found = found or _read_by_optuna(storage_url(folder, storage), spec.name, folder.path)
    url = partial(storage_url, folder, storage)
    facts = _read_facts(found.facts, url)
    running = sum(record.state.name == RUNNING for record in found.trials)
    wanted = {spec.quality.name, "mflops", *spec.objectives}
    trials = _readable(found.trials, found.facts, facts.dense_paired, wanted, url)
    if facts.dense is not None and not facts.dense.values.keys() >= wanted:
        lacking = ", ".join(sorted(wanted - facts.dense.values.keys()))
        raise StudyError(
            f"what the storage {without_password(url())!r} holds about the dense network is damaged: it lacks "
            f"{lacking}; restore study.db from a copy"
        )
    return StudyView(folder, spec, trials, running, facts, found.working)


def _read_by_optuna(url: str, name: str, folder: Path) -> StoredStudy:
    """Return what any storage holds of a study, which lies in a folder.

    Raises:
        StudyError: if it holds none of that name, or cannot be read.
    """
    from autoprune.study.storage import closing_storage, reporting_damage
    from autoprune.study.trial_rows import open_rows

    with closing_storage(url, to_read=True) as opened:
        try:
            study_id = opened.get_study_id_from_name(name)
        except KeyError as error:
            raise StudyError(f"the storage {without_password(url)!r} holds no study named {name!r}") from error
        with reporting_damage(url):
            rows = open_rows(opened, study_id)
            trials = rows.read()
            held = still_held(trials, folder, rows.silent, GRACE_SECONDS)
            return StoredStudy(trials, opened.get_study_user_attrs(study_id), at_work(trials, held))


def _read_facts(stored: Mapping[str, str], url: Callable[[], str]) -> StudyFacts:
    """Return the facts of a study from the texts of its storage.

    Raises:
        StudyError: if they are damaged, as by a number that is not finite.
    """
    try:
        return StudyFacts.from_json({key: parse_json(value) for key, value in stored.items()})
    except DAMAGE as error:
        raise StudyError(
            f"what the storage {without_password(url())!r} holds about the study as a whole is damaged "
            f"({type(error).__name__}: {error}); expected finite numbers: restore study.db from a copy"
        ) from error


def _readable(
    stored: Sequence[StoredTrial],
    kept: Mapping[str, str],
    of_dense: str,
    wanted: Set[str],
    url: Callable[[], str],
) -> tuple[Trial, ...]:
    """Return the finished trials.

    Args:
        stored: records of trials.
        kept: what is stored about the study as a whole, as JSON by key.
        of_dense: what the dense network made of each validation example.
        wanted: metrics that every completed trial has.
        url: returns that of the storage, for messages.

    Raises:
        StudyError: naming one that is damaged, as one with a number that is not finite.
    """
    try:
        trials = tuple(with_int8_losses(with_later_latencies(read_trials(stored), lambda: kept), kept))
        _check_paired(trials, of_dense)
        _check_measured(trials, wanted)
        return trials
    except DAMAGE as error:
        raise StudyError(
            f"a trial in the study's storage {without_password(url())!r} is damaged ({type(error).__name__}: {error}); "
            f"expected what autoprune wrote, all numbers finite: restore the storage from a copy"
        ) from error


def _check_paired(trials: Sequence[Trial], of_dense: str) -> None:
    """Check that what is stored of each example can be read, and is of equally many examples everywhere.

    Raises:
        ValueError: naming the first that is not.
    """
    count: int | None = None
    completed = ((f"trial {t.number}", t.outcome.paired) for t in trials if isinstance(t.outcome, Completed))
    for name, text in (("the dense network", of_dense), *completed):
        if text:
            paired = PairedScores(text)
            paired.unpack()
            found = paired.count
            count = found if count is None else count
            if found != count:
                raise ValueError(f"{name} was scored on {found} validation examples, those before it on {count}")


def _check_measured(trials: Sequence[Trial], wanted: Set[str]) -> None:
    """Check that every completed trial has a number for each metric that is read of all.

    Raises:
        ValueError: naming the first that has not.
    """
    for trial in trials:
        if isinstance(trial.outcome, Completed) and not trial.outcome.measurement.values.keys() >= wanted:
            missing = sorted(wanted - trial.outcome.measurement.values.keys())
            raise ValueError(f"trial {trial.number} completed without {', '.join(missing)}")
