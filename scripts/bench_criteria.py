"""Which importance criterion is worth what: accuracy after recalibration and after a short fine-tune, for each.

    python scripts/bench_criteria.py --images cifar10 --weights resnet20.safetensors --json criteria.json

A trained network is brought to a budget by two policies, uniform sparsity and a sensitivity knapsack, with the channels
chosen by each criterion in turn; every candidate is recalibrated, scored, fine-tuned for the same few steps on the same
images with the dense network as teacher, and scored again on validation. Seeds change the calibration images, the
stream of the fine-tune and what is random. Criteria take turns within a seed. The first figure of a row is a mean over
seeds, with the standard error of that mean; test images are never read.

The knapsack measures the rise of the training loss when a group alone is cut to three levels (channels by l2,
recalibrated), and minimises the sum of rises under the budget by a Lagrangian.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2.functional import pil_to_tensor

from autoprune.core.budget import Budget
from autoprune.core.builtin_names import IMPORTANCES
from autoprune.core.counts import ChannelCounts
from autoprune.core.policy import PruningPolicy
from autoprune.core.space import SearchSpace
from autoprune.cost.cost_model import CostModel
from autoprune.models.build import build_model
from autoprune.pruning.channel_positions import tensor_shrinks
from autoprune.pruning.groups import find_groups
from autoprune.pruning.importance import Calibration, score_groups
from autoprune.pruning.surgery import Pruner
from autoprune.search.proposals.budget_projection import Projector
from autoprune.search.proposals.wished_counts import WishedCounts
from autoprune.tasks.builtin import build_task
from autoprune.tasks.in_memory import Arrays, ArrayTask
from autoprune.tasks.task import DataTask, stream_seed
from autoprune.training.device.resolve_runtime import resolve_runtime
from autoprune.training.device.runtime import Runtime
from autoprune.training.distillation import Teacher
from autoprune.training.finetune import finetune
from autoprune.training.loop import TrainingRun
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm
from autoprune.training.scoring import score
from autoprune.training.settings import FinetuneSettings

LEVELS = (0.75, 0.5, 0.25)
RECALIBRATION, SENSITIVITY_IMAGES = 512, 1024


@dataclass(frozen=True)
class Row:
    """One candidate."""

    seed: int
    policy: str
    criterion: str
    recalibrated: float
    finetuned: float
    loss: float
    mflops: float


def main() -> None:
    options = parse_arguments()
    runtime = resolve_runtime("cpu", "auto", options.layout, options.threads)
    runtime.apply_threads()
    task = folder_task(Path(options.images)) if options.images else build_task(options.data)
    network = build_model(
        options.network,
        num_classes=task.num_classes,
        in_channels=task.input_shape[0],
        seed=0,
        weights=options.weights,
    )
    bench = Bench(options, task, runtime, runtime.place(network).eval())
    rows, seconds = [], {name: list[float]() for name in options.criteria}
    for seed in range(options.seeds):
        for row in bench.run(seed, seconds):
            rows.append(row)
            print(
                f"seed {seed} {row.policy:8s} {row.criterion:10s} {row.recalibrated:.4f} {row.finetuned:.4f}",
                flush=True,
            )
            if options.json:
                write(options, rows, seconds, bench)
    show(rows, seconds, bench)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--weights", default="", help="trained weights; empty: the network as initialised")
    parser.add_argument("--images", default="", help="folder with train/<class>/* and val/<class>/*, all of one size")
    parser.add_argument("--data", default="digits", help="any data source, if there is no --images")
    parser.add_argument("--budget-mflops", default="20")
    parser.add_argument("--criteria", type=lambda text: text.split(","), default=sorted(IMPORTANCES.builtins))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="of the fine-tune")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--calibration-images", type=int, default=512)
    parser.add_argument("--layout", default="contiguous")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", default="")
    return parser.parse_args()


def folder_task(root: Path) -> DataTask:
    """Read a whole folder of small images into memory, to be cropped and mirrored as CIFAR is."""
    splits = {}
    for split in ("train", "val"):
        folder = ImageFolder(str(root / split))
        images = torch.stack([pil_to_tensor(folder[i][0]) for i in range(len(folder))])
        splits[split] = Arrays(images, torch.tensor(folder.targets))
    return ArrayTask(root.name, splits["train"], splits["val"], padding=4, flip=True)


class Bench:
    """What all candidates share."""

    def __init__(self, options: argparse.Namespace, task: DataTask, runtime: Runtime, network: nn.Module) -> None:
        self.options, self.task, self.runtime, self.network = options, task, runtime, network
        example = torch.rand(2, *task.input_shape, generator=torch.Generator().manual_seed(0))
        self.groups = find_groups(network, example).cuttable
        channels = {group.name: group.num_channels for group in self.groups}
        self.cost = CostModel(network, tensor_shrinks(network, self.groups), channels, example)
        self.budget = Budget.parse({"mflops": options.budget_mflops}).resolve(self.cost.measure(ChannelCounts()))
        self.teacher = Teacher(network, task, runtime)
        self.dense = score(network, task, "val", runtime)
        self.settings = self._settings()

    def _settings(self) -> FinetuneSettings:
        options = self.options
        per_epoch = self.task.sizes["train"] / options.batch_size
        return FinetuneSettings(options.steps / per_epoch, options.batch_size, options.lr, 5e-4, distill=True)

    def run(self, seed: int, seconds: Mapping[str, list[float]]) -> Iterator[Row]:
        """Yield every candidate of one seed; note how long each criterion took to score the network."""
        scores: dict[str, dict[str, Tensor]] = {}
        for name in self.options.criteria:
            started = time.perf_counter()
            scores |= score_groups(self.network, self.groups, [name], self._calibration(seed))
            seconds[name].append(time.perf_counter() - started)
        for label, kept in self._policies(scores["l2"] if "l2" in scores else next(iter(scores.values())), seed):
            for name in self.options.criteria:
                yield self._candidate(seed, label, name, kept, scores)

    def _calibration(self, seed: int) -> Calibration:
        stream = self.task.train_stream(64, 0, stream_seed(seed, 77), self.runtime)
        wanted = -(-self.options.calibration_images // 64)
        batches = [(batch.images, batch.labels) for batch, _ in zip(stream, range(wanted), strict=False)]
        return Calibration(batches, seed, self.task.input_shape)

    def _space(self, names: Sequence[str]) -> SearchSpace:
        return SearchSpace(self.groups, {group.name: tuple(names) for group in self.groups})

    def _policies(self, ranking: Mapping[str, Tensor], seed: int) -> Iterator[tuple[str, ChannelCounts]]:
        space = self._space(["ranking"])
        projector = Projector(space, self.cost, self.budget)
        yield "uniform", projector.fit(WishedCounts({name: n / 2 for name, n in space.full.channels.items()}))
        rises = self._sensitivity(Pruner(self.network, space, {"ranking": ranking}), seed)
        yield "knapsack", projector.fit(WishedCounts(knapsack(projector, rises)))

    def _sensitivity(self, pruner: Pruner, seed: int) -> dict[str, dict[int, float]]:
        """Return group → channels kept → rise of the training loss when it alone is cut."""

        def loss(policy: PruningPolicy) -> float:
            network = self.runtime.place(pruner.prune(policy))
            recalibrate_batchnorm(network, self.task, RECALIBRATION, self.runtime, seed)
            return score(network, self.task, "train", self.runtime, limit=SENSITIVITY_IMAGES).loss

        space = pruner.space
        dense = loss(space.policy(ChannelCounts()))
        return {
            name: {
                space.nearest(name, group.num_channels * level): max(
                    0.0,
                    loss(space.policy(ChannelCounts({name: space.nearest(name, group.num_channels * level)}))) - dense,
                )
                for level in LEVELS
            }
            | {group.num_channels: 0.0}
            for name, group in space.by_name.items()
        }

    def _candidate(
        self, seed: int, label: str, name: str, counts: ChannelCounts, scores: Mapping[str, Mapping[str, Tensor]]
    ) -> Row:
        """Cut by one criterion; where it does not apply to a group, l2 decides, and the table says so."""
        chosen = {g.name: scores[name].get(g.name, scores["l2"][g.name]) for g in self.groups}
        space = self._space([name])
        policy = space.policy(counts, dict.fromkeys(space.by_name, name))
        network = self.runtime.place(Pruner(self.network, space, {name: chosen}).prune(policy))
        recalibrate_batchnorm(network, self.task, RECALIBRATION, self.runtime, seed)
        before = score(network, self.task, "val", self.runtime).measurement["accuracy"]
        finetune(network, TrainingRun(self.task, self.settings, self.runtime, seed), self.teacher)
        after = score(network, self.task, "val", self.runtime)
        return Row(
            seed, label, name, before, after.measurement["accuracy"], after.loss, self.cost.measure(counts)["mflops"]
        )


def knapsack(projector: Projector, rises: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Return counts within the budget that minimise the sum of rises, by bisection on the price of a MAC."""
    full = projector.cost.measure(ChannelCounts())["mflops"]
    saved = {
        name: {count: full - projector.cost.measure(ChannelCounts({name: count}))["mflops"] for count in levels}
        for name, levels in rises.items()
    }

    def at(price: float) -> dict[str, float]:
        return {
            name: float(min(levels, key=lambda count: (levels[count] - price * saved[name][count], -count)))
            for name, levels in rises.items()
        }

    low, high = 0.0, 1.0
    while projector.usage({n: int(c) for n, c in at(high).items()}) > 1 and high < 1e9:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        met = projector.usage({n: int(c) for n, c in at(middle).items()}) <= 1
        low, high = (low, middle) if met else (middle, high)
    return at(high)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    spread = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return statistics.fmean(values), spread


