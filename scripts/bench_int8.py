"""What int8 costs and brings, dense and pruned: score, size and latency of both formats, in one run.

    python scripts/bench_int8.py --network resnet20 --weights resnet20.safetensors --images cifar10 --json int8.json
    python scripts/bench_int8.py --network scripts/small_mobilenet.py:small_mobilenet --images digits --json int8.json

The dense network, and pruned ones of the same share of its MFLOPs: ``uniform`` widths, in the multiples of --round-to,
and residual ``blocks`` dropped alone. The pruned ones are fine-tuned alike for a few steps, the dense network being
their teacher. Each is exported as ``pick`` does it, in float32 and in int8. With --qat-share a copy of each takes the
last part of the fine-tune once more with the rounding of int8, and both are scored with every layer in int8. Scores are
on validation, and latency is timed in ONNX Runtime in alternation with the dense network in float32.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from bench_cases import folder_images
from bench_latency import RECALIBRATION, Bench, runtime_of_study
from safetensors.torch import save_file
from torch import nn

from autoprune.core.export_formats import FILES, INT8, Int8Limit, Wanted
from autoprune.core.policy import PruningPolicy
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import BudgetError
from autoprune.export.convert import export_network, timed
from autoprune.export.cpu_flags import reduces_range
from autoprune.export.examples import examples_of
from autoprune.export.export_result import ExportedFile, FailedExport, Int8Training
from autoprune.export.int8 import export_int8
from autoprune.export.int8_trained import Int8Trained
from autoprune.export.onnx import OnnxSession
from autoprune.models.build import build_model
from autoprune.models.copying.copy_network import copy_network
from autoprune.search.proposals.baselines import baselines
from autoprune.search.proposals.budget_projection import Projector
from autoprune.tasks.builtin import build_task
from autoprune.tasks.in_memory import ArrayTask
from autoprune.training.distillation import Teacher
from autoprune.training.fake_quantise import REDUCED_LEVELS, WEIGHT_LEVELS, fake_quantised
from autoprune.training.finetune import finetune
from autoprune.training.loop import Span, TrainingRun
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm
from autoprune.training.settings import FinetuneSettings
from autoprune.training.train_dense import train_dense

FLOAT = "float32"


@dataclass
class Row:
    """What was measured of one network in both formats; keys of latencies are ``FORMAT, batch N``."""

    name: str
    mflops: float
    score: dict[str, float] = field(default_factory=dict)
    gain: float = 0.0
    gain_stderr: float = 0.0
    in_float: list[str] = field(default_factory=list)
    megabytes: dict[str, float] = field(default_factory=dict)
    speedup: dict[str, float] = field(default_factory=dict)
    error: dict[str, float] = field(default_factory=dict)
    failure: str = ""
    training: Int8Training | None = None


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(1)
    rows = list(Int8Bench(options).rows())
    show(rows, options.batches)
    if options.json:
        document = {"options": vars(options), "rows": [asdict(row) for row in rows]}
        Path(options.json).write_text(json.dumps(document, indent=1), encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--weights", default="", help="trained weights, a .safetensors file; without: trained first")
    parser.add_argument("--dense-epochs", type=int, default=16, help="of that training, in batches of 64 at 0.05")
    parser.add_argument(
        "--images", required=True, help="folder with train/<class>/* and val/<class>/*, all of one size; or digits"
    )
    parser.add_argument("--share", type=float, default=0.5, help="of the dense MFLOPs")
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 32])
    parser.add_argument("--round-to", type=lambda text: [int(n) for n in text.split(",")], default=[1, 16])
    parser.add_argument("--blocks", type=int, default=15, help="timed blocks")
    parser.add_argument("--steps", type=int, default=150, help="of the fine-tune")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument(
        "--qat-share", type=float, default=0.0, help="of the fine-tune, to be taken with rounding; 0: none"
    )
    parser.add_argument("--max-drop", type=float, default=0.01, help="that int8 may lose, a fraction")
    parser.add_argument("--threads", type=int, default=0, help="for training; timing is always on one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default="")
    parser.set_defaults(runtimes=["torch"])
    return parser.parse_args()


def _trained(options: argparse.Namespace, task: ArrayTask) -> str:
    """Return the file with the weights of the dense network, trained now as a study does."""
    network = build_model(options.network, num_classes=10, in_channels=task.input_shape[0], seed=options.seed)
    runtime = runtime_of_study(network, task.input_shape, options.threads)
    runtime.apply_threads()
    settings = FinetuneSettings(options.dense_epochs, 64, 0.05, 5e-4)
    train_dense(network, TrainingRun(task, settings, runtime, options.seed))
    torch.set_num_threads(1)
    path = Path(tempfile.mkdtemp()) / "dense.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.cpu().state_dict().items()}, path)
    return str(path)


class Int8Bench:
    """The dense network with its data, and what prunes, trains, exports and times it."""

    def __init__(self, options: argparse.Namespace) -> None:
        task = build_task("digits") if options.images == "digits" else folder_images(options.images)
        options.weights = options.weights or _trained(options, task)
        self.options, self.bench = options, Bench(options, task)
        self.examples = examples_of(self.bench.task, self.bench.dense)

    def rows(self) -> Iterator[Row]:
        """Yield what was measured of each network, the dense one first."""
        costs = self.bench.cost
        yield self.measured("dense", self.bench.dense, costs.measure(self.bench.space.full)["mflops"])
        for name, policy in self.policies():
            network = self.trained(self.bench.pruner.prune(policy))
            yield self.measured(name, network, costs.measure(self.bench.space.counts(policy))["mflops"])

    def policies(self) -> Iterator[tuple[str, PruningPolicy]]:
        """Yield every policy that is compared."""
        bench = self.bench
        for step in self.options.round_to:
            try:
                yield f"uniform, multiples of {step}", bench.rounded(step)
            except BudgetError:
                print(f"widths in multiples of {step} cannot reach {bench.budget.describe()}")
        depth = baselines(Projector(bench.space, bench.cost, bench.budget), {}).get("depth")
        if depth is not None:
            yield "blocks", depth

    def trained(self, network: nn.Module) -> nn.Module:
        """Return a pruned network after the fine-tune."""
        bench, options = self.bench, self.options
        network, runtime = bench.runtime.place(network), bench.runtime
        runtime.apply_threads()
        recalibrate_batchnorm(network, bench.task, RECALIBRATION, runtime, options.seed)
        finetune(network, self.run(), Teacher(bench.dense, bench.task, runtime))
        torch.set_num_threads(1)
        return network.cpu().eval()

    def run(self) -> TrainingRun:
        """Return the fine-tune."""
        bench, options = self.bench, self.options
        epochs = options.steps * options.batch_size / bench.task.sizes["train"]
        settings = FinetuneSettings(epochs, options.batch_size, options.lr, 5e-4, distill=True)
        return TrainingRun(bench.task, settings, bench.runtime, options.seed)

    def rounded(self, network: nn.Module) -> Int8Trained | None:
        """Return a network after the last part of its fine-tune once more, with rounding; ``None`` if not asked for."""
        bench, share = self.bench, self.options.qat_share
        if not share:
            return None
        started, twin = time.perf_counter(), copy_network(network)
        bench.runtime.apply_threads()
        run = replace(self.run(), runtime=replace(bench.runtime, precision="fp32"))
        span = Span(round((1 - share) * self.options.steps), self.options.steps)
        with fake_quantised(twin, REDUCED_LEVELS if reduces_range() else WEIGHT_LEVELS):
            finetune(twin, run, Teacher(bench.dense, bench.task, run.runtime), span=span)
        torch.set_num_threads(1)
        return Int8Trained(twin.cpu().eval(), share, time.perf_counter() - started)

    def measured(self, name: str, network: nn.Module, mflops: float) -> Row:
        """Return the row of a network, exported to both formats."""
        row, options = Row(name, mflops), self.options
        plan = TimingPlan("onnxruntime", blocks=options.blocks, calls=20)
        given = self.bench.dense, self.examples
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            export_network(folder, network, *given, Wanted(("onnx",)), plan, print)
            limit, trained = Int8Limit(options.max_drop), self.rounded(network)
            found = export_int8(folder, network, *given, limit, plan, print, trained)
            files = {FLOAT: folder / FILES["onnx"], "int8": folder / FILES[INT8]}
            contents = {form: path.read_bytes() for form, path in files.items() if path.exists()}
        _note(row, found)
        row.megabytes = {form: len(content) / 1e6 for form, content in contents.items()}
        if name == "dense":
            self.dense_float = contents[FLOAT]
        for batch in options.batches:
            self.time(row, contents, batch)
        return row

    def time(self, row: Row, contents: dict[str, bytes], batch: int) -> None:
        """Time each format of a network in alternation with the dense network in float32."""
        plan = TimingPlan("onnxruntime", batch, blocks=self.options.blocks, calls=max(2, 20 // batch))
        reference = OnnxSession(self.dense_float)
        for form, content in contents.items():
            found = timed(reference, OnnxSession(content), self.examples.timed(batch), plan)
            key = f"{form}, batch {batch}"
            row.speedup[key], row.error[key] = 1 / found.ratio, found.ratio_stderr / found.ratio**2
            print(
                f"{row.name}: {key}: ×{row.speedup[key]:.2f} ± {row.error[key]:.2f}, {found.pruned_ms:.3f} ms",
                flush=True,
            )


def _note(row: Row, found: ExportedFile | FailedExport) -> None:
    if isinstance(found, FailedExport):
        row.failure = found.failure
    elif found.int8 is not None:
        row.score = {FLOAT: found.int8.float_score, "int8": found.int8.score}
        row.gain, row.gain_stderr = found.int8.gain, found.int8.gain_stderr
        row.in_float, row.training = list(found.int8.in_float), found.int8.training


def show(rows: list[Row], batches: list[int]) -> None:
    """Print the table."""
    forms = [f"{form}, batch {batch}" for form in (FLOAT, "int8") for batch in batches]
    print(f"\n| network | MFLOPs | % float32 | % int8 | difference | MB float32 | MB int8 | {' | '.join(forms)} |")
    print(f"|---|---|---|---|---|---|---|{'---|' * len(forms)}")
    for row in rows:
        times = [f"×{row.speedup[form]:.2f} ± {row.error[form]:.2f}" if form in row.speedup else "–" for form in forms]
        scores = [f"{100 * row.score[form]:.2f}" if form in row.score else "–" for form in (FLOAT, "int8")]
        sizes = [f"{row.megabytes[form]:.3f}" if form in row.megabytes else "–" for form in (FLOAT, "int8")]
        gain = f"{100 * row.gain:+.2f} ± {100 * row.gain_stderr:.2f}"
        print(f"| {' | '.join([row.name, f'{row.mflops:.1f}', *scores, gain, *sizes, *times])} |")
        if row.failure or row.in_float:
            print(f"{row.name}: {row.failure or 'in float32: ' + ', '.join(row.in_float)}")
        if row.training:
            print(f"{row.name}: {row.training}")


if __name__ == "__main__":
    main()
