"""Which layers become int8: all of them, or as many as the network can bear.

Where int8 costs too much, the first and the last layer stay in float32, as they mostly matter most; then one layer
after another, the one that alone in int8 changes the answers most first, until the loss is within the limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from autoprune.core.export_formats import Int8Limit
from autoprune.core.metrics import Metric
from autoprune.core.notify import Notify
from autoprune.errors import ExportError
from autoprune.export.int8_calibration import CalibratedModel, Feed, QuantisableLayer
from autoprune.export.int8_quantise import quantised, sensitivities
from autoprune.export.int8_score import FloatScore, Int8Score, allowed_drop, is_within
from autoprune.export.onnx import OnnxSession


@dataclass(frozen=True)
class Int8Network:
    """A network in int8 that is good enough.

    Attributes:
        content: of its file.
        in_float: the layers that stay in float32.
        score: on validation.
    """

    content: bytes = field(repr=False)
    in_float: tuple[QuantisableLayer, ...]
    score: Int8Score


def good_enough(
    calibrated: CalibratedModel,
    reference: FloatScore,
    limit: Int8Limit,
    *,
    reduce_range: bool,
    feed: Feed,
    threads: int,
    notify: Notify,
) -> Int8Network:
    """Return a network in int8 that loses no more than is allowed, with as few layers in float32 as that takes.

    Args:
        calibrated: the network in float32.
        reference: what that is worth on validation.
        limit: how much may be lost.
        reduce_range: whether weights have seven bits.
        feed: a batch of training examples.
        threads: CPU threads, at least 1.
        notify: called with a sentence when a layer is left in float32.

    Raises:
        ExportError: if no layer can be int8 without losing more.
    """
    if not calibrated.layers:
        raise ExportError("it has no convolution or linear layer with weights of its own, so nothing to quantise")
    in_float, order = list[QuantisableLayer](), _order(calibrated, reduce_range, feed)
    while True:
        content = quantised(calibrated, reduce_range, [layer.node for layer in in_float], feed)
        score = reference.judged(OnnxSession(content, threads))
        if is_within(score, reference.value, reference.examples.quality, limit):
            return Int8Network(content, tuple(in_float), score)
        if len(in_float) + 1 >= len(calibrated.layers):  # with the next one nothing would be left
            raise ExportError(_too_bad(score, reference, limit))
        in_float.append(next(order))
        notify(f"in int8 {_worse(score, reference)}; leaving {in_float[-1].name} in float32")


def _order(calibrated: CalibratedModel, reduce_range: bool, feed: Feed) -> Iterator[QuantisableLayer]:
    """Yield the layers in the order in which they are left in float32."""
    ends = dict.fromkeys((calibrated.layers[0], calibrated.layers[-1]))
    yield from ends
    changes = sensitivities(calibrated, reduce_range, feed)
    inner = [layer for layer in calibrated.layers if layer not in ends]
    yield from sorted(inner, key=lambda layer: changes[layer.node], reverse=True)


def _worse(score: Int8Score, reference: FloatScore) -> str:
    """Return how much is lost, in words."""
    quality: Metric = reference.examples.quality
    if score.fault:
        return f"the answers are {score.fault}"
    return f"{quality.name} is {quality.with_unit(score.value)}, and {quality.with_unit(reference.value)} in float32"


def _too_bad(score: Int8Score, reference: FloatScore, limit: Int8Limit) -> str:
    quality = reference.examples.quality
    allowed = quality.gap(allowed_drop(reference.value, quality, limit))
    least = "" if limit.worst is None else f", and it must not be worse than {quality.with_unit(limit.worst)}"
    return (
        f"in int8, even with one layer alone, {_worse(score, reference)} ({score.count} validation examples); "
        f"{allowed} may be lost{least}; allow more with --int8-max-drop, or ship model.onnx"
    )
