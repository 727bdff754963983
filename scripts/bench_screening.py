"""How well a look without training ranks policies of one budget, beside the loss before the short fine-tune of today.

    python scripts/bench_screening.py --case resnet20 --weights r20.safetensors --images cifar10 --json s20.jsonl
    python scripts/bench_screening.py --json s20.jsonl --table

The policies are screened networks of the budget, spread evenly over the ranks of their closed-form look, so that good
and bad ones are among them. Each is looked at (closed form, compensation pass) and scored after the cut with batch norm
recalibrated alone; then it is fine-tuned from the compensated weights and from the uncompensated ones. Fine-tunes of a
few steps from the compensated weights are looks too: what a trial would be. Rank correlations are Spearman's, with the
middle 90 % over resampled policies. Seconds are the processor's. Every network is a line of the ``--json`` file; a
second run with the same file does what is missing.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_cases import Prepared, case_parser, prepare, settings
from bench_search import Journal, notify
from bench_short_finetune import interval
from scipy.stats import spearmanr

from autoprune.core.screened import ScreenedNetwork
from autoprune.search.evaluation.stopwatch import Stopwatch
from autoprune.search.screening.prepare_screening import looker_of, screened_networks
from autoprune.search.setup.build_evaluator import build_maker
from autoprune.search.setup.from_spec import finetune_settings
from autoprune.tasks.task import steps_per_epoch
from autoprune.training.scoring import score

LOOKS = ("closed_form", "compensated", "recalibrated")
STARTS = ("compensated", "uncompensated")


def main() -> None:
    options = parse_arguments()
    journal = Journal(Path(options.json))
    if not options.table:
        run(options, journal)
    show(options, journal)


def parse_arguments() -> argparse.Namespace:
    parser = case_parser(__doc__)
    parser.add_argument("--policies", type=int, default=12)
    parser.add_argument("--networks", type=int, default=96, help="that are screened")
    parser.add_argument("--short-steps", type=lambda text: [int(n) for n in text.split(",")], default=[24, 48])
    parser.add_argument("--finish-steps", type=int, default=240)
    parser.add_argument("--finish-lr", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    fixed = {"budget": None, "steps": None, "batch_size": None, "lr": None, "dense_epochs": None}
    parser.set_defaults(**fixed, trials=30, max_drop=0.0, precision="auto", layout="contiguous")
    return parser.parse_args()


def run(options: argparse.Namespace, journal: Journal) -> None:
    prepared = prepare(options, Path(f"{options.json}.work") / options.case, options.seed, notify)
    chosen = policies(prepared, options)
    looker = looker_of(prepared.study)
    for one in chosen:
        journal.once(lambda o=one: looked_at(prepared, o, looker), kind="look", network=one.number)
    for steps in options.short_steps:
        for one in chosen:
            journal.once(
                lambda o=one, n=steps: shortly_tuned(prepared, o, n, options.finish_lr),
                **{"kind": "short", "network": one.number, "steps": steps},
            )
    for start in STARTS:
        for one in chosen:
            journal.once(
                lambda o=one, s=start: finished(prepared, o, options, s), kind="finish", network=one.number, start=start
            )


def shortly_tuned(prepared: Prepared, one: ScreenedNetwork, steps: int, lr: float) -> dict[str, Any]:
    """Return a network's scores after a short fine-tune from compensated weights, and what it costs."""
    began = time.process_time()
    found = finished(prepared, one, argparse.Namespace(finish_steps=steps, finish_lr=lr), "compensated")
    return {**found, "cpu_seconds": time.process_time() - began}


def policies(prepared: Prepared, options: argparse.Namespace) -> list[ScreenedNetwork]:
    """Return screened networks of the budget, evenly over the ranks of their first look."""
    screening = prepared.study.spec.screening.model_copy(update={"networks": options.networks})
    spec = prepared.study.spec.model_copy(update={"screening": screening})
    study = replace(prepared.study, context=replace(prepared.study.context, spec=spec))
    found = screened_networks(study, prepared.proposals)
    of_budget = sorted((one for one in found if one.part != "curve"), key=lambda one: one.closed_form)
    places = np.linspace(0, len(of_budget) - 1, min(options.policies, len(of_budget))).round().astype(int)
    return [of_budget[place] for place in dict.fromkeys(places.tolist())]


def looked_at(prepared: Prepared, one: ScreenedNetwork, looker: Any) -> dict[str, Any]:
    """Return what each look says of a network, and what it costs."""
    began = time.process_time()
    closed = looker.closed_form(one.counts)
    then = time.process_time()
    rise, seen = looker.compensated(one.counts)
    last = time.process_time()
    maker = replace(build_maker(prepared.study, finetune_settings(prepared.study.spec)), compensator=None)
    network = maker.pruned(prepared.study.space.policy(one.counts), Stopwatch(lambda phase: None))
    bare = score(network, prepared.task, "val", prepared.study.device, limit=looker.probe.images)
    return {
        "closed_form": closed,
        "compensated": rise,
        "recalibrated": bare.loss,
        "accuracy": seen["accuracy"] if seen else None,
        "seconds": {"closed_form": then - began, "compensated": last - then},
    }


def finished(prepared: Prepared, one: ScreenedNetwork, options: argparse.Namespace, start: str) -> dict[str, Any]:
    """Return a network's scores on validation after a fine-tune, from either start."""
    study = prepared.study
    epochs = options.finish_steps / steps_per_epoch(study.task.sizes["train"], study.spec.finetune.batch_size)
    maker = build_maker(study, finetune_settings(study.spec, epochs, options.finish_lr))
    maker = maker if start == "compensated" else replace(maker, compensator=None)
    watch, policy = Stopwatch(lambda phase: None), study.space.policy(one.counts)
    network = maker.pruned(policy, watch)
    maker.finetune(network, policy, watch)
    found = score(network, study.task, "val", study.device)
    return {"accuracy": found.measurement["accuracy"], "loss": found.loss}


def show(options: argparse.Namespace, journal: Journal) -> None:
    looks = {record["network"]: record for record in journal.records if record["kind"] == "look"}
    for record in journal.records:
        if record["kind"] == "short" and record["network"] in looks:
            name = f"{record['steps']} steps"
            looks[record["network"]][name] = record["loss"]
            looks[record["network"]]["seconds"][name] = record["cpu_seconds"]
    names = [*LOOKS, *(f"{n} steps" for n in options.short_steps)]
    budget = settings(options)["budget"]
    print(f"finish: {options.finish_steps} steps at {options.finish_lr:g}; budget {budget} MFLOPs\n")
    print("| look | finish from | policies | rank correlation | 90 % interval | CPU s each |")
    print("|---" * 6 + "|")
    for start in STARTS:
        ends = {r["network"]: r["loss"] for r in journal.records if r["kind"] == "finish" and r["start"] == start}
        for look in names:
            both = sorted(n for n in looks.keys() & ends.keys() if look in looks[n])
            if len(both) < 4:
                continue
            one = np.array([looks[number][look] for number in both])
            end = np.array([ends[number] for number in both])
            low, high = interval(one, end, options.seed)
            spent = [looks[number]["seconds"].get(look) for number in both]
            seconds = f"{np.median([s for s in spent if s is not None]):.2f}" if spent[0] is not None else "–"
            told = f"{spearmanr(one, end).statistic:.2f} | {low:.2f} to {high:.2f}"
            print(f"| {look} | {start} | {len(both)} | {told} | {seconds} |")


if __name__ == "__main__":
    main()
