"""How channels flow through operations: one short rule for each family of PyTorch's operations.

A rule gets the operation, its arguments and its result, reads the atoms of the arguments (``tracer.labels``), unites or
freezes them, and sets those of the result (``tracer.set_labels``). Operations that only move numbers are applied to
the atoms themselves, so views, concatenations and shuffles need no rule of their own.
"""

from __future__ import annotations

from autoprune.pruning.tracing.copy_rules import copied
from autoprune.pruning.tracing.layer_rules import embedding, layer_norm, normalised, prelu, weighted
from autoprune.pruning.tracing.matrix_rules import attended, multiplied, summed_by_letters
from autoprune.pruning.tracing.recurrent_rules import cell, packed, recurrent
from autoprune.pruning.tracing.reshape_rules import (
    along,
    compared,
    glu,
    moved,
    padded,
    parted,
    pointwise,
    pooled,
    reduced,
    shuffled,
    sliced,
    viewed,
)
from autoprune.pruning.tracing.rule_helpers import Rule
from autoprune.pruning.tracing.statistics import REDUCTIONS

_WEIGHTED = "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution"
_FAMILIES: dict[Rule, str] = {
    weighted: _WEIGHTED,
    normalised(lambda x: 1, 1): "batch_norm instance_norm native_batch_norm",
    normalised(lambda x: 1, 2): "group_norm",
    layer_norm: "layer_norm rms_norm",
    embedding: "embedding embedding_bag",
    prelu: "prelu _prelu_kernel",
    recurrent: "lstm gru rnn_tanh rnn_relu",
    cell: "lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell",
    packed: "_pack_padded_sequence _pad_packed_sequence",
    pointwise: "add dropout feature_dropout alpha_dropout alias to _to_copy contiguous detach type_as hardswish "
    "where masked_fill log_sigmoid clone lift_fresh zeros_like ones_like full_like empty_like rand_like randn_like "
    "bernoulli native_dropout fill zero uniform normal resolve_conj resolve_neg",
    copied: "copy index_put slice_scatter select_scatter index_copy masked_scatter scatter index_add scatter_add",
    glu: "glu",
    moved: "permute transpose swapaxes t T numpy_T mT adjoint expand expand_as squeeze unsqueeze movedim moveaxis "
    "select cat concat concatenate stack hstack vstack roll flip repeat tile index index_select gather "
    "pixel_shuffle pixel_unshuffle unfold im2col diagonal rot90 repeat_interleave take_along_dim view_as "
    "reshape_as broadcast_to",
    sliced: "narrow slice",
    parted: "chunk split split_with_sizes unbind tensor_split unsafe_chunk unsafe_split hsplit vsplit",
    viewed: "view _unsafe_view reshape flatten unflatten",
    shuffled: "channel_shuffle native_channel_shuffle",
    padded: "pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d "
    "replication_pad2d replication_pad3d",
    pooled: "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d "
    "max_pool1d_with_indices max_pool3d_with_indices mkldnn_max_pool2d "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d "
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
    "_upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler_2d grid_sampler_3d grid_sampler",
    reduced: " ".join(sorted(REDUCTIONS)),
    along: "softmax log_softmax _softmax _log_softmax cumsum cumprod sort topk argsort",
    compared: "cosine_similarity",
    multiplied: "matmul mm bmm addmm baddbmm tensordot dot mv bilinear",
    summed_by_letters: "einsum",
    attended: "scaled_dot_product_attention",
}
RULES: dict[str, Rule] = {name: rule for rule, names in _FAMILIES.items() for name in names.split()}
"""Operation → rule; operations that PyTorch marks as pointwise follow the rule of ``add``."""

_MAKES = (
    "zeros ones full empty rand randn randint randperm arange linspace eye new_zeros new_ones new_full "
    "new_empty new_empty_strided empty_strided scalar_tensor"
)
MAKES = frozenset(_MAKES.split())
"""Operations that make a tensor out of sizes alone."""

READS_WEIGHTS = frozenset(
    f"{_WEIGHTED} batch_norm instance_norm group_norm layer_norm rms_norm embedding embedding_bag prelu "
    "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell".split()
)
"""Operations that read a layer's weights beside the numbers that they are about."""
