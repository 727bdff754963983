"""Which package of Python's standard library does a passage come from: a BERT-style encoder, built from a config.

The texts are the sources and docstrings of the Python that runs this; the byte-pair vocabulary is trained on the
training passages. Needs the extra ``[hf]``.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification

import autoprune as ap

PACKAGES = ("asyncio", "email", "logging", "multiprocessing", "unittest", "xml")
LINES = 8  # of a passage
PASSAGES = 150  # of each package, at most
VOCABULARY, LENGTH, BATCH = 1000, 64, 32


def network() -> nn.Module:
    """Return an encoder of two layers of four heads."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=LENGTH,
        num_labels=len(PACKAGES),
        attn_implementation="sdpa",
    )
    return BertForSequenceClassification(config)


def task() -> ap.Task:
    """Return the passages as batches of ids and masks; every tenth validates, and every tenth tests."""
    split = splits()
    return ap.Task(
        lambda epoch, seed: shuffled(split["train"], torch.Generator().manual_seed(1000 * seed + epoch)),
        batches(split["val"]),
        batches(split["test"]),
        loss=lambda output, batch: F.cross_entropy(output.logits, batch["labels"]),
        score=lambda output, batch: output.logits.argmax(1) == batch["labels"],
        metric="accuracy",
        chance=1 / len(PACKAGES),
        name="stdlib-text",
        licence="PSF-2.0",
        description=f"Passages of {LINES} lines of {len(PACKAGES)} packages of Python's standard library.",
    )


Batch = dict[str, Tensor]


@cache
def splits() -> dict[str, Batch]:
    """Return each split as one batch: ``input_ids`` and ``attention_mask``, ``(N, LENGTH)``, and ``labels``."""
    texts = [(text, label) for label, package in enumerate(PACKAGES) for text in passages(package)]
    parts = {
        "train": [each for index, each in enumerate(texts) if index % 10 not in (4, 9)],
        "val": texts[4::10],
        "test": texts[9::10],
    }
    tokenizer = trained_on([text for text, _ in parts["train"]])
    return {name: encoded(tokenizer, part) for name, part in parts.items()}


def passages(package: str) -> list[str]:
    """Return passages of a package, evenly spread over its files."""
    folder = Path(sysconfig.get_path("stdlib")) / package
    found = list[str]()
    for file in sorted(folder.rglob("*.py")):
        if not {"test", "tests"} & set(file.relative_to(folder).parts):
            lines = [line.rstrip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            found += ["\n".join(lines[start : start + LINES]) for start in range(0, len(lines), LINES)]
    return found[:: max(1, len(found) // PASSAGES)][:PASSAGES]


def trained_on(texts: list[str]) -> Tokenizer:
    """Return a byte-pair tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["[PAD]"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    return tokenizer


def encoded(tokenizer: Tokenizer, part: list[tuple[str, int]]) -> Batch:
    """Return passages as ids, masks and labels."""
    read = tokenizer.encode_batch([text for text, _ in part])
    return {
        "input_ids": torch.tensor([each.ids for each in read]),
        "attention_mask": torch.tensor([each.attention_mask for each in read]),
        "labels": torch.tensor([label for _, label in part]),
    }


def batches(everything: Batch) -> list[Batch]:
    """Return a split in batches, in its order."""
    return [at(everything, index) for index in torch.arange(len(everything["labels"])).split(BATCH)]


def shuffled(everything: Batch, generator: torch.Generator) -> Iterator[Batch]:
    """Yield a split in batches of a random order."""
    for index in torch.randperm(len(everything["labels"]), generator=generator).split(BATCH):
        yield at(everything, index)


def at(everything: Batch, index: Tensor) -> Batch:
    """Return the examples at an index."""
    return {name: tensor[index] for name, tensor in everything.items()}
