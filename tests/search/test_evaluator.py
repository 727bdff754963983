"""The evaluator: a candidate goes in, an outcome comes out, whatever happens in between."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_task
from tiny_bench import candidate, tiny_spec
from torch import nn

import autoprune.search.evaluation.evaluator
import autoprune.search.setup.starting_weights
from autoprune.core.paired_scores import PairedScores
from autoprune.core.policy import GroupPolicy, PruningPolicy
from autoprune.core.trial import Candidate, Completed, Failed, OverBudget
from autoprune.cost.cost_model import measure_network
from autoprune.errors import ModelError, StudyError
from autoprune.pruning.groups import Groups
from autoprune.pruning.importance import Calibration, score_groups
from autoprune.pruning.surgery import Pruner, shrink
from autoprune.search.evaluation.evaluator import PHASES, Evaluator, Stopwatch, relative_cut
from autoprune.search.setup.context import Workbench, set_up
from autoprune.search.setup.dense_network import fresh_network, read_dense_facts, sparsity_facts
from autoprune.search.setup.starting_weights import channel_tensors
from autoprune.study.folder import StudyFolder
from autoprune.study.spec_sections import ScheduleSpec
from autoprune.training.finetune import finetune
from autoprune.training.loop import TrainingRun
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm

pytestmark = pytest.mark.usefixtures("process_is_left_as_it_was")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    folder = tmp_path_factory.mktemp("tiny")
    study = StudyFolder(folder / "study")
    study.create()
    return set_up(tiny_spec(write_task(folder)), study, lambda message: None)


@pytest.fixture
def evaluator(bench: Workbench) -> Evaluator:
    return bench.evaluator()


def test_a_candidate_is_completed_with_costs_score_and_latency(bench: Workbench, evaluator: Evaluator) -> None:
    phases: list[str] = []
    asked = candidate(bench, mflops=0.5)
    ended = evaluator(asked, phases.append)
    assert isinstance(ended.outcome, Completed)
    found = ended.outcome.measurement
    looked = {"recalibrated_loss", "midway_loss"}
    assert {"accuracy", "loss", "train_accuracy", "mflops", "mparams", "size_mb", "latency_ms"} <= set(found.values)
    assert set(found.stderr) == {"accuracy", "loss", "train_accuracy", "latency_ms", *looked}
    assert {"accuracy", "train_accuracy"} <= set(bench.dense.values)
    assert found["accuracy"] > 0.5  # three classes: chance is a third
    assert found["latency_ms"] > 0
    assert PairedScores(ended.outcome.correct).unpack().mean() == pytest.approx(found["accuracy"])
    assert PairedScores(ended.outcome.correct).count == bench.task.sizes["val"]
    pruned = measure_network(bench.pruner.prune(asked.policy), bench.example)
    assert {name: found[name] for name in pruned.values} == pruned.values
    assert found["mflops"] < bench.dense["mflops"]
    assert phases == [*PHASES[:4], "rung", "finetune", *PHASES[4:]]  # a look half-way, and the fine-tune goes on
    assert set(ended.seconds) == {*PHASES, "other"}
    assert all(seconds >= 0 for seconds in ended.seconds.values())


def test_a_network_is_handed_out_once_as_it_was_scored_and_only_if_it_was(
    bench: Workbench, evaluator: Evaluator
) -> None:
    seen: list[tuple[Candidate, float]] = []
    images = next(iter(bench.task.eval_batches("val", 1000, bench.runtime)))

    def look(asked: Candidate, network: nn.Module) -> None:
        assert not network.training
        with torch.no_grad():
            seen.append((asked, float((network(images.images).argmax(1) == images.labels).double().mean())))

    watched = replace(evaluator, on_network=look)
    asked = candidate(bench)
    ended = watched(asked)
    assert isinstance(ended.outcome, Completed)
    assert seen == [(asked, pytest.approx(ended.outcome.measurement["accuracy"]))]
    assert set(ended.seconds) == {*PHASES, "store", "other"}
    assert isinstance(watched(candidate(bench, mflops=1e-6)).outcome, OverBudget)
    assert isinstance(watched(candidate(bench, criterion="unknown")).outcome, Failed)
    assert len(seen) == 1


@pytest.mark.parametrize("criterion", ["l1", "taylor"])
def test_the_same_candidate_scores_the_same_to_the_last_bit(bench: Workbench, criterion: str) -> None:
    asked = candidate(bench, 0.4, criterion)
    outcomes = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # whatever the process did before
        torch.rand(seed)
        outcomes.append(bench.evaluator()(asked).outcome)
    assert all(isinstance(outcome, Completed) for outcome in outcomes)
    exact = ("accuracy", "loss", "train_accuracy", "mflops", "mparams", "size_mb")
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
    assert read == [
        "val",
        "val",
        "val",
        "train",
    ]  # two looks, the score, and the training images only to tell how far they were learnt by heart


def test_a_candidate_over_its_budget_costs_nothing(
    bench: Workbench, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("something was built or trained")

    monkeypatch.setattr(Pruner, "prune", forbidden)
    monkeypatch.setattr(autoprune.search.evaluation.evaluator, "finetune", forbidden)
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


# --- schedules


def with_schedule(evaluator: Evaluator, **schedule: Any) -> Evaluator:
    return replace(evaluator, schedule=ScheduleSpec(**schedule))


def watched() -> Stopwatch:
    return Stopwatch(lambda phase: None)


def grown(evaluator: Evaluator, policy: PruningPolicy) -> nn.Module:
    """Return a candidate's network after its last fine-tune."""
    exact = evaluator.cost.measure(evaluator.pruner.space.kept(policy))
    network = evaluator.pruned(policy, exact, watched())
    evaluator.finetune(network, policy, watched())
    return network


