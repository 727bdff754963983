"""Finish a trial of a stored study: the door from a view of the study to a picked folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoprune.build import finetune_recipe, resolve, set_up
from autoprune.dense import sparsity_facts
from autoprune.metrics import Budget
from autoprune.pick import check_target, finish, mask_facts, write_finished
from autoprune.picked import Architecture
from autoprune.run import versions
from autoprune.study.view import StudyView
from autoprune.trial import Trial


def finish_trial(
    view: StudyView,
    trial: Trial,
    budget: Budget,
    say: Callable[[str], None],
    *,
    epochs: float | None = None,
    force: bool = False,
) -> tuple[dict[str, Any], Path]:
    """Rebuild a trial, fine-tune it longer, score it once on test, and write ``picked/<trial>/``.

    Args:
        view: the study.
        trial: a completed trial of it.
        budget: absolute limits it was picked for, written on the card.
        say: told in a sentence what is going on.
        epochs: length of the fine-tune; ``None`` for the study's ``pick.epochs``.
        force: whether a folder from an earlier pick is replaced.

    Returns:
        the card, and the folder.

    Raises:
        UsageError: if the folder exists and ``force`` is false.
        AutopruneError: if the network cannot be rebuilt, trained, scored or written.
    """
    target = view.folder.picked / str(trial.number)
    check_target(target, force)
    view.folder.create()
    spec = resolve(view.spec)
    bench = set_up(spec, view.folder, say)
    recipe = finetune_recipe(spec, epochs=spec.pick.epochs if epochs is None else epochs, lr=spec.pick.lr)
    evaluator = replace(bench.evaluator(), recipe=recipe)
    say(f"finishing trial {trial.number}: fine-tune of {recipe.epochs:g} epochs")
    finished = finish(evaluator, trial, lambda phase: say(f"trial {trial.number}: {phase}"))
    architecture = Architecture(spec.model.source, bench.task.num_classes, bench.task.input_shape)
    facts = {
        "seed": spec.seed,
        "data": {"name": bench.task.name, "sizes": dict(bench.task.sizes), "licence": bench.task.licence},
        "finetune": {
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "lr": recipe.lr,
            "weight_decay": recipe.weight_decay,
            "optimizer": recipe.optimizer,
            "distill": recipe.distill,
            "stages": spec.schedule.stages,
            "trainable": spec.schedule.trainable,
            "start": spec.schedule.start,
        },
        "sparsity": sparsity_facts(view.folder),
        "mask": mask_facts(finished.network, trial.candidate.policy.mask, bench.runtime.device),
        "latency": spec.latency.model_dump(),
        "runtime": bench.runtime.describe(),
        "versions": versions(),
    }
    return write_finished(target, finished, evaluator, architecture, budget, bench.dense, facts), target
