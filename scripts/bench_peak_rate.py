"""What a short probe of learning rates says of longer fine-tunes: one pruned network, several rates and lengths.

    python scripts/bench_peak_rate.py --json digits.jsonl
    python scripts/bench_peak_rate.py --case resnet56 --weights resnet56.safetensors --images cifar10 --json r56.jsonl

The network is the one that a study probes: cut evenly, compensated. Each length is a fine-tune of its own, with its own
warm-up and cosine, on the images that the seed draws, and is scored on validation. The rate that is best after a few
steps should be as good as any after many. Every fine-tune is a line of the ``--json`` file; a second run with the same
file does what is missing.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from bench_cases import Prepared, case_parser, prepare
from bench_search import Journal, notify

from autoprune.core.counts import ChannelCounts
from autoprune.errors import AutopruneError
from autoprune.models.copying.copy_network import copy_network
from autoprune.search.evaluation.stopwatch import Stopwatch
from autoprune.search.setup.build_evaluator import build_maker
from autoprune.search.setup.choose_peak_rate import KEPT
from autoprune.search.setup.from_spec import finetune_settings
from autoprune.training.scoring import score


def main() -> None:
    options = parse_arguments()
    journal = Journal(Path(options.json))
    if not options.table:
        prepared = prepare(options, Path(f"{options.json}.work") / options.case, 0, notify)
        for seed in options.seeds:
            for steps in options.lengths:
                for rate in options.rates:
                    key = {"case": options.case, "seed": seed, "steps": steps, "rate": rate}
                    print(journal.once(lambda key=key: after(prepared, **key), kind="finetune", **key))
    show(journal)


def parse_arguments() -> argparse.Namespace:
    parser = case_parser(__doc__)
    for name, kind, default in (
        ("seeds", int, [0, 1]),
        ("lengths", int, [24, 40, 240]),
        ("rates", float, [0.003, 0.01, 0.03, 0.1]),
    ):
        parser.add_argument(f"--{name}", type=lambda t, k=kind: [k(n) for n in t.split(",")], default=default)
    fixed = {"budget": None, "steps": None, "batch_size": None, "lr": None, "dense_epochs": None}
    parser.set_defaults(
        **fixed, finish_steps=None, finish_lr=None, trials=30, max_drop=0.02, precision="auto", layout="contiguous"
    )
    return parser.parse_args()


def after(prepared: Prepared, case: str, seed: int, steps: int, rate: float) -> dict[str, Any]:
    """Return the loss and the accuracy on validation after a fine-tune."""
    study, watch = prepared.study, Stopwatch(lambda phase: None)
    settings = finetune_settings(study.spec)
    epochs = steps / max(1, study.task.steps_per_epoch(settings.batch_size))
    maker = replace(build_maker(study, replace(settings, epochs=epochs, lr=rate)), seed=seed)
    policy = study.space.policy(ChannelCounts(study.space.scaled(KEPT)))
    network = study.device.place(copy_network(maker.pruned(policy, watch)))
    try:
        maker.finetune(network, policy, watch)
        found = score(network, study.task, "val", study.device)
    except AutopruneError:
        return {"loss": None, "accuracy": None}
    return {"loss": round(found.loss, 4), "accuracy": round(found.measurement["accuracy"], 4)}


def show(journal: Journal) -> None:
    """Print a row for each length: mean loss and accuracy with each rate."""
    found: dict[int, dict[float, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for record in journal.records:
        if record.get("kind") == "finetune":
            found[record["steps"]][record["rate"]].append(record)
    for steps, by_rate in sorted(found.items()):
        cells = []
        for rate, records in sorted(by_rate.items()):
            losses = [math.inf if one["loss"] is None else one["loss"] for one in records]
            accuracies = [one["accuracy"] or 0.0 for one in records]
            cells.append(f"{rate:g}: {mean(losses):.4f} / {100 * mean(accuracies):.2f} %")
        print(f"{steps} steps | " + " | ".join(cells))


if __name__ == "__main__":
    main()
