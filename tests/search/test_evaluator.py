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
from tiny_study import candidate, tiny_spec
from torch import nn

import autoprune.search.evaluation.make_network
import autoprune.search.setup.starting_weights
from autoprune.core.paired_scores import PairedScores
from autoprune.core.policy import GroupPolicy, PruningPolicy
from autoprune.core.trial import Candidate, Completed, Failed, OverBudget
from autoprune.cost.cost_model import measure_network
from autoprune.errors import ModelError, StudyError
from autoprune.pruning.groups import Groups
from autoprune.pruning.importance import Calibration, score_groups
from autoprune.pruning.surgery import Pruner, shrink
from autoprune.search.evaluation.compensator import Compensator
from autoprune.search.evaluation.evaluator import Evaluator
from autoprune.search.evaluation.make_network import relative_cut
from autoprune.search.evaluation.stopwatch import LOOK, PHASES, Stopwatch
from autoprune.search.setup.build_evaluator import build_evaluator
from autoprune.search.setup.context import open_context
from autoprune.search.setup.dense_network import fresh_network
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.search.setup.regularised_network import channel_tensors, regularisation_facts
from autoprune.study.dense_facts import read_dense_facts
from autoprune.study.folder import StudyFolder
from autoprune.study.spec_training import ScheduleSpec
from autoprune.training.finetune import finetune
from autoprune.training.loop import TrainingRun
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm
from autoprune.training.scoring import score

pytestmark = pytest.mark.usefixtures("process_is_left_as_it_was")

BARE = tuple(phase for phase in PHASES if phase != "compensate")  # the tiny study leaves weights as they are


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedStudy:
    folder = tmp_path_factory.mktemp("tiny")
    study = StudyFolder(folder / "study")
    study.create()
    return prepare_study(tiny_spec(write_task(folder)), study, lambda message: None)


@pytest.fixture
def evaluator(prepared: PreparedStudy) -> Evaluator:
    return build_evaluator(prepared)


def remade(evaluator: Evaluator, **changes: Any) -> Evaluator:
    """Return an evaluator whose networks are made otherwise."""
    return replace(evaluator, maker=replace(evaluator.maker, **changes))


def untrained(evaluator: Evaluator) -> Evaluator:
    return remade(evaluator, settings=replace(evaluator.maker.settings, epochs=0))


def test_a_candidate_is_completed_with_costs_score_and_latency(prepared: PreparedStudy, evaluator: Evaluator) -> None:
    phases: list[str] = []
    asked = candidate(prepared, mflops=0.5)
    ended = evaluator(asked, phases.append)
    assert isinstance(ended.outcome, Completed)
    found = ended.outcome.measurement
    looked = {"recalibrated_loss", "midway_loss"}
    assert {"accuracy", "loss", "train_accuracy", "mflops", "mparams", "size_mb", "latency_ms"} <= set(found.values)
    assert set(found.stderr) == {"accuracy", "loss", "train_accuracy", "latency_ms", *looked}
    assert {"accuracy", "train_accuracy"} <= set(prepared.dense.values)
    assert found["accuracy"] > 0.5  # three classes: chance is a third
    assert found["latency_ms"] > 0
    assert PairedScores(ended.outcome.paired).unpack().mean() == pytest.approx(found["accuracy"])
    assert PairedScores(ended.outcome.paired).count == prepared.task.sizes["val"]
    pruned = measure_network(prepared.pruner.prune(asked.policy), prepared.context.example(prepared.network))
    assert {name: found[name] for name in pruned.values} == pruned.values
    assert found["mflops"] < prepared.dense["mflops"]
    assert phases == [*BARE[:4], LOOK, "finetune", *BARE[4:]]  # a look half-way, and the fine-tune goes on
    assert set(ended.seconds) == {*BARE, "other"}
    assert all(seconds >= 0 for seconds in ended.seconds.values())


