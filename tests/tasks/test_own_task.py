"""Tasks from a user's own callables: every default, and every fault, said before time is spent."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset, TensorDataset

from autoprune import Metric, Task, classification
from autoprune.core.user_code import call_with_accepted
from autoprune.errors import AutopruneError, DataError, EvaluationError, NonFiniteError, UsageError
from autoprune.tasks.own_data import OwnSplit
from autoprune.tasks.task import PlainPlacement
from autoprune.testing import check_task
from autoprune.training.device.runtime import Runtime
from autoprune.training.device.seeding import seeded
from autoprune.training.scoring import score

CPU = PlainPlacement()


def rows(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, generator=generator)
    return inputs, inputs[:, 0] * 2 - inputs[:, 1]


def squares(output: Tensor, batch: Any) -> Tensor:
    return (output.flatten() - batch[1]) ** 2


def regression(**changes: Any) -> Task:
    def loader(count: int, seed: int) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*rows(count, seed)), 16, shuffle=seed == 1)

    given = {
        "loss": lambda output, batch: squares(output, batch).mean(),
        "score": squares,
        "metric": "rmse",
        "name": "sums",
    }
    return Task(loader(70, 1), loader(40, 2), loader(30, 3), **{**given, **changes})


def linear(inputs: int = 6, outputs: int = 1) -> nn.Module:
    with seeded(0):
        return nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs))


class Named(nn.Module):
    """A network whose arguments have names."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(0):
            self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        x = self.embed(ids)
        return {"logits": self.head(x.mean(1) if mask is None else (x * mask[..., None]).mean(1)), "hidden": x}


def tokens(count: int, seed: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "ids": torch.randint(0, 20, (4, 5), generator=generator),
            "mask": torch.ones(4, 5),
            "labels": torch.randint(0, 3, (4,), generator=generator),
            "names": ["a", "b", "c", "d"],
        }
        for _ in range(count)
    ]


