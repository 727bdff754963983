"""Finishing trials of a stored study: the way from a view of the study to a picked folder with its card."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from autoprune.analysis.successive_halving import rungs
from autoprune.core.budget import Budget
from autoprune.core.cores import threads_of_each
from autoprune.core.export_formats import Wanted
from autoprune.core.notify import Notify
from autoprune.core.preference import Preference
from autoprune.core.trial import Trial
from autoprune.errors import ModelError, NonFiniteError, StudyError, UsageError
from autoprune.export.card import Card
from autoprune.export.examples import examples_of
from autoprune.export.publish import NetworkBundle, check_target, publish
from autoprune.pick.card_text import card_text
from autoprune.pick.choose_formats import choose_formats
from autoprune.pick.choose_trials import preference_of
from autoprune.pick.contest import Finished, hold_contest
from autoprune.pick.contest_parts import PartTrainer
from autoprune.pick.facts_text import load_call
from autoprune.pick.finishers import finishers
from autoprune.pick.int8_finish import trained_for_int8
from autoprune.pick.picked_card import picked_card
from autoprune.pick.unfinished_pick import unfinished
from autoprune.pick.uniform_rival import Incomparable, uniform_rival
from autoprune.search.evaluation.make_network import NetworkMaker
from autoprune.search.evaluation.stopwatch import Stopwatch
from autoprune.search.setup.build_evaluator import build_maker, build_meter
from autoprune.search.setup.choose_peak_rate import finish_rate
from autoprune.search.setup.from_spec import finetune_settings, resolve, timing_plan
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.search.trial_weights import check_kept, load_trial
from autoprune.study.named_code import check_code_is_trusted
from autoprune.study.spec import StudySpec
from autoprune.study.view import StudyView


def finish_trials(
    view: StudyView,
    trials: Sequence[Trial],
    budget: Budget,
    notify: Notify,
    *,
    epochs: float | None = None,
    compare: bool | None = None,
    force: bool = False,
    wanted: Wanted | None = None,
    prefer: Preference | None = None,
    trust_code: bool = False,
    workers: Sequence[Mapping[str, str]] = (),
    study: PreparedStudy | None = None,
) -> tuple[Card, Path]:
    """Fine-tune trials longer, keep the best on validation, score it once on test, and write ``picked/<trial>/``.

    If it is cut off, the same call goes on after the last part of the fine-tune that was finished.

    Args:
        view: the study.
        trials: completed trials of it, the most promising first, at least one.
        budget: absolute limits they were picked for, written on the card.
        notify: called with a sentence when something begins or ends.
        epochs: length of the fine-tune; ``None`` for the study's ``pick.epochs``. With 0 the networks are those
            that the search measured, whose weights have to be kept.
        compare: whether the uniform baseline is finished too; ``None`` for the study's ``pick.compare``.
        force: whether a folder from an earlier pick is replaced.
        wanted: formats that the network is exported to; ``None`` for the study's ``pick.export``.
        prefer: what the trials were preferred by, written on the card; ``None``: as :func:`preference_of` has it.
        trust_code: whether code may be run that an imported study names; remembered.
        workers: for each process that fine-tunes beside others, the variables of its environment that differ from
            this one's; none or one: this process fine-tunes one trial after the other. With as many threads the
            result is the same to the last bit.
        study: prepared already; ``None``: it is prepared now.

    Returns:
        the card, and the folder. An export that fails is named on the card.

    Raises:
        UsageError: if a folder of one of the trials exists and ``force`` is false, or the epochs are no length.
        UntrustedCodeError: if the study was imported, and its code has never been allowed.
        StudyError: if there is no fine-tune, and a trial's weights are not kept.
        AutopruneError: if the network cannot be rebuilt, trained, scored or written, or a file fails its checks.
    """
    check_code_is_trusted(view.folder, view.spec, trust_code=trust_code)
    epochs = _length(view, epochs)
    _check_before(view, trials, epochs, force)
    wanted = choose_formats(view) if wanted is None else wanted  # before an hour of training
    if wanted.qat and epochs == 0:
        notify("nothing is trained with the rounding of int8, as there is no fine-tune")
    compare = view.spec.pick.compare if compare is None else compare
    prefer = preference_of(view, None) if prefer is None else prefer
    return _Pick(view, trials, budget, epochs, notify, prefer, tuple(workers), study).write(compare, wanted, force)


def _length(view: StudyView, epochs: float | None) -> float:
    if epochs is not None and not 0 <= epochs < math.inf:
        raise UsageError(f"the longer fine-tune has {epochs:g} epochs; expected 0 or more")
    return view.spec.pick.epochs if epochs is None else epochs


def _check_before(view: StudyView, trials: Sequence[Trial], epochs: float, force: bool) -> None:
    """Raise what can be known before the data are read."""
    for trial in trials:
        target = view.folder.picked / str(trial.number)
        check_target(
            target,
            force,
            f"test is scored once: load it with {load_call(view.spec.model.source, str(target))}, or give --force to "
            f"finish trial {target.name} again and replace it if it is picked",
        )
    for trial in trials if epochs == 0 else ():
        if not trial.candidate.is_picked:  # what was never trained is made again
            check_kept(view.folder, trial, view.machine_of(trial))


@dataclass(frozen=True)
class _Pick:
    """One pick; :func:`finish_trials` says what each is."""

    view: StudyView
    trials: Sequence[Trial]
    budget: Budget
    epochs: float
    notify: Notify
    prefer: str
    workers: tuple[Mapping[str, str], ...] = ()
    study: PreparedStudy | None = None

    def write(self, compare: bool, wanted: Wanted, force: bool) -> tuple[Card, Path]:
        """Hold the contest, and write the folder of its winner."""
        self.view.folder.create()
        study = self.study or prepare_study(self._spec(), self.view.folder, self.notify)
        given, trials = study.spec.pick.lr, finetune_settings(study.spec).lr
        rate = finish_rate(study, self.epochs) if given == "auto" else given
        if given != "auto" or rate == trials:
            return self._written(study, rate, compare, wanted, force)
        self.notify(f"peak learning rate: {rate:g} (pick.lr), as the fine-tune is long; trials have {trials:g}")
        try:
            return self._written(study, rate, compare, wanted, force)
        except NonFiniteError as error:
            self.notify(f"{error}; the fine-tune begins again with {trials:g}")
        return self._written(study, trials, compare, wanted, force)

    def _written(
        self, study: PreparedStudy, rate: float, compare: bool, wanted: Wanted, force: bool
    ) -> tuple[Card, Path]:
        """Do what :meth:`write` says, with a peak learning rate."""
        picked = self.view.folder.picked
        settings = finetune_settings(study.spec, epochs=self.epochs, lr=rate)
        tune = study.spec.finetune
        images = tune.finish_images if self.epochs else tune.untrained_finish_images
        maker, meter = build_maker(study, settings, images), build_meter(study)
        lead = study.task.metric
        self.notify(_plan(self.trials, self.epochs, lead.name if lead.is_the_loss(study.dense.values) else "loss"))
        with unfinished(picked, maker, meter.timer.plan, self.trials) as memory:
            is_resumed = memory.has_begun
            if is_resumed:
                self.notify("going on with a pick that was cut off: the parts that it finished are not repeated")
            with self._trainer(study, maker, memory.folder) as trainer:
                finished = hold_contest(
                    maker,
                    meter,
                    self.trials,
                    study.dense,
                    lambda winner: self._rival_of(winner) if compare else Incomparable("not asked for"),
                    lambda trial, phase: self.notify(f"trial {trial.number}: {phase}"),
                    memory,
                    self._untrained(maker, study) if self.epochs == 0 else None,
                    trainer,
                )
            target = picked / str(finished.trial.number)
            card = picked_card(finished, self.budget, settings, study, resumed=is_resumed, prefer=self.prefer)
            bundle = _bundle(finished, study, wanted)
            if wanted.qat and self.epochs > 0:
                trained = trained_for_int8(finished.trial, finished.network, maker, memory, self.notify)
                bundle = replace(bundle, trained=trained)
            card = publish(target, memory.building, card, bundle, card_text, self.notify, force=force)
            memory.forget()
        return card, target

    @property
    def _trains_together(self) -> bool:
        return (len(self.workers) > 1 or any(self.workers)) and self.epochs > 0

    def _spec(self) -> StudySpec:
        """Return the spec for this machine, with the threads that each process has if there are several."""
        spec = resolve(self.view.spec)
        if not self._trains_together or spec.runtime.threads:
            return spec
        runtime = spec.runtime.model_copy(update={"threads": threads_of_each(len(self.workers))})
        return spec.model_copy(update={"runtime": runtime})

    def _trainer(
        self, study: PreparedStudy, maker: NetworkMaker, work: Path
    ) -> AbstractContextManager[PartTrainer | None]:
        if not self._trains_together:
            return nullcontext()
        at_once = self.workers[: len(self.trials) + 1]  # the last for the baseline
        self.notify(f"fine-tuning in {len(at_once)} processes")
        return finishers(at_once, study.spec, self.view.folder, maker, work)

    def _rival_of(self, winner: Trial) -> Trial | Incomparable:
        rival = uniform_rival(self.view.trials, self.budget, winner)
        if self.epochs == 0 and isinstance(rival, Trial):
            try:
                check_kept(self.view.folder, rival, self.view.machine_of(rival))
            except (StudyError, ModelError) as error:
                return Incomparable(f"the uniform baseline, trial {rival.number}, cannot be loaded: {error}")
        return rival

    def _untrained(self, maker: NetworkMaker, study: PreparedStudy) -> Callable[[Trial], nn.Module]:
        """Return what loads a trial's network with the weights that the search measured.

        One that was solved for has none: it is refitted on more examples than when it was measured.
        """

        def network_of(trial: Trial) -> nn.Module:
            if trial.candidate.is_picked:
                return maker.pruned(trial.candidate.policy, Stopwatch(lambda phase: None))
            return study.device.place(load_trial(self.view.folder.path, trial.number, study.network))

        return network_of


def _bundle(finished: Finished, study: PreparedStudy, wanted: Wanted) -> NetworkBundle:
    return NetworkBundle(
        network=finished.network,
        dense=study.network,
        cut=finished.cut,
        architecture=study.architecture,
        policy=finished.trial.candidate.policy,
        channels={group.name: group.num_channels for group in study.space.groups},
        examples=examples_of(study.task, study.network),
        timing=timing_plan(study.spec.latency),
        wanted=wanted,
    )


def _plan(trials: Sequence[Trial], epochs: float, judge: str) -> str:
    """Return who will be trained, for how long, and by what the better half is told."""
    names = ", ".join(str(trial.number) for trial in trials)
    if not epochs:
        whose = "the best of trials" if len(trials) > 1 else "trial"
        is_solved = all(trial.candidate.is_picked for trial in trials)
        how = "refitted, without training" if is_solved else "as measured in the search"
        return f"finishing {whose} {names} {how}"
    if len(trials) == 1:
        return f"finishing trial {names}: fine-tune of {epochs:g} epochs"
    parts = "; ".join(f"{rung.contenders} up to {100 * rung.share:g} %" for rung in rungs(len(trials)))
    return f"finishing the best of trials {names}: fine-tune of {epochs:g} epochs, {parts}, by validation {judge}"
