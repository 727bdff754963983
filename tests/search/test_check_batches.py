"""A batch of one image, met before the dense training rather than at the end of an epoch or of a split."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from training_toys import Toy, make_task, make_toy, same_state, state_of

from autoprune.errors import ModelError
from autoprune.loggers.console import make_display
from autoprune.search.session import run_search
from autoprune.search.setup.check_batches import check_batches
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.study.spec_toml import Layer, parse_spec
from autoprune.tasks.classification import LabelledBatch
from autoprune.tasks.in_memory import ArrayTask
from autoprune.tasks.task import Placement
from autoprune.training.device.runtime import Runtime
from autoprune.training.device.seeding import seeded


class Squeezed(Toy):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(nn.functional.adaptive_avg_pool2d(self.bn(self.conv(x)).relu(), 1).squeeze())


class Normed(Toy):
    """Batch norm of one number per channel, which cannot be trained on a single image."""

    def __init__(self) -> None:
        super().__init__(dropout=0.5)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(self.norm(self.bn(self.conv(x)).relu().mean((2, 3)))))


class Broken(Toy):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("no training")
        return super().forward(x)


def network(kind: type[Toy]) -> Toy:
    with seeded(0):
        return kind()


def spec_of(**values: object) -> StudySpec:
    return parse_spec([Layer("test", values)])


def check(one: nn.Module, task: ArrayTask, **values: object) -> list[str]:
    said = list[str]()
    check_batches(one, task, spec_of(**values), Runtime(), said.append)
    return said


@pytest.mark.parametrize(
    ("sizes", "values", "split"),
    [
        ({"val": 257}, {}, "validation"),
        ({"val": 1}, {}, "validation"),
        ({"val": 300}, {"stopping": {"images": 257}}, "validation"),
        ({"val": 300}, {"sensitivity": {"images": 1}}, "validation"),
        ({"test": 257}, {}, "test"),
        ({"train": 257, "val": 300}, {}, "training"),
        ({"train": 129}, {}, "training"),
    ],
)
def test_a_network_that_squeezes_is_refused_where_one_image_comes_alone(
    sizes: dict[str, int], values: dict[str, object], split: str
) -> None:
    with pytest.raises(
        ModelError, match=rf"last of the {split} examples comes alone: the network returned shape \(3,\)"
    ):
        check(network(Squeezed), make_task(**sizes), **values)


class OwnBatches(ArrayTask):
    """A user's own task, which cuts its own batches whatever it is asked for."""

    own = 16

    def eval_batches(
        self, split: str, batch_size: int, runtime: Placement, limit: int | None = None
    ) -> Iterator[LabelledBatch]:
        yield from super().eval_batches(split, self.own, runtime, limit)


def own_task(**sizes: int) -> ArrayTask:
    task = make_task(**sizes)
    task.__class__ = OwnBatches
    return task


@pytest.mark.parametrize(
    ("sizes", "values", "split"),
    [({"val": 49}, {}, "validation"), ({"train": 49}, {"space": {"calibration_images": 33}}, "training")],
)
def test_batches_that_a_task_cuts_itself_are_looked_at(
    sizes: dict[str, int], values: dict[str, object], split: str
) -> None:
    with pytest.raises(ModelError, match=f"last of the {split} examples comes alone"):
        check(network(Squeezed), own_task(**sizes), **values)


def test_where_none_does_it_is_said_and_the_search_goes_on() -> None:
    (said,) = check(network(Squeezed), make_task())
    assert "fails on a single one: the network returned shape (3,) for 1 examples" in said


@pytest.mark.parametrize("key", ["finetune", "dense"])
def test_batch_norm_that_would_be_trained_on_one_image_is_refused(key: str) -> None:
    with pytest.raises(ModelError, match=f"cannot be trained on a batch of 1, .*give another {key}.batch_size"):
        check(network(Normed), make_task(), **{key: {"batch_size": 1}})


@pytest.mark.parametrize(
    ("train", "values"),
    [
        (65, {}),  # the last batch of one is left out of an epoch
        (70, {"dense": {"batch_size": 1, "epochs": 0}}),  # nothing is trained by it
        (70, {"dense": {"batch_size": 1}, "model": {"weights": "w.pt"}}),
        (70, {"dense": {"batch_size": 2**20}}),
    ],
)
def test_batches_that_never_come_are_not_tried(train: int, values: dict[str, object]) -> None:
    assert check(network(Normed), make_task(train=train), **values) == []


def test_what_fails_in_training_on_any_batch_is_not_blamed_on_the_batch() -> None:
    assert check(network(Broken), make_task()) == []


def test_the_network_and_the_random_state_are_left_as_they_were() -> None:
    one = network(Normed).train()
    one.bn.eval()
    before, state = state_of(one), torch.get_rng_state()
    check(one, make_task())
    assert same_state(state_of(one), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.training
    assert not one.bn.training


def test_a_search_refuses_before_it_trains(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def forward(self, x): return self[1](self[0](x).relu().mean((2, 3)).squeeze())\n"
        "def net(): return Net(nn.Conv2d(1, 4, 3), nn.Linear(4, 3))\n"
        "def split(n):\n"
        "    g = torch.Generator().manual_seed(n)\n"
        "    return torch.rand(n, 1, 6, 6, generator=g), torch.arange(n) % 3\n"
        "def data(): return split(20), split(257)\n"
    )
    source = str(tmp_path / "mine.py")
    spec = spec_of(model={"source": f"{source}:net"}, data={"source": f"{source}:data"}, name="s", trials=1)
    from rich.console import Console

    with (
        make_display(Console(stderr=True), "quiet") as display,
        pytest.raises(ModelError, match=r"keep the batch dimension, by flatten\(1\)"),
    ):
        run_search(spec, StudyFolder(tmp_path / "s"), display)
    assert not (tmp_path / "s" / "dense.safetensors").exists()


def test_a_good_network_hears_nothing() -> None:
    assert check(make_toy(), make_task(val=257, test=257)) == []
