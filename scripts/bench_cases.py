"""The cases of ``bench_search.py``: which network, which images, which budget; and what all contenders share.

A seed's contenders share one prepared study folder: the dense network, its scores, its teacher's answers, whatever
calibration the package does, and the baselines, which are the first trials of every study.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2.functional import pil_to_tensor

from autoprune.core.budget import Budget
from autoprune.core.trial import Completed, Trial
from autoprune.search.proposals.proposer import Proposals
from autoprune.search.setup.build_evaluator import build_evaluator
from autoprune.search.setup.build_proposals import build_proposals
from autoprune.search.setup.from_spec import finetune_settings, resolve
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.study.folder import StudyFolder
from autoprune.study.ledger import Ledger
from autoprune.study.spec import StudySpec
from autoprune.study.spec_toml import Layer, parse_spec
from autoprune.study.storage_url import sqlite_url
from autoprune.tasks.builtin import build_task
from autoprune.tasks.in_memory import Arrays, ArrayTask
from autoprune.tasks.task import DataTask, steps_per_epoch
from autoprune.training.distillation import Teacher
from autoprune.training.loop import stream
from autoprune.training.settings import total_steps

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what the trained weights of the CIFAR cases were made with
OBJECTIVES = ("accuracy", "mflops")


@dataclass(frozen=True)
class Case:
    """A network, its budget, and how long and how fast candidates are trained unless options change it."""

    network: str
    budget: str
    steps: int
    batch_size: int
    lr: float
    finish_steps: int
    finish_lr: float
    dense_epochs: int = 0


CASES = {
    "resnet20": Case("resnet20", "20", 100, 128, 0.03, 390, 0.03),
    "resnet56": Case("resnet56", "50", 100, 128, 0.03, 390, 0.03),
    "digits": Case("resnet20", "50%", 40, 32, 0.03, 340, 0.03, dense_epochs=16),
}


@functools.cache
def folder_images(root: str) -> ArrayTask:
    """Read a whole folder of small images into memory; test images, if there are any, only once they are needed."""
    folder = Path(root)
    has_test = (folder / "test").is_dir()
    train = ImageFolder(str(folder / "train"))
    return ArrayTask(
        folder.name,
        _arrays(train),
        _arrays(ImageFolder(str(folder / "val"))),
        (lambda: _arrays(ImageFolder(str(folder / "test")))) if has_test else None,
        len(ImageFolder(str(folder / "test"))) if has_test else 0,
        class_names=train.classes,
        padding=4,
        flip=True,
        mean=MEAN,
        std=STD,
    )


def _arrays(folder: ImageFolder) -> Arrays:
    return Arrays(torch.stack([pil_to_tensor(folder[i][0]) for i in range(len(folder))]), torch.tensor(folder.targets))


def case_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark over the cases."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True, help="JSON lines, one per finished piece; what is there is skipped")
    parser.add_argument("--table", action="store_true", help="only print the tables of the file")
    parser.add_argument("--case", choices=CASES, default="digits")
    parser.add_argument("--weights", default="", help="of the dense network, a .safetensors file")
    parser.add_argument("--images", default="", help="folder with train/<class>, val/<class> and perhaps test/<class>")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the numbers that all records of a file must have been made with."""
    case = CASES[options.case]
    chosen = {
        name: getattr(options, name) if getattr(options, name) is not None else getattr(case, name)
        for name in ("budget", "steps", "batch_size", "lr", "finish_steps", "finish_lr", "dense_epochs")
    }
    shared = {name: getattr(options, name) for name in ("trials", "max_drop", "threads", "precision", "layout")}
    return {"case": options.case, "network": case.network, **chosen, **shared}


