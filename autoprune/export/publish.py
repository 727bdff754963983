"""Publishing a pruned network as a folder of files that others can use: built aside, checked, then put in place.

The folder appears whole or not at all. What does not pass its checks stays where it was built, and is not called done.
Both a pick and the application of a stored policy end here.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from autoprune.core.atomic_write import write_text
from autoprune.core.export_formats import INT8, Wanted
from autoprune.core.live_objects import is_live
from autoprune.core.notify import Notify
from autoprune.core.policy import PruningPolicy
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import EvaluationError, StudyError, UsageError
from autoprune.export.architecture import Architecture, PrunedArchitecture
from autoprune.export.card import Card
from autoprune.export.card_parts import FRESH_PROCESS, CardFile, FileCheck, FolderFacts
from autoprune.export.convert import export_network, timed
from autoprune.export.examples import Examples
from autoprune.export.int8 import export_int8
from autoprune.export.int8_trained import Int8Trained
from autoprune.export.picked_files import (
    ARCHITECTURE,
    CARD,
    CARD_JSON,
    OLD_ARCHITECTURE,
    OURS,
    POLICY,
    WEIGHTS,
    missing_files,
)
from autoprune.export.reference import Reference
from autoprune.export.saved_network import load, save_network, weights_content
from autoprune.export.stored_policy import StoredPolicy
from autoprune.export.verify import verify, verify_in_new_process
from autoprune.models.calling.answers import answer_of
from autoprune.models.copying.copy_network import copy_network
from autoprune.pruning.cut_plan import CutPlan

CardText = Callable[[Card], str]
CHECKED_EXAMPLES = 16


@dataclass(frozen=True)
class NetworkBundle:
    """A pruned network with everything that its folder is made from.

    Attributes:
        network: pruned, in eval mode, on any device; not touched.
        dense: the network before pruning, in the same state.
        cut: what was kept of every module that was cut.
        architecture: of the dense network.
        policy: that the cut follows.
        channels: group → channels in the dense network.
        examples: that the files are checked on.
        timing: how exported files are timed.
        wanted: which formats besides our own.
        trained: the network trained further with the rounding of int8; ``None`` if it was not.
    """

    network: nn.Module
    dense: nn.Module
    cut: CutPlan
    architecture: Architecture
    policy: PruningPolicy
    channels: Mapping[str, int]
    examples: Examples
    timing: TimingPlan
    wanted: Wanted
    trained: Int8Trained | None = None


def check_target(target: Path, force: bool, exists: str = "give another folder, or --force to replace it") -> None:
    """Raise if a folder is there already and may not be replaced.

    Args:
        target: the folder.
        force: whether one that autoprune wrote is replaced; another one never is, nor one with other files in it.
        exists: what to do if it is whole.

    Raises:
        UsageError: naming the folder, and what it lacks if it is half written.
    """
    if not target.exists():
        return
    names = {path.name for path in target.iterdir()} if target.is_dir() else {f"{target.name}, a file"}
    if not names:
        return
    strange = sorted(names - OURS)
    if strange or not names & {ARCHITECTURE, OLD_ARCHITECTURE, CARD_JSON}:  # a study has a recipe.json too
        shown = ", ".join([*strange[:3], *(["…"] if strange[3:] else [])] or sorted(names))
        raise UsageError(
            f"{str(target)!r} holds something that autoprune did not write there ({shown}), so it is not replaced; "
            f"move that away, or give another folder"
        )
    missing = missing_files(target)
    if missing and not force:
        raise UsageError(
            f"{str(target)!r} is half written or half copied (it lacks {', '.join(missing)}); give --force to replace "
            f"it, or move it away"
        )
    if not force:
        raise UsageError(f"{str(target)!r} exists already; {exists}")


def publish(
    target: Path,
    building: Path,
    card: Card,
    of: NetworkBundle,
    text_of: CardText,
    notify: Notify,
    *,
    force: bool = False,
) -> Card:
    """Write a network into a folder, check every file of it, and return its card, with exports and checks.

    Args:
        target: the folder.
        building: where it is written meanwhile, on the same disk; what lies there is removed.
        card: what was measured of the network.
        of: what the files are made from.
        text_of: card → Markdown.
        notify: called with a sentence when something begins.
        force: whether a folder that is there by then is replaced.

    Raises:
        UsageError: if somebody else has written the folder meanwhile, and ``force`` is false.
        StudyError: if the folder cannot be written.
        EvaluationError: if a file does not pass a check; names them, and where they are left.
    """
    try:
        card = _build(building, card, of, text_of, notify)
        check_target(target, force)  # again: it may have come since
        _put_in_place(building, target)
    except OSError as error:
        raise StudyError(
            f"cannot write {str(target)!r}: {error.strerror or error}; free space or permissions"
        ) from error
    return card


def _build(building: Path, card: Card, of: NetworkBundle, text_of: CardText, notify: Notify) -> Card:
    """Write the whole folder where nobody looks yet, checking it on the way."""
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    card = replace(card, folder=_write_files(building, of, card.versions, notify))
    write_text(building / CARD_JSON, json.dumps(card.to_json(), indent=1))
    notify("loading every file in a fresh process, and checking it")
    checks = _checked(building, _reference(of), of)
    _check_passed(checks, building)
    card = replace(card, folder=replace(card.written, checks=tuple(checks)))
    write_text(building / CARD_JSON, json.dumps(card.to_json(), indent=1))
    write_text(building / CARD, text_of(card))
    return card


def _put_in_place(building: Path, target: Path) -> None:
    """Let a whole folder take the place of another one, which is removed last: one of the two is always there."""
    former = building.with_name("former")
    shutil.rmtree(former, ignore_errors=True)
    if target.exists():
        target.rename(former)
    try:
        building.rename(target)
    except BaseException:  # an interrupt too
        if former.exists() and not target.exists():
            former.rename(target)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _write_files(folder: Path, of: NetworkBundle, versions: Mapping[str, str], notify: Notify) -> FolderFacts:
    """Write everything but the card, and return what the card says of it."""
    made = PrunedArchitecture.of(of.network, of.cut, of.architecture, of.policy, versions)
    save_network(folder, of.network, made)
    write_text(folder / POLICY, json.dumps(_stored_policy(of).to_json(), indent=1))
    dense = _as_loaded(of.dense)
    loaded = load(folder, network=dense)
    exports = export_network(folder, loaded, dense, of.examples, of.wanted, of.timing, notify)
    if INT8 in of.wanted.formats:
        exports[INT8] = export_int8(
            folder, loaded, dense, of.examples, of.wanted.int8, of.timing, notify, _trained_as_loaded(of.trained)
        )
    own = timed(dense, loaded, of.examples.timed(of.timing.batch), of.timing)  # whatever the study times in
    written = {name: CardFile(os.path.getsize(folder / name)) for name in (ARCHITECTURE, POLICY)}
    weights = CardFile(os.path.getsize(folder / WEIGHTS), len(weights_content(dense)), "torch", own)
    facts = FolderFacts({WEIGHTS: weights, **written}, exports, of.wanted)
    exported = {
        file: CardFile(os.path.getsize(folder / file), None if one.beside else one.dense_bytes)
        for one in facts.exported
        for file in (one.file, *one.beside)
    }
    return replace(facts, files={**facts.files, **exported})


def _stored_policy(of: NetworkBundle) -> StoredPolicy:
    dense = of.architecture
    made_for = dense.source, dense.num_classes, tuple(dense.input_shape), dense.inputs, dense.offers
    return StoredPolicy(of.policy, dict(of.channels), *made_for)


def _as_loaded(network: nn.Module) -> nn.Module:
    """Return a copy as a network is that comes from a file: on the CPU, with every tensor contiguous.

    Kernels are chosen by strides, and round otherwise for channels_last.
    """
    twin = copy_network(network).cpu().eval()
    for tensor in (*twin.parameters(), *twin.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return twin


def _trained_as_loaded(trained: Int8Trained | None) -> Int8Trained | None:
    if trained is None or trained.network is None:
        return trained
    return replace(trained, network=_as_loaded(trained.network))


def _reference(of: NetworkBundle) -> Reference:
    """Return what the finished network answers to some examples."""
    inputs = of.examples.first(CHECKED_EXAMPLES)
    return Reference(inputs, answer_of(_as_loaded(of.network), inputs), of.examples.example)


def _checked(building: Path, reference: Reference, of: NetworkBundle) -> list[FileCheck]:
    """Return the checks of a folder, from a fresh process wherever one can have the network and the inputs."""
    if is_live(of.architecture.source):
        told = "the dense network was given from Python as an object, which no other process has"
        return [*verify(building, reference, _as_loaded(of.dense)), FileCheck(FRESH_PROCESS, None, told)]
    if not reference.strangers:
        return verify_in_new_process(building, reference)
    told = f"its inputs hold {', '.join(reference.strangers)}, which only the user's own code can make"
    return [*verify(building, reference), FileCheck(FRESH_PROCESS, None, told)]


def _check_passed(checks: Sequence[FileCheck], folder: Path) -> None:
    failed = [f"{check.name}: {check.detail}" for check in checks if check.passed is False]
    if failed:
        raise EvaluationError(
            f"the files did not pass their checks, so they are not called done: {'; '.join(failed)}. They are left in "
            f"{str(folder)!r}; if a file of autoprune's own is at fault, please report it"
        )