def test_one_stage_is_one_shot_to_the_last_bit(bench: Workbench, evaluator: Evaluator) -> None:
    policy = candidate(bench).policy
    by_hand = bench.runtime.place(bench.pruner.prune(policy))
    recalibrate_batchnorm(by_hand, bench.task, 48, bench.runtime, bench.spec.seed)
    finetune(by_hand, TrainingRun(bench.task, evaluator.recipe, bench.runtime, bench.spec.seed), evaluator.teacher)
    ours = grown(with_schedule(evaluator, stages=1), policy).state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in by_hand.state_dict().items())


@pytest.mark.parametrize("stages", [2, 3, 5])
def test_stages_end_at_the_policy_with_nested_cuts_and_as_many_steps(
    bench: Workbench, evaluator: Evaluator, stages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    sizes: list[int] = []

    def witness(network: nn.Module, *args: Any, **options: Any) -> Any:
        sizes.append(sum(parameter.numel() for parameter in network.parameters()))
        report = finetune(network, *args, **options)
        steps.append(report.steps)
        return report

    monkeypatch.setattr(autoprune.search.evaluation.evaluator, "finetune", witness)
    policy = candidate(bench, 0.6).policy
    evaluator = with_schedule(evaluator, stages=stages)
    network = grown(evaluator, policy)
    one_shot = bench.pruner.prune(policy)
    assert [tuple(p.shape) for p in network.parameters()] == [tuple(p.shape) for p in one_shot.parameters()]
    assert (len(steps), sum(steps)) == (stages, 3)  # one epoch of 96 images
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
    phases: list[str] = []
    assert isinstance(evaluator(candidate(bench, 0.6), phases.append).outcome, Completed)
    looks = ["rung", "finetune"] if stages == 2 else []  # three steps: of 3 or 5 stages the last has one at most
    expected = ["prune", *["finetune", "prune"] * (stages - 1), *PHASES[1:4], *looks, *PHASES[4:]]
    assert phases == expected


def test_without_training_stages_end_where_one_shot_does(bench: Workbench, evaluator: Evaluator) -> None:
    policy = candidate(bench, 0.6).policy
    still = replace(evaluator, recipe=replace(evaluator.recipe, epochs=0))
    one, many = (grown(with_schedule(still, stages=stages), policy).state_dict() for stages in (1, 4))
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_later_stages_keep_what_they_were_trained_to(bench: Workbench, evaluator: Evaluator) -> None:
    cuts = [bench.pruner.cut(candidate(bench, sparsity).policy) for sparsity in (0.25, 0.5)]
    small = shrink(bench.network, cuts[0])
    twice, once = shrink(small, relative_cut(cuts[1], cuts[0])), shrink(bench.network, cuts[1])
    assert all(torch.equal(twice.state_dict()[name], tensor) for name, tensor in once.state_dict().items())
    assert relative_cut(cuts[1], cuts[1]) == {}
    assert relative_cut(cuts[1], {}) == cuts[1]


@pytest.mark.parametrize(
    ("trainable", "moves"), [("all", {"conv1", "bn1", "conv2", "fc"}), ("norms_and_head", {"bn1", "fc"})]
)
def test_only_what_is_trainable_moves(bench: Workbench, evaluator: Evaluator, trainable: str, moves: set[str]) -> None:
    policy = candidate(bench).policy
    network = grown(with_schedule(evaluator, trainable=trainable), policy)
    before = dict(bench.pruner.prune(policy).named_parameters())
    moved = {name.split(".")[0] for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert moved & {"conv1", "bn1", "conv2", "fc"} == moves
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_what_was_not_cut_stays_if_only_that_is_trained(bench: Workbench, evaluator: Evaluator) -> None:
    inner = "conv2"  # its channels are read by conv3 alone
    policy = bench.space.canonical(PruningPolicy({inner: GroupPolicy(0.5, "l1")}))
    network = grown(with_schedule(evaluator, trainable="cut"), policy)
    before = dict(bench.pruner.prune(policy).named_parameters())
    moved = {name.split(".")[0] for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"conv2", "bn2", "conv3"}


# --- where candidates begin


def set_up_in(folder: Path, **changes: Any) -> Workbench:
    study = StudyFolder(folder / "study")
    study.create()
    return set_up(tiny_spec(write_task(folder), **changes), study, lambda message: None)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    theirs = dict(other.named_parameters())
    return all(torch.equal(parameter, theirs[name]) for name, parameter in one.named_parameters())


def test_candidates_rewind_to_an_early_epoch(tmp_path: Path) -> None:
    bench = set_up_in(tmp_path, schedule={"start": "rewind", "rewind_epoch": 1})
    assert not same_weights(bench.start, bench.network)
    cut = bench.pruner.cut(candidate(bench).policy)
    still = replace(bench.evaluator(), recipe=replace(bench.evaluator().recipe, epochs=0))
    assert same_weights(grown(still, candidate(bench).policy), shrink(bench.start, cut))
    assert isinstance(bench.evaluator()(candidate(bench)).outcome, Completed)
    again = set_up_in(tmp_path, schedule={"start": "rewind", "rewind_epoch": 1})
    assert same_weights(again.start, bench.start)
    one = set_up_in(tmp_path / "other", dense={"epochs": 1, "batch_size": 32})
    assert not same_weights(one.start, bench.start)  # its learning rate fell faster
    bench.folder.rewind_weights.unlink()
    with pytest.raises(ModelError, match=r"rewind\.safetensors"):
        set_up_in(tmp_path, schedule={"start": "rewind", "rewind_epoch": 1})


def test_candidates_begin_from_scratch_with_scores_of_the_initial_network(tmp_path: Path) -> None:
    bench = set_up_in(tmp_path, schedule={"start": "scratch"})
    fresh = fresh_network(bench.spec, bench.task, "", lambda note: None)
    assert same_weights(bench.start, fresh)
    assert not same_weights(bench.start, bench.network)
    group = bench.space.groups[0]
    expected = score_groups(fresh, [group], ["l1"], Calibration([]))["l1"][group.name]
    assert torch.equal(bench.scores["l1"][group.name], expected)
    assert isinstance(bench.evaluator()(candidate(bench)).outcome, Completed)


def test_a_source_that_needs_weights_to_be_itself_cannot_begin_from_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoprune.search.setup.starting_weights, "fresh_network", lambda *_: nn.Linear(2, 2))
    spec = tiny_spec(write_task(tmp_path), schedule={"start": "scratch"})
    with pytest.raises(ModelError, match="another network without weights"):
        autoprune.search.setup.starting_weights.starting_networks(
            spec, nn.Linear(3, 3), Groups((), ()), None, None, StudyFolder(tmp_path), print
        )  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["bn_l1", "group_lasso"])
