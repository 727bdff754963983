"""How channels flow through products of matrices: with a bare weight, over positions, and between activations.

A product runs over one dimension, which is contracted, of both factors. If channels lie along it they end there, and
those of both factors shrink alike. Channels along another dimension pass. Weights that no layer owns are two sides of
a linear map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from autoprune.pruning.tracing.layer_rules import read_by_bare
from autoprune.pruning.tracing.operation import operation
from autoprune.pruning.tracing.reshape_rules import meet
from autoprune.pruning.tracing.rule_helpers import (
    ChannelTrace,
    argument,
    first_along,
    flat,
    one_line,
    spread,
)


def multiplied(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Follow channels through a product of two matrices, or of two batches of them."""
    name = operation(func)
    bias, (first, second) = (args[0], args[1:3]) if name in ("addmm", "baddbmm") else (None, args[:2])
    if second.dim() == 2 and first.dim() >= 2 and tracer.matrix_of(second) is not None:  # as in GPT-2
        read_by_bare(tracer, second, first, bias, result, first.dim() - 1, out=1)
        return
    if first.dim() == 2 and second.dim() >= 2 and bias is None and tracer.matrix_of(first) is not None:
        read_by_bare(tracer, first, second, None, result, second.dim() - 2, out=0)
        return
    if first.dim() < 2 or second.dim() < 2 or name in ("dot", "mv", "bilinear", "tensordot"):
        _freeze_all(tracer, args)
        return
    a, b = tracer.labels(first), tracer.labels(second)
    weight = _passed_by(tracer, first, second)
    if weight is not None:
        a, b = (None, b) if weight is first else (a, None)
    path = "" if weight is None else tracer.origin_of(weight) or ""
    labels = product_of(tracer, a, b, result.shape, first.shape[-1], path)
    tracer.set_labels(result, labels)
    if bias is not None and (shift := tracer.labels(bias)) is not None:
        tracer.channels.freeze(shift, "is added to a product of activations")


def _passed_by(tracer: ChannelTrace, first: Tensor, second: Tensor) -> Tensor | None:
    """Return the factor that is a batch of weights over positions, which channels of the other pass, ``None`` if none.

    As where the matrix that says which nodes of a graph are neighbours is repeated for every example.
    """
    along_first, along_second = (tracer.channels.varying(tracer.labels(factor)) for factor in (first, second))
    if along_second and tracer.origin_of(first) is not None and second.dim() - 2 not in along_second:
        return first
    if along_first and tracer.origin_of(second) is not None and first.dim() - 1 not in along_first:
        return second
    return None


def product_of(
    tracer: ChannelTrace,
    first: Tensor | None,
    second: Tensor | None,
    shape: Sequence[int],
    inner: int,
    weight: str = "",
) -> Tensor | None:
    """Return the atoms of a product of activations, and note what it costs.

    Args:
        tracer: of the forward pass.
        first: atoms of the first factor, ``(…, M, K)``; ``None`` if none of it can be cut.
        second: atoms of the second, ``(…, K, N)``; likewise.
        shape: of the product, ``(…, M, N)``.
        inner: K.
        weight: path of the factor that is a weight; empty if both are activations.
    """
    channels, macs = tracer.channels, prod(shape) * inner
    rows, columns = len(shape) - 2, len(shape) - 1
    a, b = _aligned(first, len(shape)), _aligned(second, len(shape))
    along_a, along_b = channels.varying(a), channels.varying(b)
    if a is not None and b is not None and columns in along_a and rows in along_b:
        channels.unite_along(a, [rows])
        channels.unite_along(b, [columns])
        ends, begins = first_along(a, [rows]).transpose(-1, -2), first_along(b, [columns])
        whole = torch.Size(max(sizes) for sizes in zip(ends.shape, begins.shape, strict=True))
        channels.unite(ends.expand(whole), begins.expand(whole))
        if len(shape) > 3:
            tracer.findings.contracted.append(ends)
        tracer.note_product(macs, *one_line(tracer, ends))
        return None
    a, b = _not_ending(tracer, a, columns), _not_ending(tracer, b, rows)
    left = None if a is None else first_along(a, [columns])
    right = None if b is None else first_along(b, [rows])
    over_left, over_right = channels.varying(left), channels.varying(right)
    if over_left and over_right and over_left.isdisjoint(over_right):
        channels.freeze(right, "meets other channels in every combination")
        right = None
    met = left if right is None else right if left is None else meet(tracer, left, right)
    if met is None:
        return None
    tracer.note_product(macs, *one_line(tracer, met), weight=weight)
    return met.expand(tuple(shape))


def _not_ending(tracer: ChannelTrace, labels: Tensor | None, dim: int) -> Tensor | None:
    """Return the atoms of a factor, ``None`` if they end in the product along this dimension, as the other's do not."""
    if dim not in tracer.channels.varying(labels):
        return labels
    tracer.channels.freeze(labels, "is multiplied as a matrix with what is no layer's own")
    return None


