import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_toys import Toy, make_task, make_toy, same_state, state_of

from autoprune.errors import NonFiniteError, StudyError, UsageError
from autoprune.tasks.classification import LabelledBatch
from autoprune.tasks.in_memory import ArrayTask
from autoprune.training.device.runtime import Runtime
from autoprune.training.distillation import Teacher
from autoprune.training.finetune import finetune
from autoprune.training.loop import TrainingRun
from autoprune.training.loss import finetune_loss
from autoprune.training.settings import FinetuneSettings

PLAIN = FinetuneSettings(epochs=2, batch_size=16, lr=0.05, weight_decay=1e-4)
DISTIL = FinetuneSettings(epochs=2, batch_size=16, lr=0.05, weight_decay=1e-4, distill=True)


class LiveTask(ArrayTask):
    """A task whose teacher must answer live."""

    replayable = False  # type: ignore[assignment]


def make_live_task() -> LiveTask:
    task = make_task()
    task.__class__ = LiveTask
    return task  # type: ignore[return-value]


def distillation_loss(
    logits: torch.Tensor, labels: torch.Tensor, answers: torch.Tensor, t: float, w: float
) -> torch.Tensor:
    """Return the loss that a student is fine-tuned with."""
    settings = FinetuneSettings(1, 16, 0.1, 0.0, distill=True, temperature=t, distill_weight=w)
    return finetune_loss(make_task(), settings)(logits, LabelledBatch(logits, labels), answers)


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
            """A network that takes every class for the next one."""

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
        assert len(calls) == 5, "what is known is not computed again"
        at_once, batches = Teacher(dense, task, runtime).targets(0, 0, 16), list(task.train_stream(16, 0, 0, runtime))
        assert whole(4, batches[-1]).shape == (6, 3)
        assert all(torch.equal(whole(place, batch), at_once(place, batch)) for place, batch in enumerate(batches))

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