@pytest.mark.parametrize(
    ("half_way", "epochs", "looks"),
    [("auto", 1, False), ("auto", 8, True), ("always", 1, True), ("never", 8, False)],
)
def test_nobody_looks_half_way_where_that_costs_more_than_it_saves(
    prepared: PreparedStudy, half_way: str, epochs: float, looks: bool
) -> None:
    spec = prepared.spec
    stopping = spec.stopping.model_copy(update={"half_way": half_way})
    spec = spec.model_copy(
        update={"stopping": stopping, "finetune": spec.finetune.model_copy(update={"epochs": epochs})}
    )
    evaluator = build_evaluator(replace(prepared, context=replace(prepared.context, spec=spec)))
    assert evaluator.looks_half_way == looks
    if epochs == 1:
        ended = evaluator(candidate(prepared))
        assert isinstance(ended.outcome, Completed)
        assert ("midway_loss" in ended.outcome.measurement.values) == looks


def test_a_network_is_handed_out_once_as_it_was_scored_and_only_if_it_was(
    prepared: PreparedStudy, evaluator: Evaluator
) -> None:
    seen: list[tuple[Candidate, float]] = []
    images = next(iter(prepared.task.eval_batches("val", 1000, prepared.device)))

    def look(asked: Candidate, network: nn.Module) -> None:
        assert not network.training
        with torch.no_grad():
            seen.append((asked, float((network(images.images).argmax(1) == images.labels).double().mean())))

    watched = replace(evaluator, on_network=look)
    asked = candidate(prepared)
    ended = watched(asked)
    assert isinstance(ended.outcome, Completed)
    assert seen == [(asked, pytest.approx(ended.outcome.measurement["accuracy"]))]
    assert set(ended.seconds) == {*BARE, "store", "other"}
    assert isinstance(watched(candidate(prepared, mflops=1e-6)).outcome, OverBudget)
    assert isinstance(watched(candidate(prepared, criterion="unknown")).outcome, Failed)
    assert len(seen) == 1


@pytest.mark.parametrize("criterion", ["l1", "taylor"])
def test_the_same_candidate_scores_the_same_to_the_last_bit(prepared: PreparedStudy, criterion: str) -> None:
    asked = candidate(prepared, 0.4, criterion)
    outcomes = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # whatever the process did before
        torch.rand(seed)
        outcomes.append(build_evaluator(prepared)(asked).outcome)
    assert all(isinstance(outcome, Completed) for outcome in outcomes)
    exact = ("accuracy", "loss", "train_accuracy", "mflops", "mparams", "size_mb")
    one, other = ({name: outcome.measurement[name] for name in exact} for outcome in outcomes)
    assert one == other


def test_another_policy_scores_otherwise(prepared: PreparedStudy, evaluator: Evaluator) -> None:
    losses = {evaluator(candidate(prepared, sparsity)).outcome.measurement["loss"] for sparsity in (0.1, 0.4, 0.7)}  # type: ignore[union-attr]
    assert len(losses) == 3


def test_the_score_is_of_the_validation_split_and_test_is_never_read(
    prepared: PreparedStudy, evaluator: Evaluator
) -> None:
    read: list[str] = []
    task = evaluator.maker.task

    class Witness:
        def __getattr__(self, name: str) -> Any:
            return getattr(task, name)

        def eval_batches(self, split: str, *args: Any) -> Any:
            read.append(split)
            return task.eval_batches(split, *args)

    assert isinstance(remade(evaluator, task=Witness())(candidate(prepared)).outcome, Completed)
    assert read == [
        "val",
        "val",
        "val",
        "train",
    ]  # two looks, the score, and the training images only to tell how far they were learnt by heart