def data_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the spec's section on data.

    Raises:
        SystemExit: if the case needs files that were not named.
    """
    if options.case == "digits":
        return {"source": "digits"}
    if not (options.images and options.weights):
        raise SystemExit(f"--case {options.case} needs --images FOLDER and --weights FILE; --case digits needs nothing")
    return {"source": "bench_cases:folder_images", "root": str(Path(options.images).expanduser().absolute())}


def spec_of(options: argparse.Namespace, seed: int, sampler: str = "auto") -> StudySpec:
    """Return the study of one seed."""
    chosen, data = settings(options), data_of(options)
    task = build_task(data["source"], root=data.get("root", ""))
    per_epoch = steps_per_epoch(task.sizes["train"], chosen["batch_size"])
    weights = str(Path(options.weights).expanduser().absolute()) if options.weights else ""
    values = {
        "name": f"bench-{options.case}",
        "objectives": list(OBJECTIVES),
        "trials": chosen["trials"],
        "seed": seed,
        "sampler": sampler,
        "model": {"source": chosen["network"], "weights": weights},
        "data": data,
        "budget": {"mflops": chosen["budget"]},
        "space": {"max_drop": chosen["max_drop"]},
        "dense": {"epochs": chosen["dense_epochs"]},
        "finetune": {
            "epochs": chosen["steps"] / per_epoch,
            "batch_size": chosen["batch_size"],
            "lr": chosen["lr"],
        },
        "pick": {"epochs": chosen["finish_steps"] / per_epoch, "lr": chosen["finish_lr"]},
        "latency": {"blocks": 5},
        "runtime": {name: chosen[name] for name in ("threads", "precision", "layout")},
    }
    return resolve(parse_spec([Layer("benchmark", values)]))


@dataclass(frozen=True)
class Prepared:
    """What the contenders of one seed share.

    Attributes:
        study: everything a study works with.
        budget: absolute limits.
        seconds: what it took to make, by phase, if it was made now.
    """

    study: PreparedStudy
    budget: Budget
    seconds: dict[str, float]

    @property
    def limit(self) -> float:
        """Return the budget in MFLOPs."""
        return self.budget.limits["mflops"].value

    @property
    def task(self) -> DataTask:
        """Return the data."""
        return self.study.task

    @property
    def proposals(self) -> Proposals:
        """Return what decides which candidates are asked."""
        return build_proposals(self.study, self.budget)

    def teacher(self) -> Teacher:
        """Return the dense network's answers, stored in the prepared folder."""
        return Teacher(self.study.network, self.task, self.study.device, self.study.folder.teacher)


def prepare(options: argparse.Namespace, work: Path, seed: int, notify: Callable[[str], None]) -> Prepared:
    """Return what the contenders of one seed share, made now or by an earlier run.

    All seeds have one dense network: the weights given, or those trained for the first seed.
    """
    folder = StudyFolder(work / f"seed{seed}" / "prepared")
    folder.create()
    first = StudyFolder(work / "seed0" / "prepared")
    if seed and first.dense_weights.exists() and not folder.dense_weights.exists():
        shutil.copy(first.dense_weights, folder.dense_weights)
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    study = prepare_study(spec_of(options, seed), folder, notify)
    seconds["set_up"] = time.perf_counter() - started
    budget = Budget.parse({"mflops": settings(options)["budget"]}).resolve(study.dense)
    prepared = Prepared(study, budget, seconds)
    started = time.perf_counter()
    wanted, seed_of_stream = finetune_settings(study.spec), study.spec.seed
    steps = total_steps(study.task.steps_per_epoch(wanted.batch_size), wanted)
    for _ in stream(study.task, steps, wanted.batch_size, study.device, seed_of_stream, prepared.teacher()):
        pass  # the teacher's answers are stored now, so that no contender pays for them
    seconds["teacher"] = time.perf_counter() - started
    return prepared


def baseline_trials(prepared: Prepared, on_trial: Callable[[Trial], None]) -> list[Trial]:
    """Return the trials of the single policies that every study begins with, evaluated now if they are not stored."""
    study = prepared.study
    proposals, evaluate = prepared.proposals, build_evaluator(study)
    with Ledger(sqlite_url(study.folder.database), study.spec.name, study.spec.objectives, study.folder.lock) as ledger:
        while proposals.baseline_waits(ledger.trials):
            started = time.perf_counter()
            candidate = ledger.ask(proposals, study.spec.seed)
            asked = time.perf_counter() - started
            evaluation = evaluate(candidate)
            on_trial(ledger.tell(candidate, evaluation.outcome, {"ask": asked, **evaluation.seconds}))
        return ledger.trials


def study_folder(prepared: Prepared, name: str) -> StudyFolder:
    """Return a study's own folder, begun with a copy of the prepared one; as it is if it exists."""
    source = prepared.study.folder.path
    target = source.parent / name
    if not target.exists():
        building = source.parent / f".{name}"
        shutil.rmtree(building, ignore_errors=True)
        shutil.copytree(source, building, ignore=shutil.ignore_patterns("*.lock"))
        building.rename(target)
    return StudyFolder(target)


def completed(trials: list[Trial]) -> Iterator[Trial]:
    """Yield the trials that were evaluated to the end."""
    return (trial for trial in trials if isinstance(trial.outcome, Completed))
