import copy
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from training_toys import Toy, make_task, make_toy, same_state, state_of

from autoprune.errors import DataError, ModelError, NonFiniteError, StudyError, UnknownNameError, UsageError
from autoprune.tasks.in_memory import ArrayTask
from autoprune.tasks.task import Batch
from autoprune.training.device.runtime import Runtime
from autoprune.training.distillation import Teacher, distillation_loss
from autoprune.training.finetune import finetune
from autoprune.training.learning_rate import learning_rate
from autoprune.training.loop import TrainingRun, stream, train
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm
from autoprune.training.scoring import score
from autoprune.training.settings import FinetuneSettings, total_steps
from autoprune.training.train_dense import train_dense

PLAIN = FinetuneSettings(epochs=2, batch_size=16, lr=0.05, weight_decay=1e-4)
DISTIL = FinetuneSettings(epochs=2, batch_size=16, lr=0.05, weight_decay=1e-4, distill=True)


class LiveTask(ArrayTask):
    """A task whose teacher must answer live."""

    replayable = False  # type: ignore[assignment]


def make_live_task() -> LiveTask:
    task = make_task()
    task.__class__ = LiveTask
    return task  # type: ignore[return-value]


class TestTraining:
    def test_learns(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        train_dense(toy, TrainingRun(task, FinetuneSettings(15, 16, 0.1, 1e-4), runtime, 0))
        assert score(toy, task, "val", runtime).accuracy > 0.9

    def test_learns_with_adamw_too(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        train_dense(toy, TrainingRun(task, FinetuneSettings(15, 16, 0.01, 1e-2, optimizer="adamw"), runtime, 0))
        assert score(toy, task, "val", runtime).accuracy > 0.9

    def test_adamw_decays_weights_by_itself_and_leaves_biases(
        self, task: ArrayTask, toy: Toy, runtime: Runtime
    ) -> None:
        """Without a gradient AdamW still takes lr · decay of a weight a step; the rates of one epoch are known."""
        before, settings = state_of(toy), FinetuneSettings(1, 16, 0.1, 0.5, optimizer="adamw")
        steps = total_steps(task.sizes["train"], settings)

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
        assert report.images == 140
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
            def train_stream(self, *_: object) -> Iterator[Batch]:  # type: ignore[override]
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
    assert total_steps(images, FinetuneSettings(epochs, batch, 0.1, 0.0)) >= 1


class TestDistillation:
    def test_loss_by_hand(self) -> None:
        logits, answers = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
        labels, t, w = torch.tensor([1]), 2.0, 0.75
        p = [1 / (1 + math.e), math.e / (1 + math.e)]  # softmax([0, 2] / 2)
        q = [math.sqrt(math.e) / (1 + math.sqrt(math.e)), 1 / (1 + math.sqrt(math.e))]
        divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        expected = (1 - w) * math.log(1 + math.e) + w * t * t * divergence
        assert float(distillation_loss(logits, labels, answers, t, w)) == pytest.approx(expected, rel=1e-5)

    def test_weight_zero_is_cross_entropy_and_agreement_costs_nothing(self) -> None:
        logits, labels = torch.tensor([[1.0, -2.0], [0.5, 0.1]]), torch.tensor([0, 1])
        other = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
        plain = F.cross_entropy(logits, labels)
        assert torch.allclose(distillation_loss(logits, labels, other, 4.0, 0.0), plain)
        assert float(distillation_loss(logits, labels, logits, 4.0, 1.0)) == pytest.approx(0, abs=1e-6)

    def test_pulls_the_student_to_a_teacher_that_is_wrong(self, task: ArrayTask, runtime: Runtime) -> None:
        class Wrong(nn.Module):
            """See every class as the next one."""

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.mean((2, 3)).roll(1, dims=1) * 20

        settings = FinetuneSettings(15, 16, 0.1, 0.0, distill=True, distill_weight=1.0)
        student = make_toy()
        finetune(student, TrainingRun(task, settings, runtime, 0), Teacher(Wrong(), task, runtime))
        student.eval()
        batch = next(iter(task.eval_batches("val", 100, runtime)))
        answers = student(batch.images).argmax(1)
        assert float((answers == (batch.labels + 1) % 3).float().mean()) > 0.9

    def test_without_a_teacher(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        with pytest.raises(UsageError, match="no teacher was given; give one"):
            finetune(toy, TrainingRun(task, DISTIL, runtime, 0))

    def test_settings_that_do_not_distil_need_no_teacher(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        finetune(toy, TrainingRun(task, PLAIN, runtime, 0), teacher=object())  # type: ignore[arg-type]


class TestTeacher:
    @pytest.fixture
    def dense(self) -> Toy:
        return make_toy(seed=9)

    def test_stored_answers_equal_live_ones(
        self, task: ArrayTask, dense: Toy, runtime: Runtime, tmp_path: Path
    ) -> None:
        for _ in range(2):  # computed, then read
            targets = Teacher(dense, task, runtime, tmp_path).targets(1, 2, 16)
            with torch.no_grad():
                for position, batch in enumerate(task.train_stream(16, 1, 2, runtime)):
                    assert torch.equal(targets(position, batch), copy.deepcopy(dense).eval()(batch.images))

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_a_student_cannot_tell_them_apart(self, dense: Toy, tmp_path: Path, precision: str) -> None:
        runtime = Runtime(precision=precision)  # type: ignore[arg-type]
        states = []
        for task in (make_task(), make_live_task()):
            student = make_toy()
            finetune(student, TrainingRun(task, DISTIL, runtime, 0), Teacher(dense, task, runtime, tmp_path))
            states.append(state_of(student))
        assert same_state(*states)

    def test_computes_once_for_all_trials_and_sessions(
        self, task: ArrayTask, dense: Toy, runtime: Runtime, tmp_path: Path
    ) -> None:
        calls = []
        dense.register_forward_hook(lambda *_: calls.append(1))
        for _ in range(2):
            teacher = Teacher(dense, task, runtime, tmp_path)
            for _ in range(2):
                finetune(make_toy(), TrainingRun(task, DISTIL, runtime, 0), teacher)
        assert len(calls) == 10  # two epochs of five batches

    def test_half_an_epoch_costs_half_and_is_extended_later(
        self, task: ArrayTask, dense: Toy, runtime: Runtime, tmp_path: Path
    ) -> None:
        calls = []
        dense.register_forward_hook(lambda *_: calls.append(1))
        teacher = Teacher(dense, task, runtime, tmp_path)
        teacher.targets(0, 0, 16, steps=2)
        assert len(calls) == 2
        teacher.targets(0, 0, 16, steps=1)
        assert len(calls) == 2
        whole = teacher.targets(0, 0, 16)
        last = list(task.train_stream(16, 0, 0, runtime))[-1]
        assert whole(4, last).shape == (6, 3)

    def test_a_single_last_image_is_left_out(self, dense: Toy, runtime: Runtime) -> None:
        calls = []
        dense.register_forward_hook(lambda *_: calls.append(1))
        teacher, task = Teacher(dense, make_task(train=65), runtime), make_task(train=65)
        for _ in range(2):
            teacher.targets(0, 0, 16)
        assert len(calls) == len(list(task.train_stream(16, 0, 0, runtime))) == 4

    def test_files_are_told_apart(self, dense: Toy, runtime: Runtime, tmp_path: Path) -> None:
        for network, task, low in (
            (dense, make_task(), runtime),
            (make_toy(seed=10), make_task(), runtime),
            (dense, make_task(padding=2), runtime),
            (dense, make_task(), Runtime(precision="bf16")),
        ):
            Teacher(network, task, low, tmp_path).targets(0, 0, 16)
        teacher = Teacher(dense, make_task(), runtime, tmp_path)
        for epoch, seed, batch_size in ((1, 0, 16), (0, 1, 16), (0, 0, 8)):
            teacher.targets(epoch, seed, batch_size)
        assert len(list(tmp_path.iterdir())) == 7

    @pytest.mark.parametrize("content", [b"", b"cut short"])
    def test_a_damaged_file_is_computed_again(
        self, task: ArrayTask, dense: Toy, runtime: Runtime, tmp_path: Path, content: bytes
    ) -> None:
        Teacher(dense, task, runtime, tmp_path).targets(0, 0, 16)
        (file,) = tmp_path.iterdir()
        whole = file.read_bytes()
        file.write_bytes(content)
        Teacher(dense, task, runtime, tmp_path).targets(0, 0, 16)
        assert file.read_bytes() == whole

    def test_a_write_that_fails_leaves_nothing(
        self, task: ArrayTask, dense: Toy, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr("autoprune.core.atomic_write.os.fsync", full)
        with pytest.raises(StudyError, match="no space left"):
            Teacher(dense, task, runtime, tmp_path).targets(0, 0, 16)
        assert not list(tmp_path.iterdir())

    def test_large_answers_are_stored_in_half_precision(
        self, task: ArrayTask, dense: Toy, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exact = Teacher(dense, task, runtime).targets(0, 0, 16)
        monkeypatch.setattr("autoprune.training.distillation._HALF_ABOVE", 1)
        rounded = Teacher(dense, task, runtime, tmp_path).targets(0, 0, 16)
        batch = next(iter(task.train_stream(16, 0, 0, runtime)))
        assert rounded(0, batch).dtype == torch.float32
        assert torch.allclose(exact(0, batch), rounded(0, batch), atol=2e-3)

    @pytest.mark.parametrize("live", [True, False])
    def test_the_dense_network_is_untouched(self, dense: Toy, runtime: Runtime, tmp_path: Path, live: bool) -> None:
        task = make_live_task() if live else make_task()
        dense.train()
        before = state_of(dense)
        finetune(make_toy(), TrainingRun(task, DISTIL, runtime, 0), Teacher(dense, task, runtime, tmp_path))
        assert same_state(state_of(dense), before)
        assert all(module.training for module in dense.modules())
        assert all(parameter.grad is None for parameter in dense.parameters())

    def test_a_dense_network_of_nans(self, task: ArrayTask, dense: Toy, runtime: Runtime) -> None:
        nn.init.constant_(dense.fc.bias, math.nan)
        with pytest.raises(NonFiniteError, match=r"dense network's outputs .* check its weights"):
            Teacher(dense, task, runtime).targets(0, 0, 16)


class TestRecalibration:
    def test_is_the_average_over_the_batches(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        nn.init.constant_(toy.bn.running_mean, 100.0)
        recalibrate_batchnorm(toy, task, 32, runtime, 0, batch_size=16)
        batches = list(task.train_stream(16, 0, 0, runtime))[:2]
        with torch.no_grad():
            means = [toy.conv(batch.images).mean((0, 2, 3)) for batch in batches]
            variances = [toy.conv(batch.images).var((0, 2, 3)) for batch in batches]
        assert torch.allclose(toy.bn.running_mean, sum(means) / 2, atol=1e-5)
        assert torch.allclose(toy.bn.running_var, sum(variances) / 2, atol=1e-5)

    def test_weights_modes_momentum_and_gradients_are_as_before(
        self, task: ArrayTask, toy: Toy, runtime: Runtime
    ) -> None:
        toy.bn.momentum = 0.3
        toy.eval()
        before = {name: parameter.clone() for name, parameter in toy.named_parameters()}
        recalibrate_batchnorm(toy, task, 20, runtime, 0, batch_size=16)
        assert toy.bn.momentum == 0.3
        assert not any(module.training for module in toy.modules())
        assert all(torch.equal(before[name], parameter) for name, parameter in toy.named_parameters())
        assert all(parameter.grad is None for parameter in toy.parameters())

    def test_momentum_comes_back_after_an_error(self, task: ArrayTask, runtime: Runtime) -> None:
        network = make_toy(num_classes=4)
        with pytest.raises(ModelError):
            recalibrate_batchnorm(network, task, 20, runtime, 0)
        assert network.bn.momentum == 0.1

    def test_more_images_than_there_are_goes_round_again(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        recalibrate_batchnorm(toy, task, 320, runtime, 0, batch_size=16)
        assert int(toy.bn.num_batches_tracked) == 20

    def test_repeats(self, task: ArrayTask, runtime: Runtime) -> None:
        networks = [make_toy(dropout=0.5), make_toy(dropout=0.5)]
        for network in networks:
            recalibrate_batchnorm(network, task, 64, runtime, 4, 16)
        assert same_state(state_of(networks[0]), state_of(networks[1]))

    @pytest.mark.parametrize("images", [0, 64])
    def test_nothing_to_do(self, task: ArrayTask, runtime: Runtime, images: int) -> None:
        network = make_toy()
        if images:
            network.bn = nn.BatchNorm2d(8, track_running_stats=False)
        before = state_of(network)
        recalibrate_batchnorm(network, task, images, runtime, 0)
        assert same_state(state_of(network), before)

    def test_makes_a_disturbed_network_well_again(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        train_dense(toy, TrainingRun(task, FinetuneSettings(15, 16, 0.1, 1e-4), runtime, 0))
        with torch.no_grad():
            toy.conv.bias += 10 * torch.arange(8) - 40  # batch norm undoes this, once it has measured it
        ill = score(toy, task, "val", runtime).loss
        recalibrate_batchnorm(toy, task, 64, runtime, 0, 16)
        assert score(toy, task, "val", runtime).loss < ill / 2
