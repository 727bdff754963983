"""One look at a network that is not trained: cut, refitted, and how far its answers are from the dense network's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import nn

from autoprune.core.counts import ChannelCounts
from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.errors import EvaluationError, ModelError
from autoprune.pruning.surgery import Pruner, shrink
from autoprune.search.evaluation.compensator import Compensator
from autoprune.search.setup.answer_distance import AnswerDistance
from autoprune.search.setup.measure_sensitivity import BROKEN, SensitivityProbe
from autoprune.training.scoring import score

LOOKS = "looks"  # the kind of work by which workers share them
_UNUSABLE = (EvaluationError, ModelError)  # answers that are not finite are an EvaluationError


def screening_item(look: Literal["closed_form", "compensated"], counts: ChannelCounts) -> JsonObject:
    """Return a look that is to be taken, as any worker can take it."""
    return {"look": look, "channels": dict(counts.channels), "dropped_blocks": sorted(counts.dropped_blocks)}


@dataclass(frozen=True)
class Looker:
    """What looks at networks of one study, all on the same examples.

    Attributes:
        pruner: cuts copies of the network that candidates begin with.
        probe: refits them in closed form, and compares them with the dense network.
        compensator: refits them with what they really see.
        dense_loss: of the uncut network as the probe sees it.
        quality_images: validation examples that a compensated network is scored on.
        distance: from the dense network's answers, on as many; ``None``: the loss is told.

    A network that cannot be looked at, or answers NaN, counts as a rise of 100: one among hundreds ends no search.
    """

    pruner: Pruner
    probe: SensitivityProbe
    compensator: Compensator
    dense_loss: float
    quality_images: int
    distance: AnswerDistance | None = None

    def seen_of(self, item: Mapping[str, Any]) -> JsonObject:
        """Return what comes of an item of :func:`screening_item`: ``rise``, and of a second look ``quality``."""
        counts = ChannelCounts(item["channels"], frozenset(item["dropped_blocks"]))
        if item["look"] == "closed_form":
            return {"rise": round(self.closed_form(counts), 6)}
        rise, quality = self.compensated(counts)
        return {"rise": round(rise, 6), "quality": None if quality is None else quality.to_json()}

    def closed_form(self, counts: ChannelCounts) -> float:
        """Return the rise after the closed-form refit; 100 for a network that is of no use."""
        try:
            return self.probe.rise(self.pruner.space.cut_numbers(counts), self.dense_loss)
        except _UNUSABLE as error:
            return self._broken(counts, error)

    def compensated(self, counts: ChannelCounts) -> tuple[float, Measurement | None]:
        """Return the rise after a compensation pass, and how good the network is.

        Returns:
            100 and nothing for a network that is of no use.
        """
        context, policy = self.probe.context, self.pruner.space.policy(counts)
        try:
            cut = self.pruner.cut(policy)
            network = context.device.place(shrink(self.pruner.network, cut, self.probe.copied))
            self.compensator(network, cut)
            rise, seen = self._judged(network)
        except _UNUSABLE as error:
            return self._broken(counts, error), None
        return rise, seen

    def _judged(self, network: nn.Module) -> tuple[float, Measurement]:
        """Return a network's rise and its quality, from one pass over the examples where it can be."""
        context = self.probe.context
        scored = partial(score, network, context.task, "val", context.device, limit=self.quality_images)
        if self.distance is None:
            seen = scored().measurement
            return self._loss(network) - self.dense_loss, seen
        found = self.distance.of_answers()
        seen = scored(on_answer=found.add).measurement
        # a task that evaluates networks by itself shows no answers
        return found.mean if found.batches else self.distance(network), seen

    def _loss(self, network: nn.Module) -> float:
        context = self.probe.context
        return score(network, context.task, "val", context.device, limit=self.probe.images).loss

    def _broken(self, counts: ChannelCounts, error: Exception) -> float:
        """Say why a network is of no use, and return the rise that it counts as."""
        cost = sum(counts.channels.values())
        self.probe.context.notify(
            f"a network of {cost} channels cannot be looked at ({error}); it counts as a rise of {BROKEN:g}"
        )
        return BROKEN
