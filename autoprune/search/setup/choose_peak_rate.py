"""The peak learning rate of a study's fine-tunes: as the spec says, or the best of a few, tried once.

One network, cut evenly to about half of its FLOPs and compensated, is fine-tuned for some steps with each rate.
Of the rates whose loss on validation is near the smallest, the one nearest to the optimizer's usual rate is taken: a
short trial flatters small rates, which have less to make good again, and the more so the longer the fine-tune is that
the rate is for. Where the smallest is clearly the best, smaller ones are tried. The first two are tried at once where
there are several workers: of a pruned network one thread trains nearly as much as two.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from torch import nn

from autoprune.core.counts import ChannelCounts
from autoprune.core.json_values import JsonObject, parse_json
from autoprune.core.policy import PruningPolicy
from autoprune.errors import AutopruneError
from autoprune.models.copying.copy_network import copy_network
from autoprune.search.evaluation.make_network import NetworkMaker
from autoprune.search.evaluation.stopwatch import Stopwatch
from autoprune.search.setup.build_evaluator import build_maker
from autoprune.search.setup.from_spec import finetune_settings
from autoprune.search.setup.once import once, unless_damaged
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.study.divided_work import DividedWork
from autoprune.training.learning_rate import RATES, usual_rate
from autoprune.training.scoring import score
from autoprune.training.settings import total_steps

STEPS = 24  # at most, of each fine-tune; 40 decide alike on CIFAR-10
_LEAST_STEPS = 4  # fewer say nothing
KEPT = 0.7  # of each group's channels: about half of the FLOPs; after 24 steps a smaller network flatters small rates
_IMAGES = 2000  # validation examples, at most
_NEAR = 0.05  # share of the smallest loss; what is no further above it is as good for as many steps as were tried
_SMALLER, _MOST_SMALLER = 0.3, 2  # each smaller rate, and how many of them
RATE_TRIALS = "rates"  # the kind of work by which workers share them


@dataclass(frozen=True)
class PeakRate:
    """The peak rate that was found best.

    Attributes:
        rate: the learning rate.
        losses: each rate that was tried → the loss on validation after it; infinite where training failed.
    """

    rate: float
    losses: Mapping[float, float]


def with_peak_rate(study: PreparedStudy, work: DividedWork | None = None) -> PreparedStudy:
    """Return the study with the peak rate of its fine-tunes decided: as given, as stored, or the best of a few.

    Args:
        study: prepared but for that.
        work: by which other workers take part; ``None``: none do.

    Raises:
        AutopruneError: if a network cannot be cut.
    """
    if study.spec.finetune.lr != "auto":
        return study
    rate = usual_rate(study.spec.finetune.optimizer)
    if _can_be_tried(study):
        rate = once(
            study.folder.peak_rate, unless_damaged(_read), lambda: _tried(study, work or DividedWork()), _text
        ).rate
    finetune = study.spec.finetune.model_copy(update={"lr": rate})
    context = replace(study.context, spec=study.spec.model_copy(update={"finetune": finetune}))
    return replace(study, context=context)


def knows_peak_rate(study: PreparedStudy) -> bool:
    """Return whether nothing has to be tried: the rate was given or tried before, or there is nothing to train."""
    return study.spec.finetune.lr != "auto" or not _can_be_tried(study) or study.folder.peak_rate.exists()


def finish_rate(study: PreparedStudy, epochs: float) -> float:
    """Return the peak rate of a finish where nobody says one: the trials', or a larger one if it is much longer.

    The best rate grows about as the square root of the number of steps. A ResNet-56 on CIFAR-10 is best at 0.003 after
    24 steps, at 0.01 after 100 to 200, and at 0.1 after 3,910.

    Args:
        study: prepared, its rate decided.
        epochs: of the finish.
    """
    settings = finetune_settings(study.spec, epochs)
    tried = unless_damaged(_read)(study.folder.peak_rate)
    if tried is None or tried.rate != settings.lr:
        return settings.lr  # which somebody gave
    steps = total_steps(study.task.steps_per_epoch(settings.batch_size), settings)
    grown = tried.rate * math.sqrt(steps / max(1, _steps(study)))
    return max([tried.rate, *(rate for rate in RATES[settings.optimizer] if rate <= grown)])


def near(steps: int, tried: int) -> float:
    """Return by which share above the smallest loss, after some steps, a rate is as good for a fine-tune of others.

    What a larger rate breaks at first is made good in time: on a ResNet-56, cut to half, the loss at 0.03 is 36 % above
    that at the best rate after 24 steps, and 22 % after 40.

    >>> [round(near(steps, 24), 2) for steps in (24, 96, 240)]
    [0.05, 0.1, 0.16]
    """
    return _NEAR * math.sqrt(max(1.0, steps / max(1, tried)))


def _can_be_tried(study: PreparedStudy) -> bool:
    """Return whether a fine-tune of autoprune's own takes place at all, long enough to tell rates apart."""
    return study.task.finetune is None and bool(study.space.by_name) and _steps(study) >= _LEAST_STEPS


def _steps(study: PreparedStudy) -> int:
    settings = finetune_settings(study.spec)
    return min(STEPS, total_steps(study.task.steps_per_epoch(settings.batch_size), settings))


