"""How many bytes a network has in int8, tensor by tensor: the rule by which ONNX Runtime's static quantisation writes.

Weights of convolutions and linear layers are one byte each, and five for every output channel: its scale and its zero
point. What is added to each channel, a bias or a batch norm folded into the layer before it, is twelve bytes: an int32
with a scale and a zero point of its own. Other parameters are one byte, recurrent weights stay as they are. The
operations that quantise, and all names, take room too, much beside small weights: :class:`Int8Overhead`, which is found
once on two networks of the space. Files of networks cut at random have been found within 0.2 % of the sum, of cut
attention within 2 %; the dense vision transformer, which is written with other operations than a cut one, within 8 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from autoprune.cost.tensor_sizes import Stored, TensorBytes, stored_tensors

CHANNEL_BYTES = 5  # of a weight's output channel: a float32 and an int8
BIAS_BYTES = 12  # an int32, its float32 scale, and an int32 zero point


def int8_bytes(network: nn.Module) -> dict[str, TensorBytes]:
    """Return, for every tensor that is stored, under its first path, what it takes in int8.

    >>> found = int8_bytes(nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8)))
    >>> found["0.weight"], found["1.weight"].each, found["1.running_mean"].each
    (TensorBytes(each=1, channel=5), 0, 12)
    """
    modules = dict(network.named_modules())
    return {path: _of(stored, path, modules) for path, stored in stored_tensors(network).items()}


def total_bytes(network: nn.Module, takes: Mapping[str, TensorBytes]) -> int:
    """Return what all tensors of a network take together.

    Args:
        network: that :func:`int8_bytes` was asked for.
        takes: what it said.

    >>> net = nn.Linear(8, 4)
    >>> total_bytes(net, int8_bytes(net))  # 32 weights, 4 scales and zero points, 4 biases
    100
    """
    return sum(
        takes[path].each * prod(stored.shape) + takes[path].channel * (stored.shape[0] if stored.shape else 1)
        for path, stored in stored_tensors(network).items()
    )


def _of(stored: Stored, path: str, modules: Mapping[str, nn.Module]) -> TensorBytes:
    where, _, name = path.rpartition(".")
    module = modules.get(where)
    if isinstance(module, _BatchNorm):  # its other three tensors are folded into this one and the weights before it
        return TensorBytes(BIAS_BYTES if name == "running_mean" else 0)
    if isinstance(module, nn.RNNBase) or not stored.is_parameter:
        return TensorBytes(stored.element_size)
    if isinstance(module, _ConvNd | nn.Linear):
        return TensorBytes(BIAS_BYTES) if len(stored.shape) == 1 else TensorBytes(1, CHANNEL_BYTES)
    return TensorBytes(1)
