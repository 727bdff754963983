"""Finish a trial: rebuild it, fine-tune it longer, score it once on test, and write it down with its card."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.atomic import write_text
from autoprune.cost.macs import measure_network
from autoprune.errors import EvaluationError, StudyError, UsageError
from autoprune.evaluate import Evaluator, OnPhase, Stopwatch, measured_quality, quality_measurement
from autoprune.metrics import FLOP_CONVENTION, METRICS, Budget, Measurement
from autoprune.picked import Architecture, load, save_network
from autoprune.policy import MaskPolicy
from autoprune.pruning.mask_kernels import can_accelerate
from autoprune.pruning.masks import maskable_layers
from autoprune.pruning.prune import Cut
from autoprune.training.score import score
from autoprune.trial import Trial

CARD_JSON, CARD = "card.json", "card.md"


@dataclass(frozen=True)
class Finished:
    """Hold a finished network.

    Attributes:
        trial: the trial it comes from.
        network: pruned and fine-tuned, in eval mode.
        cut: kept indices of every module that was cut.
        validation: costs and validation score after the longer fine-tune.
        test: test score, or ``None`` if the data has no test split.
        dense_test: the dense network's test score, likewise.
        seconds: phase → seconds.
    """

    trial: Trial
    network: nn.Module
    cut: Cut
    validation: Measurement
    test: Measurement | None
    dense_test: Measurement | None
    seconds: Mapping[str, float]


def finish(evaluator: Evaluator, trial: Trial, on_phase: OnPhase) -> Finished:
    """Rebuild a trial's network, fine-tune it by the evaluator's recipe, and score it once on test.

    Raises:
        AutopruneError: if the network cannot be rebuilt, trained or scored.
    """
    watch = Stopwatch(on_phase)
    policy = trial.candidate.policy
    exact = evaluator.exact(policy)
    network = evaluator.pruned(policy, exact, watch)
    evaluator.finetune(network, policy, watch)
    with watch("score"):
        quality = measured_quality(network, evaluator.task, evaluator.runtime)
    with watch("latency"):
        timing = evaluator.time(network)
    with watch("test"):
        test = _test_score(evaluator, network)
        dense_test = _test_score(evaluator, evaluator.pruner.network)
    validation = exact.merged(quality).merged(timing)
    return Finished(trial, network, evaluator.pruner.cut(policy), validation, test, dense_test, watch.seconds)


def _test_score(evaluator: Evaluator, network: nn.Module) -> Measurement | None:
    if not evaluator.task.sizes["test"]:
        return None
    return quality_measurement(score(network, evaluator.task, "test", evaluator.runtime))


def mask_facts(network: nn.Module, mask: MaskPolicy | None, device: str) -> dict[str, Any] | None:
    """Return what a mask left dense, and whether it saves time on a device; ``None`` without a mask."""
    if mask is None:
        return None
    weighted = {path for path, module in network.named_modules() if getattr(module, "weight", None) is not None}
    left = maskable_layers(network, mask.pattern).left
    dense = {layer: reason for layer, reason in left.items() if layer in weighted and "rows hold" in reason}
    kernels = can_accelerate(device)[1] if mask.pattern == "2:4" else "unstructured masks save no time by themselves"
    return {"pattern": mask.pattern, "criterion": mask.criterion, "left_dense": dense, "kernels": kernels}


def check_target(target: Path, force: bool) -> None:
    """Raise if a picked folder exists already and may not be replaced.

    Raises:
        UsageError: naming the folder.
    """
    if target.exists() and not force:
        raise UsageError(
            f"{str(target)!r} exists already, and test is scored once: load it with autoprune.load({str(target)!r}), "
            f"or give --force to finish the trial again and replace it"
        )


def write_finished(
    target: Path,
    finished: Finished,
    evaluator: Evaluator,
    architecture: Architecture,
    budget: Budget,
    dense: Measurement,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Write a finished network into a folder, check that it loads back as it is, and return its card.

    The folder appears whole or not at all.

    Args:
        target: the folder; replaced if it exists.
        finished: what to write.
        evaluator: what it was finished by.
        architecture: how the dense network is built.
        budget: the limits it was picked for.
        dense: what was measured of the dense network.
        facts: further facts for the card: ``seed``, ``data``, ``versions``, ``finetune``, ``runtime``.

    Raises:
        StudyError: if the folder cannot be written.
        EvaluationError: if the network loaded back is not the one that was saved.
    """
    card = _card(finished, budget, dense, facts)
    building = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        building.mkdir(parents=True)
        save_network(
            building, finished.network, finished.cut, architecture, finished.trial.candidate.policy, facts["versions"]
        )
        _check_loads_back(building, finished, evaluator)
        write_text(building / CARD_JSON, json.dumps(card, indent=1))
        write_text(building / CARD, card_text(card))
        if target.exists():
            shutil.rmtree(target)
        building.rename(target)
    except OSError as error:
        raise StudyError(
            f"cannot write {str(target)!r}: {error.strerror or error}; free space or permissions"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return card


def _check_loads_back(folder: Path, finished: Finished, evaluator: Evaluator) -> None:
    """Raise unless the saved network answers bit for bit as the one in memory, at the cost on its card."""
    original = finished.network.cpu().eval()
    loaded = load(folder, network=evaluator.pruner.network)
    batch = next(iter(evaluator.task.eval_batches("val", 16, evaluator.runtime))).images.cpu()
    with torch.no_grad():
        same = torch.equal(original(batch), loaded(batch))
    mask = finished.trial.candidate.policy.mask
    counted = measure_network(loaded, batch, tuple(mask.layers) if mask else ())
    claimed = {name: finished.validation[name] for name in counted.values}
    if not same or dict(counted.values) != claimed:
        raise EvaluationError(
            f"the network loaded back from {str(folder)!r} differs from the one saved (same outputs: {same}; counted "
            f"{dict(counted.values)}, card {claimed}); this is a bug in autoprune, please report it"
        )


def _card(finished: Finished, budget: Budget, dense: Measurement, facts: Mapping[str, Any]) -> dict[str, Any]:
    scored = finished.trial.outcome
    return {
        "trial": finished.trial.number,
        "origin": finished.trial.candidate.origin,
        "flop_convention": FLOP_CONVENTION,
        "uncounted": list(finished.validation.uncounted),
        "budget": budget.to_json(),
        "validation": finished.validation.to_json(),
        "test": finished.test.to_json() if finished.test else None,
        "dense": {
            "validation": dense.to_json(),
            "test": finished.dense_test.to_json() if finished.dense_test else None,
        },
        "in_search": scored.measurement.to_json() if hasattr(scored, "measurement") else None,
        "policy": json.loads(finished.trial.candidate.policy.to_json()),
        "seconds": dict(finished.seconds),
        **facts,
    }


def card_text(card: Mapping[str, Any]) -> str:
    """Return a card as Markdown."""
    validation, dense = card["validation"], card["dense"]["validation"]
    rows = ["| | pruned | dense | ratio |", "|---|---|---|---|"]
    for split, pruned, before in (
        ("test", card["test"], card["dense"]["test"]),
        ("validation", validation, dense),
    ):
        if pruned:
            change = pruned["values"]["accuracy"] - before["values"]["accuracy"] + 0.0  # never -0.00
            rows.append(
                f"| accuracy on {split} | {_accuracy(pruned)} | {_accuracy(before)} | {100 * change:+.2f} points |"
            )
    for name in ("mflops", "mparams", "size_mb", "latency_ms", "nonzero_mflops", "nonzero_mparams"):
        if name in validation["values"]:
            new, old = validation["values"][name], dense["values"][name]
            unit = METRICS[name].unit
            rows.append(
                f"| {name} | {METRICS[name].show(new)} {unit} | {METRICS[name].show(old)} {unit} | {new / old:.3f} |"
            )
    test = [] if card["test"] else ["\nThe data has no test split, so there is no test score.\n"]
    budget = ", ".join(f"{name} ≤ {float(limit):g}" for name, limit in card["budget"].items()) or "none"
    return "\n".join(
        [
            f"# Trial {card['trial']} ({card['origin']})",
            "",
            *rows,
            *test,
            "",
            f"- budget: {budget}",
            f"- {card['flop_convention']}; not counted: {', '.join(card['uncounted'])}",
            "- selected on validation; test was scored once, after the last decision (± is one standard error)"
            if card["test"]
            else "- selected on validation",
            f"- fine-tune: {card['finetune']}",
            *_mask_lines(card),
            f"- data: {card['data']}",
            f"- seed: {card['seed']}",
            f"- measured on: {card['runtime']}",
            f"- versions: {card['versions']}",
            "",
            "```python",
            "import autoprune",
            "network = autoprune.load('.')  # this folder",
            "```",
            "",
            "| group | sparsity | importance |",
            "|---|---|---|",
            *(f"| {name} | {sparsity:.3f} | {how} |" for name, (sparsity, how) in card["policy"]["groups"].items()),
            "",
            *(f"- dropped whole: {name}" for name in card["policy"].get("dropped_blocks", ())),
        ]
    )


def _mask_lines(card: Mapping[str, Any]) -> list[str]:
    """Return what a card says of masks: dense costs are those of the shapes, which a mask does not change."""
    mask = card.get("mask")
    if not mask:
        return []
    left = ", ".join(f"{layer} ({reason})" for layer, reason in mask["left_dense"].items()) or "none"
    return [
        f"- mask {mask['pattern']} by {mask['criterion']}: MFLOPs and latency are those of dense shapes; "
        f"{mask['kernels']}",
        f"- left dense by the mask: {left}",
        "- training the network further lets masked weights grow back, unless zeros are held",
    ]


def _accuracy(measurement: Mapping[str, Any]) -> str:
    value, error = measurement["values"]["accuracy"], measurement["stderr"]["accuracy"]
    return f"{100 * value:.2f} % ± {100 * error:.2f}"
