"""Which layers are refitted after a cut, what each reads, and why the others are left as they are.

A *reader* multiplies what it reads by a weight of its own: convolutions, linear layers, and the packed projection of
attention. Whether a cut has changed what it reads shows only when the network runs (``compensate.py``).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from autoprune.pruning.drop_blocks import replace_module
from autoprune.pruning.layers.attention import SlimMultiheadAttention
from autoprune.pruning.layers.kinds import has_heads, kind_of
from autoprune.pruning.light_copy import copier_of

MOST_INPUTS = 4608  # of one output: the second moments of these take 170 MB in float64
_PLAIN_FORWARDS = {forward for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear) for forward in (kind.forward,)}
_PLAIN_CONVOLUTIONS = {kind._conv_forward for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)}


@dataclass(frozen=True)
class Reader:
    """A layer whose weight can be refitted.

    Attributes:
        path: of the module; a hook on it sees what it reads.
        weight: name of the weight below the module, ``(outputs, inputs, …)``.
        bias: name of the bias, empty if there is none.
    """

    path: str
    weight: str = "weight"
    bias: str = "bias"

    def tensor(self, network: nn.Module) -> nn.Parameter:
        """Return the weight in a network."""
        return network.get_parameter(f"{self.path}.{self.weight}".removeprefix("."))

    def offset(self, network: nn.Module) -> nn.Parameter | None:
        """Return the bias in a network, ``None`` if there is none."""
        return network.get_parameter(f"{self.path}.{self.bias}".removeprefix(".")) if self.bias else None


def plain_twin(network: nn.Module) -> nn.Module:
    """Return a copy in float32 and eval mode, in which every layer of attention is called as a layer.

    What is written into it is not seen by the network. The fused modules of attention are replaced by the slim ones
    of ``layers/``, which hold the same tensors under the same names.
    """
    twin = copier_of(network)(network).float().eval()
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    for path, module in list(twin.named_modules()):
        kind = kind_of(module)
        if kind is None or kind.slim is None or not has_heads(module):
            continue
        if not path:
            return kind.slim(module)
        replace_module(twin, path, kind.slim(module))
    return twin


def readers_of(network: nn.Module) -> tuple[dict[str, Reader], dict[str, str]]:
    """Return path → reader, and path → why a layer with weights is left as it is.

    Args:
        network: a :func:`plain_twin`.
    """
    held = Counter(id(p) for _, p in network.named_parameters(remove_duplicate=False))
    readers, left = dict[str, Reader](), dict[str, str]()
    for path, module in network.named_modules():
        if isinstance(module, (_ConvNd, nn.Linear)):
            reason = _why_left(module, held)
            if reason:
                left[path] = reason
            else:
                readers[path] = Reader(path, bias="" if module.bias is None else "bias")
        elif isinstance(module, SlimMultiheadAttention) and held[id(module.in_proj_weight)] == 1:
            bias = "" if module.in_proj_bias is None else "in_proj_bias"
            readers[path] = Reader(path, "in_proj_weight", bias)
        elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            left[path] = "a recurrent layer reads its own output"
    return readers, left


def _why_left(module: _ConvNd | nn.Linear, held: Counter[int]) -> str:
    weight = module._parameters.get("weight")
    if not isinstance(weight, Tensor):
        return "its weight is computed from others"
    if held[id(weight)] > 1:
        return "it shares its weight with another layer"
    if isinstance(module, _ConvTransposeNd):
        return "a transposed convolution"
    own_convolution = isinstance(module, _ConvNd) and type(module)._conv_forward not in _PLAIN_CONVOLUTIONS
    if type(module).forward not in _PLAIN_FORWARDS or own_convolution:
        return "it computes in a way of its own"
    if is_depthwise(module):
        return "a depthwise convolution has one input to each output: only the norm behind it is refitted"
    if inputs_of(module) > MOST_INPUTS:
        return f"{inputs_of(module)} inputs to each output, more than {MOST_INPUTS}"
    return ""


def is_depthwise(module: nn.Module) -> bool:
    """Return whether a layer is a convolution in which every output reads one channel."""
    return isinstance(module, _ConvNd) and module.in_channels == module.groups > 1


def inputs_of(module: nn.Module) -> int:
    """Return the numbers that each output of a layer is computed from."""
    if isinstance(module, _ConvNd):
        return module.in_channels // module.groups * prod(module.kernel_size)
    if isinstance(module, nn.Linear):
        return module.in_features
    return module.in_proj_weight.shape[1] if isinstance(module, SlimMultiheadAttention) else 1


def is_counting_norm(module: nn.Module) -> bool:
    """Return whether a module is a batch norm that keeps running statistics of each channel."""
    return isinstance(module, _BatchNorm) and isinstance(module.running_mean, Tensor)
