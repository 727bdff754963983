"""Attention modules as kinds of layers: whole heads, and the embedding channels they read and produce, can be cut.

PyTorch's own module and timm's are here, those within windows in ``window_attention.py``, and what they share in
``attention_heads.py``. A head whose values and outgoing weights are zero adds nothing, so the zeroed module computes
what the cut one computes; the softmax scale stays that of the dense heads, whose size never changes.

Source: Vaswani et al. 2017, "Attention Is All You Need"; Michel, Levy and Neubig 2019, "Are Sixteen Heads Really
Better than One?".
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.core.channel_groups import Side
from autoprune.pruning.layers.attention_heads import Packing, SlimAttention, attention_kind, class_name
from autoprune.pruning.layers.axes import LayerKind
from autoprune.pruning.layers.window_attention import WINDOW_KINDS


class SlimMultiheadAttention(SlimAttention):
    """The same as :class:`torch.nn.MultiheadAttention`, with any number of heads and channels.

    The attention weights it returns are those of the heads that stay. A mask with one slice per head may have those
    of all dense heads, because code that builds such masks does not know of the cut.

    Args:
        dense: the module to replace.
    """

    packing = Packing("in_proj_weight", "in_proj_bias", "out_proj")
    num_heads: int
    embed_dim: int
    dropout: float
    batch_first: bool
    in_proj_weight: Tensor
    in_proj_bias: Tensor | None
    out_proj: nn.Linear

    def __init__(self, dense: nn.MultiheadAttention) -> None:
        super().__init__(dense)
        self.dense_heads = self.num_heads
        self.head_ids = tuple(range(self.num_heads))
        # nn.TransformerEncoderLayer hands our tensors to a fused kernel that divides the width by the heads, unless
        # it reads here that queries, keys and values have widths of their own
        self._qkv_same_embed_dim = False

    def resize(self, kept: Mapping[Side, tuple[int, ...]]) -> None:
        """Update the sizes, and which of the dense heads are left."""
        super().resize(kept)
        self.head_ids = tuple(self.head_ids[head] for head in kept.get("heads", range(self.num_heads)))
        self.embed_dim = self.kdim = self.vdim = self.in_proj_weight.shape[1]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what every query gathers, and the weights if they are needed.

        Args: as for :class:`torch.nn.MultiheadAttention`. Queries, keys and values may be nested; ``attn_mask`` may
        have one slice for each head that stays, or for each dense one.

        Returns: the shape of ``query`` with ``out`` channels; and ``None``, or shape ``(batch, L, S)`` averaged,
        ``(batch, heads, L, S)`` otherwise, without ``batch`` for a single sequence.

        Raises:
            RuntimeError: if ``is_causal`` comes without a mask.
        """
        if query.is_nested:
            return self._forward_nested(query, key, value, need_weights, average_attn_weights)
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal only says that attn_mask is the causal mask; pass that mask too")
        batched = query.dim() == 3
        batch_first = self.batch_first or not batched
        q, k, v = (
            self._by_head(x if batched else x.unsqueeze(0), batch_first) for x in self._project(query, key, value)
        )
        # the kernel knows the causal mask
        is_causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if is_causal else self._mask(attn_mask, key_padding_mask, q)
        mixed, weights = self._attend(q, k, v, mask, is_causal, need_weights)
        mixed = mixed.transpose(1, 2) if batch_first else mixed.permute(2, 0, 1, 3)
        joined = self.out_proj(mixed.flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        return (joined, weights) if batched else (joined.squeeze(0), None if weights is None else weights.squeeze(0))

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values, each ``(…, heads · head size)``."""
        if query is key and key is value:  # one product is faster than three
            return F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        weights = self.in_proj_weight.chunk(3)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return tuple(F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))

    def _by_head(self, x: Tensor, batch_first: bool) -> Tensor:
        """Return ``(batch, heads, length, head size)``."""
        x = torch.unflatten(x, -1, (self.num_heads, self.head_dim))
        return x.transpose(1, 2) if batch_first else x.permute(1, 2, 0, 3)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return ``(batch, heads, L, head size)``, and ``(batch, heads, L, S)`` if needed."""
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal), None
        scores = (q * math.sqrt(1 / self.head_dim)).matmul(k.transpose(-2, -1))
        weights = F.dropout(F.softmax(scores if mask is None else scores + mask, dim=-1), dropout)
        return weights.matmul(v), weights

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
        """Return both masks as one that is added and that spreads over ``(batch, heads, L, S)``."""
        mask = None
        if attn_mask is not None:
            mask = _added(attn_mask, q.dtype)
            mask = self._of_kept_heads(mask, q.shape[0]) if mask.dim() == 3 else mask[None, None]
        if padding is not None:
            ignored = _added(padding, q.dtype).view(q.shape[0], 1, 1, -1)
            mask = ignored if mask is None else mask + ignored
        return mask

    def _of_kept_heads(self, mask: Tensor, batch: int) -> Tensor:
        """Return ``(batch, heads, L, S)`` from one slice per sequence and head, dense or left."""
        mask = torch.unflatten(mask, 0, (batch, -1))
        if mask.shape[1] == self.num_heads:
            return mask
        if mask.shape[1] != self.dense_heads:
            raise RuntimeError(
                f"attn_mask has {mask.shape[1]} slices per sequence; one per head is expected, "
                f"{self.num_heads}, or {self.dense_heads} as before the cut"
            )
        return mask[:, list(self.head_ids)]

    def _forward_nested(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool, average: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Pad sequences of different lengths, and remove the padding from the result.

        :class:`torch.nn.TransformerEncoder` nests what it is given, for fused kernels, if its first layer allows it,
        whatever the other layers are.
        """
        lengths = [len(row) for row in query.unbind()]
        key_lengths = torch.tensor([len(row) for row in key.unbind()], device=key.device)
        padded = {id(x): x.to_padded_tensor(0.0) for x in (query, key, value)}  # what is one tensor stays one
        q, k, v = (padded[id(x)] for x in (query, key, value))
        padding = torch.arange(k.shape[1], device=k.device) >= key_lengths[:, None]
        joined, weights = self(q, k, v, padding, need_weights, None, average)
        rows = [row[:length] for row, length in zip(joined, lengths, strict=True)]
        return torch.nested.as_nested_tensor(rows), weights


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask to be added to scores: minus infinity where a Boolean one says ``True``."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))


def _is_multihead(module: nn.Module) -> bool:
    """Return whether PyTorch's attention packs its projections and adds no key or value of its own."""
    return (
        type(module) is nn.MultiheadAttention
        and module.in_proj_weight is not None
        and module.bias_k is None
        and module.bias_v is None
        and not module.add_zero_attn
    )


class SlimTimmAttention(SlimAttention):
    """The same as timm's ``Attention`` of vision transformers, with any number of heads and channels."""

    packing = Packing("qkv.weight", "qkv.bias", "proj")
    num_heads: int
    scale: float
    fused_attn: bool
    qkv: nn.Linear
    q_norm: nn.Module
    k_norm: nn.Module
    attn_drop: nn.Dropout
    proj: nn.Linear
    proj_drop: nn.Dropout

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Return what every token gathers.

        Args:
            x: shape ``(batch, tokens, in)``.
            attn_mask: spreads over ``(batch, heads, tokens, tokens)``; ``True`` for pairs that may look at each other,
                or what is added.
            is_causal: whether tokens look back only; ``attn_mask`` is then not read.

        Returns:
            Shape ``(batch, tokens, out)``.
        """
        qkv = torch.unflatten(self.qkv(x), -1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # each (batch, heads, tokens, head size)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.fused_attn:
            dropout = self.attn_drop.p if self.training else 0.0
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask, dropout, is_causal)
        else:
            mixed = self._attend(q, k, v, attn_mask, is_causal)
        joined: Tensor = self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))
        return joined

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
        """Return ``(batch, heads, tokens, head size)`` without the fused kernel."""
        scores = (q * self.scale).matmul(k.transpose(-2, -1))
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        if mask is not None:
            scores = scores + (_added(~mask, q.dtype) if mask.dtype == torch.bool else mask)
        mixed: Tensor = self.attn_drop(scores.softmax(dim=-1)).matmul(v)
        return mixed


# timm has a dozen classes called Attention; SAM's even has the same parts, but rotates and reads images
_TIMM = ("timm.models.vision_transformer.Attention", "timm.layers.attention.Attention")
_TIMM_PARTS = {"qkv", "q_norm", "k_norm", "attn_drop", "proj", "proj_drop"}


def _is_timm(module: nn.Module) -> bool:
    """Return whether a module is timm's attention, without a gate or a norm over all heads together."""
    if class_name(module) not in _TIMM:
        return False
    parts = dict(module.named_children())
    joint = parts.pop("norm", None)
    return (
        set(parts) == _TIMM_PARTS
        and isinstance(joint, (nn.Identity, type(None)))
        and all(isinstance(parts[name], nn.Linear) for name in ("qkv", "proj"))
        and not [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    )


ATTENTION_KINDS: list[LayerKind] = [
    attention_kind("multi-head attention", SlimMultiheadAttention, _is_multihead),
    *WINDOW_KINDS,
    attention_kind("timm attention", SlimTimmAttention, _is_timm),
]
"""Every kind of attention that can be cut; a module is of one kind at most."""
