"""The course of a candidate's training: stages, shares of steps, and what may change."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from training_toys import Toy, make_task, make_toy, state_of

from autoprune.tasks.in_memory import ArrayTask
from autoprune.training.device.runtime import Runtime
from autoprune.training.distillation import Teacher
from autoprune.training.finetune import finetune
from autoprune.training.loop import Span, TrainingRun, stream
from autoprune.training.pruning_stages import relative, share_cut, steps_of
from autoprune.training.settings import FinetuneSettings
from autoprune.training.trainable import norms_and_head, training_only

RECIPE = FinetuneSettings(epochs=2.4, batch_size=16, lr=0.05, weight_decay=1e-4)


@given(stages=st.integers(1, 40))
def test_the_share_cut_rises_to_all_and_ever_more_slowly(stages: int) -> None:
    shares = [share_cut(stage, stages) for stage in range(stages + 1)]
    rises = [after - before for before, after in pairwise(shares)]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert all(rise > 0 for rise in rises)
    assert all(later < earlier + 1e-12 for earlier, later in pairwise(rises))


@given(stages=st.integers(1, 20), total=st.integers(0, 1000))
def test_stages_share_out_all_steps_evenly_and_in_order(stages: int, total: int) -> None:
    spans = [steps_of(stage, stages, total) for stage in range(1, stages + 1)]
    assert spans[0].first == 0
    assert spans[-1].last == total
    assert all(one.last == other.first for one, other in pairwise(spans))
    lengths = [span.last - span.first for span in spans]
    assert max(lengths) - min(lengths) <= 1


@given(st.sets(st.integers(0, 50), min_size=1), st.data())
def test_relative_indices_pick_the_same_from_what_is_left(left: set[int], data: st.DataObject) -> None:
    within = tuple(sorted(left))
    kept = tuple(sorted(data.draw(st.sets(st.sampled_from(within)))))
    assert tuple(within[i] for i in relative(kept, within)) == kept
    with pytest.raises(ValueError, match="index 99 is kept at a later stage"):
        relative((*kept, 99), within)


class TestSpans:
    @pytest.mark.parametrize("cuts", [(0, 12), (0, 4, 12), (0, 1, 5, 6, 12), (0, 3, 3, 12)])
    @pytest.mark.parametrize("train", [70, 65])
    def test_parts_of_a_stream_are_the_stream(self, cuts: tuple[int, ...], train: int, runtime: Runtime) -> None:
        task = make_task(train=train)
        teacher = Teacher(make_toy(seed=9), task, runtime)
        whole = list(stream(task, 12, 16, runtime, 0, teacher))
        parts = [
            pair
            for first, last in pairwise(cuts)
            for pair in stream(task, 12, 16, runtime, 0, teacher, Span(first, last))
        ]
        assert len(parts) == len(whole) == 12
        for (one, answer), (other, known) in zip(parts, whole, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)
            assert torch.equal(answer, known)  # type: ignore[arg-type]

    def test_the_teacher_answers_a_divided_epoch_once(self, task: ArrayTask, runtime: Runtime) -> None:
        dense, calls = make_toy(seed=9), []
        dense.register_forward_hook(lambda *_: calls.append(1))
        teacher = Teacher(dense, task, runtime)
        for span in (Span(0, 2), Span(2, 4), Span(4, 5)):
            list(stream(task, 5, 16, runtime, 0, teacher, span))
        assert len(calls) == 5

    def test_stages_take_all_steps_under_one_curve(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        rates: list[float] = []
        seen: list[tuple[int, int]] = []

        def watch(optimizer: torch.optim.Optimizer) -> None:
            optimizer.register_step_post_hook(lambda one, *_: rates.append(one.param_groups[0]["lr"]))

        def run(network: nn.Module, span: Span | None) -> int:
            return finetune(
                network,
                TrainingRun(task, RECIPE, runtime, 0),
                None,
                lambda *now: seen.append(now),
                span=span,
                on_optimizer=watch,
            ).steps

        for stage in (1, 2, 3):
            run(toy, steps_of(stage, 3, 12))
        in_stages, counted = rates.copy(), seen.copy()
        rates.clear(), seen.clear()
        assert run(make_toy(), None) == 12
        assert in_stages == rates
        assert counted == seen == [(step, 12) for step in range(1, 13)]

    def test_dropout_differs_from_stage_to_stage(self, task: ArrayTask, runtime: Runtime) -> None:
        noise = []
        for span in (Span(0, 1), Span(5, 6), Span(0, 1)):
            network = make_toy(dropout=0.5)
            network.dropout.register_forward_hook(lambda _, x, y: noise.append((y == 0) & (x[0] != 0)))
            finetune(network, TrainingRun(task, FinetuneSettings(2, 16, 0.05, 0.0), runtime, 0), span=span)
        assert torch.equal(noise[0], noise[2])
        assert not torch.equal(noise[0], noise[1])

    def test_an_empty_stage_changes_no_weight(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        before = state_of(toy)
        assert finetune(toy, TrainingRun(task, RECIPE, runtime, 0), span=Span(3, 3)).steps == 0
        assert all(torch.equal(before[name], tensor) for name, tensor in toy.state_dict().items())


class TestTrainable:
    def test_norms_and_head_of_a_convolutional_network(self) -> None:
        assert norms_and_head(make_toy()) == {"bn", "fc"}

    def test_norms_and_head_of_others(self) -> None:
        with torch.random.fork_rng():
            layers = [nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.Flatten(), nn.LayerNorm(4), nn.RMSNorm(4)]
            network = nn.Sequential(*layers, nn.Linear(4, 4), nn.Linear(4, 2), nn.PReLU())
        assert norms_and_head(network) == {"1", "3", "4", "6"}

    @pytest.mark.parametrize(
        ("only", "moves"),
        [
            (None, {"conv", "bn", "fc"}),
            ([], {"conv", "bn", "fc"}),
            (["bn"], {"bn"}),
            (["fc.bias", "conv"], {"conv", "fc"}),
            (["co"], set()),
        ],
    )
    def test_only_the_chosen_learn_and_all_can_again(
        self, task: ArrayTask, toy: Toy, runtime: Runtime, only: list[str] | None, moves: set[str]
    ) -> None:
        before = {name: parameter.clone() for name, parameter in toy.named_parameters()}
        if moves:
            finetune(toy, TrainingRun(task, RECIPE, runtime, 0), only=only)
        moved = {name for name, parameter in toy.named_parameters() if not torch.equal(parameter, before[name])}
        assert {name.split(".")[0] for name in moved} == moves
        assert "fc.weight" not in moved or only != ["fc.bias", "conv"]
        assert all(parameter.requires_grad for parameter in toy.parameters())

    def test_what_was_frozen_before_stays_frozen_then_and_after(self, toy: Toy) -> None:
        toy.conv.requires_grad_(False)
        seen: list[str] = []

        def fail() -> None:
            with training_only(toy, {"conv", "fc"}):
                seen.extend(name for name, p in toy.named_parameters() if p.requires_grad)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert seen == ["fc.weight", "fc.bias"]
        assert [p.requires_grad for p in (toy.conv.weight, toy.bn.weight, toy.fc.weight)] == [False, True, True]
