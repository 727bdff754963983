"""What a run does before its first candidate: prepare the study, and store what it runs with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext

from autoprune.analysis.comparison_notes import chance_notes
from autoprune.core.budget import Budget
from autoprune.core.cores import while_others_wait
from autoprune.core.measurement import Measurement
from autoprune.core.versions import versions
from autoprune.loggers.protocol import Display, LoggedStudy
from autoprune.search.proposals.proposer import Proposals
from autoprune.search.screening.prepare_screening import can_be_screened, with_screening
from autoprune.search.setup.build_proposals import build_proposals, unmeasured_proposals
from autoprune.search.setup.choose_peak_rate import knows_peak_rate, with_peak_rate
from autoprune.search.setup.describe_study import session_facts, study_facts
from autoprune.search.setup.prepare_study import prepare_all_but_rate
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.search.stored_spec import remember, remembering
from autoprune.search.take_part import take_part
from autoprune.search.taking_turns import Turn
from autoprune.study.divided_work import DividedWork
from autoprune.study.folder import StudyFolder
from autoprune.study.ledger import Ledger
from autoprune.study.spec import StudySpec, fingerprint
from autoprune.tasks.task import DataTask


def begin_session(
    spec: StudySpec,
    written: Mapping[str, object],
    folder: StudyFolder,
    ledger: Ledger,
    display: Display,
    preparing: Turn,
    task: DataTask | None = None,
    on_prepared: Callable[[], None] = lambda: None,
) -> tuple[PreparedStudy, Proposals]:
    """Return the study that is ready to be searched, and what decides its candidates; store what it runs with.

    Args:
        spec: resolved for this machine.
        written: values of the ``study.toml`` that went into it.
        folder: where the study is stored.
        ledger: open.
        display: shows what happens.
        preparing: the turn to prepare the study, had by this worker or to be waited for.
        task: the data, if it is open already.
        on_prepared: called as soon as the folder holds everything, before the study says so.

    Raises:
        BudgetError: if the budget is needless or out of reach.
        AutopruneError: if the network, the data or the folder cannot be used.
    """
    if ledger.reclaimed:
        display.say(f"{ledger.reclaimed} trial(s) left unfinished by a process that died will be asked again")
    is_first = preparing.is_had and not folder.prepared.exists()
    with remembering(spec, written, folder) as decided:
        with while_others_wait() if is_first else nullcontext():
            study = prepare_all_but_rate(spec, folder, display.say, decided, task)
        budget = Budget.parse(spec.budget.model_dump()).resolve(study.dense)
        unmeasured_proposals(study, budget).check()
        study.device.apply_threads(display.say)
        work = DividedWork(folder.divided)
        take_part(study, work, preparing, display.say)
        study = with_peak_rate(study) if knows_peak_rate(study) else study
        remember(study.spec, written, folder)  # the others go by what is decided
        with work.open():
            study = with_peak_rate(study, work)
            remember(study.spec, written, folder)
            proposals = build_proposals(study, budget, work)
            if can_be_screened(study, proposals):
                proposals = with_screening(study, proposals, work)
    on_prepared()
    ledger.remember("fingerprint", fingerprint(study.spec))
    facts = study_facts(study)
    for key, value in facts.to_json().items():
        ledger.remember(key, value)
    ledger.begin_session(session_facts(study, proposals.budget).to_json())
    for note in chance_notes(study.dense, study.spec.quality, facts.data.chance, facts.data.num_classes):
        display.warn(note)
    return study, proposals


def logged_study(spec: StudySpec, folder: StudyFolder, budget: Budget, dense: Measurement) -> LoggedStudy:
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
        qualities=spec.qualities,
    )
