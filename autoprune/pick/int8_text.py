"""What a card says of int8: in its first lines what it brings, or that it brings nothing here; below, what it costs."""

from __future__ import annotations

import math

from autoprune.core.measurement import CONFIDENT
from autoprune.core.metrics import PER_CENT, Metric
from autoprune.export.card import Card
from autoprune.export.card_origin import PickedTrial
from autoprune.export.export_result import ExportedFile, Int8Facts, TimingResult

_SHOWN_LAYERS = 6


def int8_headline(card: Card) -> list[str]:
    """Return the first lines of a card that has a file in int8, and an empty one; none where it has not."""
    lines = [line for one in card.written.exported if one.int8 for line in _first(one, one.int8, card)]
    return [*lines, ""] if lines else []


def int8_lines(card: Card) -> list[str]:
    """Return what a card says of each file in int8 below the table of files."""
    return [f"- {text}" for one in card.written.exported if one.int8 for text in _facts(one, one.int8, card)]


def _first(file: ExportedFile, int8: Int8Facts, card: Card) -> list[str]:
    return [_brings(file, int8), *_doubts(int8), *_over_budget(file, int8, card)]


def _over_budget(file: ExportedFile, int8: Int8Facts, card: Card) -> list[str]:
    """Return that the file is larger than the size it was picked for, if it is."""
    limit = card.origin.budget.limits.get("size_mb") if isinstance(card.origin, PickedTrial) else None
    size = card.written.files[file.file].bytes / 1e6
    if limit is None or card.size_format != "int8" or size <= limit.value:
        return []
    why = "; layers that stay in float32 take four times the room" if int8.in_float else ""
    return [f"**{file.file} is over the budget**: it has {size:.4g} MB, the limit is {limit.value:g} MB{why}."]


def _brings(file: ExportedFile, int8: Int8Facts) -> str:
    timing = file.latency
    faster = f"{1 / timing.ratio:.2f} times as fast as the dense network in float32"
    return f"**{file.file}**: {faster} ({timing.pruned_ms:.3f} ms for {timing.dense_ms:.3f} ms)."


def _doubts(int8: Int8Facts) -> list[str]:
    """Return what speaks against the file on this machine."""
    found = []
    if not _is_faster(int8.against_float):
        found.append(
            f"**Int8 is not faster on this machine**: it takes {_ratio(int8.against_float)} of the time of model.onnx, "
            f"which loses nothing; ship that one, unless another machine will run it."
        )
    if int8.against_dense_int8 and not _is_faster(int8.against_dense_int8):
        found.append(
            f"**In int8 the pruned network is not faster than the dense one**: it takes "
            f"{_ratio(int8.against_dense_int8)} of its time. Fewer channels than int8 arithmetic takes at once, or no "
            f"multiple of them, save nothing; search with --depth and --round-to 16."
        )
    return found


def _is_faster(timing: TimingResult) -> bool:
    return timing.ratio + CONFIDENT * timing.ratio_stderr < 1


def _ratio(timing: TimingResult) -> str:
    return f"× {timing.ratio:.3f} ± {timing.ratio_stderr:.3f}"


def _facts(file: ExportedFile, int8: Int8Facts, card: Card) -> list[str]:
    seven = ", weights in seven bits as this processor has no VNNI" if int8.reduce_range else ""
    size = card.written.files[file.file].bytes
    smaller = "" if size < int8.float_bytes else ": no smaller, as every tensor brings two operations and a scale"
    dense = int8.against_dense_int8
    rival = f"{_ratio(dense)} of that of the dense network in int8" if dense else f"the dense one: {int8.dense_failure}"
    counted = f"; counted as {card.scores.validation['size_mb']:.4g} MB" if card.size_format == "int8" else ""
    return [
        *_training(int8, card),
        f"int8: {_score(int8, card)} on {int8.examples} validation examples; {_allowed(int8, card)} may be lost",
        f"int8: {_ratio(int8.against_float)} of the time of the same network in float32, {rival}; "
        f"× {size / int8.float_bytes:.3f} of its size{smaller}, {size / 1e6:.4g} MB{counted}",
        f"int8: calibrated on {int8.calibration_examples} training examples{seven}; {_layers(int8)}",
    ]


def _training(int8: Int8Facts, card: Card) -> list[str]:
    """Return what came of training with the rounding of int8, beside the network that was not trained so."""
    found = int8.training
    if found is None:
        return []
    how = (
        f"the last {100 * found.share:g} % of the fine-tune once more with the rounding of int8 ({found.seconds:.0f} s)"
    )
    if found.failure:
        return [f"int8: {how} failed, so that the finished network became int8: {found.failure}"]
    quality = _quality(int8, card)
    scores = [
        "no finite number" if math.isnan(one) else quality.with_unit(one) for one in (found.score, found.static_score)
    ]
    by = f" ({_by(quality, found.gain, found.gain_stderr)})" if math.isfinite(found.gain) else ""
    kept = (
        "kept: the file has weights of its own, which model.safetensors does not hold"
        if found.is_kept
        else "not kept, as it is no better beyond noise"
    )
    left = f"; trained without rounding: {', '.join(found.not_rounded)}" if found.not_rounded else ""
    return [f"int8: {how}: {quality.name} {scores[0]} with every layer in int8, without {scores[1]}{by}; {kept}{left}"]


def _score(int8: Int8Facts, card: Card) -> str:
    quality = _quality(int8, card)
    value, before = quality.with_unit(int8.score), quality.with_unit(int8.float_score)
    return f"{quality.name} {value}, in float32 {before} ({_by(quality, int8.gain, int8.gain_stderr)})"


def _by(quality: Metric, gain: float, stderr: float) -> str:
    """Return how much better or worse one is."""
    if not gain and not stderr:
        return "no example differs"
    by = quality.gap(abs(gain)).partition(" ")[0]
    side = "worse by " if gain < 0 else "better by " if gain else ""
    return f"{side}{by} ± {quality.number(stderr)} {quality.gap_unit}".rstrip()


def _allowed(int8: Int8Facts, card: Card) -> str:
    return _quality(int8, card).gap(int8.allowed_drop)


def _quality(int8: Int8Facts, card: Card) -> Metric:
    return next((one for one in card.qualities if one.name == int8.metric), Metric(int8.metric, PER_CENT, "max"))


def _layers(int8: Int8Facts) -> str:
    """Return which layers stay in float32."""
    kept = int8.in_float
    if not kept:
        return f"all {int8.layers} layers are int8"
    rest = f" and {len(kept) - _SHOWN_LAYERS} more" if len(kept) > _SHOWN_LAYERS else ""
    return f"{len(kept)} of {int8.layers} layers stay in float32: {', '.join(kept[:_SHOWN_LAYERS])}{rest}"
