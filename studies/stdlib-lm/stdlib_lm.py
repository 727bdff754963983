"""A small decoder as Llama is built, from a config, that reads the sources of Python's standard library.

It is judged by its perplexity on stretches it has not seen. The byte-pair vocabulary is trained on the training
stretches. Needs the extra ``[hf]``.
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
from transformers import LlamaConfig, LlamaForCausalLM

import autoprune as ap

PACKAGES = ("asyncio", "email", "logging", "multiprocessing", "unittest", "xml")
CHARACTERS = 200  # of a stretch, which LENGTH tokens always fit into
STRETCHES = 150  # of each package, at most
VOCABULARY, LENGTH, BATCH = 600, 48, 32


def network() -> nn.Module:
    """Return a decoder of two layers, four heads for queries and two for keys and values."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        use_cache=False,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def task() -> ap.Task:
    """Return the stretches as batches of ids; every tenth validates, and every tenth tests."""
    split = splits()
    return ap.Task(
        lambda epoch, seed: shuffled(split["train"], torch.Generator().manual_seed(1000 * seed + epoch)),
        batches(split["val"]),
        batches(split["test"]),
        loss=lambda output, batch: nats(output, batch).mean(),
        score=lambda output, batch: nats(output, batch).mean(1),  # of each stretch
        metric="perplexity",
        chance=float(VOCABULARY),
        name="stdlib-lm",
        licence="PSF-2.0",
        description=f"Stretches of {len(PACKAGES)} packages of Python's standard library, {LENGTH} tokens each.",
    )


Batch = dict[str, Tensor]


def nats(output: object, batch: Batch) -> Tensor:
    """Return the cross-entropy of every token, ``(N, LENGTH)``."""
    return F.cross_entropy(output.logits.transpose(1, 2), batch["labels"], reduction="none")


@cache
def splits() -> dict[str, Tensor]:
    """Return the ids of each split, ``(N, LENGTH + 1)``."""
    texts = [text for package in PACKAGES for text in stretches(package)]
    parts = {
        "train": [each for index, each in enumerate(texts) if index % 10 not in (4, 9)],
        "val": texts[4::10],
        "test": texts[9::10],
    }
    tokenizer = trained_on(parts["train"])
    read = {name: [each.ids for each in tokenizer.encode_batch(part)] for name, part in parts.items()}
    return {name: torch.tensor([ids for ids in each if len(ids) == LENGTH + 1]) for name, each in read.items()}


def stretches(package: str) -> list[str]:
    """Return stretches of a package's text, evenly spread over it."""
    folder = Path(sysconfig.get_path("stdlib")) / package
    files = [file for file in sorted(folder.rglob("*.py")) if not {"test", "tests"} & set(file.parts)]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    found = [text[start : start + CHARACTERS] for start in range(0, len(text), CHARACTERS)]
    return found[:: max(1, len(found) // STRETCHES)][:STRETCHES]


def trained_on(texts: list[str]) -> Tokenizer:
    """Return a byte-pair tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.enable_truncation(LENGTH + 1)
    return tokenizer


def batches(ids: Tensor) -> list[Batch]:
    """Return a split in batches, in its order."""
    return [batch_of(part) for part in ids.split(BATCH)]


def shuffled(ids: Tensor, generator: torch.Generator) -> Iterator[Batch]:
    """Yield a split in batches of a random order."""
    for index in torch.randperm(len(ids), generator=generator).split(BATCH):
        yield batch_of(ids[index])


def batch_of(ids: Tensor) -> Batch:
    """Return a batch whose label is the next token."""
    return {"input_ids": ids[:, :-1].contiguous(), "labels": ids[:, 1:].contiguous()}
