"""Fake quantisation: a network rounds as its export in int8 will, and is trained through the rounding.

It is placed where static quantisation of an ONNX file places its pairs of QuantizeLinear and DequantizeLinear: at what
goes into a layer with weights, a sum, a product, a join or a pool, at the weights themselves, and at what a layer with
weights answers last. A batch norm behind a convolution is folded into it by the exporter, which scales each channel and
so changes nothing of a rounding that has a scale for each channel; its statistics stand still meanwhile, as they will.

Calls of PyTorch's functions are caught while the network runs, so that no module is replaced, and any network is taken.
What hides its products within one function of PyTorch, as attention and recurrent layers do, is not rounded there.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, arXiv:1712.05877; the gradient: Bengio et al., "Estimating or Propagating Gradients Through Stochastic
Neurons", 2013, arXiv:1308.3432.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from autoprune.models.calling.tensors import map_tensors

WEIGHT_LEVELS = 127  # on each side of zero, of signed weights in eight bits
REDUCED_LEVELS = 64  # the same in seven bits
_ACTIVATION_LEVELS = 255  # above the smallest, of unsigned activations
_LONGEST_GRADIENT = 1.0  # of a parameter, by its Euclidean norm
_SHRINK = 0.01  # share of the way that a range goes back towards a batch which does not reach its ends

# function → the dimension of its weight that counts output channels
_LAYERS: Mapping[Callable[..., Any], int] = {
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d, functional.linear), 0),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), 1),
}
_PRODUCTS: Sequence[Callable[..., Any]] = (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm)
_SUMS: Sequence[Callable[..., Any]] = (
    *(torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__),
    *(torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__),
)
# ``x += y``, whose result takes the name
_ASSIGNED: Mapping[Callable[..., Any], Callable[..., Any]] = {Tensor.__iadd__: torch.add, Tensor.__imul__: torch.mul}
_POOLS: Sequence[Callable[..., Any]] = (
    *(functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d),
    *(functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d, functional.adaptive_avg_pool3d),
    *(functional.max_pool2d, functional.layer_norm, functional.silu),
)
_JOINS: Sequence[Callable[..., Any]] = (torch.cat, torch.concat, torch.concatenate)


class _StraightThrough(torch.autograd.Function):
    """Rounded numbers, whose gradient is that of the numbers before."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, rounded: Tensor) -> Tensor:
        """Return the rounded numbers."""
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Return the gradient as it is."""
        return gradients[0], None


def fake_weights(weight: Tensor, dimension: int = 0, levels: int = WEIGHT_LEVELS) -> Tensor:
    """Round weights to signed numbers of eight bits and back, each output channel with a scale of its own.

    Args:
        weight: of a layer.
        dimension: the one that counts output channels.
        levels: on each side of zero.

    Returns:
        the same shape; the gradient passes as if nothing were rounded.

    >>> fake_weights(torch.tensor([[127.0, 3.4], [0.0, 0.0]])).tolist()
    [[127.0, 3.0], [0.0, 0.0]]
    """
    with torch.no_grad():
        others = [one for one in range(weight.dim()) if one != dimension]
        scale = weight.abs().amax(dim=others, keepdim=True) / levels
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        rounded = (weight / scale).round().clamp(-levels, levels) * scale
    through: Tensor = _StraightThrough.apply(weight, rounded)
    return through


def fake_activations(given: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Round numbers to unsigned ones of eight bits and back, one scale and zero point for all.

    Args:
        given: of any shape.
        low: smallest number that is told apart, a scalar; zero is always among them.
        high: the largest.

    Returns:
        the same shape; the gradient passes as if nothing were rounded or cut off.

    >>> fake_activations(torch.tensor([-1.0, 0.4, 300.0]), torch.tensor(0.0), torch.tensor(255.0)).tolist()
    [0.0, 0.0, 255.0]
    """
    with torch.no_grad():
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        scale = (high - low) / _ACTIVATION_LEVELS
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        zero = (-low / scale).round()
        rounded = ((given / scale).round() + zero).clamp(0, _ACTIVATION_LEVELS).sub(zero).mul(scale)
    through: Tensor = _StraightThrough.apply(given, rounded)
    return through


