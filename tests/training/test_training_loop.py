import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from training_toys import Toy, make_task, make_toy, same_state, state_of

from autoprune.errors import DataError, ModelError, NonFiniteError, UnknownNameError
from autoprune.tasks.classification import LabelledBatch
from autoprune.tasks.in_memory import ArrayTask
from autoprune.tasks.task import steps_per_epoch
from autoprune.training.device.runtime import Runtime
from autoprune.training.finetune import finetune
from autoprune.training.learning_rate import learning_rate
from autoprune.training.loop import TrainingRun, stream, train
from autoprune.training.scoring import score
from autoprune.training.settings import FinetuneSettings, total_steps
from autoprune.training.train_dense import train_dense

PLAIN = FinetuneSettings(epochs=2, batch_size=16, lr=0.05, weight_decay=1e-4)


class TestTraining:
    def test_learns(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        train_dense(toy, TrainingRun(task, FinetuneSettings(15, 16, 0.1, 1e-4), runtime, 0))
        assert score(toy, task, "val", runtime).measurement["accuracy"] > 0.9

    def test_learns_with_adamw_too(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        train_dense(toy, TrainingRun(task, FinetuneSettings(15, 16, 0.01, 1e-2, optimizer="adamw"), runtime, 0))
        assert score(toy, task, "val", runtime).measurement["accuracy"] > 0.9

    def test_adamw_decays_weights_by_itself_and_leaves_biases(
        self, task: ArrayTask, toy: Toy, runtime: Runtime
    ) -> None:
        """Without a gradient AdamW still takes lr · decay of a weight a step; the rates of one epoch are known."""
        before, settings = state_of(toy), FinetuneSettings(1, 16, 0.1, 0.5, optimizer="adamw")
        steps = total_steps(task.steps_per_epoch(settings.batch_size), settings)

        def nothing(logits: torch.Tensor, labels: torch.Tensor, answers: object) -> torch.Tensor:
            return 0.0 * logits.sum()

        train(toy, TrainingRun(task, settings, runtime, 0), nothing)
        shrunk = math.prod(1 - 0.5 * learning_rate(step, steps, 0.1) for step in range(steps))
        assert torch.allclose(toy.fc.weight, shrunk * before["fc.weight"], rtol=1e-5)
        assert torch.equal(toy.fc.bias, before["fc.bias"])

    def test_an_unknown_optimizer_is_named(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        with pytest.raises(UnknownNameError, match="no optimizer named 'adam'; did you mean 'adamw'"):
            finetune(toy, TrainingRun(task, FinetuneSettings(1, 16, 0.1, 0.0, optimizer="adam"), runtime, 0))  # type: ignore[arg-type]

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_same_seed_same_bits(self, task: ArrayTask, precision: str) -> None:
        runtime = Runtime(precision=precision, channels_last=True)  # type: ignore[arg-type]

        def trained(seed: int) -> dict[str, torch.Tensor]:
            network = make_toy(dropout=0.3)
            finetune(network, TrainingRun(task, PLAIN, runtime, seed))
            return state_of(network)

        assert same_state(trained(0), trained(0))
        assert not same_state(trained(0), trained(1))

    def test_a_fresh_task_gives_the_same_bits(self, runtime: Runtime) -> None:
        networks = [make_toy(), make_toy()]
        for network in networks:
            finetune(network, TrainingRun(make_task(), PLAIN, runtime, 3))
        assert same_state(state_of(networks[0]), state_of(networks[1]))

    @pytest.mark.parametrize(("epochs", "steps"), [(0, 0), (0.01, 1), (0.5, 2), (1, 5), (1.3, 6), (3, 15)])
    def test_steps_are_those_of_the_settings(
        self, task: ArrayTask, toy: Toy, runtime: Runtime, epochs: float, steps: int
    ) -> None:
        seen: list[tuple[int, int]] = []
        report = finetune(
            toy,
            TrainingRun(task, FinetuneSettings(epochs, 16, 0.05, 0.0), runtime, 0),
            on_step=lambda *now: seen.append(now),
        )
        assert report.steps == steps
        assert seen == [(step, steps) for step in range(1, steps + 1)]

    def test_report(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        report = finetune(toy, TrainingRun(task, PLAIN, runtime, 0))
        assert report.examples == 140
        assert report.seconds > 0
        assert math.isfinite(report.final_loss)

    def test_zero_epochs_change_nothing(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        before = state_of(toy)
        report = finetune(toy, TrainingRun(task, FinetuneSettings(0, 16, 0.05, 0.0), runtime, 0))
        assert same_state(state_of(toy), before)
        assert math.isnan(report.final_loss)

    def test_equals_the_loop_by_hand(self, task: ArrayTask, runtime: Runtime) -> None:
        ours, theirs = make_toy(), make_toy()
        finetune(ours, TrainingRun(task, FinetuneSettings(1, 16, 0.05, 1e-2), runtime, 0))
        decayed = [p for p in theirs.parameters() if p.dim() > 1]
        plain = [p for p in theirs.parameters() if p.dim() <= 1]
        optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": 1e-2}, {"params": plain}], lr=0.05, momentum=0.9, nesterov=True
        )
        for step, batch in enumerate(task.train_stream(16, 0, 0, runtime)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, 5, 0.05)
            loss = F.cross_entropy(theirs(batch.images), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(one, other, atol=1e-6)

    def test_layout_changes_nothing_but_rounding(self, task: ArrayTask) -> None:
        networks = []
        for channels_last in (True, False):
            networks.append(make_toy())
            finetune(networks[-1], TrainingRun(task, PLAIN, Runtime(channels_last=channels_last), 0))
        for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
            assert torch.allclose(one, other, atol=1e-5)

    def test_norms_and_biases_do_not_decay(self, task: ArrayTask, runtime: Runtime) -> None:
        networks = []
        for decay in (0.0, 10.0):
            networks.append(make_toy())
            finetune(networks[-1], TrainingRun(task, FinetuneSettings(0.2, 16, 1e-3, decay), runtime, 0))
        free, decayed = networks
        assert torch.equal(free.bn.weight, decayed.bn.weight)
        assert torch.equal(free.fc.bias, decayed.fc.bias)
        assert decayed.conv.weight.norm() < free.conv.weight.norm()

    def test_frozen_parameters_stay(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        toy.conv.requires_grad_(False)
        before = toy.conv.weight.clone()
        finetune(toy, TrainingRun(task, PLAIN, runtime, 0))
        assert torch.equal(toy.conv.weight, before)

    def test_a_network_that_is_all_frozen(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        with pytest.raises(ModelError, match="no parameter of the network can be trained"):
            finetune(toy.requires_grad_(False), TrainingRun(task, PLAIN, runtime, 0))

    def test_a_network_without_biases(self, task: ArrayTask, runtime: Runtime) -> None:
        with torch.random.fork_rng():
            network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3, bias=False))
        assert finetune(network, TrainingRun(task, PLAIN, runtime, 0)).steps == 10

    def test_on_epoch(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        seen: list[tuple[int, int]] = []
        train_dense(
            toy, TrainingRun(task, FinetuneSettings(3, 16, 0.05, 0.0), runtime, 0), lambda *now: seen.append(now)
        )
        assert seen == [(1, 3), (2, 3), (3, 3)]

    @pytest.mark.parametrize(("after", "epochs"), [(1, 1), (7, 10), (33, 10)])
    def test_a_loss_that_is_no_number_names_its_step(
        self, task: ArrayTask, runtime: Runtime, after: int, epochs: int
    ) -> None:
        class Exploding(Toy):
            calls = 0

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.calls += 1
                return super().forward(x) * (math.nan if self.calls >= after else 1.0)

        with torch.random.fork_rng():
            network = Exploding()
        with pytest.raises(NonFiniteError, match=rf"the loss is nan at step {after} of {5 * epochs}; train with"):
            finetune(network, TrainingRun(task, FinetuneSettings(epochs, 16, 0.01, 0.0), runtime, 0))

    def test_too_many_outputs(self, task: ArrayTask, runtime: Runtime) -> None:
        with pytest.raises(ModelError, match="as many outputs"):
            finetune(make_toy(num_classes=5), TrainingRun(task, PLAIN, runtime, 0))

    def test_a_task_that_gives_nothing(self, runtime: Runtime) -> None:
        class Empty(ArrayTask):
            def train_stream(self, *_: object) -> Iterator[LabelledBatch]:  # type: ignore[override]
                return iter(())

        task = make_task()
        task.__class__ = Empty
        with pytest.raises(DataError, match="gave no training batch"):
            list(stream(task, 3, 16, runtime, 0))


@given(total=st.integers(1, 3000), peak=st.floats(1e-4, 1.0))
def test_learning_rate_rises_then_falls_and_never_leaves_its_range(total: int, peak: float) -> None:
    rates = [learning_rate(step, total, peak) for step in range(total)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(peak)
    assert all(0 <= rate <= peak * (1 + 1e-12) for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 0.2 * peak or total < 4


@given(images=st.integers(2, 5000), batch=st.integers(2, 300), epochs=st.floats(0.001, 5))
def test_at_least_one_step(images: int, batch: int, epochs: float) -> None:
    assert total_steps(steps_per_epoch(images, batch), FinetuneSettings(epochs, batch, 0.1, 0.0)) >= 1
