"""How fast fine-tuning is: our loop, the same loop by hand, and the loop one would write without thinking.

    python scripts/bench_finetune.py --network resnet20 --rounds 7 --steps 34 --json bench.json

Four ways to train copies of one network on the same images, taken in turn within every round, so that
whatever else the machine does meets all four alike:

- ours: ``autoprune.training.finetune`` with augmentation and a stored teacher;
- bare: a hand-written loop with the same network, precision, layout, batches, loss and teacher's answers;
- naive: float32, contiguous, a DataLoader over PIL images transformed one by one, cross-entropy only;
- naive, live teacher: the same, distilling from the dense network run on every batch.

Ratios are taken within a round; printed are their median and their range.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from autoprune.models.build import build_model
from autoprune.tasks.builtin import build_task
from autoprune.tasks.distill import softened_divergence
from autoprune.tasks.task import DataTask, steps_per_epoch
from autoprune.training.device.evaluation_mode import evaluating
from autoprune.training.device.resolve_runtime import resolve_runtime
from autoprune.training.device.runtime import Runtime
from autoprune.training.distillation import Teacher
from autoprune.training.finetune import finetune
from autoprune.training.loop import TrainingRun
from autoprune.training.settings import FinetuneSettings

SEED, LR, WEIGHT_DECAY = 0, 0.01, 5e-4
OURS, BARE, NAIVE, NAIVE_TEACHER = "ours", "bare", "naive", "naive, live teacher"


def main() -> None:
    """Measure and print."""
    options = parse_arguments()
    runtime = resolve_runtime(options.device, options.precision, "auto", options.threads)
    runtime.apply_threads()
    task = build_task(options.data, root=options.root)
    dense = build_model(options.network, num_classes=task.num_classes, in_channels=task.input_shape[0], seed=SEED)
    ways = make_ways(dense, task, runtime, options)
    for way in ways.values():
        way(3)  # allocators, kernels and the teacher's store
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            speeds[name].append(options.steps * options.batch_size / way(options.steps))
    report(speeds, runtime, options)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20", help="any model source of autoprune")
    parser.add_argument("--data", default="digits", help="any data source of autoprune that fits in memory")
    parser.add_argument("--root", default="", help="where downloaded data lies")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20, help="training steps of each way in each round")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    parser.add_argument("--workers", type=int, default=0, help="processes of the naive loop's DataLoader")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", help="of ours and bare: auto, fp32 or bf16")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


def make_ways(
    dense: nn.Module, task: DataTask, runtime: Runtime, options: argparse.Namespace
) -> dict[str, Callable[[int], float]]:
    """Return, by name, functions from a number of full-batch steps to the seconds they took."""
    teacher = Teacher(copy.deepcopy(dense), task, runtime)
    plain = Runtime(runtime.device)
    images = PerImage(task)
    return {
        OURS: lambda steps: ours(dense, task, runtime, teacher, steps, options.batch_size),
        BARE: lambda steps: bare(dense, task, runtime, teacher, steps, options.batch_size),
        NAIVE: lambda steps: naive(dense, images, plain, None, steps, options),
        NAIVE_TEACHER: lambda steps: naive(dense, images, plain, copy.deepcopy(dense), steps, options),
    }


def ours(dense: nn.Module, task: DataTask, runtime: Runtime, teacher: Teacher, steps: int, batch_size: int) -> float:
    network = runtime.place(copy.deepcopy(dense))
    epochs = steps / steps_per_epoch(task.sizes["train"], batch_size)
    settings = FinetuneSettings(epochs, batch_size, LR, WEIGHT_DECAY, distill=True)
    return finetune(network, TrainingRun(task, settings, runtime, SEED), teacher).seconds


def distillation_loss(logits: Tensor, labels: Tensor, answers: Tensor) -> Tensor:
    """Return 0.1 · cross-entropy + 0.9 · the divergence at temperature 4, as the fine-tune's defaults have it."""
    return 0.1 * F.cross_entropy(logits, labels) + 0.9 * softened_divergence(logits, answers, 4.0)


