"""What compensation is worth without any training: policies cut at one budget, recalibrated or compensated, and scored.

    python scripts/bench_compensation.py --case resnet20 --weights r20.safetensors --images cifar10 --json c20.jsonl
    python scripts/bench_compensation.py --json c20.jsonl --table       # the table of what is there

The policies are the baselines of a study. Each is cut out of the dense network once for each calibration seed, and
scored on validation; seconds are those of the processor, of everything that a candidate costs between its cut and its
score, with the dense network's answers apart, since all candidates share them. Every network is a line of the
``--json`` file; a second run with the same file does what is missing.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from bench_cases import Prepared, case_parser, prepare, settings
from bench_search import Journal, notify

from autoprune.core.policy import PruningPolicy
from autoprune.search.evaluation.compensator import Compensator
from autoprune.search.proposals.baselines import baselines
from autoprune.search.proposals.budget_projection import Projector
from autoprune.search.setup.measure_sensitivity import measured_sensitivity
from autoprune.search.setup.measure_tolerance import tolerated_counts
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm
from autoprune.training.scoring import score


def main() -> None:
    options = parse_arguments()
    journal = Journal(Path(options.json))
    if not options.table:
        run(options, journal)
    show(journal)


def parse_arguments() -> argparse.Namespace:
    parser = case_parser(__doc__)
    parser.add_argument("--budget", default=None, help="MFLOPs, or a share such as 50%%")
    parser.add_argument("--calibration", type=lambda text: [int(n) for n in text.split(",")], default=[512])
    parser.add_argument("--seeds", type=int, default=2, help="of the calibration images")
    parser.add_argument("--policies", type=lambda text: text.split(","), default=["knapsack", "threshold", "uniform"])
    parser.add_argument("--max-drop", type=float, default=0.02, help="of the threshold baseline")
    fixed = {"steps": 4, "batch_size": None, "lr": None, "finish_steps": None, "finish_lr": None, "dense_epochs": None}
    parser.set_defaults(**fixed, trials=30, precision="auto", layout="contiguous")
    return parser.parse_args()


def run(options: argparse.Namespace, journal: Journal) -> None:
    prepared = prepare(options, Path(f"{options.json}.work") / options.case, 0, notify)
    key = {"case": options.case, "budget": settings(options)["budget"]}
    dense = score(prepared.study.network, prepared.task, "val", prepared.study.device)
    journal.once(lambda: {"accuracy": dense.measurement["accuracy"], "loss": dense.loss}, kind="dense", **key)
    chosen = dict(policies(prepared, options.policies))
    for seed in range(options.seeds):
        for images in (0, *options.calibration):
            compensator = _compensator(prepared, images, seed, next(iter(chosen.values())))
            for name, policy in chosen.items():
                journal.once(
                    lambda p=policy, c=compensator, s=seed: scored(prepared, p, c, s),
                    **{"kind": "cut", "policy": name, "images": images, "seed": seed, **key},
                )


def policies(prepared: Prepared, names: list[str]) -> Iterator[tuple[str, PruningPolicy]]:
    """Yield name → policy of the baselines that are wanted."""
    study = prepared.study
    scores = {
        name: {group: values.numpy().astype("float64") for group, values in by_group.items()}
        for name, by_group in study.pruner.scores.items()
    }
    found = baselines(
        Projector(study.space, study.cost, prepared.budget),
        scores,
        tolerated_counts(study.context, study.start_pruner),
        measured_sensitivity(study.context, study.start_pruner),
    )
    yield from ((name, policy) for name, policy in found.items() if name in names)


def _compensator(prepared: Prepared, images: int, seed: int, first: PruningPolicy) -> Compensator | None:
    """Return what compensates, with the dense network's answers made."""
    study = prepared.study
    if not images:
        return None
    started = time.process_time()
    compensator = Compensator(study.network, study.task, study.device, images, seed, notify)
    for _ in range(2):
        compensator(study.device.place(study.pruner.prune(first)), study.pruner.cut(first))
        notify(f"{images} images, seed {seed}: {time.process_time() - started:.1f} CPU s up to here")
    return compensator


def scored(prepared: Prepared, policy: PruningPolicy, compensator: Compensator | None, seed: int) -> dict[str, Any]:
    """Return a policy's scores on validation without any training, and the processor's seconds."""
    study, spec = prepared.study, prepared.study.spec
    started = time.process_time()
    network = study.device.place(study.pruner.prune(policy))
    if compensator is None:
        recalibrate_batchnorm(network, study.task, spec.finetune.recalibration_images, study.device, seed)
    else:
        compensator(network, study.pruner.cut(policy))
    seconds = time.process_time() - started
    found = score(network, study.task, "val", study.device)
    return {"accuracy": found.measurement["accuracy"], "loss": found.loss, "cpu_seconds": seconds}


def show(journal: Journal) -> None:
    print("| case | MFLOPs | policy | images | accuracy, % | loss | CPU s | seeds |")
    print("|---" * 8 + "|")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in journal.records:
        if record["kind"] == "dense":
            print(
                f"| {record['case']} | – | dense | – | {100 * record['accuracy']:.2f} | {record['loss']:.3f} | – | – |"
            )
        else:
            groups[tuple(record[name] for name in ("case", "budget", "policy", "images"))].append(record)
    for (case, budget, policy, images), rows in groups.items():
        accuracies = " / ".join(f"{100 * row['accuracy']:.2f}" for row in rows)
        losses = " / ".join(f"{row['loss']:.3f}" for row in rows)
        seconds = mean(row["cpu_seconds"] for row in rows)
        print(f"| {case} | {budget} | {policy} | {images} | {accuracies} | {losses} | {seconds:.1f} | {len(rows)} |")


if __name__ == "__main__":
    main()
