"""Settings that this network works in: the fast ones are tried on a copy, and those left to ``auto`` fall back.

Networks are written and run in float32 and PyTorch's plain memory layout. In channels last, ``.view`` after a
convolution fails; in bf16, writing into a tensor that ``forward`` made, ``.numpy()`` and complex numbers do. So a
network is scored and trained for one step, on a copy, before time is spent on it. What the user asked for by name is
not replaced: it is named instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from autoprune.core.notify import Notify
from autoprune.core.user_code import in_user_code
from autoprune.errors import AutopruneError, DataError, ModelError, NonFiniteError, UsageError
from autoprune.models.calling.inputs import Inputs, words
from autoprune.models.copying.copy_network import copy_network
from autoprune.tasks.task import Batch, DataTask
from autoprune.training.device.evaluation_mode import evaluating
from autoprune.training.device.runtime import Runtime
from autoprune.training.device.seeding import seeded
from autoprune.training.loop import optimizer_of
from autoprune.training.settings import FinetuneSettings

_JUDGED = "get through its loss and score"


@dataclass(frozen=True)
class Fault:
    """What goes wrong when a network runs.

    Attributes:
        doing: what it was doing: ``run`` in eval mode, ``get through its loss and score``, or ``train``.
        reason: the error, with the line of the user's code.
        error: the error itself.
    """

    doing: str
    reason: str
    error: Exception


@dataclass(frozen=True)
class Rehearsal:
    """What a network is tried on.

    Attributes:
        batch: some training examples, at least two where the data has them; of made-up ones the inputs.
        task: of the batch; ``None`` for made-up examples, on which a network is only run, whatever it returns.
        settings: with the optimizer that takes the step.
        seed: of what is drawn at random.
    """

    batch: Batch
    task: DataTask | None
    settings: FinetuneSettings | None
    seed: int

    def fault(self, network: nn.Module, runtime: Runtime) -> Fault | None:
        """Return what goes wrong in a copy of a network that answers once and is then trained for one step."""
        doing = "run"
        batch, task = runtime.place_batch(self.batch), self.task
        try:
            with warnings.catch_warnings(), seeded(self.seed, runtime.device):
                warnings.simplefilter("ignore")  # they are shown when it is trained in earnest
                twin = runtime.place(copy_network(network))
                with torch.no_grad(), evaluating(twin):
                    if task is None:
                        runtime.answer(lambda net, inputs: Inputs.of(inputs).run(net), twin, batch)
                    else:
                        output = runtime.answer(task.forward, twin, batch)
                        doing = _JUDGED
                        task.score_batch(output, batch)
                if task is not None and self.settings is not None and task.finetune is None:
                    doing = "train"
                    self._step(twin.train(), task, batch, self.settings, runtime)
        except AutopruneError as error:
            return Fault(doing, str(error), error)
        except Exception as error:  # the user's own network may raise anything
            return Fault(doing, in_user_code(error), error)
        return None

    def described(self, network: nn.Module) -> str:
        """Return in words what the network was tried on."""
        try:
            return str(Inputs.of(self.batch) if self.task is None else self.task.inputs(network, self.batch))
        except Exception:  # the user's own forward, which has failed already, may raise anything
            return f"a batch of {words(self.batch)}"

    def _step(
        self, network: nn.Module, task: DataTask, batch: Batch, settings: FinetuneSettings, runtime: Runtime
    ) -> None:
        optimizer = optimizer_of(network, settings, runtime)
        loss = task.loss(runtime.answer(task.forward, network, batch), batch)
        if not loss.requires_grad:
            raise DataError(
                f"the loss of {task.name} has no gradient, so that nothing can be learnt; compute it from the "
                "network's output, without .item(), .detach() or numpy"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if not loss.isfinite():
            raise NonFiniteError(
                f"the loss of {task.name} is {float(loss)} on the first batch, before any training; look at the data, "
                "and at what the loss divides by or takes the logarithm of"
            )


@dataclass(frozen=True)
class Setting:
    """A way to run networks that may be too much for one of them.

    Attributes:
        key: in a spec, below ``runtime``.
        fast: its value that may fail.
        plain: the value that every network is written for.
    """

    key: str
    fast: str
    plain: str

    def is_on(self, runtime: Runtime) -> bool:
        """Return whether a runtime has the fast value."""
        return runtime.channels_last if self.key == "layout" else runtime.precision == self.fast

    def off(self, runtime: Runtime) -> Runtime:
        """Return a runtime with the plain value."""
        return replace(runtime, channels_last=False) if self.key == "layout" else replace(runtime, precision="fp32")


LAYOUT = Setting("layout", "channels_last", "contiguous")
PRECISION = Setting("precision", "bf16", "fp32")


def working_runtime(
    network: nn.Module, rehearsal: Rehearsal, runtime: Runtime, named: set[str], notify: Notify
) -> Runtime:
    """Return the runtime, with the settings that the network does not work in at their plain values.

    Args:
        network: on any device, in any mode; not touched.
        rehearsal: what it is tried on.
        runtime: as fast as the machine allows, or as it was asked for.
        named: keys of the settings that were asked for by name, which stay.
        notify: called with a sentence for each setting that falls back.

    Raises:
        UsageError: if the network does not work in a setting that was asked for by name; names the option.
        ModelError: if it does not work in the plain ones either; names the line of its code.
    """
    fault = rehearsal.fault(network, runtime)
    if fault is None:
        return runtime
    on = [setting for setting in (LAYOUT, PRECISION) if setting.is_on(runtime)]
    for off in _fallbacks([setting for setting in on if setting.key not in named]):
        tried = _without(runtime, off)
        if rehearsal.fault(network, tried) is None:
            for setting in off:
                notify(
                    f"{setting.key} is {setting.plain}, because this network does not {fault.doing} in {setting.fast}: "
                    f"{fault.reason}"
                )
            return tried
    own = rehearsal.fault(network, _without(runtime, on)) if on else fault
    if own is not None:
        raise _own_fault(own, rehearsal, network) from own.error
    blamed = _blamed(network, rehearsal, runtime, [setting for setting in on if setting.key in named])
    options = " and ".join(f"--{setting.key} {setting.fast} (runtime.{setting.key})" for setting in blamed)
    raise UsageError(
        f"{options} was asked for, and this network does not {fault.doing} so: {fault.reason}; ask for "
        f"{' and '.join(f'--{setting.key} {setting.plain}' for setting in blamed)}, or for auto"
    ) from fault.error


def _fallbacks(settings: list[Setting]) -> Iterator[list[Setting]]:
    """Yield what may be switched off: each by itself, then both."""
    yield from ([setting] for setting in settings)
    if len(settings) > 1:
        yield settings


def _without(runtime: Runtime, settings: list[Setting]) -> Runtime:
    for setting in settings:
        runtime = setting.off(runtime)
    return runtime


def _blamed(network: nn.Module, rehearsal: Rehearsal, runtime: Runtime, named: list[Setting]) -> list[Setting]:
    """Return which of the settings asked for fail: those that fail while the other is plain, or else all of them."""
    plain = _without(runtime, [LAYOUT, PRECISION])
    alone = []
    for setting in named:
        only = replace(plain, **({"channels_last": True} if setting is LAYOUT else {"precision": runtime.precision}))
        alone += [setting] if rehearsal.fault(network, only) is not None else []
    return alone or named


def _own_fault(fault: Fault, rehearsal: Rehearsal, network: nn.Module) -> AutopruneError:
    """Return the error for a network that does not work in the plainest settings."""
    if isinstance(fault.error, AutopruneError):
        return fault.error
    tried, task = rehearsal.described(network), rehearsal.task
    if fault.doing == "run":
        other = "give a network that takes such inputs, or other data" if task is not None else "correct it"
        return ModelError(f"the network does not run on {tried}: {fault.reason}; {other}")
    if fault.doing == _JUDGED and task is not None:
        return DataError(
            f"the loss or the score of {task.name} fails for what the network returns on {tried}: {fault.reason}; "
            "correct it, or give a network that returns what it takes"
        )
    return ModelError(
        f"the network runs on {tried} in eval mode and fails in training mode, in its forward or "
        f"backward pass: {fault.reason}; correct it, since a search trains what it prunes"
    )