class FakeQuantisation(TorchFunctionMode):
    """What rounds while a network runs, and knows the range of every place from run to run.

    A range reaches at once as far as a batch does, and goes back slowly, as weights change. In evaluation it stands.

    Args:
        levels: of weights on each side of zero.

    Attributes:
        rounded: the weights that were rounded, by identity.
    """

    def __init__(self, levels: int = WEIGHT_LEVELS) -> None:
        super().__init__()
        self.rounded = set[int]()
        self.learns = True
        self._levels = levels
        self._ranges = dict[int, tuple[Tensor, Tensor]]()
        self._place = 0
        self._answers: list[Tensor] = []

    def begin(self, learns: bool) -> None:
        """Begin a run of the network.

        Args:
            learns: whether ranges follow the batch.
        """
        self._place, self._answers, self.learns = 0, [], learns

    def ended(self, output: Any) -> Any:
        """Return what the network answers, with the tensors rounded that come from a layer with weights."""
        own, self._answers = self._answers, []
        return map_tensors(output, lambda one: self.activations(one) if any(one is known for known in own) else one)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of PyTorch with what goes into it rounded."""
        kwargs = dict(kwargs or {})
        if func in _LAYERS:
            names = ("input", "weight")
            given = [*args[:2], *(kwargs.pop(name) for name in names[len(args) :] if name in kwargs)]
            answer = func(self.activations(given[0]), self.weights(given[1], _LAYERS[func]), *args[2:], **kwargs)
            self._answers.append(answer)
            return answer
        if func in _PRODUCTS and len(args) == 2:
            args = (self.activations(args[0]), self._factor(args[1]))
        elif func in _ASSIGNED and _is_activation(args[0]) and args[0].grad_fn is not None:
            func, args = _ASSIGNED[func], self._both(args)
        elif func in _SUMS:
            args = self._both(args)
        elif func in _JOINS and args:
            args = ([self.activations(one) for one in args[0]], *args[1:])
        elif func in _POOLS and args:
            args = (self.activations(args[0]), *args[1:])
        return func(*args, **kwargs)

    def activations(self, given: Any) -> Any:
        """Return what goes into a function, rounded if it is a tensor of real numbers; remember its range."""
        if not _is_activation(given):
            return given
        low, high = self._range(given.detach())
        return fake_activations(given, low, high)

    def weights(self, weight: Tensor, dimension: int) -> Tensor:
        """Return the weights of a layer, rounded."""
        self.rounded.add(id(weight))
        return fake_weights(weight, dimension, self._levels)

    def _factor(self, given: Any) -> Any:
        """Return the second factor of a product, which may be a weight: its columns are output channels."""
        is_weight = isinstance(given, nn.Parameter) and given.dim() == 2
        return self.weights(given, 1) if is_weight else self.activations(given)

    def _both(self, args: Sequence[Any]) -> Sequence[Any]:
        """Return two terms, rounded if both are tensors of real numbers."""
        if len(args) < 2 or not all(map(_is_activation, args[:2])):
            return args  # a shift or a scale
        return (self.activations(args[0]), self.activations(args[1]), *args[2:])

    def _range(self, given: Tensor) -> tuple[Tensor, Tensor]:
        place = self._place
        self._place += 1
        known = self._ranges.get(place)
        if known is not None and not self.learns:
            return known
        low, high = torch.aminmax(given)
        if known is not None:
            low = torch.minimum(low, known[0] + _SHRINK * (low - known[0]))
            high = torch.maximum(high, known[1] + _SHRINK * (high - known[1]))
        self._ranges[place] = low, high
        return low, high


def _is_activation(given: Any) -> bool:
    return isinstance(given, Tensor) and given.is_floating_point() and given.dim() > 0 and given.numel() > 0


def _clipped(gradient: Tensor) -> Tensor:
    """Return a gradient cut to :data:`_LONGEST_GRADIENT`: behind a standing batch norm nothing else holds it."""
    length: Tensor = torch.linalg.vector_norm(gradient).clamp(min=_LONGEST_GRADIENT)
    return gradient.mul(_LONGEST_GRADIENT / length)


def _hooked(parameter: nn.Parameter) -> Any:
    return parameter.register_hook(_clipped)  # type: ignore[no-untyped-call]


@contextmanager
def fake_quantised(network: nn.Module, levels: int = WEIGHT_LEVELS) -> Iterator[FakeQuantisation]:
    """Let a network round as it will in int8, for a stretch of code; batch norms keep their statistics meanwhile.

    Args:
        network: its weights stay as they are, to be trained; in training mode its ranges follow the batches.
        levels: of weights on each side of zero.
    """
    mode, norms = FakeQuantisation(levels), [one for one in network.modules() if isinstance(one, _BatchNorm)]
    depth = 0

    def begin(*_: Any) -> None:
        nonlocal depth
        for norm in norms:
            norm.eval()
        if not depth:
            mode.begin(network.training)
            mode.__enter__()  # type: ignore[no-untyped-call]
        depth += 1

    def end(module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal depth
        depth -= 1
        if depth:
            return output
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        return mode.ended(output)

    hooks = (
        network.register_forward_pre_hook(begin, prepend=True),
        network.register_forward_hook(end, always_call=True),
        *(_hooked(one) for one in network.parameters() if norms and one.requires_grad),
    )
    try:
        yield mode
    finally:
        for hook in hooks:
            hook.remove()


def not_rounded(network: nn.Module, mode: FakeQuantisation) -> tuple[str, ...]:
    """Return the paths of the modules whose weight matrices or kernels ran through no function that is caught.

    Args:
        network: that ran.
        mode: that it ran in.
    """
    return tuple(
        dict.fromkeys(
            name.rpartition(".")[0]
            for name, one in network.named_parameters()
            if one.dim() > 1 and "weight" in name.rpartition(".")[2] and id(one) not in mode.rounded
        )
    )
