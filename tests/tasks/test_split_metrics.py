"""Metrics in torchmetrics' form: one, a list, a dictionary or a collection of them; and the library's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune import Metric, Study, Task, classification
from autoprune.errors import AutopruneError, DataError, NonFiniteError, UsageError
from autoprune.testing import check_task
from autoprune.training.device.runtime import Runtime
from autoprune.training.device.seeding import seeded
from autoprune.training.scoring import Score, score


class Gap:
    """The mean distance from the targets, as torchmetrics writes it."""

    higher_is_better = False
    power = 1

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def reset(self) -> None:
        self.seen.clear()

    def update(self, output: Tensor, target: Tensor) -> None:
        self.seen.append((output.flatten() - target).abs() ** self.power)

    def compute(self) -> Tensor:
        return torch.cat(self.seen).mean()


class SquareGap(Gap):
    power = 2


class Lost(Gap):
    def compute(self) -> Tensor:
        return torch.tensor(torch.nan)


class Collection(dict[str, Any]):
    """Several under one roof, which is itself updated and computed, as a ``MetricCollection`` is."""

    def reset(self) -> None: ...

    def update(self, *given: Any) -> None: ...

    def compute(self) -> Mapping[str, float]:
        return {}


def rows(count: int, seed: int) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return inputs, inputs[:, 0] * 2 - inputs[:, 1]


def labelled(count: int, seed: int) -> tuple[Tensor, Tensor]:
    inputs, values = rows(count, seed)
    return inputs, values.gt(0).long()


def linear(outputs: int = 1) -> nn.Module:
    with seeded(0):
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, outputs))


def judged(metric: Any, **changes: Any) -> Task:
    return Task(
        [rows(16, 1)],
        [rows(16, 2), rows(8, 3)],
        [rows(8, 4)],
        loss=lambda output, batch: (output.flatten() - batch[1]).square().mean(),
        metric=metric,
        name="sums",
        **changes,
    )


def scored(task: Task, outputs: int = 1) -> Score:
    return score(linear(outputs), task, "val", Runtime(threads=1))


def gaps() -> Tensor:
    inputs, wanted = (torch.cat(parts) for parts in zip(rows(16, 2), rows(8, 3), strict=True))
    return (linear()(inputs).detach().flatten() - wanted).abs()


class TestSeveral:
    @pytest.mark.parametrize(
        ("given", "names"),
        [
            ([SquareGap(), Gap()], ["square_gap", "gap"]),
            ((SquareGap(), Gap()), ["square_gap", "gap"]),
            ({"mse": SquareGap(), "mae": Gap()}, ["mse", "mae"]),
            (Collection({"val/SquareGap": SquareGap(), "val/mAE": Gap()}), ["val_square_gap", "val_mae"]),
        ],
    )
    def test_the_first_leads_and_the_others_are_measured(self, given: Any, names: list[str]) -> None:
        task = judged(given)
        assert [one.name for one in task.metrics] == names
        assert {one.goal for one in task.metrics} == {"min"}
        found = scored(task)
        assert [*found.measurement.values] == [*names, "loss"]
        assert found.measurement[names[0]] == pytest.approx(float(gaps().square().mean()), rel=1e-5)
        assert found.measurement[names[1]] == pytest.approx(float(gaps().mean()), rel=1e-5)
        assert (found.count, found.paired, dict(found.measurement.stderr)) == (24, None, {})
        check_task(task, linear())

    def test_the_library_s_own_collection(self) -> None:
        torchmetrics = pytest.importorskip("torchmetrics")
        accuracy = torchmetrics.classification.MulticlassAccuracy(2, average="micro")
        collection = torchmetrics.MetricCollection(
            {"accuracy": accuracy, "f1": torchmetrics.classification.MulticlassF1Score(2)}
        )
        task = classification([labelled(16, 1)], [labelled(16, 2)], metric=collection)
        assert task.metrics == (Metric("accuracy"), Metric("f1"))
        inputs, labels = labelled(16, 2)
        right = (linear(2)(inputs).argmax(1) == labels).double().mean()
        found = scored(task, 2).measurement
        assert found["accuracy"] == pytest.approx(float(right))
        assert 0 <= found["f1"] <= 1
        listed = classification([labelled(16, 1)], [labelled(16, 2)], metric=list(collection.values()))
        assert [one.text for one in listed.metrics] == ["multiclass_accuracy:max:%", "multiclass_f1score:max:%"]
        prefixed = torchmetrics.MetricCollection([accuracy], prefix="val/")
        assert judged(prefixed).metric.name == "val_multiclass_accuracy"

    def test_a_further_one_is_a_limit_and_an_objective_of_a_study(self, tmp_path: Any) -> None:
        settings = {"finetune.epochs": 1, "screening.enabled": False, "latency.runtime": "torch", "runtime.threads": 1}
        study = Study(
            tmp_path / "gaps",
            linear(),
            judged([SquareGap(), Gap()]),
            settings={**settings, "objectives": ["quality", "gap", "mflops"]},
        )
        study.search(budget={"mflops": "70%"}, trials=2)
        assert all(trial["gap"] > 0 for trial in study.front())
        with pytest.raises(AutopruneError, match="gap"):
            study.pick(quality={"gap": 1e-9}, top=1)


class TestFaults:
    def test_two_of_one_class_are_told_apart_by_a_dictionary(self) -> None:
        with pytest.raises(UsageError, match=r"metric names gap more than once; .* as a dictionary, with a name for"):
            judged([Gap(), Gap()])

    @pytest.mark.parametrize("given", [[Gap(), "rmse"], {"rmse": "min"}, [Gap], {}, []])
    def test_what_is_no_metric(self, given: Any) -> None:
        with pytest.raises(UsageError, match="a list or a dictionary of them, or a MetricCollection"):
            judged(given)

    def test_two_judges_at_once(self) -> None:
        def errors(output: Tensor, batch: Any) -> Tensor:
            return (output.flatten() - batch[1]).abs()

        with pytest.raises(UsageError, match="sums: score and metric each say how a network is judged"):
            judged(Gap(), score=errors)
        with pytest.raises(UsageError, match="sums: score and evaluate each say"):
            judged("mae", score=errors, evaluate=lambda network, batches: 1.0)

    def test_classes_are_judged_by_what_is_given_in_the_place_of_right_answers(self) -> None:
        def evaluate(network: nn.Module, batches: Iterator[Any]) -> float:
            return 0.25

        for changes in ({"metric": Gap()}, {"evaluate": evaluate}):
            task = classification([labelled(16, 1)], [labelled(16, 2)], **changes)
            assert not task.scores_examples
        assert scored(task, 2).measurement["accuracy"] == 0.25

    def test_a_value_that_is_not_finite(self) -> None:
        with pytest.raises(NonFiniteError, match="metric of sums gave nan for lost"):
            scored(judged(Lost()))

    def test_a_percentage_of_more_than_one_that_an_evaluation_gives(self) -> None:
        task = judged("miou", evaluate=lambda network, batches: 87.5)
        with pytest.raises(DataError, match=r"evaluate of sums gave 87\.5 for miou, and a metric in % is a fraction"):
            scored(task)

    def test_one_that_fails_is_named(self) -> None:
        class Broken(Gap):
            def update(self, output: Tensor, target: Tensor) -> None:
                raise KeyError("state")

        with pytest.raises(DataError, match=r"Broken.update fails: KeyError: 'state'"):
            scored(judged([Gap(), Broken()]))
