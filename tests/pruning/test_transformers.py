"""Networks of transformers, called as their owners call them: heads are groups, cuts exact, costs by the closed form.

What no network of its own shows: real libraries reshape, mask, share and scale in ways of their own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.core.counts import ChannelCounts
from autoprune.cost.cost_model import CostModel, measure_network
from autoprune.models.calling.answers import answer_of, difference
from autoprune.models.calling.inputs import Inputs
from autoprune.pruning.channel_positions import tensor_shrinks
from autoprune.pruning.cut_plan import plan_cut
from autoprune.pruning.groups import find_groups
from autoprune.pruning.surgery import shrink, zeroed

transformers = pytest.importorskip("transformers")

WORDS, TOKENS, PIXELS, CLASSES = 50, 6, 32, 3
ENCODER = {
    "vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "num_labels": CLASSES, "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip
SHARED = ENCODER | {"num_key_value_heads": 2}  # two heads of queries for each of keys and values
VISION = {
    "image_size": PIXELS, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "num_labels": CLASSES,
}  # fmt: skip
SPEECH = {
    "vocab_size": WORDS, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_mel_bins": 8,
    "max_source_positions": 10, "max_target_positions": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1, "suppress_tokens": [], "begin_suppress_tokens": [],
}  # fmt: skip
Family = tuple[str, str, Mapping[str, Any], str, int]
FAMILIES: Mapping[str, Family] = {  # network, configuration, its values, what it is called with, heads of a layer
    "bert": ("BertForSequenceClassification", "BertConfig", ENCODER, "text", 4),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", ENCODER, "text", 4),
    "distilbert": ("DistilBertForSequenceClassification", "DistilBertConfig",
                   {"vocab_size": WORDS, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48,
                    "num_labels": CLASSES, "max_position_embeddings": 32, "pad_token_id": 0}, "text", 4),
    "vit": ("ViTForImageClassification", "ViTConfig", VISION, "images", 4),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", VISION, "images", 4),
    "llama": ("LlamaForCausalLM", "LlamaConfig", SHARED, "text", 2),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", SHARED, "text", 2),
    "whisper": ("WhisperForConditionalGeneration", "WhisperConfig", SPEECH, "speech", 4),
    "t5": ("T5ForConditionalGeneration", "T5Config",
           {"vocab_size": WORDS, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_decoder_layers": 1,
            "num_heads": 4, "pad_token_id": 0, "decoder_start_token_id": 0}, "translation", 4),
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config",
                 {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                  "intermediate_size": 48, "conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2),
                  "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
                  "apply_spec_augment": False}, "sound", 4),
    "segformer": ("SegformerForSemanticSegmentation", "SegformerConfig",
                  {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [16, 32],
                   "patch_sizes": [3, 3], "strides": [2, 2], "num_attention_heads": [2, 4], "mlp_ratios": [2, 2],
                   "decoder_hidden_size": 32, "num_labels": CLASSES}, "images", 2),
    "mobilevit": ("MobileViTForImageClassification", "MobileViTConfig",
                  {"image_size": 64, "hidden_sizes": [16, 16, 16], "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16],
                   "num_attention_heads": 4, "num_labels": CLASSES}, "large images", 4),
    "swin": ("SwinForImageClassification", "SwinConfig",
             {"image_size": PIXELS, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4],
              "window_size": 4, "num_labels": CLASSES}, "images", 2),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config",
             {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}, "text", 4),
}  # fmt: skip


def called_with(kind: str) -> Inputs:
    """Return two examples: ids with a mask, images, features or sound."""
    draw = torch.Generator().manual_seed(1)
    words = torch.randint(3, WORDS, (2, TOKENS), generator=draw)
    mask = torch.ones_like(words)
    mask[1, -2:] = 0
    given: dict[str, dict[str, Tensor]] = {
        "text": {"input_ids": words, "attention_mask": mask},
        "images": {"pixel_values": torch.randn(2, 3, PIXELS, PIXELS, generator=draw)},
        "large images": {"pixel_values": torch.randn(2, 3, 64, 64, generator=draw)},
        "speech": {"input_features": torch.randn(2, 8, 20, generator=draw), "decoder_input_ids": words},
        "translation": {"input_ids": words, "attention_mask": mask, "decoder_input_ids": words[:, :4]},
        "sound": {"input_values": torch.randn(2, 400, generator=draw)},
    }
    return Inputs((), given[kind])


class KeptNorm(nn.Module):
    """A hand-written RMS norm that counts only the channels whose factor is not zero."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight = norm.weight
        self.epsilon = float(norm.variance_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.pow(2).sum(-1, keepdim=True) / (self.weight != 0).sum()
        return self.weight * x * torch.rsqrt(mean + self.epsilon)


def with_own_norms(network: nn.Module) -> nn.Module:
    """Return a masked network whose RMS norms leave the masked channels out, as those of a cut one do."""
    for path, module in list(network.named_modules()):
        if hasattr(module, "variance_epsilon"):
            network.set_submodule(path, KeptNorm(module))
    return network


@pytest.fixture(scope="module", params=FAMILIES)
def found(request: pytest.FixtureRequest) -> tuple[nn.Module, Inputs, Any, int]:
    network, config, values, kind, heads = FAMILIES[request.param]
    torch.manual_seed(0)
    made = getattr(transformers, network)(getattr(transformers, config)(**values)).eval()
    made.config.use_cache = False
    inputs = called_with(kind)
    return made, inputs, find_groups(made, inputs), heads


def test_heads_are_groups(found: tuple[nn.Module, Inputs, Any, int]) -> None:
    _, _, groups, heads = found
    assert sum(group.num_channels == heads for group in groups.cuttable) >= 1, [g.name for g in groups.cuttable]


def test_a_cut_computes_what_zeroing_does(found: tuple[nn.Module, Inputs, Any, int]) -> None:
    network, inputs, groups, _ = found
    draw = random.Random(0)
    lost = {g.name: sorted(draw.sample(range(g.num_channels), g.num_channels // 2)) for g in groups.cuttable}
    double = type(network)(network.config).eval()
    double.load_state_dict(network.state_dict())
    double = double.double()
    cut = plan_cut(double, groups.cuttable, lost)
    rounding = 1e-5 if any(hasattr(one, "variance_epsilon") for one in network.modules()) else 1e-10  # in float32
    with torch.no_grad():
        wide = inputs.real_as(torch.float64)
        small, twin = (answer_of(one, wide) for one in (shrink(double, cut), with_own_norms(zeroed(double, cut))))
    assert max(difference(one, other) for one, other in zip(small, twin, strict=True)) < rounding


def test_costs_are_those_of_the_cut_network(found: tuple[nn.Module, Inputs, Any, int]) -> None:
    network, inputs, groups, _ = found
    channels = {group.name: group.num_channels for group in groups.cuttable}
    model = CostModel(network, tensor_shrinks(network, groups.cuttable), channels, inputs)
    cut = plan_cut(network, groups.cuttable, {name: range(count // 2) for name, count in channels.items()})
    kept = ChannelCounts({name: count - count // 2 for name, count in channels.items()})
    assert model.measure(kept).values == measure_network(shrink(network, cut), inputs).values
