"""Run a search on a stored study, from the spec to the last trial: the door for Python and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version

from autoprune.core.atomic_write import write_text
from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import register
from autoprune.core.trial import Trial
from autoprune.core.versions import versions
from autoprune.errors import StudyElsewhereError, StudyError
from autoprune.export.remote_timer import RemoteTimer
from autoprune.loggers.dispatch import Loggers, Watched
from autoprune.loggers.log_file import logged
from autoprune.loggers.protocol import Display
from autoprune.search.crash_watch import CrashWatch
from autoprune.search.evaluation.evaluator import Evaluator
from autoprune.search.int8_owed import int8_owed, measure_int8
from autoprune.search.latency_queue import LatencyQueue
from autoprune.search.loop import search
from autoprune.search.prepare_session import begin_session, logged_study
from autoprune.search.proposals.proposer import Proposals
from autoprune.search.setup.build_evaluator import build_evaluator, build_meter
from autoprune.search.setup.from_spec import resolve, task_of
from autoprune.search.setup.judged_by import judged_by
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.search.sharing import Sharing
from autoprune.search.stored_spec import check_same_meaning, stored_meaning, with_stored_choices
from autoprune.search.taking_turns import Turn
from autoprune.search.time_owed import pay_owed
from autoprune.search.trial_weights import TrialWeights
from autoprune.study.divided_work import DividedWork
from autoprune.study.folder import StudyFolder
from autoprune.study.ledger import Ledger
from autoprune.study.named_code import check_code_is_trusted
from autoprune.study.optuna_sampler import GUIDED
from autoprune.study.preparation import PreparationLease
from autoprune.study.spec import StudySpec
from autoprune.study.study_facts import StudyFacts
from autoprune.study.view import storage_url


@dataclass(frozen=True)
class Run:
    """What a run did.

    Attributes:
        added: trials evaluated now.
        finished: trials the study holds.
        budget: the absolute limits of this run.
    """

    added: int
    finished: int
    budget: Budget


def run_search(
    spec: StudySpec,
    folder: StudyFolder,
    display: Display,
    storage: str | None = None,
    written: Mapping[str, object] | None = None,
    *,
    artifacts: str | None = None,
    trust_code: bool = False,
) -> Run:
    """Bring a study to ``spec.trials`` finished trials; the same call resumes, and does nothing when it is done.

    Where another process searches the study already, this one is one more worker: both share the trials to come.

    Args:
        spec: what to search; ``auto`` runtime values are decided here.
        folder: where the study is stored; made if it does not exist.
        display: shows what happens.
        storage: Optuna storage URL for the trials; ``None`` for SQLite in the folder.
        written: values of the ``study.toml`` that went into the spec, remembered so that a later edit is noticed.
        artifacts: where machines that see no common folder leave what they prepare for each other: a folder that all
            of them see, ``s3://BUCKET/PREFIX`` or ``gs://BUCKET/PREFIX``; ``None`` for nowhere.
        trust_code: whether code may be run that an imported study names; remembered.

    Raises:
        UntrustedCodeError: if the study was imported, and its code has never been allowed.
        StudyMismatchError: if the spec would change the meaning of the stored trials.
        StudyLockedError: if another process removes this study.
        StudyElsewhereError: if the study began on another machine, and nothing brings its dense network here.
        AutopruneError: if budget, network, data, folder or a logger cannot be used.
    """
    check_code_is_trusted(folder, spec, trust_code=trust_code)  # loggers may be code
    loggers = Loggers.named(spec.logging.loggers, display.warn, display.say)  # before anything is trained
    folder.create()
    url = storage_url(folder, storage)
    sharing = None if artifacts is None else Sharing.through(artifacts, folder, spec.name, display.say)
    with closing(Turn(folder.preparing)) as preparing, closing(Turn(folder.logging)) as logging:
        if not folder.prepared.exists():
            waits = "waiting for another worker, which prepares the study"
            preparing.wait_unless(folder.divided.is_dir, display.say, waits)
            if preparing.is_had:
                DividedWork(folder.divided).close()  # a worker that was killed may have left it
        opened = _Opened(spec, folder, display, url, written or {}, loggers, preparing, logging, sharing)
        while True:
            stale = sharing.fetch(url) if sharing and not folder.prepared.exists() else None
            try:
                return opened.run(stale)
            except StudyElsewhereError:
                if sharing is None:
                    raise  # else another machine began in this very moment, and is waited for


@dataclass
class _Opened:
    """A run that has its turns; :func:`run_search` says what each is."""

    spec: StudySpec
    folder: StudyFolder
    display: Display
    url: str
    written: Mapping[str, object]
    loggers: Loggers
    preparing: Turn
    logging: Turn
    sharing: Sharing | None

    def run(self, stale: PreparationLease | None) -> Run:
        """Prepare the study and search it.

        Args:
            stale: another machine's preparation that is to be taken over.
        """
        spec, folder, sharing = self.spec, self.folder, self.sharing
        wanted = with_stored_choices(resolve(spec), folder)
        task = None if folder.has_begun else task_of(wanted)
        wanted = wanted if task is None else judged_by(wanted, task)
        register(wanted.qualities)
        check_same_meaning(stored_meaning(folder), wanted, folder)
        title = f"{spec.name}, autoprune {version('autoprune')}"
        with (
            Ledger(self.url, wanted.name, wanted.objectives, folder.lock) as ledger,
            logged(self.display, folder.log, title) as shown,
        ):
            ledger.preparation.claim(folder.has_begun, shares=sharing is not None, stale=stale)
            check_same_meaning(ledger.facts.get("fingerprint"), wanted, folder)
            done = ledger.trials
            if len(done) >= spec.trials:
                return _nothing_left(wanted, folder, ledger, done, shown, self.loggers)
            _say_who_else(ledger, shown)
            send = (lambda: None) if sharing is None else partial(sharing.send, ledger)
            study, proposals = begin_session(wanted, self.written, folder, ledger, shown, self.preparing, task, send)
            write_text(folder.prepared, "{}\n")
            self.preparing.close()
            loggers = self.loggers if self.logging.take() else Loggers({}, shown.warn)  # another logs the trials of all
            return _searched(study, proposals, folder, ledger, shown, loggers, sharing)


def _say_who_else(ledger: Ledger, display: Display) -> None:
    others = ledger.others
    if others:
        listed = ", ".join(worker.shown for worker in others)
        display.say(f"joining a search that is under way, as one more worker beside {listed}")


def _searched(
    study: PreparedStudy,
    proposals: Proposals,
    folder: StudyFolder,
    ledger: Ledger,
    display: Display,
    loggers: Loggers,
    sharing: Sharing | None,
) -> Run:
    """Run the loop of a study that is prepared; what an earlier run could not have timed is asked for first."""
    queue = _queue(study, proposals, ledger, display)
    if queue is None:
        pay_owed(ledger, study, build_meter(study), display.say)
    spec, done = study.spec, ledger.trials
    ledger.want(spec.trials)
    proposals.learn(done)
    weights = _weights(spec, folder, proposals.budget, study.dense, display)
    evaluator = _evaluator(study, weights, ledger, done)
    if queue is not None:
        evaluator = replace(evaluator, waits_for=evaluator.meter.host)
    display.began(done, ledger.wanted(spec.trials), proposals.budget, study.dense, spec.qualities)
    with loggers.session(logged_study(spec, folder, proposals.budget, study.dense), done):
        observer = weights.watch(Watched(display, loggers), done)
        if sharing is not None:
            observer = sharing.watch(observer, ledger, display.warn)
        with nullcontext() if queue is None else closing(queue):
            observer = observer if queue is None else queue.watch(observer)
            watched = CrashWatch(evaluator, folder.crashes)
            added = search(ledger, proposals, watched, spec.trials, spec.seed, observer, display.warn, queue)
    measure_int8(ledger, study, proposals.budget, display.say)
    return Run(added, len(ledger.trials), proposals.budget)


def _queue(study: PreparedStudy, proposals: Proposals, ledger: Ledger, display: Display) -> LatencyQueue | None:
    """Return what has trials timed on another machine while the search goes on.

    Optuna's samplers learn from a trial when it is told, and from no latency that comes later: with them each trial
    waits for its own, as it does where this machine times.
    """
    if not isinstance(study.timer, RemoteTimer) or proposals.chosen_sampler not in (GUIDED, "random"):
        return None
    return LatencyQueue(ledger, study, build_meter(study), study.timer, Turn(study.folder.timing), display.say)


def _nothing_left(
    spec: StudySpec, folder: StudyFolder, ledger: Ledger, done: list[Trial], display: Display, loggers: Loggers
) -> Run:
    """Put the folder and the loggers in order for a study that has all of its trials."""
    facts = StudyFacts.from_json(ledger.facts)
    if facts.dense is None:
        raise StudyError(f"{str(folder.path)!r} has trials and no dense network; restore its study.db from a copy")
    _weights(spec, folder, facts.budget, facts.dense, display).begin(done)
    budget = Budget.parse(spec.budget.model_dump()).resolve(facts.dense)
    if int8_owed(ledger, spec, folder, budget, facts.dense):
        measure_int8(ledger, prepare_study(spec, folder, display.say), budget, display.say)
    # One logger may lack what a killed run left out.
    with loggers.session(logged_study(spec, folder, budget, facts.dense), done):
        return Run(0, len(done), budget)


def _evaluator(study: PreparedStudy, weights: TrialWeights, ledger: Ledger, done: list[Trial]) -> Evaluator:
    """Return what evaluates candidates and stores their weights, with the files of earlier runs put in order."""
    weights.begin(done, ledger.pending)
    writer = weights.writer(study.pruner, study.architecture, versions(), ledger.check_place)
    return replace(build_evaluator(study), on_network=writer)


def _weights(
    spec: StudySpec, folder: StudyFolder, budget: Budget, dense: Measurement, display: Display
) -> TrialWeights:
    return TrialWeights(folder, spec.disk.keep_weights, spec.objectives, budget, display.warn, spec.quality, dense)