def test_a_candidate_over_its_budget_costs_nothing(
    prepared: PreparedStudy, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("something was built or trained")

    monkeypatch.setattr(Pruner, "prune", forbidden)
    monkeypatch.setattr(autoprune.search.evaluation.make_network, "finetune", forbidden)
    phases: list[str] = []
    cost = prepared.cost.measure(prepared.space.counts(candidate(prepared).policy))
    ended = evaluator(candidate(prepared, mflops=cost["mflops"] / 2, mparams=1.0), phases.append)
    assert isinstance(ended.outcome, OverBudget)
    assert ended.outcome.violations == {"mflops": pytest.approx(1.0)}
    assert ended.outcome.measurement == cost
    assert phases == []


def test_a_latency_limit_does_not_make_a_candidate_over_budget_before_it_is_timed(
    prepared: PreparedStudy, evaluator: Evaluator
) -> None:
    assert isinstance(evaluator(candidate(prepared, latency_ms=1e-9)).outcome, Completed)


def test_weights_that_are_not_numbers_are_a_failure(prepared: PreparedStudy, evaluator: Evaluator) -> None:
    import copy

    broken = copy.deepcopy(prepared.network)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    pruner = replace(evaluator.maker.pruner, network=broken)
    ended = remade(evaluator, pruner=pruner)(candidate(prepared))
    assert isinstance(ended.outcome, Failed)
    assert ended.outcome.error == "NonFiniteError"
    assert "learning rate" in ended.outcome.message
    assert ended.outcome.trace == ""
    assert "finetune" in ended.seconds


def test_a_learning_rate_beyond_reason_is_a_failure(prepared: PreparedStudy, evaluator: Evaluator) -> None:
    ended = remade(evaluator, settings=replace(evaluator.maker.settings, lr=1e30))(candidate(prepared))
    assert isinstance(ended.outcome, Failed)
    assert ended.outcome.error == "NonFiniteError"


def test_a_criterion_without_scores_is_a_failure_that_names_it(prepared: PreparedStudy, evaluator: Evaluator) -> None:
    asked = candidate(prepared, criterion="mine.py:criterion")
    ended = evaluator(asked)
    assert isinstance(ended.outcome, Failed)
    assert ended.outcome.error == "ModelError"
    assert "mine.py:criterion" in ended.outcome.message


def test_an_unknown_group_is_a_failure(prepared: PreparedStudy, evaluator: Evaluator) -> None:
    asked = replace(candidate(prepared), policy=PruningPolicy({"layer9": GroupPolicy(0.5, "l1")}))
    ended = evaluator(asked)
    assert isinstance(ended.outcome, Failed)
    assert "layer9" in ended.outcome.message


@pytest.mark.parametrize("error", [ValueError("from the user's data"), MemoryError("much"), ZeroDivisionError()])
def test_an_unexpected_error_is_a_failure_that_keeps_its_trace(
    prepared: PreparedStudy, evaluator: Evaluator, error: Exception
) -> None:
    class Raising:
        def __getattr__(self, name: str) -> Any:
            return getattr(evaluator.maker.task, name)

        def train_stream(self, *_: Any) -> Any:
            raise error

    ended = remade(evaluator, task=Raising(), teacher=None, settings=replace(evaluator.maker.settings, distill=False))(
        candidate(prepared)
    )
    assert isinstance(ended.outcome, Failed)
    assert ended.outcome.error == type(error).__name__
    assert ended.outcome.message == str(error)
    assert "train_stream" in ended.outcome.trace


def test_an_interrupt_is_no_outcome(prepared: PreparedStudy, evaluator: Evaluator) -> None:
    def interrupt(phase: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluator(candidate(prepared), interrupt)


def test_the_dense_network_is_left_as_it_was(prepared: PreparedStudy, evaluator: Evaluator) -> None:
    before = {name: tensor.clone() for name, tensor in prepared.network.state_dict().items()}
    shapes = [(name, type(module)) for name, module in prepared.network.named_modules()]
    for sparsity in (0.2, 0.8):
        assert isinstance(evaluator(candidate(prepared, sparsity)).outcome, Completed)
    after = prepared.network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [(name, type(module)) for name, module in prepared.network.named_modules()] == shapes
    assert not any(module.training for module in prepared.network.modules())
    assert all(parameter.grad is None for parameter in prepared.network.parameters())


# --- schedules


def with_schedule(evaluator: Evaluator, **schedule: Any) -> Evaluator:
    return remade(evaluator, schedule=ScheduleSpec(**schedule))


def watched() -> Stopwatch:
    return Stopwatch(lambda phase: None)


def grown(evaluator: Evaluator, policy: PruningPolicy) -> nn.Module:
    """Return a candidate's network after its last fine-tune."""
    network = evaluator.maker.pruned(policy, watched())
    evaluator.maker.finetune(network, policy, watched())
    return network


def test_one_stage_is_one_shot_to_the_last_bit(prepared: PreparedStudy, evaluator: Evaluator) -> None:
    policy = candidate(prepared).policy
    by_hand = prepared.device.place(prepared.pruner.prune(policy))
    recalibrate_batchnorm(by_hand, prepared.task, 48, prepared.device, prepared.spec.seed)
    run = TrainingRun(prepared.task, evaluator.maker.settings, prepared.device, prepared.spec.seed)
    finetune(by_hand, run, evaluator.maker.teacher)
    ours = grown(with_schedule(evaluator, stages=1), policy).state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in by_hand.state_dict().items())


@pytest.mark.parametrize("stages", [2, 3, 5])
def test_stages_end_at_the_policy_with_nested_cuts_and_as_many_steps(
    prepared: PreparedStudy, evaluator: Evaluator, stages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    sizes: list[int] = []

    def witness(network: nn.Module, *args: Any, **options: Any) -> Any:
        sizes.append(sum(parameter.numel() for parameter in network.parameters()))
        report = finetune(network, *args, **options)
        steps.append(report.steps)
        return report

    monkeypatch.setattr(autoprune.search.evaluation.make_network, "finetune", witness)
    policy = candidate(prepared, 0.6).policy
    evaluator = with_schedule(evaluator, stages=stages)
    network = grown(evaluator, policy)
    one_shot = prepared.pruner.prune(policy)
    assert [tuple(p.shape) for p in network.parameters()] == [tuple(p.shape) for p in one_shot.parameters()]
    assert (len(steps), sum(steps)) == (stages, 3)  # one epoch of 96 images
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
    phases: list[str] = []
    assert isinstance(evaluator(candidate(prepared, 0.6), phases.append).outcome, Completed)
    looks = [LOOK, "finetune"] if stages == 2 else []  # three steps: of 3 or 5 stages the last has one at most
    expected = ["prune", *["finetune", "prune"] * (stages - 1), *BARE[1:4], *looks, *BARE[4:]]
    assert phases == expected


def compensated(evaluator: Evaluator, prepared: PreparedStudy, said: list[str]) -> Evaluator:
    return remade(
        evaluator,
        compensator=Compensator(prepared.network, prepared.task, prepared.device, 96, prepared.spec.seed, said.append),
    )


def test_a_candidate_that_is_compensated_begins_nearer_to_the_dense_network(
    prepared: PreparedStudy, evaluator: Evaluator
) -> None:
    said: list[str] = []
    phases: list[str] = []
    ours = compensated(evaluator, prepared, said)
    losses = []
    for each in (evaluator, ours):
        network = each.maker.pruned(candidate(prepared, 0.6).policy, watched())
        losses.append(score(network, prepared.task, "val", prepared.device).loss)
    assert losses[1] < losses[0]
    one, again = (ours(candidate(prepared, 0.6), phases.append) for _ in range(2))
    assert phases[:2] == ["prune", "compensate"]
    assert "recalibrate" not in phases  # its batch norms are measured already
    assert one.outcome.measurement["loss"] == again.outcome.measurement["loss"]
    assert not said
    before = live_modules()
    staged = with_schedule(ours, stages=2)
    assert isinstance(staged(candidate(prepared, 0.6)).outcome, Completed)
    assert live_modules() == before  # the network before each cut is not kept


def test_examples_are_drawn_once_for_all_candidates_even_if_data_differ_at_each_pass(prepared: PreparedStudy) -> None:
    drawn: list[int] = []

    class Drawn:
        def __getattr__(self, name: str) -> Any:
            return getattr(prepared.task, name)

        def train_stream(self, *given: Any) -> Any:
            drawn.append(1)
            return prepared.task.train_stream(given[0], given[1], len(drawn), given[3])

    ours = Compensator(prepared.network, Drawn(), prepared.device, 64, 0)  # type: ignore[arg-type]
    states = []
    for _ in range(2):
        pruned = prepared.pruner.prune(candidate(prepared).policy)
        assert ours(pruned, prepared.pruner.cut(candidate(prepared).policy))
        states.append(pruned.state_dict())
    assert len(drawn) == 1
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())


def test_a_task_without_batches_and_a_network_that_does_not_let_it_are_not_compensated(
    prepared: PreparedStudy, evaluator: Evaluator
) -> None:
    class Bare:
        has_batches = False

    pruned = prepared.pruner.prune(candidate(prepared).policy)
    bare = Compensator(prepared.network, Bare(), prepared.device, 96, 0)  # type: ignore[arg-type]
    assert not bare(pruned, prepared.pruner.cut(candidate(prepared).policy))

    class Failing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("float64 only")

    said: list[str] = []
    failing = Compensator(Failing(), prepared.task, prepared.device, 96, 0, said.append)
    assert not failing(pruned, {})
    assert not failing(pruned, {})
    assert len(said) == 1  # once
    assert "no compensation: the network does not run" in said[0]


def test_without_training_stages_end_where_one_shot_does(prepared: PreparedStudy, evaluator: Evaluator) -> None:
    policy = candidate(prepared, 0.6).policy
    still = untrained(evaluator)
    one, many = (grown(with_schedule(still, stages=stages), policy).state_dict() for stages in (1, 4))
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_later_stages_keep_what_they_were_trained_to(prepared: PreparedStudy, evaluator: Evaluator) -> None:
    cuts = [prepared.pruner.cut(candidate(prepared, sparsity).policy) for sparsity in (0.25, 0.5)]
    small = shrink(prepared.network, cuts[0])
    twice, once = shrink(small, relative_cut(cuts[1], cuts[0])), shrink(prepared.network, cuts[1])
    assert all(torch.equal(twice.state_dict()[name], tensor) for name, tensor in once.state_dict().items())
    assert relative_cut(cuts[1], cuts[1]) == {}
    assert relative_cut(cuts[1], {}) == cuts[1]


@pytest.mark.parametrize(
    ("trainable", "moves"), [("all", {"conv1", "bn1", "conv2", "fc"}), ("norms_and_head", {"bn1", "fc"})]
)
def test_only_what_is_trainable_moves(
    prepared: PreparedStudy, evaluator: Evaluator, trainable: str, moves: set[str]
) -> None:
    policy = candidate(prepared).policy
    network = grown(with_schedule(evaluator, trainable=trainable), policy)
    before = dict(prepared.pruner.prune(policy).named_parameters())
    moved = {name.split(".")[0] for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert moved & {"conv1", "bn1", "conv2", "fc"} == moves
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_what_was_not_cut_stays_if_only_that_is_trained(prepared: PreparedStudy, evaluator: Evaluator) -> None:
    inner = "conv2"  # its channels are read by conv3 alone
    policy = prepared.space.canonical(PruningPolicy({inner: GroupPolicy(0.5, "l1")}))
    network = grown(with_schedule(evaluator, trainable="cut"), policy)
    before = dict(prepared.pruner.prune(policy).named_parameters())
    moved = {name.split(".")[0] for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"conv2", "bn2", "conv3"}


# --- where candidates begin


def set_up_in(folder: Path, **changes: Any) -> PreparedStudy:
    study = StudyFolder(folder / "study")
    study.create()
    return prepare_study(tiny_spec(write_task(folder), **changes), study, lambda message: None)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    theirs = dict(other.named_parameters())
    return all(torch.equal(parameter, theirs[name]) for name, parameter in one.named_parameters())


def test_candidates_rewind_to_an_early_epoch(tmp_path: Path) -> None:
    prepared = set_up_in(tmp_path, schedule={"start": "rewind", "rewind_epoch": 1})
    assert not same_weights(prepared.start, prepared.network)
    cut = prepared.pruner.cut(candidate(prepared).policy)
    still = untrained(build_evaluator(prepared))
    assert same_weights(grown(still, candidate(prepared).policy), shrink(prepared.start, cut))
    assert isinstance(build_evaluator(prepared)(candidate(prepared)).outcome, Completed)
    again = set_up_in(tmp_path, schedule={"start": "rewind", "rewind_epoch": 1})
    assert same_weights(again.start, prepared.start)
    one = set_up_in(tmp_path / "other", dense={"epochs": 1, "batch_size": 32})
    assert not same_weights(one.start, prepared.start)  # its learning rate fell faster
    prepared.folder.rewind_weights.unlink()
    with pytest.raises(ModelError, match=r"rewind\.safetensors"):
        set_up_in(tmp_path, schedule={"start": "rewind", "rewind_epoch": 1})


def test_candidates_begin_from_scratch_with_scores_of_the_initial_network(tmp_path: Path) -> None:
    prepared = set_up_in(tmp_path, schedule={"start": "scratch"})
    fresh = fresh_network(prepared.context, weights="")
    assert same_weights(prepared.start, fresh)
    assert not same_weights(prepared.start, prepared.network)
    group = prepared.space.groups[0]
    expected = score_groups(fresh, [group], ["l1"], Calibration([]))["l1"][group.name]
    assert torch.equal(prepared.pruner.scores["l1"][group.name], expected)
    assert isinstance(build_evaluator(prepared)(candidate(prepared)).outcome, Completed)


def test_a_source_that_needs_weights_to_be_itself_cannot_begin_from_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoprune.search.setup.starting_weights, "fresh_network", lambda *_, **__: nn.Linear(2, 2))
    spec = tiny_spec(write_task(tmp_path), schedule={"start": "scratch"})
    context = open_context(spec, StudyFolder(tmp_path), lambda message: None)
    with pytest.raises(ModelError, match="another network without weights"):
        autoprune.search.setup.starting_weights.starting_networks(context, nn.Linear(3, 3), Groups((), ()))


@pytest.mark.parametrize("method", ["bn_l1", "group_lasso"])
def test_sparsity_is_learnt_once_and_told(tmp_path: Path, method: str) -> None:
    wish = {"method": method, "strength": 0.3 if method == "group_lasso" else 0.01, "epochs": 2.0}
    prepared = set_up_in(tmp_path, sparsity=wish)
    facts = read_dense_facts(prepared.folder).regularisation
    assert facts is not None
    assert facts == regularisation_facts(prepared.folder)
    assert facts.after[3] < facts.before[3]
    assert facts.quality_before["accuracy"] == prepared.dense["accuracy"]
    assert facts.method == method
    assert not same_weights(prepared.start, prepared.network)
    assert build_evaluator(prepared).maker.pruner.network is prepared.network  # still the reference, and the teacher
    group = prepared.space.groups[0]
    assert torch.equal(
        prepared.pruner.scores["l1"][group.name],
        score_groups(prepared.start, [group], ["l1"], Calibration([]))["l1"][group.name],
    )
    assert isinstance(build_evaluator(prepared)(candidate(prepared)).outcome, Completed)
    stored = prepared.folder.sparse_weights.read_bytes()
    assert same_weights(set_up_in(tmp_path, sparsity=wish).start, prepared.start)
    assert prepared.folder.sparse_weights.read_bytes() == stored
    prepared.folder.sparse_weights.write_bytes(b"damaged")
    with pytest.raises(StudyError, match="damaged"):
        regularisation_facts(prepared.folder)


def test_the_dense_networks_hits_are_stored_and_files_without_them_are_read(
    prepared: PreparedStudy, tmp_path: Path
) -> None:
    facts = read_dense_facts(prepared.folder)
    assert PairedScores(facts.paired).unpack().mean() == pytest.approx(prepared.dense["accuracy"])
    old = json.loads(prepared.folder.dense_facts.read_text(encoding="utf-8"))
    del old["correct"]
    folder = StudyFolder(tmp_path)
    folder.dense_facts.write_text(json.dumps(old), encoding="utf-8")
    assert read_dense_facts(folder) == replace(facts, paired="")


def test_where_channels_are_produced_covers_every_filter_and_norm_once(prepared: PreparedStudy) -> None:
    tensors = channel_tensors(prepared.network, prepared.space.groups)
    assert {path for where in tensors.values() for path, _, _ in where} == {
        *(f"conv{n}.weight" for n in (1, 2, 3)),
        *(f"bn{n}.{name}" for n in (1, 2, 3) for name in ("weight", "bias")),
    }
    for name, where in tensors.items():
        assert all(index.shape == (prepared.space.by_name[name].num_channels, 1) for _, _, index in where)


def live_modules() -> int:
    gc.collect()
    return sum(issubclass(type(thing), nn.Module) for thing in gc.get_objects())  # isinstance would wake proxies


def test_no_pruned_network_is_alive_after_fifty_evaluations(
    prepared: PreparedStudy, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[nn.Module]] = []
    prune: Callable[[Pruner, PruningPolicy], nn.Module] = Pruner.prune

    def witnessed(self: Pruner, policy: PruningPolicy) -> nn.Module:
        network = prune(self, policy)
        made.append(weakref.ref(network))
        return network

    monkeypatch.setattr(Pruner, "prune", witnessed)
    evaluator(candidate(prepared))
    before = live_modules()
    for number in range(50):
        # every fifth one fails, with a traceback that could keep its network
        settings = evaluator.maker.settings
        settings = replace(settings, lr=1e30) if number % 5 == 4 else settings
        remade(evaluator, settings=settings)(candidate(prepared, 0.1 + 0.015 * number))
    assert live_modules() == before
    assert len(made) == 51
    assert [reference for reference in made if reference() is not None] == []