def _tried(study: PreparedStudy, work: DividedWork) -> PeakRate:
    trial = RateTrial(study)
    study.context.notify(f"trying learning rates, {trial.steps} steps each, on a pruned network")

    def losses_after(rates: Sequence[float]) -> list[float]:
        found = work.results(RATE_TRIALS, [{"rate": rate} for rate in rates], trial.loss_of)
        return [math.inf if one["loss"] is None else float(cast(float, one["loss"])) for one in found]

    settings = finetune_settings(study.spec)
    steps = total_steps(study.task.steps_per_epoch(settings.batch_size), settings)
    found = best_rate(RATES[study.spec.finetune.optimizer], losses_after, near(steps, trial.steps))
    others = ", ".join(f"{loss:.4g} with {rate:g}" for rate, loss in found.losses.items() if rate != found.rate)
    study.context.notify(
        f"peak learning rate: {found.rate:g} (finetune.lr), after which the loss is {found.losses[found.rate]:.4g}; "
        f"it is {others}"
    )
    return found


def best_rate(
    rates: tuple[float, float, float],
    losses_after: Callable[[Sequence[float]], Sequence[float]],
    as_good: float = _NEAR,
) -> PeakRate:
    """Return the best rate: of those that are as good as the best, the nearest to the usual one.

    The loss is taken to have one valley: where the usual rate is worse than the smallest, the largest is not tried.

    Args:
        rates: that are tried, the usual one in the middle, rising.
        losses_after: returns the loss after a fine-tune with each of some rates, infinite if it fails.
        as_good: by which share of the smallest loss a loss may be above it for its rate to be taken.

    >>> best_rate((0.01, 0.03, 0.1), lambda rates: [{0.01: 0.98, 0.03: 1.0}[rate] for rate in rates]).rate
    0.03
    """
    smallest, usual, largest = rates
    losses = dict(zip((smallest, usual), losses_after((smallest, usual)), strict=True))
    if losses[usual] <= losses[smallest]:
        (losses[largest],) = losses_after((largest,))
    for _ in range(_MOST_SMALLER):
        if any(rate > smallest for rate in _good(losses, _NEAR)):
            break
        smallest = float(f"{_SMALLER * smallest:.1g}")
        (losses[smallest],) = losses_after((smallest,))
    return PeakRate(_nearest_to_usual(losses, usual, as_good), losses)


def _nearest_to_usual(losses: Mapping[float, float], usual: float, as_good: float) -> float:
    """Return of the rates that are as good as the best the nearest to the usual one, which it is if all have failed."""
    return min(_good(losses, as_good), key=lambda rate: abs(math.log(rate / usual)), default=usual)


def _good(losses: Mapping[float, float], as_good: float) -> list[float]:
    """Return the rates whose loss is near the smallest; none if all have failed."""
    least = min(losses.values())
    return [rate for rate, loss in losses.items() if math.isfinite(loss) and loss <= least + as_good * abs(least)]


@dataclass
class RateTrial:
    """What fine-tunes copies of one pruned network with a rate, in any worker of a study.

    Attributes:
        study: prepared but for its peak rate.
    """

    study: PreparedStudy

    @property
    def steps(self) -> int:
        """Return how many steps each fine-tune has."""
        return _steps(self.study)

    def loss_of(self, item: Mapping[str, Any]) -> JsonObject:
        """Return the ``loss`` on validation after a fine-tune with a ``rate``; ``None`` if the fine-tune fails."""
        maker, study = self._maker, self.study
        tried = study.device.place(copy_network(self._network))
        try:
            settings = replace(maker.settings, lr=float(item["rate"]))
            replace(maker, settings=settings).finetune(tried, self._policy, Stopwatch(lambda phase: None))
            loss = score(tried, study.task, "val", study.device, limit=_IMAGES).loss
        except AutopruneError:  # mostly a loss that is not finite; were it the network, every candidate would tell
            return {"loss": None}
        return {"loss": loss if math.isfinite(loss) else None}

    @cached_property
    def _maker(self) -> NetworkMaker:
        study, settings = self.study, finetune_settings(self.study.spec)
        per_epoch = max(1, study.task.steps_per_epoch(settings.batch_size))
        maker = build_maker(study, replace(settings, epochs=self.steps / per_epoch))
        return replace(maker, schedule=maker.schedule.model_copy(update={"stages": 1}))

    @cached_property
    def _policy(self) -> PruningPolicy:
        space = self.study.space
        return space.policy(ChannelCounts(space.scaled(KEPT)))

    @cached_property
    def _network(self) -> nn.Module:
        return self._maker.pruned(self._policy, Stopwatch(lambda phase: None))


def _read(path: Path) -> PeakRate:
    known = parse_json(path.read_text(encoding="utf-8"))
    losses = {float(rate): math.inf if loss is None else float(loss) for rate, loss in known["losses"].items()}
    return PeakRate(float(known["rate"]), losses)


def _text(found: PeakRate) -> str:
    losses = {f"{rate:g}": loss if math.isfinite(loss) else None for rate, loss in found.losses.items()}
    return json.dumps({"rate": found.rate, "losses": losses}, indent=1)
