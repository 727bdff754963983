"""The licence of a network's weights, as far as it can be known here."""

from __future__ import annotations

from pathlib import Path

_TORCHVISION = "torchvision:"


def weights_licence(source: str, weights: str, data: str, *, trained_here: bool = True, finetuned: bool = True) -> str:
    """Return one sentence on the licence of a network's weights.

    Args:
        source: of the network, as :func:`build_model` takes it.
        weights: a file, the name of torchvision's weights, or empty for weights trained here.
        data: name and licence of the data they were trained on here.
        trained_here: whether a network without given weights was trained here, rather than built with its weights.
        finetuned: whether given weights were trained further here.
    """
    if not weights and not trained_here:
        return f"unknown: the weights came with the code of {source!r}; their licence is yours to know"
    if not weights:
        return f"trained here from scratch on {data}, so yours as far as the data allows"
    if not source.startswith(_TORCHVISION) or Path(weights).suffix:
        return f"unknown: the weights were given as {Path(weights).name!r}; their licence is yours to know"
    from torchvision import models as zoo

    try:
        meta = zoo.get_model_weights(source.removeprefix(_TORCHVISION))[weights].meta
    except (KeyError, ValueError):
        return f"unknown: torchvision knows no weights {weights!r} for {source}"
    stated, further = meta.get("license"), f"; fine-tuned here on {data}" if finetuned else ""
    if stated:
        return f"{stated}, as torchvision states for {weights}{further}"
    return f"torchvision states none for {weights} (its code is BSD-3-Clause){further}"
