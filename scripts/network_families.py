"""The smallest members of families of timm and transformers, for ``make_network_docs.py``; with random weights.

Both libraries are needed only here: ``pip install timm transformers``. timm's networks see images of 64×64 pixels
where they take them, transformers' encoders sixteen tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

CLASSES, TOKENS, WORDS, PIXELS = 10, 16, 100, 64

TIMM = (
    "convnextv2_atto", "cs3darknet_s", "deit_tiny_patch16_224", "dla34", "dpn68", "edgenext_xx_small",
    "efficientnet_b0",
    "efficientvit_b0", "ese_vovnet19b_dw", "fbnetc_100", "gernet_s", "ghostnet_050", "ghostnetv2_100", "hgnetv2_b0",
    "hrnet_w18_small", "inception_next_atto", "lcnet_035", "levit_128s", "mambaout_femto", "mixer_s32_224", "mixnet_s",
    "mobilenetv4_conv_small", "mobileone_s0", "mobilevit_xxs", "mobilevitv2_050", "nf_regnet_b0", "poolformer_s12",
    "pvt_v2_b0", "regnetx_002", "repghostnet_050", "repvgg_a0", "repvit_m0_9", "resmlp_12_224", "resnest14d",
    "resnetblur18", "rexnet_100", "selecsls42", "seresnext26d_32x4d", "shvit_s1", "skresnet18", "starnet_s1",
    "swiftformer_xs", "tiny_vit_5m_224", "tinynet_e", "visformer_tiny", "xcit_nano_12_p16_224",
)  # fmt: skip

_ENCODER = {
    "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512,
    "num_labels": CLASSES,
}  # fmt: skip
_NARROW = {**_ENCODER, "embedding_size": 64}
_DECODER = {**_ENCODER, "intermediate_size": 352, "pad_token_id": 0}
_VISION = {**_ENCODER, "image_size": PIXELS, "patch_size": 8}
TRANSFORMERS: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("Bert", "SequenceClassification", _ENCODER),
    "roberta": ("Roberta", "SequenceClassification", _ENCODER),
    "distilbert": ("DistilBert", "SequenceClassification",
                   {"dim": 128, "n_layers": 2, "n_heads": 2, "hidden_dim": 512, "num_labels": CLASSES}),
    "albert": ("Albert", "SequenceClassification", _NARROW),
    "electra": ("Electra", "SequenceClassification", _NARROW),
    "deberta-v2": ("DebertaV2", "SequenceClassification", _ENCODER),
    "mpnet": ("MPNet", "SequenceClassification", _ENCODER),
    "xlm-roberta": ("XLMRoberta", "SequenceClassification", _ENCODER),
    "gpt2": ("GPT2", "SequenceClassification",
             {"n_embd": 128, "n_layer": 2, "n_head": 2, "num_labels": CLASSES, "pad_token_id": 0}),
    "llama": ("Llama", "SequenceClassification", _DECODER),
    "qwen2": ("Qwen2", "SequenceClassification", {**_DECODER, "num_key_value_heads": 2}),
    "vit": ("ViT", "ImageClassification", _VISION),
    "beit": ("Beit", "ImageClassification", _VISION),
    "dinov2": ("Dinov2", "ImageClassification", {k: v for k, v in _VISION.items() if k != "intermediate_size"}),
    "segformer": ("Segformer", "ImageClassification", {"num_labels": CLASSES}),
    "convnext": ("ConvNext", "ImageClassification", {"depths": [1, 1, 2, 1], "num_labels": CLASSES}),
}  # fmt: skip


class Logits(nn.Module):
    """A network of transformers that returns its scores alone.

    Args:
        network: to be called with one tensor.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """Return class scores, ``(N, classes)``."""
        scores: Tensor = self.network(inputs).logits
        return scores


def families() -> Iterator[tuple[str, Callable[[], nn.Module], Tensor]]:
    """Yield name, builder and two inputs of every network."""
    images = torch.randn(2, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))
    words = torch.randint(3, WORDS, (2, TOKENS), generator=torch.Generator().manual_seed(0))
    for name in TIMM:
        yield f"timm: {name}", partial(_of_timm, name), images
    for name, (prefix, task, options) in TRANSFORMERS.items():
        inputs = words if task == "SequenceClassification" else images
        yield (
            f"transformers: {name}",
            partial(_of_transformers, f"{prefix}For{task}", f"{prefix}Config", options),
            inputs,
        )


def _of_timm(name: str) -> nn.Module:
    import timm

    try:
        network: nn.Module = timm.create_model(name, num_classes=CLASSES, img_size=PIXELS)
    except TypeError:  # it takes images of any size
        network = timm.create_model(name, num_classes=CLASSES)
    return network


def _of_transformers(network: str, config: str, options: Mapping[str, Any]) -> nn.Module:
    import transformers

    made = getattr(transformers, network)(getattr(transformers, config)(**options))
    return Logits(made)