def attended(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Follow queries, keys and values: two products; the size of a head sets the scale of the first, unless given.

    With fewer heads of keys and values than of queries, each serves several of these that follow one another. What is
    added to the scores, as a bias for each head, has the channels of their heads.

    Source: Ainslie et al. 2023, "GQA: Training Generalized Multi-Query Transformer Models", section 2.2.
    """
    query, key, value = args[:3]
    asks, answers, values = tracer.labels(query), tracer.labels(key), tracer.labels(value)
    if query.dim() > 3 and key.shape[-3] not in (1, query.shape[-3]):
        served = query.shape[-3] // key.shape[-3]
        answers, values = (
            None if labels is None else labels.repeat_interleave(served, dim=-3) for labels in (answers, values)
        )
    if argument(func, args, kwargs, "scale") is None:
        for labels in (asks, answers):
            if labels is not None and labels.dim() - 1 in tracer.channels.varying(labels):
                tracer.channels.freeze(labels, "sets the scale of attention by its number")
    turned = None if answers is None else answers.transpose(-1, -2)
    scores = product_of(tracer, asks, turned, (*result.shape[:-1], key.shape[-2]), query.shape[-1])
    if (bias := tracer.labels(argument(func, args, kwargs, "attn_mask"))) is not None:
        bias = bias.view((1,) * (result.dim() - bias.dim()) + tuple(bias.shape))
        scores = bias if scores is None else meet(tracer, scores, bias)
    tracer.set_labels(result, product_of(tracer, scores, values, result.shape, key.shape[-2]))


def summed_by_letters(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Follow channels through ``einsum`` of two tensors, each letter a dimension."""
    inputs, _, output = str(args[0]).replace(" ", "").partition("->")
    letters = inputs.split(",")
    if len(letters) != 2 or "." in inputs or not output or any(len(set(each)) < len(each) for each in letters):
        _freeze_all(tracer, args)
        return
    operands = args[1]
    weights = [i for i in (0, 1) if tracer.matrix_of(operands[i]) is not None]
    lines = [{} if i in weights else _by_letter(tracer, operands[i], letters[i]) for i in (0, 1)]
    made: dict[str, Tensor] = {}
    for i in weights:
        lines[i], made = _weight_by_letter(tracer, operands[i], letters[i], lines[1 - i], letters[1 - i])
    passing = dict(made)
    for letter in dict.fromkeys(inputs.replace(",", "")):
        found = [line[letter] for line in lines if letter in line]
        if len(found) == 2:
            tracer.channels.unite(*found)
            if letter not in output and not weights and len(letters[0]) > 3:
                tracer.findings.contracted.append(found[0])
        elif found and all(letter in each for each in letters):
            tracer.channels.freeze(found[0], "is multiplied with what is no layer's own")
            continue
        if found and letter in output:
            passing[letter] = found[0]
    _spread_letters(tracer, passing, output, result)
    if not made:
        sizes = dict(zip("".join(letters), (*operands[0].shape, *operands[1].shape), strict=True))
        ends = [line[letter] for line in lines for letter in line]
        path = (tracer.origin_of(operands[weights[0]]) or "") if weights else ""
        tracer.note_product(prod(sizes.values()), *ends[:1], weight=path)


def _by_letter(tracer: ChannelTrace, operand: Tensor, letters: str) -> dict[str, Tensor]:
    """Return the channels along the one letter in which they vary."""
    labels = tracer.labels(operand)
    varying = sorted(tracer.channels.varying(labels))
    if labels is None or not varying:
        return {}
    if len(varying) > 1:
        tracer.channels.freeze(labels, "lies along several dimensions of an einsum")
        return {}
    return {letters[varying[0]]: one_line(tracer, labels)[0]}


def _weight_by_letter(
    tracer: ChannelTrace, weight: Tensor, letters: str, other: Mapping[str, Tensor], others: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the sides of a bare weight that meet the other operand's channels, and the one that it makes.

    It has none if channels pass it by, as those of a graph's nodes pass the matrix that says which are neighbours.
    """
    if other and not set(other).intersection(letters):
        return {}, {}
    path, names = tracer.matrix_of(weight) or ("", ())
    sides = dict(zip(letters, names, strict=True))
    met = {
        letter: tracer.side(path, sides[letter], weight.shape[letters.index(letter)])
        for letter in letters
        if letter in other
    }
    makes = [letter for letter in letters if letter not in others]
    if len(makes) != 1:
        return met, {}
    tracer.findings.makers.add((path, sides[makes[0]]))
    return met, {makes[0]: tracer.side(path, sides[makes[0]], weight.shape[letters.index(makes[0])])}


def _spread_letters(tracer: ChannelTrace, passing: Mapping[str, Tensor], output: str, result: Tensor) -> None:
    if len(passing) > 1:
        for line in passing.values():
            tracer.channels.freeze(line, "meets other channels in every combination")
        return
    for letter, line in passing.items():
        tracer.set_labels(result, spread(line, result, output.index(letter)))


def _aligned(labels: Tensor | None, dims: int) -> Tensor | None:
    return None if labels is None else labels.view((1,) * (dims - labels.dim()) + tuple(labels.shape))


def _freeze_all(tracer: ChannelTrace, args: Any) -> None:
    for value in flat(args):
        tracer.channels.freeze(tracer.labels(value), "is multiplied as a matrix outside of any known layer")
