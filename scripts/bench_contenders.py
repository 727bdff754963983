"""The contenders of ``bench_search.py``: each searches for networks within one budget, and its best is finished.

- ``ours`` is a study as the package runs it; ``ours-random`` and the like are studies of other samplers. ``ours-pick``
  is the study of ``ours``, finished as ``autoprune pick`` does it: the best three by validation begin the longer
  fine-tune and are halved, which costs 1.75 times one finish.
- ``plain-tpe`` and the like are Optuna as in its manual (``bench_plain_optuna.py``).
- Any other name is a single policy, one of the study's baselines.
- Peers come from ``bench_peers``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from bench_cases import OBJECTIVES, Prepared, completed, spec_of, study_folder
from bench_peers import PEERS, Dense, mflops_of
from bench_plain_optuna import PLAIN, SAMPLERS, plain_search
from rich.console import Console
from torch import nn

from autoprune.analysis.pareto import best_few, choose, hypervolume
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Completed, Trial, completed_measurement
from autoprune.loggers.console import PlainDisplay
from autoprune.pick.contest import hold_contest
from autoprune.pick.uniform_rival import Incomparable
from autoprune.search.evaluation.stopwatch import Stopwatch
from autoprune.search.session import run_search
from autoprune.search.setup.build_evaluator import build_maker, build_meter
from autoprune.search.setup.from_spec import finetune_settings
from autoprune.study.view import open_view
from autoprune.training.device.evaluation_mode import evaluating
from autoprune.training.finetune import finetune
from autoprune.training.loop import TrainingRun
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm
from autoprune.training.scoring import score
from autoprune.training.settings import FinetuneSettings

PICKING = "ours-pick"
OURS = {"ours": "auto", PICKING: "auto", **{f"ours-{name}": name for name in SAMPLERS}}
TOP = 3  # that begin the finish of ``ours-pick``
Record = dict[str, Any]
Notify = Callable[[str], None]


def search_record(
    contender: str, prepared: Prepared, baselines: Sequence[Trial], options: Any, notify: Notify
) -> Record:
    """Return what a contender's search found: its trials, its best by validation, and how many it proposed.

    Raises:
        SystemExit: if the name is unknown.
    """
    singles = {t.candidate.origin.removeprefix("baseline:"): t for t in completed(list(baselines))}
    if contender in OURS:
        return _of_trials(_ours(contender, prepared, options), prepared)
    if contender in PLAIN:
        trials, asked = plain_search(contender, prepared, options.trials, notify)
        return _of_trials(trials, prepared) | {"asked": asked}
    if contender in PEERS:
        return _peer(contender, prepared)
    if contender in singles:
        return _of_trials([singles[contender]], prepared)
    known = ", ".join([*OURS, *PLAIN, *PEERS, *singles])
    raise SystemExit(f"no contender named {contender!r} in this case; known: {known}")


def _ours(contender: str, prepared: Prepared, options: Any) -> list[Trial]:
    folder = study_folder(prepared, "ours" if contender == PICKING else contender)
    spec = spec_of(options, prepared.study.spec.seed, OURS[contender])
    run_search(spec, folder, PlainDisplay(Console(stderr=True)))
    return list(open_view(folder.path).trials)


def _of_trials(trials: Sequence[Trial], prepared: Prepared) -> Record:
    """Return the record of a search that evaluated policies.

    Raises:
        NothingFitsError: if none of them is within the budget.
    """
    best = choose(list(trials), prepared.budget)
    rows, elapsed = [], 0.0
    for index, trial in enumerate(trials, 1):
        elapsed += trial.total_seconds
        found = completed_measurement(trial)
        rows.append(
            {
                "origin": trial.candidate.origin,
                "outcome": type(trial.outcome).__name__,
                "seconds": dict(trial.seconds),
                "elapsed": elapsed,
                "hypervolume": hypervolume(list(trials[:index]), OBJECTIVES, prepared.study.dense),
            }
            | ({name: found[name] for name in ("accuracy", "loss", "mflops")} if found else {})
        )
    measured = completed_measurement(best)
    if measured is None:
        raise RuntimeError("the chosen trial was not evaluated to its end; this is a bug in the benchmark")
    return {
        "trials": rows,
        "asked": len(rows),
        "accuracy": measured["accuracy"],
        "mflops": measured["mflops"],
        "share": measured["mflops"] / prepared.limit,
        "policy": json.loads(best.candidate.policy.to_json()),
    }


# peers


@dataclass
class _LastPeer:
    """The last peer's network, between its search and its finish; another run prunes again."""

    key: tuple[str, int] = ("", -1)
    network: nn.Module | None = None


_last_peer = _LastPeer()


