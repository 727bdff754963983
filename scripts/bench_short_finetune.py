"""Which short fine-tune ranks candidates as the long one does: lengths and learning rates, one set of policies.

    python scripts/bench_short_finetune.py --json short.jsonl                                  # the digits
    python scripts/bench_short_finetune.py --case resnet20 --weights resnet20.safetensors --images cifar10 --json s.json

The policies are the baselines of a study and random ones projected onto the budget. Each is fine-tuned from its pruned
state by every short fine-tune and by the long one, on the same images, and scored on validation. For each short one
it prints the rank correlation of its loss with the long one's, with a 90 % interval over resampled policies, and the
regret: the accuracy lost after the long fine-tune by continuing with the policy that the short one ranks first.

Every network is a line of the ``--json`` file; a second run with the same file does what is missing.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bench_cases import Prepared, baseline_trials, case_parser, completed, prepare, settings
from bench_search import Journal, notify
from scipy.stats import spearmanr

from autoprune.core.policy import PruningPolicy
from autoprune.search.proposals.budget_projection import Projector
from autoprune.search.setup.from_spec import finetune_settings
from autoprune.study.policy_params import dimensions, policy_of
from autoprune.tasks.task import steps_per_epoch
from autoprune.training.finetune import finetune
from autoprune.training.loop import TrainingRun
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm
from autoprune.training.scoring import score

RESAMPLES = 2000


def main() -> None:
    options = parse_arguments()
    journal = Journal(Path(options.json))
    chosen = settings(options) | {"policies": options.policies, "seed": options.seed}
    stored = journal.once(lambda: {"settings": chosen}, kind="settings")
    if stored["settings"] != chosen:
        raise SystemExit(f"{options.json} was made with other settings: {stored['settings']}; give another file")
    if not options.table:
        run(options, journal)
    show(options, journal)


def parse_arguments() -> argparse.Namespace:
    parser = case_parser(__doc__)
    parser.add_argument("--policies", type=int, default=12, help="baselines included")
    numbers = (("short-steps", int, [24, 48]), ("short-lrs", float, [0.01, 0.03, 0.1]))
    for name, kind, default in numbers:
        parser.add_argument(f"--{name}", type=lambda t, k=kind: [k(n) for n in t.split(",")], default=default)
    parser.add_argument("--finish-steps", type=int, default=None, help="of the long fine-tune; default: the case's")
    parser.add_argument("--finish-lr", type=float, default=None, help="of the long one; default: the case's")
    parser.add_argument("--seed", type=int, default=0)
    fixed = {"budget": None, "steps": None, "batch_size": None, "lr": None, "dense_epochs": None}
    parser.set_defaults(**fixed, trials=1, max_drop=0.0, precision="auto", layout="contiguous")
    return parser.parse_args()


def run(options: argparse.Namespace, journal: Journal) -> None:
    prepared = prepare(options, Path(f"{options.json}.work") / options.case, options.seed, notify)
    chosen = settings(options)
    short = [(steps, lr) for steps in options.short_steps for lr in options.short_lrs]
    for name, policy in policies(prepared, options.policies):
        for steps, lr in [(chosen["finish_steps"], chosen["finish_lr"]), *short]:
            key = {"policy": name, "steps": steps, "lr": lr}
            journal.once(lambda p=policy, s=steps, r=lr: trained(prepared, p, s, r), kind="trained", **key)


def policies(prepared: Prepared, count: int) -> Iterator[tuple[str, PruningPolicy]]:
    """Yield the baselines, then random policies on the budget, by name."""
    study, draw = prepared.study, random.Random(prepared.study.spec.seed)
    known = {trial.candidate.origin: trial.candidate.policy for trial in completed(baseline_trials(prepared, print))}
    yield from list(known.items())[:count]
    projector = Projector(study.space, study.cost, prepared.budget)
    for number in range(count - len(known)):
        params = {
            d.name: draw.choice(d.choices) if d.choices else draw.uniform(0, d.high) for d in dimensions(study.space)
        }
        yield f"random {number}", projector.project(policy_of(study.space, params))


def trained(prepared: Prepared, policy: PruningPolicy, steps: int, lr: float) -> dict[str, Any]:
    """Return a policy's scores on validation after a fine-tune of some steps."""
    study, spec = prepared.study, prepared.study.spec
    network = study.device.place(study.pruner.prune(policy))
    epochs = steps / steps_per_epoch(study.task.sizes["train"], spec.finetune.batch_size)
    recalibrate_batchnorm(network, study.task, spec.finetune.recalibration_images, study.device, spec.seed)
    run = TrainingRun(study.task, finetune_settings(spec, epochs, lr), study.device, spec.seed)
    finetune(network, run, prepared.teacher())
    found = score(network, study.task, "val", study.device)
    return {"accuracy": found.measurement["accuracy"], "loss": found.loss}


def show(options: argparse.Namespace, journal: Journal) -> None:
    chosen = settings(options)
    long = (chosen["finish_steps"], chosen["finish_lr"])
    found: dict[tuple[int, float], dict[str, dict[str, float]]] = {}
    for record in journal.records:
        if record["kind"] == "trained":
            found.setdefault((record["steps"], record["lr"]), {})[record["policy"]] = record
    print(f"long: {long[0]} steps at {long[1]:g}\n")
    print("| steps | rate | policies | rank correlation of losses | 90 % interval | regret, points |")
    print("|---" * 6 + "|")
    for (steps, lr), rows in sorted(found.items()):
        both = [name for name in rows if name in found[long]]
        if (steps, lr) == long or len(both) < 3:
            continue
        short = np.array([rows[name]["loss"] for name in both])
        end = np.array([found[long][name]["loss"] for name in both])
        accuracy = np.array([found[long][name]["accuracy"] for name in both])
        low, high = interval(short, end, options.seed)
        regret = 100 * (accuracy.max() - accuracy[short.argmin()])
        print(
            f"| {steps} | {lr:g} | {len(both)} | {spearmanr(short, end).statistic:.2f} | {low:.2f} to {high:.2f} "
            f"| {regret:.2f} |"
        )


def interval(one: np.ndarray, other: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the middle 90 % of the rank correlation over resampled policies."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < RESAMPLES:
        drawn = rng.integers(0, len(one), len(one))
        if len(set(drawn)) > 2:
            found.append(spearmanr(one[drawn], other[drawn]).statistic)
    low, high = np.quantile(found, [0.05, 0.95])
    return float(low), float(high)


if __name__ == "__main__":
    main()
