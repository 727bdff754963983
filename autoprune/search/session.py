"""Run a search on a stored study, from the spec to the last trial: the door for Python and the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from autoprune.analysis.comparison import chance_notes
from autoprune.core.metrics import Budget, Measurement
from autoprune.core.versions import versions
from autoprune.errors import AutopruneError, StudyMismatchError
from autoprune.loggers.dispatch import Loggers, Watched
from autoprune.loggers.log_file import logged
from autoprune.loggers.protocol import Display, LoggedStudy
from autoprune.search.loop import search
from autoprune.search.proposals.proposer import Proposals
from autoprune.search.setup.context import Workbench, resolve, set_up
from autoprune.search.setup.dense_network import read_dense_facts, sparsity_facts
from autoprune.search.trial_weights import TrialWeights
from autoprune.study.accepted_toml import write_accepted
from autoprune.study.folder import StudyFolder
from autoprune.study.ledger import Ledger
from autoprune.study.spec import StudySpec, differences, fingerprint
from autoprune.study.spec_sections import BudgetSpec
from autoprune.study.spec_toml import read_resolved, write_resolved
from autoprune.study.view import storage_url


@dataclass(frozen=True)
class Run:
    """Tell what a run did.

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
    recipe: Mapping[str, Any] | None = None,
) -> Run:
    """Bring a study to ``spec.trials`` finished trials; the same call resumes, and does nothing when it is done.

    Args:
        spec: what to search; ``auto`` runtime values are decided here.
        folder: where the study is stored; made if it does not exist.
        display: told what happens.
        storage: Optuna storage URL for the trials; ``None`` for SQLite in the folder.
        recipe: values of the ``study.toml`` that went into the spec, remembered so that a later edit is noticed.

    Raises:
        StudyMismatchError: if the spec would change the meaning of the stored trials.
        StudyLockedError: if another process is searching this study.
        BudgetError: if the budget is needless or out of reach.
        UsageError: if the library of a logger is not installed.
        AutopruneError: if the network, the data or the folder cannot be used.
    """
    loggers = Loggers.named(spec.logging.loggers, display.warn, display.say)  # before anything is trained
    folder.create()
    spec = _with_stored_choices(resolve(spec), folder)
    _check_same_meaning(_stored_in_folder(folder), spec, folder)
    url = storage_url(folder, storage)
    with (
        Ledger(url, spec.name, spec.objectives, folder.lock) as ledger,
        logged(display, folder.log, f"{spec.name}, autoprune {version('autoprune')}") as display,
    ):
        _check_same_meaning(ledger.facts.get("fingerprint"), spec, folder)
        done = ledger.trials
        if len(done) >= spec.trials:
            _weights(spec, folder, _last_budget(ledger.facts), display).begin(done)
            dense = Measurement.from_json(ledger.facts["dense"])
            budget = Budget.parse(spec.budget.model_dump()).resolve(dense)
            with loggers.session(_logged(spec, folder, budget, dense), done):  # one may lack what a killed run left out
                return Run(0, len(done), budget)
        if ledger.reclaimed:
            display.say(f"{ledger.reclaimed} trial(s) left unfinished by a process that died will be asked again")
        with _remembering(spec, recipe or {}, folder):
            bench = set_up(spec, folder, display.say)
            proposals = bench.proposals(Budget.parse(spec.budget.model_dump()).resolve(bench.dense), display.say)
            proposals.check()
        _remember(bench.spec, recipe or {}, folder)
        ledger.remember("fingerprint", fingerprint(bench.spec))
        return _search(bench, proposals, ledger, display, loggers)


def _search(bench: Workbench, proposals: Proposals, ledger: Ledger, display: Display, loggers: Loggers) -> Run:
    spec, budget = bench.spec, proposals.budget
    for key, value in _facts(bench).items():
        ledger.remember(key, value)
    ledger.begin_session(
        {
            "budget": budget.to_json(),
            "sampler": spec.sampler,
            "trials": spec.trials,
            "runtime": bench.runtime.describe(),
            "latency": spec.latency.model_dump(),
            "versions": versions(),
        }
    )
    for note in chance_notes(bench.dense, bench.task.num_classes):
        display.warn(note)
    done = ledger.trials
    weights = _weights(spec, bench.folder, budget, display)
    weights.begin(done)
    evaluator = replace(bench.evaluator(), on_network=weights.writer(bench.pruner, bench.architecture, versions()))
    display.began(done, spec.trials, budget, bench.dense)
    with loggers.session(_logged(spec, bench.folder, budget, bench.dense), done):
        watched = weights.watch(Watched(display, loggers), done)
        added = search(ledger, proposals, evaluator, spec.trials, spec.seed, watched)
    return Run(added, len(ledger.trials), budget)