def _pruned_by_peer(contender: str, prepared: Prepared) -> tuple[nn.Module, Record]:
    study = prepared.study
    try:
        made = PEERS[contender](
            Dense(
                copy.deepcopy(study.network),
                study.task,
                study.device,
                prepared.limit,
                study.spec.seed,
                study.folder.path.parent,
            )
        )
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"{contender} needs {error.name!r}, which is not installed here; see bench_peers.py for an "
            f"environment for the peers"
        ) from error
    _last_peer.key, _last_peer.network = (contender, study.spec.seed), made.network
    return made.network, made.notes


def _peer(contender: str, prepared: Prepared) -> Record:
    watch, study = Stopwatch(lambda phase: None), prepared.study
    with watch("search"):
        pruned, notes = _pruned_by_peer(contender, prepared)
    network = copy.deepcopy(pruned)
    mflops = mflops_of(network.cpu(), torch.zeros(1, *study.task.input_shape))
    _train(network, prepared, finetune_settings(study.spec), watch)
    with watch("score"):
        found = score(network, study.task, "val", study.device)
    row = {"origin": contender, "outcome": Completed.__name__, "seconds": watch.seconds, "mflops": mflops}
    row |= {"elapsed": sum(watch.seconds.values()), "accuracy": found.measurement["accuracy"], "loss": found.loss}
    share = mflops / prepared.limit
    return {
        "trials": [row],
        "asked": 1,
        "accuracy": found.measurement["accuracy"],
        "mflops": mflops,
        "share": share,
        "notes": notes,
    }


# the finish, the same for all


def finish_record(contender: str, searched: Record, prepared: Prepared) -> Record:
    """Fine-tune a contender's best for longer, from its pruned state; score it on validation, and once on test."""
    study, watch = prepared.study, Stopwatch(lambda phase: None)
    if contender == PICKING:
        return _picked_record(prepared)
    with watch("prune"):
        if contender in PEERS:
            pruned = _last_peer.network if _last_peer.key == (contender, study.spec.seed) else None
            network = copy.deepcopy(pruned if pruned is not None else _pruned_by_peer(contender, prepared)[0])
        else:
            network = study.pruner.prune(PruningPolicy.from_json(searched["policy"]))
    network = study.device.place(network)
    found = mflops_of(network, next(iter(study.task.eval_batches("val", 1, study.device))).images)
    if abs(found - searched["mflops"]) > 1e-6:
        raise RuntimeError(f"{contender} has {found} MFLOPs now and had {searched['mflops']} in its search")
    _train(network, prepared, finetune_settings(study.spec, study.spec.pick.epochs, study.spec.pick.lr), watch)
    return _scored(network, prepared) | {"seconds": watch.seconds}


def _picked_record(prepared: Prepared) -> Record:
    """Finish the best few of ``ours`` by successive halving on validation, as the package does."""
    study = prepared.study
    trials = best_few(open_view(study_folder(prepared, "ours").path).trials, prepared.budget, TOP)
    settings = finetune_settings(study.spec, study.spec.pick.epochs, study.spec.pick.lr)
    done = hold_contest(
        build_maker(study, settings),
        build_meter(study),
        trials,
        study.dense,
        lambda winner: Incomparable("not asked for"),
        lambda trial, phase: None,
    )
    return _scored(study.device.place(done.network), prepared) | {
        "seconds": dict(done.seconds),
        "notes": {"trial": done.trial.number, "contenders": [one.trial.number for one in done.contenders]},
    }


def dense_record(prepared: Prepared) -> Record:
    """Return the dense network's scores on validation and, once, on test."""
    return _scored(prepared.study.network, prepared) | {"mflops": prepared.study.dense["mflops"]}


def _train(network: nn.Module, prepared: Prepared, settings: FinetuneSettings, watch: Stopwatch) -> None:
    study = prepared.study
    with watch("recalibrate"):
        images = study.spec.finetune.recalibration_images
        recalibrate_batchnorm(network, study.task, images, study.device, study.spec.seed)
    with watch("finetune"):
        finetune(network, TrainingRun(study.task, settings, study.device, study.spec.seed), prepared.teacher())
    network.eval()


def _scored(network: nn.Module, prepared: Prepared) -> Record:
    """Return split → accuracy, and split → which images were right, packed into hexadecimal digits."""
    splits = ["val", "test"] if prepared.task.sizes["test"] else ["val"]
    right = {split: _right(network, split, prepared) for split in splits}
    return {
        "accuracy": {split: float(hits.mean()) for split, hits in right.items()},
        "right": {
            split: {"count": len(hits), "bits": np.packbits(hits).tobytes().hex()} for split, hits in right.items()
        },
    }


def _right(network: nn.Module, split: str, prepared: Prepared) -> np.ndarray:
    study, hits = prepared.study, []
    with torch.inference_mode(), evaluating(network):
        for batch in study.task.eval_batches(split, 256, study.device):
            logits = study.device.answer(study.task.forward, network, batch)
            hits.append((logits.argmax(1) == batch.labels).cpu())
    return torch.cat(hits).numpy()
