"""The device and layout in which a network answers inputs of any structure, without a study."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from autoprune.core.notify import Notify
from autoprune.models.calling.answers import answer_of
from autoprune.models.calling.inputs import Inputs
from autoprune.models.copying.copy_network import copy_network
from autoprune.search.setup.choose_runtime import runtime_to_run
from autoprune.training.device.evaluation_mode import evaluating
from autoprune.training.device.runtime import Runtime
from autoprune.training.working_runtime import LAYOUT, PRECISION


def runtime_for_inputs(
    network: nn.Module, inputs: Inputs, runtime: Runtime, named: set[str], notify: Notify
) -> Runtime:
    """Return the settings in which a network answers inputs; it is not trained.

    Where inputs are one tensor of real numbers, the fastest settings that work; elsewhere the plain ones, unless others
    were asked for by name.

    Args:
        network: on any device; not touched.
        inputs: one batch.
        runtime: as fast as the machine allows, or as it was asked for.
        named: keys of the settings that were asked for by name.
        notify: called with a sentence for each setting that falls back.

    Raises:
        UsageError: if it does not work in a setting that was asked for by name.
        ModelError: if it does not answer the inputs.
    """
    if inputs.is_plain:
        return runtime_to_run(network, inputs.shape, runtime, named, notify)
    if PRECISION.key not in named:
        runtime = replace(runtime, precision="fp32")
    if LAYOUT.key not in named:
        runtime = replace(runtime, channels_last=False)
    twin = runtime.place(copy_network(network))
    with evaluating(twin), runtime.autocast():
        answer_of(twin, inputs.map(runtime.place_images))
    return runtime
