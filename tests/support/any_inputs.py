"""Networks with inputs and outputs of every structure, and a batch for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence


def conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class TwoTowers(nn.Module):
    """Two inputs of ids."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(50, 16), nn.Embedding(70, 16)
        self.left, self.right = (
            nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)),
            nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 8)),
        )

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.left(self.users(user)) * self.right(self.items(item))).sum(-1)


class TwoHeads(nn.Module):
    """Two outputs in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 16), conv(16, 12))
        self.digit, self.ink = nn.Linear(12, 10), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.body(x).mean((2, 3))
        return {"digit": self.digit(x), "ink": self.ink(x)[:, 0]}


@dataclass
class Found:
    boxes: Tensor
    scores: Tensor


class Detector(nn.Module):
    """Images of several sizes in a list, and as many boxes for each as score above its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 16), conv(16, 24))
        self.box, self.kind = nn.Conv2d(24, 4, 1), nn.Conv2d(24, 3, 1)

    def forward(self, images: list[Tensor]) -> list[Found]:
        return [self.detect(self.body(image[None])) for image in images]

    def detect(self, x: Tensor) -> Found:
        scores, boxes = self.kind(x)[0].flatten(1).sigmoid(), self.box(x)[0].flatten(1)
        chosen = scores.amax(0) > scores.mean()
        return Found(boxes[:, chosen].t(), scores[:, chosen])


class UNet(nn.Module):
    """A class for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep, self.up, self.out = conv(1, 8), conv(8, 16), conv(24, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        deep = F.interpolate(self.deep(F.max_pool2d(x, 2)), scale_factor=2)
        return self.out(self.up(torch.cat([x, deep], 1)))


class Recurrent(nn.Module):
    """A packed sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Linear(6, 12), nn.LSTM(12, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, packed: PackedSequence) -> Tensor:
        _, (state, _) = self.layer(packed._replace(data=self.embed(packed.data)))
        return self.head(state[-1])


class Encoder(nn.Module):
    """Token ids and a mask by name; with labels it returns a loss as well."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.wide, self.narrow, self.head = (
            nn.Embedding(30, 24), nn.Linear(24, 48), nn.Linear(48, 24), nn.Linear(24, 5),
        )  # fmt: skip

    def forward(self, ids: Tensor, mask: Tensor | None = None, labels: Tensor | None = None) -> dict[str, Any]:
        x = self.words(ids)
        x = x + self.narrow(self.wide(x).relu())
        scores = self.head((x if mask is None else x * mask[..., None]).mean(1))
        return {"loss": None if labels is None else F.cross_entropy(scores, labels), "logits": scores}


def ids(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(0))


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


WORDS = ids(30, 4, 9)
PACKED = pack_padded_sequence(images(3, 7, 6), torch.tensor([7, 5, 2]), batch_first=True)
PASSAGES = {"ids": WORDS, "mask": torch.ones(4, 9, dtype=torch.int64)}
PAIR = (ids(50, 6), ids(70, 6))
NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], Any, set[str]]] = {
    "two inputs": (TwoTowers, PAIR, {"users", "items", "left.0", "left.2", "right.0"}),
    "one pair": (TwoTowers, (ids(50, 1), ids(70, 1)), {"users", "items", "left.0", "left.2", "right.0"}),
    "two outputs": (TwoHeads, images(2, 3, 16, 16), {"body.0.0", "body.1.0"}),
    "a list": (Detector, [images(3, 16, 16), images(3, 20, 24)], {"body.0.0", "body.1.0"}),
    "one image in a list": (Detector, [images(3, 16, 16)], {"body.0.0", "body.1.0"}),
    "pixels": (UNet, images(2, 1, 16, 16), {"down.0", "deep.0", "up.0"}),
    "packed": (Recurrent, PACKED, {"embed", "layer"}),
    "names": (Encoder, PASSAGES, {"words", "wide"}),
    "with labels": (Encoder, {"ids": WORDS, "labels": ids(5, 4)}, {"words", "wide"}),
    "arguments and names": (Encoder, ((WORDS,), {"mask": torch.ones(4, 9)}), {"words", "wide"}),
}