def show(rows: Sequence[Row], seconds: Mapping[str, Sequence[float]], bench: Bench) -> None:
    measured = bench.dense.measurement
    shown = f"{100 * measured['accuracy']:.2f} ± {100 * measured.error('accuracy'):.2f} %"
    print(f"dense {shown} on {bench.dense.count}")
    for policy in dict.fromkeys(row.policy for row in rows):
        print(f"\n{policy}: validation accuracy in %, mean ± standard error over seeds")
        print("| criterion | after recalibration | after fine-tune | seconds to score |\n|---|---|---|---|")
        mine = [row for row in rows if row.policy == policy]
        for name in sorted(seconds, key=lambda n: -statistics.fmean(r.finetuned for r in mine if r.criterion == n)):
            before = mean_and_error([100 * r.recalibrated for r in mine if r.criterion == name])
            after = mean_and_error([100 * r.finetuned for r in mine if r.criterion == name])
            took = statistics.median(seconds[name])
            print(f"| {name} | {before[0]:.2f} ± {before[1]:.2f} | {after[0]:.2f} ± {after[1]:.2f} | {took:.2f} |")


def write(
    options: argparse.Namespace, rows: Sequence[Row], seconds: Mapping[str, Sequence[float]], bench: Bench
) -> None:
    document = {
        "options": vars(options),
        "dense": asdict(bench.dense),
        "rows": [asdict(row) for row in rows],
        "seconds": dict(seconds),
    }
    Path(options.json).write_text(json.dumps(document, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
