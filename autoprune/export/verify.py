"""Checking a picked folder from outside: every file is loaded as its user will, in a process that has seen none of it.

``publish`` starts such a process on a folder before it is called done. The reference is a file of inputs
and of what the finished network answered to them; the costs are those on the card. Every check ends in a sentence.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import nn

from autoprune.core.atomic_write import write_text
from autoprune.core.export_formats import FILES, INT8
from autoprune.core.json_values import parse_json
from autoprune.cost.cost_model import measure_network
from autoprune.cost.latency import cpu_threads
from autoprune.errors import EvaluationError
from autoprune.export.architecture import read_architecture
from autoprune.export.build_dense import build_dense
from autoprune.export.card import Card
from autoprune.export.card_parts import FileCheck
from autoprune.export.convert import format_of, place_of
from autoprune.export.export_result import TOLERANCE, ExportedFile
from autoprune.export.formats import Answer
from autoprune.export.onnx import OnnxSession
from autoprune.export.own_process import in_own_process
from autoprune.export.picked_files import ARCHITECTURE, CARD_JSON, POLICY, WEIGHTS
from autoprune.export.reference import Reference
from autoprune.export.saved_network import load
from autoprune.export.standalone import rebuild
from autoprune.export.stored_policy import StoredPolicy
from autoprune.models.calling.answers import answer_of, magnitude
from autoprune.models.calling.tensors import tensors_in
from autoprune.models.copying.copy_network import copy_network

_SECONDS = 600
ROUNDING = 1e-5  # of the largest output
# without the working folder that -c and -m put first: a copy.py of the user's there would stand for the library's
_START = (
    "import sys; sys.path[:] = filter(None, sys.path); from autoprune.export.verify import main; main(sys.argv[1:])"
)


def verify_in_new_process(folder: Path, reference: Reference) -> list[FileCheck]:
    """Return the checks of a folder, made by a process that starts from nothing but its files.

    Args:
        folder: with everything but the checks on its card.
        reference: what its files have to answer.

    Raises:
        EvaluationError: if that process fails, or takes too long.
    """
    answers, result = folder.with_name("reference.safetensors"), folder.with_name("checks.json")
    reference.write(answers)
    command = [sys.executable, "-c", _START, str(folder), str(answers), str(result)]
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)  # where the user's own code is found
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EvaluationError(f"the self-check of {str(folder)!r} did not end within {_SECONDS} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise EvaluationError(f"the self-check of {str(folder)!r} ended with exit code {done.returncode}: {last}")
    return [FileCheck(**found) for found in parse_json(result.read_text(encoding="utf-8"))]


def verify(folder: Path, reference: Reference, dense: nn.Module | None = None) -> list[FileCheck]:
    """Return the checks of a folder, made in this process with the reference's number of threads.

    The folder is one that was just written here, so the code that it names is the user's own and is run.

    Args:
        folder: with everything but the checks on its card.
        reference: what its files have to answer.
        dense: the dense network, where the folder does not say how to build it; ``None`` where it does.
    """
    card = Card.from_json(parse_json((folder / CARD_JSON).read_text(encoding="utf-8")))
    with cpu_threads(reference.threads):
        return list(_checks(folder, reference, card, dense))


def _checks(folder: Path, reference: Reference, card: Card, dense: nn.Module | None) -> Iterator[FileCheck]:
    yield _guarded("autoprune.load", lambda: _same_outputs(load(folder, dense, trust_code=True), reference))
    yield _guarded("plain PyTorch", lambda: _plain(folder, reference, dense))
    yield _guarded("costs counted anew", lambda: _costs(folder, reference, card, dense))
    yield _guarded("policy.json", lambda: _policy(folder, card))
    for name, found in card.written.exports.items():
        if isinstance(found, ExportedFile):
            apart = found.agreement.max_difference if found.int8 else 0.0  # on more examples, the reference among them
            check = partial(_export, apart=apart) if name in FILES else _export_apart
            yield _guarded(found.file, partial(check, folder, name, reference))
    yield _smaller(card)
    yield _guarded("latency", lambda: _latencies(card))


def _guarded(name: str, check: Callable[[], tuple[bool | None, str]]) -> FileCheck:
    """Run a check; one that raises has failed."""
    try:
        return FileCheck(name, *check())
    except Exception as error:  # whatever a file or the user's own network does to us here it would do to others
        return FileCheck(name, False, f"{type(error).__name__}: {error}")


def _same_outputs(network: nn.Module, reference: Reference) -> tuple[bool, str]:
    found = answer_of(network, reference.inputs)
    worst, detail = reference.difference(found), f"outputs on {reference.described} "
    if worst == 0:
        return True, detail + "equal to the last bit"
    # seen: the same network answering otherwise in the last bit; sums may be taken in another order in another process
    is_rounding = worst <= ROUNDING * max(map(magnitude, reference.outputs))
    return is_rounding, detail + f"differ by up to {worst:.3g}" + (", which is rounding" if is_rounding else "")


def _plain(folder: Path, reference: Reference, dense: nn.Module | None) -> tuple[bool | None, str]:
    pruned = read_architecture(folder)
    if pruned.needs_autoprune:
        return None, f"autoprune.load is needed for the cut attention in {', '.join(pruned.needs_autoprune)}"
    return _same_outputs(
        rebuild(str(folder), build_dense(pruned.dense, seed=1) if dense is None else copy_network(dense)), reference
    )


def _costs(folder: Path, reference: Reference, card: Card, dense: nn.Module | None) -> tuple[bool, str]:
    """Count multiply–accumulates (half of what PyTorch's counter says), parameters, and bytes if they are float32's."""
    mask = read_architecture(folder).policy.mask
    found = measure_network(load(folder, dense, trust_code=True), reference.counted, tuple(mask.layers) if mask else ())
    is_int8 = card.size_format == "int8"
    counted = {name: value for name, value in found.values.items() if not (is_int8 and name == "size_mb")}
    claimed = {name: card.scores.validation[name] for name in counted}
    listed = ", ".join(f"{name} {value:g}" for name, value in counted.items())
    if counted == claimed:
        return True, f"{listed}: as on the card"
    return False, f"{listed}; the card says {', '.join(f'{name} {value:g}' for name, value in claimed.items())}"


def _policy(folder: Path, card: Card) -> tuple[bool, str]:
    read = StoredPolicy.from_json(parse_json((folder / POLICY).read_text(encoding="utf-8")))
    same = read.policy == card.policy == read_architecture(folder).policy
    return same, f"{'the same as' if same else 'differs from what is'} on the card and in {ARCHITECTURE}"


def _export(folder: Path, name: str, reference: Reference, apart: float = 0.0) -> tuple[bool, str]:
    place = place_of(folder, name)
    if name == INT8:
        answer: Answer = OnnxSession((folder / FILES[INT8]).read_bytes(), threads=torch.get_num_threads())
    else:
        answer = format_of(name).open(place, torch.get_num_threads())
    with torch.inference_mode():  # for two numbers of examples
        worst = max(one.difference(tensors_in(one.inputs.run(answer))) for one in (reference.first(1), reference))
    largest = max(map(magnitude, reference.outputs))
    detail = f"outputs on {reference.described} differ from PyTorch's by up to {worst:.3g}"
    return worst <= apart + TOLERANCE * max(1.0, largest), detail


def _export_apart(folder: Path, name: str, reference: Reference) -> tuple[bool, str]:
    """Check a plug-in's files in a process of its own, since what runs them may crash natively."""
    told = in_own_process(
        lambda: json.dumps(_export(folder, name, reference)).encode(), lambda error: f"{type(error).__name__}: {error}"
    )
    passed, detail = parse_json(told)
    return bool(passed), str(detail)


def _smaller(card: Card) -> FileCheck:
    """Compare files with those of the dense network; a network that lost nothing, as by a mask, is as large as it."""
    pruned, dense = (one.validation["mparams"] for one in (card.scores, card.dense))
    files, int8 = card.written.files, FILES[INT8]  # which holds more operations, and says itself if it is no smaller
    sizes = {
        name: (file.bytes, file.dense_bytes)
        for name, file in files.items()
        if file.dense_bytes is not None and name != int8
    }
    detail = ", ".join(f"{name} {after:,} of {before:,} bytes" for name, (after, before) in sizes.items())
    if pruned >= dense:
        return FileCheck("smaller files", None, f"the network has as many parameters as the dense one; {detail}")
    return FileCheck("smaller files", all(after < before for after, before in sizes.values()), detail)


def _latencies(card: Card) -> tuple[bool, str]:
    own = card.written.files[WEIGHTS].latency
    found = {WEIGHTS: own.pruned_ms if own else 0.0}
    found |= {one.file: one.latency.pruned_ms for one in card.written.exported}
    return min(found.values()) > 0, f"measured: {', '.join(f'{name} {ms:.3f} ms' for name, ms in found.items())}"


def main(arguments: list[str]) -> None:
    """Check a folder and write what was found: FOLDER REFERENCE RESULT."""
    folder, reference, result = arguments
    checks = verify(Path(folder), Reference.read(Path(reference)))
    write_text(Path(result), json.dumps([check.to_json() for check in checks]))
