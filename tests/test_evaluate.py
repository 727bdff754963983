"""The evaluator: a candidate goes in, an outcome comes out, whatever happens in between."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_task
from torch import nn

import autoprune.evaluate
from autoprune.build import Workbench, set_up
from autoprune.cost.macs import measure_network
from autoprune.evaluate import PHASES, Evaluator
from autoprune.folder import StudyFolder
from autoprune.metrics import Budget
from autoprune.policy import GroupPolicy, PruningPolicy
from autoprune.pruning.prune import Pruner
from autoprune.spec import StudySpec
from autoprune.trial import Candidate, Completed, Failed, OverBudget


def tiny_spec(file: Path, **changes: Any) -> StudySpec:
    return StudySpec.model_validate(
        {
            "name": "tiny",
            "model": {"source": f"{file}:net"},
            "data": {"source": f"{file}:data"},
            "space": {"importances": ("l1", "taylor"), "calibration_images": 48},
            "dense": {"epochs": 3, "batch_size": 32},
            "finetune": {"epochs": 1.0, "batch_size": 32, "recalibration_images": 48},
            "latency": {"blocks": 3, "calls": 1},
            "runtime": {"device": "cpu", "precision": "fp32", "layout": "contiguous", "threads": 1},
            **changes,
        }
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    folder = tmp_path_factory.mktemp("tiny")
    study = StudyFolder(folder / "study")
    study.create()
    return set_up(tiny_spec(write_task(folder)), study, lambda message: None)


@pytest.fixture
def evaluator(bench: Workbench) -> Evaluator:
    return bench.evaluator()


def candidate(bench: Workbench, sparsity: float = 0.5, criterion: str = "l1", **budget: float) -> Candidate:
    policy = PruningPolicy.uniform(bench.space.by_name, sparsity, criterion)
    return Candidate(3, bench.space.canonical(policy), 17, "sampler:test", Budget.parse(budget))


def test_a_candidate_is_completed_with_costs_score_and_latency(bench: Workbench, evaluator: Evaluator) -> None:
    phases: list[str] = []
    asked = candidate(bench, mflops=0.5)
    ended = evaluator(asked, phases.append)
    assert isinstance(ended.outcome, Completed)
    found = ended.outcome.measurement
    assert set(found.values) == {"accuracy", "loss", "mflops", "mparams", "size_mb", "latency_ms"}
    assert set(found.stderr) == {"accuracy", "loss", "latency_ms"}
    assert found["accuracy"] > 0.5  # three classes: chance is a third
    assert found["latency_ms"] > 0
    pruned = measure_network(bench.pruner.prune(asked.policy), bench.example)
    assert {name: found[name] for name in pruned.values} == pruned.values
    assert found["mflops"] < bench.dense["mflops"]
    assert phases == list(PHASES)
    assert set(ended.seconds) == {*PHASES, "other"}
    assert all(seconds >= 0 for seconds in ended.seconds.values())


@pytest.mark.parametrize("criterion", ["l1", "taylor"])
def test_the_same_candidate_scores_the_same_to_the_last_bit(bench: Workbench, criterion: str) -> None:
    asked = candidate(bench, 0.4, criterion)
    outcomes = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # whatever the process did before
        torch.rand(seed)
        outcomes.append(bench.evaluator()(asked).outcome)
    assert all(isinstance(outcome, Completed) for outcome in outcomes)
    exact = ("accuracy", "loss", "mflops", "mparams", "size_mb")
    one, other = ({name: outcome.measurement[name] for name in exact} for outcome in outcomes)
    assert one == other


def test_another_policy_scores_otherwise(bench: Workbench, evaluator: Evaluator) -> None:
    losses = {evaluator(candidate(bench, sparsity)).outcome.measurement["loss"] for sparsity in (0.1, 0.4, 0.7)}  # type: ignore[union-attr]
    assert len(losses) == 3


def test_the_score_is_of_the_validation_split_and_test_is_never_read(bench: Workbench, evaluator: Evaluator) -> None:
    read: list[str] = []
    task = evaluator.task

    class Witness:
        def __getattr__(self, name: str) -> Any:
            return getattr(task, name)

        def eval_batches(self, split: str, *args: Any) -> Any:
            read.append(split)
            return task.eval_batches(split, *args)

    assert isinstance(replace(evaluator, task=Witness())(candidate(bench)).outcome, Completed)
    assert set(read) == {"val"}


def test_a_candidate_over_its_budget_costs_nothing(
    bench: Workbench, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("something was built or trained")

    monkeypatch.setattr(Pruner, "prune", forbidden)
    monkeypatch.setattr(autoprune.evaluate, "finetune", forbidden)
    phases: list[str] = []
    cost = bench.cost.measure(bench.space.kept(candidate(bench).policy))
    ended = evaluator(candidate(bench, mflops=cost["mflops"] / 2, mparams=1.0), phases.append)
    assert isinstance(ended.outcome, OverBudget)
    assert ended.outcome.violations == {"mflops": pytest.approx(1.0)}
    assert ended.outcome.measurement == cost
    assert phases == []


def test_a_latency_limit_does_not_make_a_candidate_over_budget_before_it_is_timed(
    bench: Workbench, evaluator: Evaluator
) -> None:
    assert isinstance(evaluator(candidate(bench, latency_ms=1e-9)).outcome, Completed)


def test_weights_that_are_not_numbers_are_a_failure(bench: Workbench, evaluator: Evaluator) -> None:
    import copy

    broken = copy.deepcopy(bench.network)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    pruner = replace(evaluator.pruner, network=broken)
    ended = replace(evaluator, pruner=pruner)(candidate(bench))
    assert isinstance(ended.outcome, Failed)
    assert ended.outcome.error == "NonFiniteError"
    assert "learning rate" in ended.outcome.message
    assert ended.outcome.trace == ""
    assert "finetune" in ended.seconds


def test_a_learning_rate_beyond_reason_is_a_failure(bench: Workbench, evaluator: Evaluator) -> None:
    ended = replace(evaluator, recipe=replace(evaluator.recipe, lr=1e30))(candidate(bench))
    assert isinstance(ended.outcome, Failed)
    assert ended.outcome.error == "NonFiniteError"


def test_a_criterion_without_scores_is_a_failure_that_names_it(bench: Workbench, evaluator: Evaluator) -> None:
    asked = candidate(bench, criterion="mine.py:criterion")
    ended = evaluator(asked)
    assert isinstance(ended.outcome, Failed)
    assert ended.outcome.error == "ModelError"
    assert "mine.py:criterion" in ended.outcome.message


def test_an_unknown_group_is_a_failure(bench: Workbench, evaluator: Evaluator) -> None:
    asked = replace(candidate(bench), policy=PruningPolicy({"layer9": GroupPolicy(0.5, "l1")}))
    ended = evaluator(asked)
    assert isinstance(ended.outcome, Failed)
    assert "layer9" in ended.outcome.message


@pytest.mark.parametrize("error", [ValueError("from the user's data"), MemoryError("much"), ZeroDivisionError()])
def test_an_unexpected_error_is_a_failure_that_keeps_its_trace(
    bench: Workbench, evaluator: Evaluator, error: Exception
) -> None:
    class Raising:
        def __getattr__(self, name: str) -> Any:
            return getattr(evaluator.task, name)

        def train_stream(self, *_: Any) -> Any:
            raise error

    ended = replace(evaluator, task=Raising(), teacher=None, recipe=replace(evaluator.recipe, distill=False))(
        candidate(bench)
    )
    assert isinstance(ended.outcome, Failed)
    assert ended.outcome.error == type(error).__name__
    assert ended.outcome.message == str(error)
    assert "train_stream" in ended.outcome.trace


def test_an_interrupt_is_no_outcome(bench: Workbench, evaluator: Evaluator) -> None:
    def interrupt(phase: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluator(candidate(bench), interrupt)


def test_the_dense_network_is_left_as_it_was(bench: Workbench, evaluator: Evaluator) -> None:
    before = {name: tensor.clone() for name, tensor in bench.network.state_dict().items()}
    shapes = [(name, type(module)) for name, module in bench.network.named_modules()]
    for sparsity in (0.2, 0.8):
        assert isinstance(evaluator(candidate(bench, sparsity)).outcome, Completed)
    after = bench.network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [(name, type(module)) for name, module in bench.network.named_modules()] == shapes
    assert not any(module.training for module in bench.network.modules())
    assert all(parameter.grad is None for parameter in bench.network.parameters())


def live_modules() -> int:
    gc.collect()
    return sum(issubclass(type(thing), nn.Module) for thing in gc.get_objects())  # isinstance would wake proxies


def test_no_pruned_network_is_alive_after_fifty_evaluations(
    bench: Workbench, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[nn.Module]] = []
    prune: Callable[[Pruner, PruningPolicy], nn.Module] = Pruner.prune

    def witnessed(self: Pruner, policy: PruningPolicy) -> nn.Module:
        network = prune(self, policy)
        made.append(weakref.ref(network))
        return network

    monkeypatch.setattr(Pruner, "prune", witnessed)
    evaluator(candidate(bench))
    before = live_modules()
    for number in range(50):
        # every fifth one fails, with a traceback that could keep its network
        recipe = replace(evaluator.recipe, lr=1e30) if number % 5 == 4 else evaluator.recipe
        replace(evaluator, recipe=recipe)(candidate(bench, 0.1 + 0.015 * number))
    assert live_modules() == before
    assert len(made) == 51
    assert [reference for reference in made if reference() is not None] == []
