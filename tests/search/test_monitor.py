"""A candidate is looked at on its way, and the looks leave no trace."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from training_fixtures import global_random_state_untouched, one_thread, runtime, task, toy
from training_toys import Toy, make_task, make_toy, same_state, state_of

from autoprune.analysis.early_stopping import Decision, GoOn, RunToCheck, Stop
from autoprune.core.measurement import Measurement
from autoprune.search.evaluation.monitor import Monitor, StoppedEarly, glance, recalibrated_copy
from autoprune.tasks.in_memory import ArrayTask
from autoprune.training.device.runtime import Runtime
from autoprune.training.finetune import finetune
from autoprune.training.loop import Span, TrainingRun
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm
from autoprune.training.scoring import score
from autoprune.training.settings import FinetuneSettings

__all__ = ["global_random_state_untouched", "one_thread", "runtime", "task", "toy"]
SETTINGS = FinetuneSettings(epochs=2, batch_size=16, lr=0.05, weight_decay=1e-4)  # ten steps
EXACT = Measurement({"mflops": 1.0})


class Says:
    """Give the same verdict to all, and remember who asked."""

    def __init__(self, verdict: Decision) -> None:
        self.answer = verdict
        self.asked: list[tuple[str, float]] = []

    def decide(self, name: str, loss: float, exact: Measurement) -> Decision:
        assert exact["mflops"] == 1.0
        self.asked.append((name, loss))
        return self.answer


def monitor_of(task: ArrayTask, runtime: Runtime, stopper: Any = None, images: int = 20) -> Monitor:
    recalibrate = partial(recalibrated_copy, task=task, images=32, runtime=runtime, seed=0)
    return Monitor(EXACT, stopper, task, runtime, images, recalibrate, lambda phase: nullcontext())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_fine_tune_that_was_looked_at_ends_with_the_same_bits(
    task: ArrayTask, precision: str, optimizer: str
) -> None:
    runtime = Runtime(precision=precision, channels_last=True)  # type: ignore[arg-type]
    settings = replace(SETTINGS, optimizer=optimizer)  # type: ignore[arg-type]

    class DrawsNumbers(ArrayTask):
        """Draw from the global stream when images are scored, as a loader with several processes does."""

        def eval_batches(self, *args: Any, **options: Any) -> Any:
            torch.rand(3)
            return super().eval_batches(*args, **options)

    drawing = make_task()
    drawing.__class__ = DrawsNumbers

    def trained(images: int) -> tuple[dict[str, torch.Tensor], Measurement]:
        network = make_toy(dropout=0.3)
        monitor = monitor_of(drawing, runtime, images=images)
        monitor.look("recalibrated_loss", network)
        finetune(network, TrainingRun(drawing, settings, runtime, 0), on_step=monitor.half_way(network, Span(0, 10)))
        assert network.training
        return state_of(network), monitor.measured

    (plain, nothing), (looked, found) = trained(0), trained(20)
    assert same_state(plain, looked)
    assert nothing == EXACT
    assert set(found.values) == {"mflops", "recalibrated_loss", "midway_loss"}
    assert found["midway_loss"] != found["recalibrated_loss"]
    assert found.error("midway_loss") > 0


def test_a_look_half_way_is_at_half_of_the_steps_with_batch_norm_recalibrated(
    task: ArrayTask, toy: Toy, runtime: Runtime
) -> None:
    monitor = monitor_of(task, runtime, Says(GoOn()))
    finetune(toy, TrainingRun(task, SETTINGS, runtime, 0), on_step=monitor.half_way(toy, Span(0, 10)))
    other = make_toy()
    raw: list[float] = []
    seen: list[float] = []

    def by_hand(done: int, total: int) -> None:
        if done == 5:
            raw.append(score(other, task, "val", runtime, limit=20).loss)
            anew = copy.deepcopy(other)
            recalibrate_batchnorm(anew, task, 32, runtime, 0)
            seen.append(score(anew, task, "val", runtime, limit=20).loss)

    finetune(other, TrainingRun(task, SETTINGS, runtime, 0), on_step=by_hand)
    assert monitor.measured["midway_loss"] == seen[0] != raw[0]


@pytest.mark.parametrize(
    ("span", "looks"), [(Span(0, 0), 0), (Span(0, 1), 0), (Span(0, 2), 1), (Span(4, 5), 0), (Span(4, 9), 1)]
)
def test_there_is_no_half_way_with_fewer_than_two_steps(
    task: ArrayTask, toy: Toy, runtime: Runtime, span: Span, looks: int
) -> None:
    stopper = Says(GoOn())
    finetune(
        toy,
        TrainingRun(task, SETTINGS, runtime, 0),
        on_step=monitor_of(task, runtime, stopper).half_way(toy, span),
        span=span,
    )
    assert [name for name, _ in stopper.asked] == ["midway_loss"] * looks


def test_a_stop_ends_the_fine_tune_with_what_was_measured(task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
    steps: list[int] = []
    monitor = monitor_of(task, runtime, Says(Stop("hopeless")))
    look = monitor.half_way(toy, Span(0, 10))
    assert look is not None
    with pytest.raises(StoppedEarly) as caught:
        finetune(
            toy, TrainingRun(task, SETTINGS, runtime, 0), on_step=lambda *now: (steps.append(now[0]), look(*now))[1]
        )
    assert steps == [1, 2, 3, 4, 5]
    assert caught.value.outcome.reason == "hopeless"
    assert set(caught.value.outcome.measurement.values) == {"mflops", "midway_loss"}


def test_a_check_goes_on_and_keeps_its_first_reason(task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
    stopper = Says(RunToCheck("first"))
    monitor = monitor_of(task, runtime, stopper)
    monitor.look("recalibrated_loss", toy)
    stopper.answer = RunToCheck("second")
    monitor.look("midway_loss", toy)
    stopper.answer = GoOn()
    monitor.look("midway_loss", toy)
    assert monitor.spared == "first"


def test_outputs_that_are_not_numbers_are_judged_and_not_measured(task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
    with torch.no_grad():
        toy.fc.weight.fill_(math.nan)
    stopper = Says(GoOn())
    monitor = monitor_of(task, runtime, stopper)
    monitor.look("recalibrated_loss", toy)
    assert math.isnan(stopper.asked[0][1])
    assert monitor.measured == EXACT


def test_a_glance_takes_a_fixed_part_of_validation(task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
    assert glance(toy, task, runtime, 20).count == 20
    assert glance(toy, task, runtime, 20) == glance(toy, task, runtime, 20)
    assert glance(toy, task, runtime, 10_000) == score(toy, task, "val", runtime)


def test_a_loss_without_a_known_error_is_stored_without_one(toy: Toy, runtime: Runtime) -> None:
    monitor = monitor_of(make_task(val=1), runtime)
    monitor.look("recalibrated_loss", toy)
    assert "recalibrated_loss" in monitor.measured.values
    assert "recalibrated_loss" not in monitor.measured.stderr
