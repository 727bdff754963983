"""How a study was measured, in pairs of a term and a few words: data, seeds, training, timing, versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from autoprune.core.metrics import FLOP_CONVENTION, Metric
from autoprune.core.number_formats import SIZES
from autoprune.core.preference import COST_OF, WORDS
from autoprune.report.content.summary import Summary
from autoprune.report.content.who_worked import shares_in_words, worker_shares
from autoprune.study.study_facts import DataFacts, FrozenFacts, SessionFacts

if TYPE_CHECKING:
    from autoprune.study.view import StudyView

Pairs = list[tuple[str, str]]


def method(view: StudyView, summary: Summary) -> list[tuple[str, Pairs]]:
    """Return a title and its pairs for each part; what an old study does not store is left out."""
    parts = [
        ("Network and data", [*_network(view), *_data(view.facts.data, summary.quality)]),
        ("Every candidate", _candidate(view)),
        ("Counting and timing", _counting(view, summary)),
        ("Machine and versions", _machine(view)),
    ]
    return [(title, [(term, text) for term, text in pairs if text]) for title, pairs in parts]


def _network(view: StudyView) -> Pairs:
    spec, dense = view.spec, view.spec.dense
    trained = (
        f"weights from {spec.model.weights}"
        if spec.model.weights
        else f"trained here: {_epochs(dense.epochs)}, batch {dense.batch_size}, {dense.optimizer}, "
        f"learning rate {dense.lr:g}, weight decay {dense.weight_decay:g}"
        if dense.epochs
        else "trained weights from its source"
    )
    return [("dense network", f"{spec.model.source}; {trained}")]


def _data(data: DataFacts, quality: Metric) -> Pairs:
    names = {"train": "training", "val": "validation", "test": "test"}
    splits = ", ".join(f"{count} {names.get(split, split)}" for split, count in data.sizes.items())
    used = f"{quality.name} here is on validation; only autoprune pick uses the test examples"
    return [
        ("data", data.name),
        ("described as", data.description),
        ("licence", data.licence or ""),
        ("splits", f"{splits} examples; {used}" if splits else used),
    ]


def _candidate(view: StudyView) -> Pairs:
    spec, tune, schedule = view.spec, view.spec.finetune, view.spec.schedule
    teacher = (
        f"the dense network teaches (weight {tune.distill_weight:g}, temperature {tune.temperature:g})"
        if tune.distill
        else "the loss alone"
    )
    stages = f", in {schedule.stages} stages" if schedule.stages > 1 else ""
    stopping = (
        f"a candidate that can no longer win is stopped, judged on at most {spec.stopping.images} validation examples"
        if spec.stopping.enabled
        else "no candidate is stopped early"
    )
    rate = "not decided yet" if tune.lr == "auto" else f"{tune.lr:g}"
    trained = (
        f"{_epochs(tune.epochs)} by {spec.loop.finetune}"
        if spec.loop.finetune
        else f"{_epochs(tune.epochs)}, batch {tune.batch_size}, {tune.optimizer}, learning rate {rate}, "
        f"weight decay {tune.weight_decay:g}; {teacher}"
    )
    return [
        ("seed", f"{spec.seed}; each trial has its own, drawn from it"),
        ("criteria", ", ".join(spec.space.importances)),
        ("what may go", ", ".join(spec.space.patterns) + (", whole blocks" if spec.space.depth else "")),
        ("proposals", spec.sampler),
        ("begins with", {"finetune": "the trained weights"}.get(schedule.start, schedule.start) + stages),
        ("compensation", f"{tune.compensation_images} training examples" if tune.compensation_images else "none"),
        ("recalibration", f"{tune.recalibration_images} training examples, of what is not compensated"),
        ("fine-tune", f"{trained}; trained: {schedule.trainable}"),
        ("stopping", stopping),
    ]


def _counting(view: StudyView, summary: Summary) -> Pairs:
    timing = view.spec.latency
    named = {"batch", "threads", "blocks", "calls", "command_seconds"}
    others = [f", {name} {value}" for name, value in timing.model_dump().items() if value and name not in named]
    cost = COST_OF[summary.prefer]
    return [
        ("FLOPs", f"{FLOP_CONVENTION} of a convolution, linear layer or matrix product"),
        ("not counted", "; ".join(summary.dense.uncounted)),
        (
            "latency",
            f"median ratio of pruned to dense over {timing.blocks} alternating blocks of {timing.calls} forward "
            f"passes, times the dense network's; batch {timing.batch}, {_threads(timing.threads)}{''.join(others)}",
        ),
        ("size", SIZES[summary.size_format]),
        ("±", _plus_minus(summary)),
        (
            "choice",
            f"of the networks within the budget whose {summary.quality.name} is within one standard error of the best "
            "(of the dense network, where the lead over it may be luck), "
            f"{WORDS[summary.prefer]}{', by loss of those that are equal within noise' if cost else ''}",
        ),
        ("not pruned", "; ".join(_frozen(view.facts.frozen))),
    ]


def _plus_minus(summary: Summary) -> str:
    """Return what the sign stands for, and which qualities have no standard error."""
    without = [one.name for one in summary.qualities if one.name not in summary.dense.stderr]
    lacking = f"; {' and '.join(without)} {'has' if len(without) == 1 else 'have'} none" if without else ""
    return f"one standard error; intervals of differences are 95 %{lacking}"


def _frozen(frozen: Mapping[str, FrozenFacts]) -> list[str]:
    return [f"{name}: {group.reason}" for name, group in frozen.items()]


def _machine(view: StudyView) -> Pairs:
    last = view.sessions[-1] if view.sessions else SessionFacts()
    runtime = last.runtime
    device = " ".join(str(runtime[name]) for name in ("device", "device_name") if runtime.get(name))
    threads = int(runtime.get("threads", 0))
    return [
        ("runs", str(len(view.sessions)) if view.sessions else ""),
        ("who evaluated what", shares_in_words(worker_shares(view.trials, view.sessions))),
        ("last run began", last.started),
        ("device", device),
        ("training", ", ".join(str(runtime[name]) for name in ("precision", "layout") if runtime.get(name))),
        ("threads", _threads(threads) if threads else ""),
        ("platform", str(runtime.get("platform", ""))),
        ("versions", ", ".join(f"{name} {number}" for name, number in last.versions.items())),
    ]


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def _epochs(count: float) -> str:
    return "one epoch" if count == 1 else f"{count:g} epochs"
