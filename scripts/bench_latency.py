"""How much faster pruned networks really are: widths, rounded widths, dropped blocks, and both chosen for latency.

    python scripts/bench_latency.py --share 0.42 --speedup 2 --json latency.json

Every policy has the same share of the dense MFLOPs. ``uniform`` scales all widths alike, ``round 8`` and
``round 16`` keep multiples, ``blocks`` drops residual blocks alone, and ``chosen`` are random policies over widths and
blocks projected onto the MFLOPs and onto the latency that the model predicts for the given speed-up, as in a search.
Each is timed in alternation with the dense network, at one thread; all are timed again at the end, and how far both
agree is printed for each runtime and batch size, or that the machine is too noisy to tell. With --weights and
--images, chosen ones are those of least training loss after batch norm was recalibrated, and uniform and chosen are
fine-tuned for the same steps and scored on validation.

The runtimes are those of autoprune, PyTorch in channels last, and ONNX Runtime in int8, where the dense network is in
int8 too; --runtimes chooses. ONNX Runtime and OpenVINO are timed if they are installed. With --study, the front of a
stored study is timed again instead, and compared with what is stored.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from bench_criteria import folder_task
from bench_latency_table import Row, show
from torch import nn

from autoprune.core.budget import Budget
from autoprune.core.counts import ChannelCounts
from autoprune.core.latency_host import NOISY
from autoprune.core.policy import PruningPolicy
from autoprune.core.space import SearchSpace
from autoprune.cost.latency import Timer
from autoprune.cost.timing_engines import TORCH_ENGINES, Engine
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import BudgetError
from autoprune.export.onnx import missing_packages
from autoprune.export.openvino import is_missing
from autoprune.export.timing_runtimes import ONNX, OPENVINO, engine_of, int8_engine
from autoprune.models.build import build_model
from autoprune.pruning.find_blocks import find_blocks
from autoprune.pruning.groups import find_groups
from autoprune.pruning.importance import Calibration, score_groups
from autoprune.pruning.surgery import Pruner
from autoprune.report.content.summary import summarise
from autoprune.search.proposals.baselines import baselines
from autoprune.search.proposals.budget_projection import Projector
from autoprune.search.proposals.latency_model import LatencyModel, LatencyProbes, latency_projector
from autoprune.search.proposals.wished_counts import WishedCounts
from autoprune.search.setup.build_costs import cost_model
from autoprune.search.setup.build_evaluator import build_meter
from autoprune.search.setup.choose_runtime import faster_precision
from autoprune.search.setup.from_spec import resolve
from autoprune.search.setup.latency_probes import latency_probes
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.study.folder import StudyFolder
from autoprune.study.policy_params import dimensions, policy_of
from autoprune.study.view import open_view
from autoprune.tasks.in_memory import ArrayTask
from autoprune.training.device.resolve_runtime import resolve_runtime
from autoprune.training.device.runtime import Runtime
from autoprune.training.distillation import Teacher
from autoprune.training.finetune import finetune
from autoprune.training.loop import TrainingRun
from autoprune.training.memory_layout import usual_layout
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm
from autoprune.training.scoring import score
from autoprune.training.settings import FinetuneSettings

RECALIBRATION, CHOOSING = 512, 1024
THREADS = 1  # while timing
INT8 = f"{ONNX}-int8"


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(THREADS)
    document = remeasure(options) if options.study else Bench(options).run()
    if options.json:
        Path(options.json).write_text(json.dumps(document, indent=1), encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet56")
    parser.add_argument("--weights", default="", help="trained weights; empty: the network as initialised")
    parser.add_argument("--images", default="", help="folder with train/<class>/* and val/<class>/*, all of one size")
    parser.add_argument("--share", type=float, default=0.42, help="of the dense MFLOPs")
    parser.add_argument("--speedup", type=float, default=2.0, help="that chosen policies are projected onto")
    parser.add_argument("--draws", type=int, default=16, help="random policies to choose from")
    parser.add_argument("--chosen", type=int, default=3)
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 32])
    parser.add_argument(
        "--runtimes",
        type=lambda text: text.split(","),
        default=["torch", "channels_last", ONNX, INT8, OPENVINO],
        help="torch, channels_last, compile, onnxruntime, onnxruntime-int8, openvino, cuda; compiling takes minutes",
    )
    parser.add_argument("--blocks", type=int, default=13, help="timed blocks")
    parser.add_argument("--calls", type=int, default=1, help="a block is of this many times ten images")
    parser.add_argument("--steps", type=int, default=100, help="of the fine-tune")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--threads", type=int, default=0, help="for training; timing is always on one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--study", default="", help="folder of a stored study whose front is timed again")
    parser.add_argument("--json", default="")
    return parser.parse_args()


def runtime_of_study(network: nn.Module, shape: tuple[int, ...], threads: int) -> Runtime:
    """Return the runtime on the CPU that a study of a network has."""
    fastest = resolve_runtime("cpu", "auto", "auto", threads)
    return usual_layout(network, shape, faster_precision(network, fastest, lambda sentence: None))


class Bench:
    """The dense network, the space over it, and the data if there is any."""

    def __init__(self, options: argparse.Namespace, task: ArrayTask | None = None) -> None:
        self.options = options
        self.task = task or (folder_task(Path(options.images)) if options.images else None)
        shape = self.task.input_shape if self.task else (3, 32, 32)
        classes = self.task.num_classes if self.task else 10
        dense = build_model(options.network, num_classes=classes, in_channels=shape[0], seed=0, weights=options.weights)
        self.dense, self.shape = dense.eval(), shape
        self.runtime = runtime_of_study(dense, shape, options.threads)
        example = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
        groups = find_groups(self.dense, example).cuttable
        blocks = find_blocks(self.dense, example, groups)
        self.space = SearchSpace(groups, {group.name: ("l2",) for group in groups}, blocks=blocks)
        self.cost = cost_model(self.dense, self.space, example[:1])
        self.criteria = {group.name: "l2" for group in groups}
        scores = score_groups(self.dense, groups, ["l2"], Calibration([], options.seed, shape))
        self.pruner = Pruner(self.dense, self.space, scores)
        self.budget = Budget.parse({"mflops": options.share * self.cost.measure(ChannelCounts())["mflops"]})
        self.runtimes = runtimes(options.runtimes)

    def run(self) -> dict[str, object]:
        """Time every policy twice, show the table, and return it as plain data."""
        probes = {batch: self.probes(batch) for batch in self.options.batches}
        policies = dict(self.policies(probes[self.options.batches[0]]))
        networks = {name: self.pruner.prune(policy).eval() for name, policy in policies.items()}
        rows = [self.row(name, policy) for name, policy in policies.items()]
        for batch in self.options.batches:
            self.time_all(batch, rows, networks, probes[batch].model())
        self.time_again(rows, networks)
        if self.task and self.options.weights:
            self.train(rows, networks)
        errors = {batch: each.error for batch, each in probes.items()}
        show(rows, errors, [probes[b] for b in self.options.batches])
        return {"options": vars(self.options), "rows": [asdict(row) for row in rows], "leave_one_out": errors}

    def probes(self, batch: int) -> LatencyProbes:
        """Time the probes of a study, at this batch; the reference is a dense time of now."""
        timer = self.timer(batch, "torch")
        with tempfile.TemporaryDirectory() as folder:
            context = SimpleNamespace(device=self.runtime, folder=StudyFolder(Path(folder)), notify=print)
            return latency_probes(context, self.pruner, self.cost, timer, timer.compare(blocks=5).dense_ms)

    def policies(self, probes: LatencyProbes) -> Iterator[tuple[str, PruningPolicy]]:
        """Yield every policy that is compared; the probes steer the chosen ones."""
        for step in (1, 8, 16):
            try:
                yield f"round {step}" if step > 1 else "uniform", self.rounded(step)
            except BudgetError:
                print(f"widths in multiples of {step} cannot reach {self.budget.describe()}")
        yield "blocks", baselines(Projector(self.space, self.cost, self.budget), {})["depth"]
        for place, policy in enumerate(self.chosen(probes), 1):
            yield f"chosen {place}", policy

    def rounded(self, step: int) -> PruningPolicy:
        """Return the policy that scales all widths alike, in multiples of a step.

        Raises:
            BudgetError: if none of them reaches the budget.
        """
        space = replace(self.space, round_to=step)
        wanted = WishedCounts({name: n / 2 for name, n in space.full.channels.items()})
        return self.space.policy(Projector(space, self.cost, self.budget).fit(wanted), self.criteria)

    def chosen(self, probes: LatencyProbes) -> list[PruningPolicy]:
        """Return random policies on both limits: those of least training loss, or of most MFLOPs without weights."""
        limit = probes.timed[0].latency_ms / self.options.speedup
        limits = {"mflops": self.budget.limits["mflops"].value, "latency_ms": limit}
        projector = latency_projector(self.space, Budget.parse(limits), probes, [])
        found: dict[PruningPolicy, float] = {}
        for draw in range(self.options.draws):
            rng = np.random.default_rng([self.options.seed, draw])
            share = rng.uniform(0.2, 0.8)  # of the blocks
            params = {
                d.name: ("yes" if rng.random() < share else "no") if d.choices else rng.uniform(0, d.high / 2)
                for d in dimensions(self.space)
            }
            policy = projector.project(policy_of(self.space, params))
            found[policy] = self.worth(policy)
        return sorted(found, key=lambda policy: found[policy])[: self.options.chosen]

    def worth(self, policy: PruningPolicy) -> float:
        """Return a number that is lowest for the best of the draws."""
        if not (self.task and self.options.weights):
            return -self.cost.measure(self.space.counts(policy))["mflops"]
        network = self.pruner.prune(policy)
        recalibrate_batchnorm(network, self.task, RECALIBRATION, self.runtime, self.options.seed)
        return score(network, self.task, "train", self.runtime, limit=CHOOSING).loss

    def row(self, name: str, policy: PruningPolicy) -> Row:
        """Begin the row of a policy."""
        kept = self.space.counts(policy)
        self.kept = {**getattr(self, "kept", {}), name: kept}
        return Row(name, self.cost.measure(kept)["mflops"], len(policy.dropped_blocks))

    def timer(self, batch: int, runtime: str) -> Timer:
        """Return a timer of networks against the dense one; a block is about ten images."""
        latency = TimingPlan(
            batch=batch, threads=THREADS, blocks=self.options.blocks, calls=max(1, 10 // batch * self.options.calls)
        )
        layout = torch.channels_last if runtime == "channels_last" else torch.contiguous_format
        dense = copy.deepcopy(self.dense).to(memory_format=layout)
        example = torch.zeros(batch, *self.shape).contiguous(memory_format=layout)
        return Timer(dense, example, latency, engine_for(runtime))

    def time_all(self, batch: int, rows: list[Row], networks: dict[str, nn.Module], model: LatencyModel) -> None:
        """Time every network against the dense one, in every runtime."""
        dense_ms = float(model.predict(self.cost.work(ChannelCounts())))
        for runtime in self.runtimes:
            key, timer = f"{runtime}, batch {batch}", self.timer(batch, runtime)
            for row in rows:
                found = timer.compare(in_layout(networks[row.name], runtime))
                row.speedup[key], row.spread[key] = 1 / found.ratio, found.ratio_stderr / found.ratio
                row.ms[key] = found.pruned_ms
                print(
                    f"{key}: {row.name} ×{row.speedup[key]:.2f} ± {100 * row.spread[key]:.1f} %, "
                    f"{found.pruned_ms:.2f} of {found.dense_ms:.2f} ms",
                    flush=True,
                )
                if runtime == "torch":
                    row.predicted[key] = dense_ms / float(model.predict(self.cost.work(self.kept[row.name])))

    def time_again(self, rows: list[Row], networks: dict[str, nn.Module]) -> None:
        """Time every network once more in every runtime, when all others were timed in between."""
        for batch, runtime in product(self.options.batches, self.runtimes):
            key, timer = f"{runtime}, batch {batch}", self.timer(batch, runtime)
            for row in rows:
                found = timer.compare(in_layout(networks[row.name], runtime))
                row.again[key], row.spread_again[key] = 1 / found.ratio, found.ratio_stderr / found.ratio

    def train(self, rows: list[Row], networks: dict[str, nn.Module]) -> None:
        """Fine-tune the uniform and the chosen networks alike, and score them."""
        self.runtime.apply_threads()
        epochs = self.options.steps * self.options.batch_size / self.task.sizes["train"]
        settings = FinetuneSettings(epochs, self.options.batch_size, self.options.lr, 5e-4, distill=True)
        teacher = Teacher(self.dense, self.task, self.runtime)
        before = score(self.dense, self.task, "val", self.runtime)
        measured = before.measurement
        shown = f"{100 * measured['accuracy']:.2f} ± {100 * measured.error('accuracy'):.2f} %"
        print(f"dense {shown} on {before.count}", flush=True)
        for row in rows:
            if row.name == "uniform" or row.name.startswith(("chosen", "blocks")):
                network = self.runtime.place(networks[row.name])
                recalibrate_batchnorm(network, self.task, RECALIBRATION, self.runtime, self.options.seed)
                finetune(network, TrainingRun(self.task, settings, self.runtime, self.options.seed), teacher)
                found = score(network, self.task, "val", self.runtime)
                row.accuracy, row.stderr = found.measurement["accuracy"], found.measurement.error("accuracy")
                print(f"{row.name} {100 * row.accuracy:.2f} ± {100 * row.stderr:.2f} %", flush=True)


def engine_for(runtime: str) -> Engine:
    """Return the engine that a runtime of this script stands for."""
    if runtime == INT8:
        return int8_engine(engine_of(ONNX))
    return engine_of("torch" if runtime == "channels_last" else runtime)


def in_layout(network: nn.Module, runtime: str) -> nn.Module:
    """Return a network in the memory layout that a runtime stands for."""
    if runtime != "channels_last":
        return network
    return copy.deepcopy(network).to(memory_format=torch.channels_last)


def runtimes(wanted: list[str]) -> list[str]:
    known = [*TORCH_ENGINES, ONNX, INT8, OPENVINO, "channels_last"]
    unknown = [name for name in wanted if name not in known]
    if unknown or "torch" not in wanted:
        raise SystemExit(f"--runtimes: expected torch and any of {', '.join(known)}; given {', '.join(wanted)}")
    missing = missing_packages() if {ONNX, INT8} & set(wanted) else ()
    if missing:
        print(f"ONNX Runtime is left out: {', '.join(missing)} not installed")
    lacking = {ONNX: bool(missing), INT8: bool(missing), OPENVINO: bool(missing) or is_missing()}
    return [name for name in wanted if not lacking.get(name)]


def remeasure(options: argparse.Namespace) -> dict[str, object]:
    """Time the front of a stored study again, on the same settings."""
    view = open_view(Path(options.study))
    study = prepare_study(resolve(view.spec), view.folder, print)
    meter = build_meter(study)
    trials = {trial.number: trial for trial in view.trials}
    found = {}
    print("| trial | stored ms | now ms | difference |\n|---|---|---|---|")
    for row in summarise(view).front:
        stored = row.measurement["latency_ms"]
        again = meter.time(study.device.place(study.pruner.prune(trials[row.number].candidate.policy)))
        now = again["latency_ms"]
        if again.error("latency_ms") > NOISY * now:
            print(f"| {row.number} | {stored:.3f} | {now:.3f} | too noisy to tell |", flush=True)
            continue
        found[row.number] = now / stored - 1
        print(f"| {row.number} | {stored:.3f} | {now:.3f} | {100 * (now / stored - 1):+.1f} % |", flush=True)
    if found:
        print(f"the largest disagreement is {100 * max(map(abs, found.values())):.1f} %")
    else:
        print("this machine is too noisy to tell how far the timings agree")
    return {"options": vars(options), "difference": found}


if __name__ == "__main__":
    main()
