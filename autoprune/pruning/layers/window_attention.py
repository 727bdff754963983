"""Attention within windows of an image, with a bias for each pair of positions: torchvision's Swin, Swin V2 and MaxViT.

The slim forms compute what torchvision's modules compute, operation by operation, with the number of heads and the
head size as they are instead of as quotients of the width. The classes are recognised by name, so that torchvision is
imported only by those who use it.

Source: Liu et al. 2021, "Swin Transformer"; Liu et al. 2022, "Swin Transformer V2" (cosine attention, section 3.2;
continuous position bias, section 3.3); Tu et al. 2022, "MaxViT".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.pruning.layers.attention_heads import Packing, SlimAttention, attention_kind, class_name

_APART = -100.0  # added to the score of two positions that the shift brought together
_LARGEST_SCALE = math.log(100.0)  # of cosine attention, as a logarithm


def split_windows(x: Tensor, window: Sequence[int]) -> Tensor:
    """Return the windows of images as sequences.

    Args:
        x: shape ``(batch, height, width, channels)``; whole windows fit.
        window: height and width of a window.

    Returns:
        Shape ``(batch · windows, area, channels)``.
    """
    tiles = torch.unflatten(torch.unflatten(x, 2, (-1, window[1])), 1, (-1, window[0]))
    return tiles.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def join_windows(x: Tensor, window: Sequence[int], size: Sequence[int]) -> Tensor:
    """Return the images of height and width ``size`` whose windows these are; the inverse of :func:`split_windows`."""
    grid = (-1, size[0] // window[0], size[1] // window[1])
    tiles = torch.unflatten(torch.unflatten(x, 1, (window[0], window[1])), 0, grid)
    return tiles.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def shift_mask(like: Tensor, window: Sequence[int], shift: Sequence[int]) -> Tensor:
    """Return a mask that separates positions which share a window only because the image was rolled.

    Args:
        like: the rolled image, of shape ``(batch, height, width, channels)``; gives type and device.
        window: height and width of a window.
        shift: by how much the image was rolled up and left.

    Returns:
        Shape ``(windows, 1, area, area)``, to be added to scores.
    """
    rows, columns = (
        _regions(length, extent, by, like.device)
        for length, extent, by in zip(like.shape[1:3], window, shift, strict=True)
    )
    regions = split_windows((3 * rows[:, None] + columns)[None, :, :, None], window).squeeze(-1)
    apart = regions[:, None, :, None] != regions[:, None, None, :]
    return like.new_zeros(()).expand(apart.shape).masked_fill(apart, _APART)


def _regions(length: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Return, along one dimension, 2 for what came round from the other end, 1 for the rest of its window, else 0."""
    place = torch.arange(length, device=device)
    return (place >= length - window).long() + (place >= length - shift).long()


def pairwise(table: Tensor, index: Tensor, area: int) -> Tensor:
    """Return the bias of every pair of positions.

    Args:
        table: shape ``(relative positions, heads)``.
        index: the relative position of every pair; ``area ** 2`` of them, in any shape.
        area: positions of a window.

    Returns:
        Shape ``(1, heads, area, area)``.
    """
    return table[index.flatten()].view(area, area, -1).permute(2, 0, 1).contiguous().unsqueeze(0)