def _logged(spec: StudySpec, folder: StudyFolder, budget: Budget, dense: Measurement) -> LoggedStudy:
    """Return what loggers need to know of a session."""
    return LoggedStudy(
        name=spec.name,
        folder=folder.path,
        objectives=spec.objectives,
        budget=budget,
        dense=dense,
        wanted=spec.trials,
        sampler=spec.sampler,
        settings=fingerprint(spec),
        versions=versions(),
    )


def _weights(spec: StudySpec, folder: StudyFolder, budget: Budget, display: Display) -> TrialWeights:
    return TrialWeights(folder, spec.disk.keep_weights, spec.objectives, budget, display.warn)


def _last_budget(facts: Mapping[str, Any]) -> Budget:
    """Return the absolute budget of the last run that is stored."""
    sessions = sorted((key for key in facts if key.startswith("session:")), key=lambda key: int(key.partition(":")[2]))
    return Budget.parse(facts[sessions[-1]]["budget"]) if sessions else Budget()


def _facts(bench: Workbench) -> dict[str, Any]:
    """Return what a reader of the study needs to know without the network."""
    return {
        "dense": bench.dense.to_json(),
        "dense_correct": read_dense_facts(bench.folder)["correct"],
        "sparsity": sparsity_facts(bench.folder),
        "groups": {
            group.name: {"channels": group.num_channels, "residual": group.is_residual} for group in bench.space.groups
        },
        "frozen": {group.name: {"channels": group.num_channels, "reason": group.reason} for group in bench.frozen},
        "data": {
            "name": bench.task.name,
            "num_classes": bench.task.num_classes,
            "sizes": dict(bench.task.sizes),
            "description": bench.task.description,
            "licence": bench.task.licence,
        },
    }


@contextmanager
def _remembering(spec: StudySpec, recipe: Mapping[str, Any], folder: StudyFolder) -> Iterator[None]:
    """Write down what a new study begins with, so that a kill forgets nothing; what is refused is forgotten again.

    A study that has begun keeps what it was last accepted with. Once its dense network is made, only the budget
    can still be refused.
    """
    is_new = not folder.has_begun
    if is_new:
        _remember(spec, recipe, folder)
    try:
        yield
    except AutopruneError:
        if is_new and folder.has_begun:
            _remember(spec.model_copy(update={"budget": BudgetSpec()}), recipe, folder)
        elif is_new:
            folder.resolved.unlink()
        raise


def _remember(spec: StudySpec, recipe: Mapping[str, Any], folder: StudyFolder) -> None:
    """Write down what the study runs with, and the values of its recipe that went into it."""
    known = {key: value for key, value in recipe.items() if key != "budget" or spec.budget != BudgetSpec()}
    write_accepted(folder, known)
    write_resolved(spec, folder.resolved)


def _with_stored_choices(spec: StudySpec, folder: StudyFolder) -> StudySpec:
    """Return the spec with the layout and the latency runtime that the study began with, where left to ``auto``."""
    if not folder.has_begun:
        return spec
    stored = read_resolved(folder.resolved)
    runtime, latency = spec.runtime, spec.latency
    if runtime.layout == "auto":
        runtime = runtime.model_copy(update={"layout": stored.runtime.layout})
    if latency.runtime == "auto":
        latency = latency.model_copy(update={"runtime": stored.latency.runtime})
    return spec.model_copy(update={"runtime": runtime, "latency": latency})


def _stored_in_folder(folder: StudyFolder) -> Mapping[str, object] | None:
    """Return the fingerprint of the spec that the folder's weights and scores were made by, if there are any."""
    if not folder.has_begun:
        return None
    stored = read_resolved(folder.resolved)
    return fingerprint(stored) | {"name": stored.name}


def _check_same_meaning(stored: Mapping[str, object] | None, spec: StudySpec, folder: StudyFolder) -> None:
    if stored is None:
        return
    given = fingerprint(spec) | ({"name": spec.name} if "name" in stored else {})
    changed = differences(stored, given)
    if changed:
        lines = "\n".join(f"  - {line}" for line in changed)
        raise StudyMismatchError(
            f"the study in {str(folder.path)!r} was made by another spec, so its trials would not be comparable:\n"
            f"{lines}\nrepeat the stored values, or begin a new study in another folder"
        )
