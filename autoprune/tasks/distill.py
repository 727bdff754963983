"""How far a student's output is from its teacher's: a divergence for logits, squared differences for other numbers."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from autoprune.models.calling.tensors import tensors_in

_LOGITS = "logits"  # what dictionaries and dataclasses call them


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float, dim: int = 1) -> Tensor:
    """Return T² · KL(softmax(teacher / T) ‖ softmax(student / T)), the mean over all but the classes, a scalar.

    Args:
        student: logits of any shape.
        teacher: logits of the same shape.
        temperature: T > 0.
        dim: that of the classes.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531,
    section 2.
    """
    if student.dim() > 2 or dim != 1:  # (N, C, …) → (N · …, C)
        student, teacher = (logits.movedim(dim, -1).flatten(0, -2) for logits in (student, teacher))
    answers = F.log_softmax(student / temperature, dim=1)
    target = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(answers, target, reduction="batchmean", log_target=True) * temperature**2


def main_output(output: Any) -> Tensor | None:
    """Return the tensor of an output that is learnt from: the only one, or the one called ``logits``."""
    if isinstance(output, Tensor):
        return output
    named = output.get(_LOGITS) if hasattr(output, "get") else getattr(output, _LOGITS, None)
    if isinstance(named, Tensor):
        return named
    real = [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]
    return real[0] if len(real) == 1 else None


def class_dim(output: Tensor, targets: list[Tensor]) -> int | None:
    """Return the dimension of an output along which there is one number for each class; ``None`` if it has none.

    It is the one without which the output has the shape of whole-number targets: 1 of ``(N, C)`` and labels ``(N,)``,
    1 of ``(N, C, H, W)`` and masks ``(N, H, W)``, 2 of ``(N, T, V)`` and tokens ``(N, T)``.

    >>> import torch
    >>> class_dim(torch.zeros(2, 7, 9), [torch.zeros(2, 7, dtype=torch.int64)])
    2
    """
    for target in targets:
        if target.is_floating_point() or target.dim() != output.dim() - 1:
            continue
        for dim in (1, output.dim() - 1):
            if output.shape[:dim] + output.shape[dim + 1 :] == target.shape:
                return dim
    return None


def default_distillation(student: Any, teacher: Any, targets: list[Tensor], temperature: float) -> Tensor | None:
    """Return the divergence of logits, the mean squared difference of other real outputs, or ``None`` for neither.

    Args:
        student: the student's output, of any structure.
        teacher: the teacher's.
        targets: tensors of the batch that the network does not get.
        temperature: of the divergence.
    """
    own, wanted = main_output(student), main_output(teacher)
    if own is None or wanted is None or own.shape != wanted.shape or not own.is_floating_point():
        return None
    dim = class_dim(own, targets)
    if dim is not None:
        return softened_divergence(own, wanted, temperature, dim)
    return F.mse_loss(own, wanted) if any(target.is_floating_point() for target in targets) else None