class SlimShiftedWindowAttention(SlimAttention):
    """The same as torchvision's ``ShiftedWindowAttention``, with any number of heads and channels."""

    packing = Packing("qkv.weight", "qkv.bias", "proj", per_head=(("relative_position_bias_table", 1),))
    window_size: list[int]
    shift_size: list[int]
    num_heads: int
    attention_dropout: float
    dropout: float
    qkv: nn.Linear
    proj: nn.Linear
    relative_position_index: Tensor
    relative_position_bias_table: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return what every position gathers in its window.

        Args:
            x: shape ``(batch, height, width, in)``.

        Returns:
            Shape ``(batch, height, width, out)``.
        """
        window, (height, width) = self.window_size, x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
        size = x.shape[1:3]
        # a window as large as the image is not shifted
        down, right = (
            0 if extent >= length else by for extent, length, by in zip(window, size, self.shift_size, strict=True)
        )
        mask = None
        if down or right:
            x = torch.roll(x, (-down, -right), (1, 2))
            mask = shift_mask(x, window, (down, right))
        x = join_windows(self._attend(split_windows(x, window), mask), window, size)
        if down or right:
            x = torch.roll(x, (down, right), (1, 2))
        return x[:, :height, :width].contiguous()

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return ``(batch · windows, area, out)`` from ``(batch · windows, area, in)``."""
        qkv = self._project(x)
        # each (batch · windows, heads, area, head size)
        q, k, v = torch.unflatten(qkv, -1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        scores = self._scores(q, k) + self._position_bias()
        if mask is not None:
            scores = (torch.unflatten(scores, 0, (-1, len(mask))) + mask).flatten(0, 1)
        weights = F.dropout(F.softmax(scores, dim=-1), self.attention_dropout, self.training)
        mixed = weights.matmul(v).transpose(1, 2).flatten(2)
        return F.dropout(self.proj(mixed), self.dropout, self.training)

    def _project(self, x: Tensor) -> Tensor:
        """Return queries, keys and values as one, ``(batch · windows, area, 3 · heads · head size)``."""
        projected: Tensor = self.qkv(x)
        return projected

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        scale: float = self.head_dim**-0.5
        return (q * scale).matmul(k.transpose(-2, -1))

    def _position_bias(self) -> Tensor:
        area = self.window_size[0] * self.window_size[1]
        return pairwise(self.relative_position_bias_table, self.relative_position_index, area)


class SlimShiftedWindowAttentionV2(SlimShiftedWindowAttention):
    """The same as torchvision's ``ShiftedWindowAttentionV2``, with any number of heads and channels.

    A head whose queries and keys are zeroed looks everywhere alike, since a zero vector has cosine 0 with all.
    """

    # the position bias comes from a small network, whose last layer has one output per head
    packing = Packing(
        "qkv.weight",
        "qkv.bias",
        "proj",
        per_head=(("logit_scale", 0), ("cpb_mlp.2.weight", 0)),
    )
    logit_scale: Tensor
    relative_coords_table: Tensor
    cpb_mlp: nn.Sequential

    def _project(self, x: Tensor) -> Tensor:
        """Return them with the bias of the keys held at zero, whatever was learned."""
        if self.qkv.bias is None:
            return F.linear(x, self.qkv.weight)
        q, k, v = self.qkv.bias.chunk(3)
        return F.linear(x, self.qkv.weight, torch.cat([q, torch.zeros_like(k), v]))

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        cosine = F.normalize(q, dim=-1).matmul(F.normalize(k, dim=-1).transpose(-2, -1))
        return cosine * torch.clamp(self.logit_scale, max=_LARGEST_SCALE).exp()

    def _position_bias(self) -> Tensor:
        table = self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads)
        area = self.window_size[0] * self.window_size[1]
        return 16 * torch.sigmoid(pairwise(table, self.relative_position_index, area))


class SlimRelativePositionalAttention(SlimAttention):
    """The same as MaxViT's ``RelativePositionalMultiHeadAttention``, with any number of heads and channels."""

    packing = Packing(
        "to_qkv.weight", "to_qkv.bias", "merge", heads="n_heads", per_head=(("relative_position_bias_table", 1),)
    )
    n_heads: int
    max_seq_len: int
    scale_factor: float  # from the dense width, not from the head size: it must never change
    to_qkv: nn.Linear
    merge: nn.Linear
    relative_position_index: Tensor
    relative_position_bias_table: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return what every position gathers in its window.

        Args:
            x: shape ``(batch, windows, area, in)``.

        Returns:
            Shape ``(batch, windows, area, out)``.
        """
        q, k, v = (
            torch.unflatten(part, -1, (self.n_heads, self.head_dim)).transpose(2, 3)
            for part in self.to_qkv(x).chunk(3, dim=-1)
        )  # each (batch, windows, heads, area, head size)
        scores = q.matmul((k * self.scale_factor).transpose(-2, -1))
        bias = pairwise(self.relative_position_bias_table, self.relative_position_index, self.max_seq_len)
        mixed: Tensor = F.softmax(scores + bias, dim=-1).matmul(v)
        joined: Tensor = self.merge(mixed.transpose(2, 3).flatten(3))
        return joined


_SWIN = "torchvision.models.swin_transformer"
_MAXVIT = "torchvision.models.maxvit"

WINDOW_KINDS = [
    attention_kind(
        "Swin attention",
        SlimShiftedWindowAttention,
        lambda module: class_name(module) == f"{_SWIN}.ShiftedWindowAttention",
    ),
    attention_kind(
        "Swin V2 attention",
        SlimShiftedWindowAttentionV2,
        lambda module: class_name(module) == f"{_SWIN}.ShiftedWindowAttentionV2",
    ),
    attention_kind(
        "MaxViT attention",
        SlimRelativePositionalAttention,
        lambda module: class_name(module) == f"{_MAXVIT}.RelativePositionalMultiHeadAttention",
    ),
]
"""The kinds of attention within windows."""
