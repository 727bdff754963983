"""The networks that are not ResNets: what they read, what they cost, that they learn and repeat."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from training_toys import same_state, state_of

from autoprune.core.shapes import Shape, channels_of, described, image_of
from autoprune.errors import ModelError
from autoprune.models.build import build_model, count_parameters
from autoprune.tasks.in_memory import Arrays, ArrayTask
from autoprune.training.device.runtime import Runtime
from autoprune.training.distillation import Teacher
from autoprune.training.finetune import finetune
from autoprune.training.loop import TrainingRun
from autoprune.training.scoring import score
from autoprune.training.settings import FinetuneSettings
from autoprune.training.train_dense import train_dense

READS = [
    ("lstm", (1, 8, 8)),
    ("lstm", (3, 8, 4)),
    ("lstm", (7, 5)),
    ("mlp", (30,)),
    ("mlp", (7, 5)),
    ("mlp", (1, 4, 4)),
    ("vit", (1, 8, 8)),
    ("vit", (3, 8, 12)),
    ("resnet20", (2, 8, 8)),
]
reads = pytest.mark.parametrize(("name", "shape"), READS, ids=[f"{name}-{shape}" for name, shape in READS])


def build(name: str, shape: Shape, num_classes: int = 3, seed: int = 0) -> nn.Module:
    return build_model(name, num_classes=num_classes, input_shape=shape, seed=seed)


def examples(count: int, shape: Shape, seed: int = 1) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def separable_task(shape: Shape, train: int = 60, val: int = 30) -> ArrayTask:
    """Return float examples of three classes, each with a mean of its own."""
    middles = 1.5 * examples(3, shape, 9)

    def split(count: int, seed: int) -> Arrays:
        labels = torch.arange(count) % 3
        return Arrays(middles[labels] + examples(count, shape, seed), labels)

    return ArrayTask("separable", split(train, 1), split(val, 2))


class TestEveryNetwork:
    """Steps for adding a network: name it in ``core.builtin_names.MODELS``, and what it reads in ``READS``."""

    @reads
    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_answers_one_row_of_logits_an_example(self, name: str, shape: Shape, count: int) -> None:
        network, batch = build(name, shape).eval(), examples(count, shape)
        with torch.no_grad():
            logits = network(batch)
            alone = torch.cat([network(one[None]) for one in batch])
        assert logits.shape == (count, 3)
        assert torch.allclose(logits, alone, atol=1e-5), "an example's answer depends on its neighbours"

    @reads
    def test_same_seed_same_weights_another_seed_others(self, name: str, shape: Shape) -> None:
        one, again, other = (state_of(build(name, shape, seed=seed)) for seed in (1, 1, 2))
        assert same_state(one, again)
        assert not same_state(one, other)

    @reads
    def test_every_parameter_takes_part(self, name: str, shape: Shape) -> None:
        network = build(name, shape)
        network(examples(4, shape)).square().sum().backward()
        unused = [name for name, parameter in network.named_parameters() if parameter.grad is None]
        assert unused == []

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    @pytest.mark.parametrize(
        ("name", "shape", "settings"),
        [
            ("lstm", (7, 5), FinetuneSettings(10, 16, 0.5, 0.0)),
            ("mlp", (30,), FinetuneSettings(8, 16, 0.05, 0.0)),
            ("vit", (1, 8, 8), FinetuneSettings(5, 16, 2e-3, 0.01, optimizer="adamw")),
        ],
    )
    def test_learns_and_repeats_in_any_precision(
        self, name: str, shape: Shape, settings: FinetuneSettings, precision: str
    ) -> None:
        if (name, precision) == ("lstm", "bf16") and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            pytest.skip("this processor has no LSTM in bf16")
        runtime, task = Runtime(precision=precision, channels_last=True), separable_task(shape)  # type: ignore[arg-type]
        networks = [build(name, shape) for _ in range(2)]
        for network in networks:
            train_dense(network, TrainingRun(task, settings, runtime, 0))
        assert score(networks[0], task, "val", runtime).measurement["accuracy"] > 0.9
        assert same_state(state_of(networks[0]), state_of(networks[1]))

    @pytest.mark.parametrize(("name", "shape"), [("lstm", (7, 5)), ("mlp", (30,)), ("vit", (1, 8, 8))])
    def test_can_be_taught_by_a_teacher(self, name: str, shape: Shape, runtime: Runtime) -> None:
        task, teacher = separable_task(shape), build(name, shape, seed=5)
        settings = FinetuneSettings(1, 16, 1e-3, 0.0, distill=True)
        report = finetune(build(name, shape), TrainingRun(task, settings, runtime, 0), Teacher(teacher, task, runtime))
        assert report.steps == 4


class TestCosts:
    # By hand, per layer inputs × outputs × positions. vit on 1×32×32: the patches 16·64·64; a block has 64·192·64 for
    # the three projections, 2·64·64·64 for the two matrix products, 64·64·64 and 2·64·128·64; the head 640.
    @pytest.mark.parametrize(
        ("name", "shape", "classes", "macs", "parameters"),
        [
            ("vit", (1, 32, 32), 10, 65_536 + 6 * (786_432 + 524_288 + 262_144 + 1_048_576) + 640, 206_794),
            ("mlp", (30,), 2, 30 * 128 + 128 * 128 + 128 * 64 + 64 * 2, 29_186),
        ],
    )
    def test_counted(self, name: str, shape: Shape, classes: int, macs: int, parameters: int) -> None:
        network = build(name, shape, classes)
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(2, *shape))
        assert counter.get_total_flops() / 2 == 2 * macs
        assert count_parameters(network) == parameters

    def test_lstm_by_hand(self) -> None:
        """Each of 32 steps multiplies four gates of 64 units with the input, 32 or 64 wide, and the state, 64 wide."""
        network = build("lstm", (1, 32, 32), 10)
        shapes = {name: tuple(weight.shape) for name, weight in network.named_parameters() if weight.dim() == 2}
        assert shapes.pop("fc.weight") == (10, 64)
        assert sorted(shapes.values()) == sorted([(256, 32), (256, 64), (256, 64), (256, 64)])
        macs = 32 * sum(rows * columns for rows, columns in shapes.values()) + 640
        assert round(macs / 1e6, 2) == 1.84
        assert count_parameters(network) == 59_018

    def test_an_image_is_read_row_by_row(self) -> None:
        network, images = build("lstm", (2, 6, 5)).eval(), examples(3, (2, 6, 5))
        rows = torch.stack([images[:, :, row].flatten(1) for row in range(6)], dim=1)
        with torch.no_grad():
            assert torch.equal(network(images), network(rows))


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "shape", "message"),
        [
            ("lstm", (30,), "lstm reads sequences or images, and the data has rows of 30 features; use 'mlp'"),
            ("vit", (30,), r"vit reads images \(CxHxW\), and the data has rows of 30 features"),
            ("vit", (7, 5), "the data has sequences of 7 rows of 5 features"),
            ("vit", (1, 30, 32), "patches of 4×4 pixels, and these are 30×32; scale them to a multiple of 4"),
            ("resnet20", (30,), "resnet20 reads images .* such as 'mlp' for rows and 'lstm' for sequences"),
            ("resnet56", (7, 5), "resnet56 reads images"),
            ("torchvision:resnet18", (30,), "torchvision:resnet18 reads images"),
            ("torchvision:resnet18", (1, 32, 32), "takes images of 3 channels, and the data has 1"),
        ],
    )
    def test_examples_that_a_network_cannot_read(self, name: str, shape: Shape, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            build(name, shape)

    def test_neither_channels_nor_shape(self) -> None:
        with pytest.raises(ModelError, match="without in_channels and input_shape; give one"):
            build_model("resnet20", num_classes=3, seed=0)


class TestShapes:
    @pytest.mark.parametrize(
        ("shape", "channels", "words"),
        [
            ((3, 32, 16), 3, "images of 3×32×16"),
            ((30,), 30, "rows of 30 features"),
            ((16, 8), 8, "sequences of 16 rows of 8 features"),
            ((1, 2, 3, 4), 4, "arrays of 1×2×3×4"),
        ],
    )
    def test_channels_and_words(self, shape: Shape, channels: int, words: str) -> None:
        assert (channels_of(shape), described(shape)) == (channels, words)

    def test_image_of(self) -> None:
        assert image_of((1, 2, 3), "any") == (1, 2, 3)
        with pytest.raises(ModelError, match="own reads images"):
            image_of((1, 2, 3, 4), "own")


@pytest.mark.parametrize(
    ("signature", "told"),
    [
        ("num_classes, in_channels", "(3, 5)"),
        ("input_shape", "((7, 5),)"),
        ("input_shape, in_channels", "((7, 5), 5)"),
    ],
)
def test_a_user_s_network_is_told_the_shape_if_it_asks(tmp_path: Path, signature: str, told: str) -> None:
    file = tmp_path / "mine.py"
    body = f"def fn({signature}):\n net = nn.Linear(5, 3)\n net.told = repr(({signature},))\n return net\n"
    file.write_text(f"from torch import nn\n{body}", encoding="utf-8")
    assert build(f"{file}:fn", (7, 5)).told == told


def test_a_network_that_needs_the_shape_says_so_where_there_is_none(tmp_path: Path) -> None:
    file = tmp_path / "shaped.py"
    file.write_text("def fn(input_shape): pass\n", encoding="utf-8")
    with pytest.raises(ModelError, match="requires the argument input_shape, which is not on offer"):
        build_model(f"{file}:fn", num_classes=3, in_channels=1, seed=0)
