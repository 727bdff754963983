"""What the steps of set-up share: the spec, the data, the device, the folder, and who hears what is going on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from autoprune.core.cores import fewer_threads_note
from autoprune.core.notify import Notify
from autoprune.errors import StudyMismatchError
from autoprune.models.calling.inputs import Inputs
from autoprune.search.setup.from_spec import runtime_of, task_of
from autoprune.search.setup.judged_by import check_judged_by
from autoprune.study.dense_facts import read_dense_facts
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.study.spec_sections import DataSpec
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime


@dataclass(frozen=True)
class StudyContext:
    """The surroundings of a study's networks.

    Attributes:
        spec: resolved for this machine.
        task: the data.
        device: where and how networks run: device, precision, layout, threads.
        folder: where the study is stored; writable.
        notify: called with a sentence on what is going on.
    """

    spec: StudySpec
    task: DataTask
    device: Runtime
    folder: StudyFolder
    notify: Notify

    def example(self, network: nn.Module) -> Inputs:
        """Return what the network is called with for one example of validation, on the CPU."""
        return self.task.example(network)


_UNSAID = ", as no other is given; a loop without data needs --finetune, --evaluate and --example"


def open_context(spec: StudySpec, folder: StudyFolder, notify: Notify, task: DataTask | None = None) -> StudyContext:
    """Return the context of a study, with the data opened and the device's threads set.

    Args:
        spec: resolved for this machine.
        folder: where the study is stored; it must be writable.
        notify: called with a sentence on what is going on.
        task: the data, if it is open already.

    Raises:
        DataError: if the data cannot be used.
        StudyMismatchError: if their content has changed since the dense network was measured.
    """
    device = runtime_of(spec)
    device.apply_threads(notify)
    note = "" if device.threads or device.device != "cpu" else fewer_threads_note()
    if note:
        notify(note)
    task = task or task_of(spec)
    source = spec.data.source if task.has_batches else f"none of its own; {task.name}"
    is_unsaid = spec.loop.is_used and task.has_batches and spec.data == DataSpec()
    notify(f"data: {source}{_UNSAID if is_unsaid else ''}")
    for note in getattr(task, "notes", ()):
        notify(f"data: {note}")
    check_judged_by(spec, task.metrics, task.name)
    _check_same_data(task, folder)
    return StudyContext(spec, task, device, folder, notify)


def _check_same_data(task: DataTask, folder: StudyFolder) -> None:
    """Refuse to go on with other data than the stored trials were made with."""
    if folder.dense_facts.exists() and read_dense_facts(folder).data != task.identity():
        raise StudyMismatchError(
            f"the content of the data {task.name!r} differs from what the trials in {str(folder.path)!r} were made "
            f"with; restore the data, or begin a new study in another folder"
        )
