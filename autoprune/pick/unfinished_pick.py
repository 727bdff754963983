"""What a pick has done so far, stored beside the picked folders until it is done, so that one cut off can go on.

After every part of the contest each contender's network and scores are kept, and at the end what was measured, so that
the test split is scored once however often the pick is cut off. Each kind of pick has a folder of its own: the trials,
the fine-tune, the seed and the machine are part of its name, so that nothing of another pick is taken for this one's.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from autoprune.core.atomic_write import write_bytes, write_text
from autoprune.core.json_values import DAMAGE, JsonObject, parse_json
from autoprune.core.measurement import Measurement
from autoprune.core.paired_scores import PairedScores
from autoprune.core.trial import Trial
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import ModelError, StudyError, StudyLockedError
from autoprune.export.int8_trained import Int8Trained
from autoprune.models.load_weights import load_weights, own_tensors
from autoprune.pick.final_scores import FinalScores
from autoprune.pick.pick_memory import Reached
from autoprune.pruning.surgery import shrink
from autoprune.search.evaluation.make_network import NetworkMaker
from autoprune.training.scoring import Score

WORK = ".work"
_BUILDING = "folder"
_OTHERS = 4  # picks that were cut off and not gone on with, which are kept besides the present one


@dataclass(frozen=True)
class Unfinished:
    """The memory of one pick, on disk; :class:`PickMemory` says what each method is for.

    Attributes:
        folder: where it is kept.
        maker: rebuilds networks.
    """

    folder: Path
    maker: NetworkMaker

    @property
    def building(self) -> Path:
        """Return where the picked folder is written until it is whole."""
        return self.folder / _BUILDING

    @property
    def has_begun(self) -> bool:
        """Return whether an earlier pick of this kind was cut off."""
        return any(self.folder.glob("*.safetensors"))

    def reached(self, trial: Trial) -> Reached | None:
        """Return how far a trial came; ``None`` if there is nothing, or nothing that can be read."""
        path = self._weights_of(trial)
        try:
            with safe_open(path, "pt") as file:
                stored = parse_json(file.metadata()["scores"])
            scores = tuple((float(share), _score_from(score)) for share, score in stored)
            network = self._rebuilt(trial, path)
        except (OSError, SafetensorError, ModelError, *DAMAGE):
            return None  # never begun, or damaged: it is trained now
        return Reached(network, scores)

    def keep_reached(self, trial: Trial, reached: Reached) -> None:
        """Keep how far a trial came, in place of what was kept of it before."""
        scores = json.dumps([(share, _score_to(score)) for share, score in reached.scores])
        write_bytes(self._weights_of(trial), save(own_tensors(reached.network), metadata={"scores": scores}))

    def trained_for_int8(self, trial: Trial) -> Int8Trained | None:
        """Return a trial's network as it was trained with the rounding of int8; ``None`` if none can be read."""
        path = self._int8_of(trial)
        try:
            with safe_open(path, "pt") as file:
                told = parse_json(file.metadata()["int8"])
            network = self._rebuilt(trial, path)
            return Int8Trained(network, float(told["share"]), float(told["seconds"]), tuple(told["not_rounded"]))
        except (OSError, SafetensorError, ModelError, *DAMAGE):
            return None

    def keep_trained_for_int8(self, trial: Trial, trained: Int8Trained) -> None:
        """Keep a trial's network as it was trained with the rounding of int8."""
        if trained.network is not None:
            told = {"share": trained.share, "seconds": trained.seconds, "not_rounded": list(trained.not_rounded)}
            write_bytes(self._int8_of(trial), save(own_tensors(trained.network), metadata={"int8": json.dumps(told)}))

    def final_scores(self, name: str) -> FinalScores | None:
        """Return what was measured at the end; ``None`` if there is nothing, or nothing that can be read."""
        try:
            return FinalScores.from_json(parse_json((self.folder / f"{name}.json").read_text(encoding="utf-8")))
        except (OSError, *DAMAGE):
            return None

    def keep_final_scores(self, name: str, final_scores: FinalScores) -> None:
        """Keep what was measured at the end."""
        write_text(self.folder / f"{name}.json", json.dumps(final_scores.to_json()))

    def forget(self) -> None:
        """Remove everything that was kept; other picks that were cut off keep theirs."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # others are there
            self.folder.parent.rmdir()

    def _rebuilt(self, trial: Trial, weights: Path) -> nn.Module:
        pruner = self.maker.pruner
        network = shrink(pruner.network, pruner.cut(trial.candidate.policy))
        load_weights(network, weights)
        return self.maker.runtime.place(network).eval()

    def _weights_of(self, trial: Trial) -> Path:
        return self.folder / f"trial-{trial.number}.safetensors"

    def _int8_of(self, trial: Trial) -> Path:
        return self.folder / f"int8-{trial.number}.safetensors"


@contextmanager
def unfinished(picked: Path, maker: NetworkMaker, timing: TimingPlan, trials: Sequence[Trial]) -> Iterator[Unfinished]:
    """Open what is known of a pick of these trials, for this process alone, until it is forgotten or cut off.

    Args:
        picked: the study's folder of picked networks.
        maker: with the fine-tune of the pick.
        timing: how networks are timed.
        trials: that begin it, in their order.

    Raises:
        StudyLockedError: if another process is doing the same pick now.
        StudyError: if the folder cannot be written.
    """
    folder = picked / WORK / _question(maker, timing, trials)
    lock = _locked(folder)
    _drop_oldest(folder)
    kept = Unfinished(folder, maker)
    try:
        yield kept
    finally:
        lock.release()
        if folder.exists() and not kept.has_begun:
            kept.forget()


def _locked(folder: Path) -> filelock.BaseFileLock:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / "lock", timeout=0)
        lock.acquire()
    except filelock.Timeout:
        raise StudyLockedError(
            f"another process is finishing the same trials now (it holds {str(folder / 'lock')!r}); wait for it or "
            f"stop it"
        ) from None
    except OSError as error:
        raise StudyError(
            f"{str(folder)!r} cannot be written: {error.strerror or error}; free space or permissions"
        ) from error
    return lock


def _drop_oldest(own: Path) -> None:
    """Remove what is known of other picks that were cut off, but for the last few, and those that are going on."""
    others = [path for path in own.parent.iterdir() if path.is_dir() and path != own]
    for path in sorted(others, key=_changed, reverse=True)[_OTHERS:]:
        with suppress(filelock.Timeout, OSError), filelock.FileLock(path / "lock", timeout=0):
            shutil.rmtree(path, ignore_errors=True)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # gone since it was listed
        return 0.0


def _question(maker: NetworkMaker, timing: TimingPlan, trials: Sequence[Trial]) -> str:
    """Return a name made from everything that decides what comes of a pick, but for the study's own data.

    The keys are part of it, so that a pick goes on only while they stay as they are.
    """
    cuts = {
        str(trial.number): [
            trial.candidate.policy.to_json(),
            {path: kept.to_json() for path, kept in maker.pruner.cut(trial.candidate.policy).items()},
        ]
        for trial in trials
    }
    compensation = maker.compensator.images if maker.compensator else 0
    facts: dict[str, Any] = {
        "trials": [trial.number for trial in trials],
        "cuts": cuts,
        "recipe": asdict(maker.settings),
        "schedule": maker.schedule.model_dump(),
        "images": [maker.recalibration_images, maker.calibration_images, *([compensation] if compensation else [])],
        "latency": timing.to_json(),
        "runtime": {**maker.runtime.describe(), "threads": maker.runtime.threads},  # 0: as many as are free now
        "seed": maker.seed,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _score_to(score: Score) -> JsonObject:
    paired = None if score.paired is None else score.paired.text
    return {"measurement": score.measurement.to_json(), "count": score.count, "correct": paired}


def _score_from(data: dict[str, Any]) -> Score:
    paired = None if data["correct"] is None else PairedScores(data["correct"])
    if paired is not None:
        paired.unpack()  # which raises if it is damaged
    return Score(Measurement.from_json(data["measurement"]), int(data["count"]), paired)