class TestDefaults:
    def test_regression_keeps_the_contract(self) -> None:
        check_task(regression(), linear())

    def test_dictionaries_keep_the_contract(self) -> None:
        check_task(classification(tokens(5, 1), tokens(3, 2), tokens(2, 3)), Named())

    def test_a_tuple_s_first_part_is_what_the_network_gets(self) -> None:
        task, network = regression(), linear()
        batch = next(task.eval_batches("val", 1, CPU))
        assert torch.equal(task.forward(network, batch), network(batch[0]))
        assert task.example(network).shape == (6,)
        assert task.example(network).size == 1

    def test_a_dictionary_s_entries_are_the_arguments_labels_left_out(self) -> None:
        task, network = classification(tokens(5, 1), tokens(3, 2)), Named()
        inputs = task.example(network)
        assert sorted(inputs.kwargs) == ["ids", "mask"]
        assert inputs.size == 1

    @pytest.mark.parametrize(
        ("batch", "count"),
        [
            (([torch.zeros(3, 8, 8), torch.zeros(3, 9, 7)], torch.zeros(2, 4)), 2),  # images of two sizes
            ((pack_sequence([torch.zeros(length, 5) for length in (6, 4, 3)]), torch.zeros(3)), 3),
            ([torch.zeros(4, 6), torch.zeros(4)], 4),
            ([[torch.zeros(4, 6), torch.zeros(4, 2)], torch.zeros(4)], 4),
            ({"ids": torch.zeros(5, 7), "labels": torch.zeros(5)}, 5),
        ],
    )
    def test_examples_are_counted_in_batches_of_any_form(self, batch: Any, count: int) -> None:
        assert regression().count(batch) == count

    def test_a_split_that_needs_what_is_not_on_offer_says_so(self) -> None:
        with pytest.raises(DataError, match=r"may take any of epoch, seed by name, and others need a default"):
            next(OwnSplit(lambda size: [], "val", "sums", len).batches(0, 0))
        with pytest.raises(DataError, match=r"argument size, which is not on offer; give it a default$"):
            call_with_accepted(lambda size: [], "val of sums", DataError)

    def test_a_zipped_batch_gives_its_images_as_one_list(self) -> None:
        examples = [(torch.full((3, 8, 8), 1.0), {"boxes": torch.zeros(1, 4)}), (torch.zeros(3, 9, 7), {"boxes": None})]
        batch = tuple(zip(*examples, strict=True))
        task, taken = regression(), []

        class Detector(nn.Module):
            def forward(self, images: list[Tensor], targets: Any = None) -> Tensor:
                taken.append((images, targets))
                return images[0].new_zeros(1)

        task.forward(Detector(), batch)
        (images, targets) = taken[0]
        assert type(images) is list
        assert [tuple(image.shape) for image in images] == [(3, 8, 8), (3, 9, 7)]
        assert targets is None
        assert task.count(batch) == 2

    def test_a_tuple_of_arguments_that_forward_does_not_take_is_told(self) -> None:
        batch = (torch.zeros(4, 6), torch.zeros(4, 6), torch.zeros(4, 6)), torch.zeros(4)
        said = refused(lambda: regression().forward(linear(), batch))
        assert "the first part of a batch is a tuple of 3, which are given to the network as arguments" in said
        two = Named(), ((torch.zeros(4, 5, dtype=torch.int64), torch.ones(4, 5)), torch.zeros(4))
        assert regression().forward(*two)["logits"].shape == (4, 3)

    def test_the_example_is_read_once_and_handed_out_unspoilt(self) -> None:
        walks: list[int] = []

        def val() -> list[tuple[Tensor, Tensor]]:
            walks.append(1)
            return [rows(4, 2)]

        task = Task([rows(4, 1)], val, loss=lambda *_: torch.zeros(()), score=squares, metric="rmse")
        first = task.example(linear()).tensors[0]
        first.zero_()
        before = len(walks)
        assert torch.equal(task.example(linear()).tensors[0], rows(4, 2)[0][:1])
        assert len(walks) == before

    def test_an_own_forward_is_followed_to_what_it_calls_the_network_with(self) -> None:
        task = regression(forward=lambda network, batch: network(batch[0] * 2).flatten())
        assert torch.equal(task.example(linear()).tensors[0], rows(40, 2)[0][:1] * 2)
        check_task(task, linear())

    def test_logits_of_any_shape_are_distilled_by_their_divergence(self) -> None:
        task = classification(tokens(5, 1), tokens(3, 2))
        draws = torch.Generator().manual_seed(0)
        student, teacher = torch.randn(4, 3, generator=draws), torch.randn(4, 3, generator=draws)
        batch = tokens(1, 2)[0]
        expected = F.kl_div((student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="batchmean") * 4
        found = task.distill({"logits": student}, {"logits": teacher}, batch, 2.0)
        assert found is not None
        assert torch.allclose(found, expected, rtol=1e-5)
        dense = torch.randn(2, 3, 5, 5, generator=draws), torch.zeros(2, 5, 5, dtype=torch.int64)
        assert task.distill(dense[0], dense[0], (None, dense[1]), 2.0) == 0
        tall = torch.randn(2, 7, 3, generator=draws)
        assert task.distill(tall, tall, (None, torch.zeros(2, 7, dtype=torch.int64)), 2.0) == 0

    def test_real_outputs_are_distilled_by_squared_differences_and_strange_ones_not_at_all(self) -> None:
        task = regression()
        one, other = rows(4, 1)[0][:, :1], rows(4, 2)[0][:, :1]
        assert torch.equal(task.distill(one, other, (None, torch.zeros(4)), 4.0), F.mse_loss(one, other))
        assert task.distill([one, one], [other, other], (None, torch.zeros(4)), 4.0) is None
        assert task.distill(one, other, (None, ["a"]), 4.0) is None

    def test_rmse_is_the_root_of_the_mean_with_an_error_by_resampling(self) -> None:
        found = score(linear(), regression(), "val", Runtime(threads=1))
        inputs, wanted = rows(40, 2)
        errors = (linear()(inputs).detach().flatten() - wanted) ** 2
        assert found.measurement["rmse"] == pytest.approx(float(errors.mean().sqrt()), rel=1e-5)
        delta = float(errors.std()) / 40**0.5 / (2 * found.measurement["rmse"])  # by the delta method
        assert found.measurement.error("rmse") == pytest.approx(delta, rel=0.25)
        assert found.paired is not None
        assert found.paired.kind == "resampled"

    def test_perplexity_is_the_exponential_of_the_mean_with_an_error_by_resampling(self) -> None:
        task = regression(score=lambda *given: squares(*given) / 20, metric="perplexity")
        found = score(linear(), task, "val", Runtime(threads=1))
        inputs, wanted = rows(40, 2)
        nats = (linear()(inputs).detach().flatten() - wanted) ** 2 / 20
        assert found.measurement["perplexity"] == pytest.approx(float(nats.mean().exp()), rel=1e-5)
        delta = float(nats.std()) / 40**0.5 * found.measurement["perplexity"]  # by the delta method
        assert found.measurement.error("perplexity") == pytest.approx(delta, rel=0.25)
        assert found.paired is not None
        assert found.paired.kind == "resampled"

    def test_several_metrics_of_which_the_first_leads(self) -> None:
        task = regression(
            score=lambda output, batch: {"near": squares(output, batch) < 1, "mae": squares(output, batch).sqrt()},
            metric=[Metric("near", "%", "max"), "mae"],
        )
        found = score(linear(), task, "val", Runtime(threads=1)).measurement
        assert list(found.values) == ["near", "mae", "loss"]
        assert set(found.stderr) == {"near", "mae", "loss"}

    def test_a_whole_split_is_judged_where_examples_cannot_be(self) -> None:
        def evaluate(network: nn.Module, batches: Iterator[Any]) -> tuple[float, float, int]:
            errors = torch.cat([squares(network(batch[0]), batch) for batch in batches])
            return float(errors.mean().sqrt()), 0.25, len(errors)

        found = score(linear(), regression(score=None, evaluate=evaluate), "val", Runtime(threads=1))
        assert (found.count, found.measurement.error("rmse"), found.paired) == (40, 0.25, None)
        assert found.loss == found.measurement["rmse"]

    def test_a_metric_in_torchmetrics_form_is_taken_as_it_is(self) -> None:
        class MeanGap:
            higher_is_better = False

            def __init__(self) -> None:
                self.seen: list[Tensor] = []

            def reset(self) -> None:
                self.seen.clear()

            def update(self, output: Tensor, target: Tensor) -> None:
                self.seen.append((output.flatten() - target).abs())

            def compute(self) -> Tensor:
                return torch.cat(self.seen).mean()

        task = regression(score=None, metric=MeanGap())
        assert (task.metric.name, task.metric.goal) == ("mean_gap", "min")
        inputs, wanted = rows(40, 2)
        found = score(linear(), task, "val", Runtime(threads=1)).measurement
        assert found["mean_gap"] == pytest.approx(
            float((linear()(inputs).detach().flatten() - wanted).abs().mean()), rel=1e-5
        )
        assert "mean_gap" not in found.stderr

    def test_a_metric_in_torchmetrics_form_finds_the_logits_of_a_dictionary(self) -> None:
        class Share:
            higher_is_better = True
            total = 0.0

            def reset(self) -> None:
                self.total = 0.0

            def update(self, output: Tensor, target: Tensor) -> None:
                self.total += float((output.argmax(1) == target).float().mean())

            def compute(self) -> float:
                return self.total

        batch = tokens(1, 2)[0]
        task = classification(tokens(1, 1), [batch], score=None, metric=Share())
        hits = (Named()(batch["ids"], batch["mask"])["logits"].argmax(1) == batch["labels"]).float().mean()
        assert score(Named(), task, "val", Runtime(threads=1)).measurement["share"] == pytest.approx(float(hits))


class Drawn(Dataset[tuple[Tensor, Tensor]]):
    """Examples that are augmented by the global streams of random numbers."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(6) + float(np.random.rand()) + random.random()
        return noise, torch.tensor(float(index))


class TestStreams:
    def test_an_epoch_is_a_function_of_its_seed_whatever_else_draws(self) -> None:
        task = Task(
            DataLoader(Drawn(), 8, shuffle=True), DataLoader(Drawn(), 8), loss=squares, score=squares, metric="mse"
        )

        def epoch(seed: int, draws: int) -> list[Tensor]:
            found = []
            with seeded(7):
                for batch in task.train_stream(8, 0, seed, CPU):
                    torch.rand(draws)
                    found.append(torch.cat([batch[0], batch[1][:, None]], 1))
            return found

        one, again, other = epoch(0, 1), epoch(0, 5), epoch(1, 1)
        assert all(map(torch.equal, one, again))
        assert not any(map(torch.equal, one, other))

    def test_global_streams_are_left_alone(self) -> None:
        task = regression()
        with seeded(3):
            before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
            list(task.train_stream(8, 0, 0, CPU))
            assert torch.equal(before[0], torch.get_rng_state())
            assert np.array_equal(before[1], np.random.get_state()[1])
            assert before[2] == random.getstate()

    def test_a_function_is_given_epoch_and_seed(self) -> None:
        def batches(epoch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
            yield from [rows(4, 100 * seed + epoch)] * 3

        task = Task(batches, [rows(4, 1)], loss=squares, score=squares, metric="mse")
        assert torch.equal(next(task.train_stream(1, 2, 5, CPU))[0], rows(4, 502)[0])
        assert task.steps_per_epoch(64) == 3
        assert task.batch_size_of(64) == 4

    def test_a_shuffled_split_is_judged_in_one_order(self) -> None:
        loader = DataLoader(TensorDataset(*rows(40, 2)), 8, shuffle=True)
        task = Task([rows(8, 1)], loader, loss=squares, score=squares, metric="mse")
        one, other = (torch.cat([b[0] for b in task.eval_batches("val", 8, CPU)]) for _ in range(2))
        assert torch.equal(one, other)

    def test_the_loader_s_own_generator_is_left_as_it_was(self) -> None:
        generator = torch.Generator().manual_seed(5)
        loader = DataLoader(TensorDataset(*rows(40, 2)), 8, shuffle=True, generator=generator)
        before = generator.get_state()
        task = Task(loader, [rows(8, 1)], loss=squares, score=squares, metric="mse")
        one, other = (torch.cat([b[0] for b in task.train_stream(8, 0, 1, CPU)]) for _ in range(2))
        assert torch.equal(one, other)
        assert torch.equal(before, generator.get_state())

    def test_a_list_s_own_tensors_are_not_what_a_network_writes_into(self) -> None:
        batches = [rows(8, 1)]
        task = Task(batches, batches, loss=lambda *given: squares(*given).mean(), score=squares, metric="mse")
        for batch in (next(task.train_stream(8, 0, 0, CPU)), next(task.eval_batches("val", 8, CPU))):
            batch[0].zero_()
        check_task(task, linear())
        assert torch.equal(batches[0][0], rows(8, 1)[0])

    def test_identity_follows_the_data(self) -> None:
        assert regression().identity() == regression().identity()
        other = Task([rows(8, 1)], [rows(8, 2)], loss=squares, score=squares, metric="mse").identity()
        assert other != Task([rows(8, 1)], [rows(8, 3)], loss=squares, score=squares, metric="mse").identity()
        assert regression(identity="mine, 3").identity() == "mine, 3"


def huge(output: Tensor, batch: Any) -> Tensor:
    return squares(output, batch) + 1e4


def refused(make: Any) -> str:
    with pytest.raises(AutopruneError) as raised:
        make()
    return str(raised.value)


class Opaque:
    """What nobody can look into."""


class TestFaults:
    def test_what_is_no_data(self) -> None:
        assert "ends after one pass" in refused(lambda: Task(iter([1]), [], loss=squares, score=squares, metric="mse"))
        assert "expected an iterable of batches" in refused(
            lambda: Task(3, [rows(4, 1)], loss=squares, score=squares, metric="mse")
        )
        assert "val is None" in refused(lambda: Task([rows(4, 1)], None, loss=squares, score=squares, metric="mse"))
        empty = Task([], [rows(4, 1)], loss=squares, score=squares, metric="mse")
        assert "has no batch with an example" in refused(lambda: empty.sizes)

    def test_what_is_no_judgement(self) -> None:
        assert "nothing says how a network is judged" in refused(lambda: regression(score=None))
        assert "there is no loss" in refused(lambda: regression(loss=None))
        assert "'psnrs' has the goal ''" in refused(lambda: regression(metric="psnrs"))
        assert "a task was given no metric" in refused(lambda: regression(metric=None))
        assert "Metric('psnrs', goal='max') in Python" in refused(lambda: regression(metric="psnrs"))
        assert "reduce names f1" in refused(lambda: regression(reduce={"f1": float}))

    def test_a_batch_that_the_network_cannot_be_given(self) -> None:
        task = classification([{"text": ["a"], "labels": torch.zeros(1)}], tokens(1, 1))
        batch = next(task.train_stream(1, 0, 0, CPU))
        assert "a batch is {text: list of str, labels: float32(1,)}" in refused(lambda: task.inputs(Named(), batch))
        assert "forward takes ids, mask" in refused(lambda: task.inputs(Named(), batch))
        strange = Task([Opaque()], [Opaque()], loss=squares, score=squares, metric="mse")
        assert "give forward=" in refused(lambda: strange.inputs(linear(), Opaque()))

    def test_labels_that_a_dictionary_calls_otherwise(self) -> None:
        batch = {"ids": torch.zeros(2, 3, dtype=torch.int64), "label_ids": torch.zeros(2).long()}
        task = classification([batch], [batch])
        said = refused(lambda: task.loss(torch.zeros(2, 3), batch))
        assert "what a dictionary calls label, labels, target, targets, y" in said

    def test_a_forward_that_never_calls_the_network(self) -> None:
        task = regression(forward=lambda network, batch: batch[1])
        assert "forward does not call the network" in refused(lambda: task.example(linear()))

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (lambda output, batch: squares(output, batch), "the loss is float32(16,)"),
            (lambda output, batch: 0.5, "the loss is float"),
            (lambda output, batch: torch.tensor(3), "the loss is int64(); expected a real scalar"),
        ],
    )
    def test_a_loss_that_is_no_scalar(self, given: Any, said: str) -> None:
        task = regression(loss=given)
        assert said in refused(lambda: score(linear(), task, "val", Runtime(threads=1)))

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (lambda output, batch: squares(output, batch)[:3], "shape (3,) of rmse for a batch of 16 examples"),
            (lambda output, batch: squares(output, batch).mean(), "shape () of rmse"),
            (lambda output, batch: {"mae": squares(output, batch)}, "score gave mae and not rmse"),
            (lambda output, batch: "good", "str of rmse"),
            (
                lambda output, batch: squares(output, batch).detach().numpy(),
                "ndarray of rmse for a batch of 16 examples; expected a tensor (16,)",
            ),
        ],
    )
    def test_a_score_of_another_form(self, given: Any, said: str) -> None:
        task = regression(score=given)
        assert said in refused(lambda: score(linear(), task, "val", Runtime(threads=1)))

    def test_rows_of_several_numbers_need_a_reduction(self) -> None:
        task = regression(score=lambda output, batch: squares(output, batch)[:, None].expand(-1, 2), metric="mse")
        assert "2 numbers of mse for each example; give reduce" in refused(
            lambda: score(linear(), task, "val", Runtime(threads=1))
        )

    def test_a_score_that_is_not_finite(self) -> None:
        task = regression(score=lambda output, batch: squares(output, batch) * torch.nan)
        with pytest.raises(NonFiniteError, match="rmse on the val examples is nan"):
            score(linear(), task, "val", Runtime(threads=1))

    def test_a_percentage_of_more_than_one(self) -> None:
        task = regression(score=lambda output, batch: squares(output, batch) + 50, metric="dice")
        with pytest.raises(DataError, match="a metric in % is a fraction from 0 to 1; divide"):
            score(linear(), task, "val", Runtime(threads=1))

    def test_data_that_cannot_be_hashed(self) -> None:
        batches = [{"ids": torch.zeros(2, 3, dtype=torch.int64), "labels": torch.zeros(2).long(), "of": Opaque()}]
        task = classification(batches, batches)
        assert "holds a Opaque, whose content cannot be hashed" in refused(task.identity)
        assert classification(batches, batches, identity="v1").identity() == "v1"

    def test_data_that_fails_while_it_is_read(self) -> None:
        def broken() -> Iterator[Any]:
            yield rows(4, 1)
            raise OSError("disk on fire")

        task = Task(broken, [rows(4, 1)], loss=squares, score=squares, metric="mse")
        assert "train fails while it is read: OSError: disk on fire (test_own_task.py" in refused(lambda: task.sizes)

    @pytest.mark.parametrize("given", ["much", (1.0, -2.0, 3), (1.0, 2.0, 3.0, 4.0), {"mae": 1.0}, float("nan")])
    def test_an_evaluation_of_another_form(self, given: Any) -> None:
        task = regression(score=None, evaluate=lambda network, batches: given)
        with pytest.raises((DataError, NonFiniteError), match="evaluate of sums gave"):
            score(linear(), task, "val", Runtime(threads=1))

    def test_data_that_ends_after_one_pass_though_it_is_no_iterator(self) -> None:
        made = iter([rows(4, 1), rows(4, 2)])
        task = Task(lambda: made, [rows(4, 1)], loss=squares, score=squares, metric="mse")
        assert task.sizes["train"] == 8
        said = refused(lambda: list(task.train_stream(4, 1, 0, PlainPlacement())))
        assert "train gives no batch when it is walked again" in said

    @pytest.mark.parametrize(
        ("reduce", "said"),
        [
            (
                lambda found: found.mean(0, keepdim=True).expand(2),
                r"reduce of mse gave float32\(2,\); expected one number",
            ),
            (lambda found: None, "reduce of mse gave NoneType"),
            (lambda found: found.nope(), "reduce of mse fails: AttributeError"),
        ],
    )
    def test_a_reduction_that_gives_no_number(self, reduce: Any, said: str) -> None:
        with pytest.raises(DataError, match=said):
            score(linear(), regression(metric="mse", reduce=reduce), "val", Runtime(threads=1))

    def test_a_reduction_may_give_a_tensor(self) -> None:
        task = regression(metric="mse", reduce=lambda found: found.mean())
        assert type(task.reductions["mse"](torch.tensor([1.0, 2.0]))) is float

    def test_scores_that_a_known_metric_cannot_be_made_of(self) -> None:
        for changes in ({"score": lambda *each: -squares(*each)}, {"score": huge, "metric": "perplexity"}):
            with pytest.raises(NonFiniteError, match=" on the val examples is "):
                score(linear(), regression(**changes), "val", Runtime(threads=1))

    def test_a_metric_in_torchmetrics_form_that_fails_is_named(self) -> None:
        class Curve:
            higher_is_better = True
            reset = update = lambda self, *given: None

            def compute(self) -> dict[str, float]:
                return {"map": 0.5}

        task = regression(score=None, metric=Curve())
        with pytest.raises(DataError, match=r"Curve.compute gave \{map: float\}; expected one number"):
            score(linear(), task, "val", Runtime(threads=1))

    def test_a_metric_in_torchmetrics_form_that_stands_where_it_cannot(self) -> None:
        class Curve:
            higher_is_better = None
            reset = update = compute = lambda self, *given: None

        assert "higher_is_better is None" in refused(lambda: regression(score=None, metric=Curve()))
        assert "expected a Metric" in refused(lambda: regression(score=None, metric=[Curve(), "mae"]))
        assert "is list of Curve, str" in refused(lambda: regression(score=None, metric=[Curve(), "mae"]))
        for argument in ("score", "evaluate"):
            said = refused(lambda name=argument: regression(**{"score": None, name: Curve()}))  # type: ignore[misc]
            assert f"{argument} is Curve, a metric in torchmetrics' form" in said
            assert "give metric=Curve(…)" in said

    def test_a_score_that_is_a_list_is_shown_in_short(self) -> None:
        task = regression(score=lambda output, batch: [0.5] * len(output))
        with pytest.raises(DataError, match="score gave list of 16 × float of rmse for a batch of 16 examples"):
            score(linear(), task, "val", Runtime(threads=1))

    @pytest.mark.parametrize(
        ("distill", "said"),
        [
            (lambda *each: each[0] - each[1], r"distill gave float32\(4, 1\)"),
            (lambda *each: each[9], "distill fails: I"),
        ],
    )
    def test_a_distillation_that_gives_no_scalar(self, distill: Any, said: str) -> None:
        outputs = torch.zeros(4, 1), torch.ones(4, 1)
        with pytest.raises(DataError, match=said):
            regression(distill=distill).distill(*outputs, rows(4, 1), 1.0)

    def test_a_loop_of_a_subclass_is_watched_as_a_function_is(self) -> None:
        class Replaces(Task):
            def finetune(self, network: nn.Module, steps: int, seed: int, on_step: Any) -> None:  # type: ignore[override]
                if steps == 3:
                    raise KeyError("lr")
                network.forward = torch.zeros_like  # type: ignore[assignment]

        task = Replaces([rows(4, 1)], [rows(4, 2)], score=squares, metric="mse", name="sums")
        assert task.finetune is not None
        with pytest.raises(DataError, match=r"finetune of sums leaves .* another forward \(the network itself\)"):
            task.finetune(linear(), 1, 0, lambda done, total: None)
        with pytest.raises(EvaluationError, match="finetune of sums fails: KeyError: 'lr'"):
            task.finetune(linear(), 3, 0, lambda done, total: None)

    @pytest.mark.parametrize(
        "leaves",
        [
            lambda network: network[0].register_forward_hook(lambda *given: None),
            lambda network: network[0].register_forward_pre_hook(lambda *given: None),
            lambda network: network[0].register_full_backward_hook(lambda *given: None),
            lambda network: network[0].register_full_backward_pre_hook(lambda *given: None),
            lambda network: network.register_state_dict_post_hook(lambda *given: None),
            lambda network: network.register_load_state_dict_pre_hook(lambda *given: None),
            lambda network: network[0].weight.register_hook(lambda gradient: gradient),
            lambda network: network[0].weight.register_post_accumulate_grad_hook(lambda weight: None),
        ],
    )
    def test_a_hook_of_any_kind_that_a_loop_leaves(self, leaves: Any) -> None:
        task = regression(finetune=lambda network, steps, seed, on_step: leaves(network) and None)
        assert task.finetune is not None
        with pytest.raises(DataError, match="leaves 1 hooks on the network"):
            task.finetune(linear(), 1, 0, lambda done, total: None)
        judging = regression(score=None, evaluate=lambda network, batches: (leaves(network) and None) or 1.0)
        with pytest.raises(DataError, match="evaluate of sums leaves 1 hooks on the network"):
            score(linear(), judging, "val", Runtime(threads=1))

    def test_a_buffer_that_a_loop_adds_is_named(self) -> None:
        task = regression(finetune=lambda network, *_: network.register_buffer("average", torch.zeros(2)))
        assert task.finetune is not None
        with pytest.raises(DataError, match=r"other parameters than it got \(average\)"):
            task.finetune(linear(), 1, 0, lambda done, total: None)

    def test_an_evaluation_that_leaves_the_network_in_another_mode_or_without_weights(self) -> None:
        network = linear().eval()
        task = regression(score=None, evaluate=lambda network, batches: network.train() and 1.0)
        score(network, task, "val", Runtime(threads=1))
        assert not network.training
        gone = regression(score=None, evaluate=lambda network, batches: network.to("meta") and 1.0)
        with pytest.raises(DataError, match="evaluate of sums leaves the network on the device meta"):
            score(linear(), gone, "val", Runtime(threads=1))

    def test_an_evaluation_that_fails_is_named(self) -> None:
        task = regression(score=None, evaluate=lambda network, batches: network.nope)
        with pytest.raises(DataError, match=r"evaluate of sums fails: AttributeError.*test_own_task\.py"):
            score(linear(), task, "val", Runtime(threads=1))

    def test_a_batch_without_tensors_says_what_it_holds(self) -> None:
        said = refused(
            lambda: Task([(np.zeros((4, 6)), 1)], [rows(4, 1)], loss=squares, score=squares, metric="mse").sizes
        )
        assert "a batch is tuple of ndarray, int" in said
        assert "torch.from_numpy" in said

    def test_metrics_have_names_of_their_own(self) -> None:
        assert "rmse more than once" in refused(lambda: regression(metric=["rmse", "rmse"]))
        assert "called 'loss'" in refused(lambda: regression(metric=Metric("loss", "", "min")))

    def test_the_contract_names_what_is_broken(self) -> None:
        class Moody(Task):
            def identity(self) -> str:
                return str(random.random())

        with pytest.raises(AssertionError, match="identity"):
            check_task(Moody([rows(8, 1)], [rows(8, 2)], loss=squares, score=squares, metric="mse"), linear())

        class Shared(Task):
            def eval_batches(self, *_: Any) -> Iterator[Any]:
                return iter(kept)

        kept = [rows(8, 2)]
        with pytest.raises(AssertionError, match="is changed by what uses it"):
            check_task(Shared([rows(8, 2)], [rows(8, 2)], loss=squares, score=squares, metric="mse"), linear())
        flat = regression(loss=lambda output, batch: squares(output.detach(), batch).mean())
        with pytest.raises(AssertionError, match="the loss has no gradient"):
            check_task(flat, linear())

    def test_a_metric_of_a_name_that_is_taken(self) -> None:
        from autoprune.core.metrics import register

        with pytest.raises(
            UsageError, match="'mflops' is to be a quality whose goal is max, and is known here as a cost"
        ):
            register([Metric("mflops", goal="max")])