def bare(dense: nn.Module, task: DataTask, runtime: Runtime, teacher: Teacher, steps: int, batch_size: int) -> float:
    per_epoch = steps_per_epoch(task.sizes["train"], batch_size)
    answers = [teacher.targets(epoch, SEED, batch_size) for epoch in range(-(-steps // per_epoch))]
    network = runtime.place(copy.deepcopy(dense)).train()
    optimizer = torch.optim.SGD(network.parameters(), LR, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    started, done = time.perf_counter(), 0
    for epoch in itertools.count():
        for position, batch in enumerate(task.train_stream(batch_size, epoch, SEED, runtime)):
            with runtime.autocast():
                logits = network(batch.images).float()
            loss = distillation_loss(logits, batch.labels, answers[epoch](position, batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done == steps:
                loss.item()
                return time.perf_counter() - started
    raise RuntimeError("an epoch without end ended")


class PerImage(Dataset[Any]):
    """The training images in the form of most data sets: PIL images, transformed one at a time."""

    def __init__(self, task: DataTask) -> None:
        batches = list(task.eval_batches("train", 1024, Runtime()))
        images = torch.cat([batch.images for batch in batches])
        low, high = images.min(), images.max()
        bytes_ = ((images - low) / (high - low) * 255).to(torch.uint8).permute(0, 2, 3, 1).squeeze(-1).numpy()
        self.images = [Image.fromarray(image) for image in bytes_]
        self.labels = torch.cat([batch.labels for batch in batches]).tolist()
        channels, side = images.shape[1], images.shape[-1]
        self.transform = v2.Compose(
            [
                v2.RandomCrop(side, padding=side // 8),
                v2.RandomHorizontalFlip(0.0 if task.name == "digits" else 0.5),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.5] * channels, [0.25] * channels),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def naive(
    dense: nn.Module, images: PerImage, runtime: Runtime, teacher: nn.Module | None, steps: int, options: Any
) -> float:
    network = copy.deepcopy(dense).to(runtime.device).train()
    optimizer = torch.optim.SGD(network.parameters(), LR, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    loader = DataLoader(images, options.batch_size, shuffle=True, num_workers=options.workers)
    stream = endless(loader) if not options.workers else started_workers(endless(loader))
    started = time.perf_counter()
    for inputs, labels in itertools.islice(stream, steps):
        inputs, labels = inputs.to(runtime.device), labels.to(runtime.device)
        logits = network(inputs)
        if teacher is None:
            loss = F.cross_entropy(logits, labels)
        else:
            with torch.no_grad(), evaluating(teacher.to(runtime.device)):
                answers = teacher(inputs)
            loss = distillation_loss(logits, labels, answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loss.item()
    return time.perf_counter() - started


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def started_workers(stream: Iterator[Any]) -> Iterator[Any]:
    """Leave the workers' start out of the time: it is paid once in an epoch, not once in a few steps."""
    first = next(stream)
    return itertools.chain([first], stream)


def report(speeds: dict[str, list[float]], runtime: Runtime, options: argparse.Namespace) -> None:
    ratios = {
        f"ours / {name}": [a / b for a, b in zip(speeds[OURS], speeds[name], strict=True)]
        for name in (BARE, NAIVE, NAIVE_TEACHER)
    }
    where = ", ".join(f"{key} {value}" for key, value in runtime.describe().items() if key != "platform")
    print(f"{options.network} on {options.data}, batch {options.batch_size}, {options.rounds} rounds of ", end="")
    print(f"{options.steps} steps\n{where}\n\n{'':28}  median     low    high")
    for name, values in speeds.items():
        print(f"{name + ', images/s':28}{statistics.median(values):8.0f}{min(values):8.0f}{max(values):8.0f}")
    for name, values in ratios.items():
        print(f"{name:28}{statistics.median(values):8.3f}{min(values):8.3f}{max(values):8.3f}")
    if options.json:
        figures = {"runtime": runtime.describe(), "images_per_second": speeds, "ratios": ratios}
        settings = {key: str(value) for key, value in vars(options).items()}
        options.json.write_text(json.dumps({"settings": settings, **figures}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