def test_sparsity_is_learnt_once_and_told(tmp_path: Path, method: str) -> None:
    wish = {"method": method, "strength": 0.3 if method == "group_lasso" else 0.01, "epochs": 2.0}
    bench = set_up_in(tmp_path, sparsity=wish)
    facts = read_dense_facts(bench.folder)["sparsity"]
    assert facts == sparsity_facts(bench.folder)
    assert facts["after"][3] < facts["before"][3]
    assert facts["quality_before"]["values"]["accuracy"] == bench.dense["accuracy"]
    assert facts["method"] == method
    assert not same_weights(bench.start, bench.network)
    assert bench.evaluator().pruner.network is bench.network  # still the reference, and the teacher
    group = bench.space.groups[0]
    assert torch.equal(
        bench.scores["l1"][group.name], score_groups(bench.start, [group], ["l1"], Calibration([]))["l1"][group.name]
    )
    assert isinstance(bench.evaluator()(candidate(bench)).outcome, Completed)
    stored = bench.folder.sparse_weights.read_bytes()
    assert same_weights(set_up_in(tmp_path, sparsity=wish).start, bench.start)
    assert bench.folder.sparse_weights.read_bytes() == stored
    bench.folder.sparse_weights.write_bytes(b"damaged")
    with pytest.raises(StudyError, match="damaged"):
        sparsity_facts(bench.folder)


def test_the_dense_networks_hits_are_stored_and_files_without_them_are_read(bench: Workbench, tmp_path: Path) -> None:
    facts = read_dense_facts(bench.folder)
    assert PairedScores(facts["correct"]).unpack().mean() == pytest.approx(bench.dense["accuracy"])
    old = json.loads(bench.folder.dense_facts.read_text(encoding="utf-8"))
    del old["correct"]
    folder = StudyFolder(tmp_path)
    folder.dense_facts.write_text(json.dumps(old), encoding="utf-8")
    assert read_dense_facts(folder) == {**facts, "correct": ""}


def test_where_channels_are_produced_covers_every_filter_and_norm_once(bench: Workbench) -> None:
    tensors = channel_tensors(bench.network, bench.space.groups)
    assert {path for where in tensors.values() for path, _, _ in where} == {
        *(f"conv{n}.weight" for n in (1, 2, 3)),
        *(f"bn{n}.{name}" for n in (1, 2, 3) for name in ("weight", "bias")),
    }
    for name, where in tensors.items():
        assert all(index.shape == (bench.space.by_name[name].num_channels, 1) for _, _, index in where)


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
