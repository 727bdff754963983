"""A process that fine-tunes contenders of a pick that another process holds: the program that ``finishers`` starts.

It is told what to do by lines of JSON on its standard input, the pick first and then one part after the other, and
answers by lines on its standard output. When its input ends, whoever started it is gone, and so is this process.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from autoprune.core.json_values import parse_json
from autoprune.core.metrics import register
from autoprune.core.notify import silent
from autoprune.core.trial import Trial
from autoprune.core.user_code import as_its_owner_runs_it
from autoprune.errors import AutopruneError, EvaluationError
from autoprune.loggers.worker_lines import WorkerLines
from autoprune.pick.contest_parts import FinetunePart
from autoprune.pick.entrants import Course
from autoprune.pick.unfinished_pick import Unfinished
from autoprune.search.evaluation.make_network import NetworkMaker
from autoprune.search.setup.build_evaluator import build_maker
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.study.trial_format import finished_trial
from autoprune.training.settings import FinetuneSettings


def main() -> None:
    """Do what standard input says until it ends."""
    orders: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(orders,), daemon=True).start()
    lines, order = WorkerLines(sys.stdout), parse_json(orders.get())
    try:
        spec = StudySpec.model_validate(order["spec"])
        with _as_owner(spec):
            maker = _maker(order, spec)
            memory = Unfinished(Path(order["work"]), maker)
            while True:
                _train(parse_json(orders.get()), maker, memory, lines)
    except AutopruneError as error:
        lines.send("error", **_told(error))
        sys.exit(error.exit_code)


def _read(orders: queue.Queue[str]) -> None:
    for line in sys.stdin:
        orders.put(line)
    os._exit(0)  # whatever is being trained: nobody waits for it, and files are written in one step


def _as_owner(spec: StudySpec) -> AbstractContextManager[None]:
    return as_its_owner_runs_it(spec.model.source)


def _maker(order: Mapping[str, Any], spec: StudySpec) -> NetworkMaker:
    """Return what trains as the process does that holds the pick.

    Raises:
        EvaluationError: if it would train otherwise here.
    """
    register(spec.qualities)
    study = prepare_study(spec, StudyFolder(Path(order["folder"])), silent)
    maker = build_maker(study, FinetuneSettings(**order["settings"]), study.spec.finetune.finish_images)
    found, wanted = maker.runtime.describe(), order["runtime"]
    if found != wanted:
        other = ", ".join(
            f"{name}: {found.get(name)!r}, {value!r}" for name, value in wanted.items() if found.get(name) != value
        )
        raise EvaluationError(
            f"a process of this pick would train otherwise than the one that holds it ({other}); give --workers GPUs "
            f"of one kind, or leave it out"
        )
    return maker


def _train(order: Mapping[str, Any], maker: NetworkMaker, memory: Unfinished, lines: WorkerLines) -> None:
    part = FinetunePart(finished_trial(order["candidate"], order["outcome"]), order["first"], order["last"])
    course = Course(maker, memory, partial(_say_phase, lines))
    failure = course.train_part(part)
    lines.send("trained", failure=None if failure is None else _told(failure), seconds=course.seconds)


def _say_phase(lines: WorkerLines, trial: Trial, words: str) -> None:
    lines.send("phase", number=trial.number, words=words)


def _told(error: AutopruneError) -> dict[str, str]:
    return {"error": type(error).__name__, "message": str(error)}


if __name__ == "__main__":
    main()
