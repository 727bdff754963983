"""What a proposal costs as a study grows, for ``bench_search.py --ask``; and what a second budget costs.

A stored study of the real ResNet-56 space is filled with made-up finished trials on its budget; nothing is trained.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import torch

from autoprune.analysis.pareto import choose
from autoprune.core.budget import Budget
from autoprune.core.counts import ChannelCounts
from autoprune.core.measurement import Measurement
from autoprune.core.space import SearchSpace
from autoprune.core.trial import Candidate, Completed
from autoprune.cost.cost_model import CostModel
from autoprune.models.build import build_model
from autoprune.pruning.channel_positions import tensor_shrinks
from autoprune.pruning.groups import find_groups
from autoprune.search.proposals.budget_projection import Projector
from autoprune.search.proposals.proposer import Proposals
from autoprune.study import trial_format as records
from autoprune.study.ledger import Ledger
from autoprune.study.optuna_sampler import distributions
from autoprune.study.policy_params import dimensions, params_of, policy_of
from autoprune.study.storage import open_storage
from autoprune.study.storage_url import sqlite_url

NETWORK, IMPORTANCES = "resnet56", ("fisher", "fpgm", "l2")
BUDGET, SECOND_BUDGET = 50.0, 55.0  # MFLOPs
OBJECTIVES = ("accuracy", "mflops", "latency_ms")
DISTINCT = 200  # made-up policies; the rest repeats them, because projecting thousands would take the time
REPEATS, PATIENCE = 5, 60.0  # asks, of which the median is printed; seconds of one ask beyond which no more are made


def ask_proposals(sampler: str) -> Proposals:
    """Return what decides candidates for a ResNet-56 as initialised."""
    network = build_model(NETWORK, num_classes=10, in_channels=3, seed=0).eval()
    example = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    groups = find_groups(network, example).cuttable
    space = SearchSpace(groups, {group.name: IMPORTANCES for group in groups})
    channels = {group.name: group.num_channels for group in groups}
    cost = CostModel(network, tensor_shrinks(network, groups), channels, example)
    dense = cost.measure(ChannelCounts()).merged(Measurement({"accuracy": 0.9, "loss": 0.3, "latency_ms": 10.0}))
    budget = Budget.parse({"mflops": BUDGET}).resolve(dense)
    return Proposals(space, cost, dense, budget, sampler=sampler, with_baselines=False)


def made_up(proposals: Proposals, count: int) -> list[optuna.trial.FrozenTrial]:
    """Return finished trials on the budget; the accuracy falls with the spread of the sparsities, plus noise."""
    draw, space = random.Random(0), proposals.space
    projector = Projector(space, proposals.cost, proposals.budget)
    policies = []
    for _ in range(min(count, DISTINCT)):
        params = {d.name: draw.choice(d.choices) if d.choices else draw.uniform(0, d.high) for d in dimensions(space)}
        policies.append(projector.project(policy_of(space, params)))
    found = []
    for number in range(count):
        policy = policies[number % len(policies)]
        spread = statistics.pstdev(group.sparsity for group in policy.groups.values())
        quality = {"accuracy": 0.9 - 0.2 * spread + draw.gauss(0, 0.005), "loss": 0.4, "latency_ms": draw.gauss(5, 0.2)}
        measured = proposals.cost.measure(space.counts(policy)).merged(Measurement(quality, {"accuracy": 0.005}))
        candidate = Candidate(number, policy, number, "sampler:random", proposals.budget)
        attributes = {
            records.CANDIDATE: records.candidate_record(candidate, 0),
            records.OUTCOME: records.outcome_record(Completed(measured), {"finetune": 1.0}),
        }
        found.append(
            optuna.trial.create_trial(
                values=[measured[name] for name in OBJECTIVES],
                params=params_of(space, policy),
                distributions=distributions(space),
                user_attrs=attributes,
            )
        )
    return found


def ask_records(samplers: Sequence[str], sizes: Sequence[int], notify: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return sampler × stored trials → seconds of the asks; and per size, seconds to read the study and to choose."""
    found: list[dict[str, Any]] = []
    impatient: set[str] = set()
    with tempfile.TemporaryDirectory() as temporary:
        for size in sizes:
            file = Path(temporary) / f"{size}.db"
            proposals = ask_proposals("random")
            storage = open_storage(sqlite_url(file))
            study = optuna.create_study(
                storage=storage, study_name="ask", directions=records.directions(OBJECTIVES), load_if_exists=True
            )
            study.add_trials(made_up(proposals, size))
            notify(f"{size} trials stored")
            with Ledger(sqlite_url(file), "ask", OBJECTIVES, file.with_suffix(".lock")) as ledger:
                found.append({"kind": "choose", "stored": size, **_second_budget(ledger)})
                for name in samplers:
                    seconds = [] if name in impatient else _asks(ledger, ask_proposals(name))
                    if not seconds or max(seconds) > PATIENCE:
                        impatient.add(name)
                    found.append({"kind": "ask", "sampler": name, "stored": size, "seconds": seconds})
                    notify(
                        f"{name} at {size}: " + (f"{statistics.median(seconds):.3f} s" if seconds else "not measured")
                    )
    return found


def _asks(ledger: Ledger, proposals: Proposals) -> list[float]:
    """Return the seconds of each ask; the outcome of every candidate is reported back, as in a search."""
    seconds: list[float] = []
    while len(seconds) < REPEATS and max(seconds, default=0.0) <= PATIENCE:
        started = time.perf_counter()
        candidate = ledger.ask(proposals, seed=0)
        seconds.append(time.perf_counter() - started)
        exact = proposals.cost.measure(proposals.space.counts(candidate.policy))
        quality = Measurement({"accuracy": 0.8, "loss": 0.4, "latency_ms": 5.0}, {"accuracy": 0.005})
        ledger.tell(candidate, Completed(exact.merged(quality)), {"finetune": 1.0})
    return seconds


def _second_budget(ledger: Ledger) -> dict[str, float]:
    started = time.perf_counter()
    trials = ledger.trials
    read = time.perf_counter() - started
    started = time.perf_counter()
    choose(trials, Budget.parse({"mflops": SECOND_BUDGET}))
    return {"read_seconds": read, "choose_seconds": time.perf_counter() - started}
