"""What a user's own function returns: copied, complete, and refused where it is neither."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from training_toys import same_state, state_of

from autoprune.errors import ModelError, UsageError
from autoprune.models.build import build_model
from autoprune.models.load_weights import load_weights, own_tensors

HEAD = "import torch\nfrom torch import nn\n"


def built(folder: Path, code: str, weights: str = "") -> nn.Module:
    file = folder / "net.py"
    file.write_text(HEAD + code, encoding="utf-8")
    return build_model(f"{file}:net", num_classes=4, input_shape=(3, 8, 8), seed=0, weights=weights)


def test_a_function_that_returns_one_object_has_it_left_alone(tmp_path: Path) -> None:
    code = "ONE = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()\ndef net(): return ONE\n"
    with torch.random.fork_rng():
        first, second = built(tmp_path, code), built(tmp_path, code)
    before = state_of(second)
    first.train()(torch.ones(2, 3, 8, 8)).sum().backward()
    for tensor in first.state_dict().values():
        tensor.zero_()
    assert same_state(state_of(second), before)
    assert all(parameter.grad is None for parameter in second.parameters())


@pytest.mark.parametrize(
    "layers",
    [
        "nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(4)",
        "nn.Sequential(nn.LazyConv2d(4, 3)), nn.Flatten(), nn.LazyLinear(4)",
    ],
)
def test_lazy_layers_get_their_weights(tmp_path: Path, layers: str) -> None:
    network = built(tmp_path, f"def net(): return nn.Sequential({layers})\n")
    assert sum(parameter.numel() for parameter in network.parameters()) > 100
    again = build_model(f"{tmp_path / 'net.py'}:net", num_classes=4, input_shape=(3, 8, 8), seed=0)
    assert same_state(state_of(network), state_of(again))


BY_HAND = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), None
    def forward(self, x):
        x = self.conv(x).flatten(1)
        if self.fc is None:
            self.fc = nn.Linear(x.shape[1], 4)
        return self.fc(x)
def net(): return Net()
"""


def test_layers_made_by_the_first_pass_are_there_from_the_beginning(tmp_path: Path) -> None:
    assert "fc.weight" in built(tmp_path, BY_HAND).state_dict()


TRAINED_ONLY = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.side = nn.LazyLinear(4), nn.LazyLinear(4)
    def forward(self, x):
        return self.fc(x.flatten(1)) + (self.side(x.flatten(1)) if self.training else 0)
def net(): return Net()
"""


def test_a_lazy_layer_that_only_training_runs_gets_its_weights_too(tmp_path: Path) -> None:
    assert built(tmp_path, TRAINED_ONLY).get_parameter("side.weight").shape == (4, 192)


def test_a_lazy_layer_that_never_runs_is_named(tmp_path: Path) -> None:
    code = TRAINED_ONLY.replace("if self.training", "if False")
    with pytest.raises(ModelError, match=r"lazy layers .*side\.weight"):
        built(tmp_path, code)


def test_a_lazy_network_that_does_not_run_says_where(tmp_path: Path) -> None:
    code = "def net(): return nn.Sequential(nn.LazyConv2d(4, 30), nn.Flatten(), nn.LazyLinear(4))\n"
    with pytest.raises(ModelError, match=r"does not run on an input of shape \(2, 3, 8, 8\)"):
        built(tmp_path, code)


STRANGER = """
FIRST = []
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        FIRST.append(self.conv)
    def forward(self, x):
        return FIRST[0](x).mean((2, 3))
def net(): return Net()
"""


def test_a_network_whose_copy_runs_the_first_instance_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="runs the module 'conv' of the first instance"):
        built(tmp_path, STRANGER)


HELD = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    def forward(self, x):
        return self.module(x)
def net(): return {}
"""


@pytest.mark.parametrize("network", ["Net()", "nn.DataParallel(Net())", "nn.Sequential(nn.DataParallel(Net()))"])
def test_a_network_takes_back_what_it_stored_and_what_its_owner_stored(tmp_path: Path, network: str) -> None:
    code = HELD.format(network)
    first = built(tmp_path, code)
    save_file(own_tensors(first), tmp_path / "own.safetensors")
    load_weights(built(tmp_path, code), tmp_path / "own.safetensors")
    names: dict[str, object] = {"nn": nn, "torch": torch}
    with torch.random.fork_rng():
        exec(code, names)
        theirs = names["net"]()  # type: ignore[operator]
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    loaded = built(tmp_path, code, str(tmp_path / "theirs.pt"))
    assert torch.equal(next(loaded.parameters()), next(theirs.parameters()))


def test_a_prefix_of_data_parallel_is_still_taken_off(tmp_path: Path) -> None:
    network = built(tmp_path, "def net(): return nn.Sequential(nn.Conv2d(3, 4, 3))\n")
    state = {f"module.{name}": tensor for name, tensor in own_tensors(network).items()}
    save_file(state, tmp_path / "parallel.safetensors")
    load_weights(network, tmp_path / "parallel.safetensors")


def test_what_is_raised_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"raised ZeroDivisionError: division by zero \(net.py:4, in net\)$"):
        built(tmp_path, "def net():\n    return 1 / 0\n")
    (tmp_path / "worse").mkdir()
    with pytest.raises(ModelError, match=r"raised SystemExit: .*exit code 3.*\(net.py:5, in net\)$"):
        built(tmp_path / "worse", "import sys\ndef net():\n    sys.exit(3)\n")


def test_an_import_that_ends_the_program_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"failed with SystemExit: .*exit code 1.*\(net.py:3, in <module>\)$"):
        built(tmp_path, "raise SystemExit(1)\n")
    (tmp_path / "worse").mkdir()
    with pytest.raises(UsageError, match=r"failed with SyntaxError: .*\(net.py:3\)$"):
        built(tmp_path / "worse", "def net(:\n")


def test_a_file_imports_its_neighbours_even_late(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_net.py").write_text("WIDTH = 5\n", encoding="utf-8")
    (tmp_path / "late_neighbour.py").write_text("CLASSES = 3\n", encoding="utf-8")
    code = "from neighbour_of_net import WIDTH\ndef net():\n    from late_neighbour import CLASSES\n"
    assert built(tmp_path, f"{code}    return nn.Conv2d(3, WIDTH, CLASSES)\n").get_parameter("weight").shape[0] == 5


def test_a_module_of_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_zoo").mkdir()
    (tmp_path / "my_zoo" / "nets.py").write_text(HEAD + "def net(): return nn.Linear(2, 2)\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    network = build_model("my_zoo.nets:net", num_classes=2, input_shape=(2,), seed=0)
    assert isinstance(network, nn.Linear)


def test_prints_of_user_code_go_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "print('importing')\nclass Net(nn.Linear):\n    def forward(self, x):\n        print('running'); "
    built(tmp_path, f"{code}return super().forward(x)\ndef net():\n    print('building'); return Net(8, 4)\n")
    out, err = capsys.readouterr()
    assert out == ""
    assert list(dict.fromkeys(err.split())) == ["importing", "building", "running"]


RANDOM = """
from torch.nn import functional as F
class Net(nn.Linear):
    def forward(self, x):
        x = x.flatten(1)
        {}
        return super().forward(x)
def net(): return Net(192, 4)
"""


@pytest.mark.parametrize(
    "line",
    [
        "x = F.dropout(x, 0.3)",
        "x = x + 0.001 * torch.randn_like(x)",
        "x = x * torch.bernoulli(torch.full_like(x, 0.5))",
        "x = x[:, torch.randperm(192)]",
        "self.bias.data += 1",
    ],
)
def test_a_network_that_answers_one_input_in_two_ways_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ModelError, match=r"answers at random: .*training=self\.training"):
        built(tmp_path, RANDOM.format(line))


@pytest.mark.parametrize(
    "line",
    [
        "x = F.dropout(x, 0.3, training=self.training)",
        "self.weight.data = torch.renorm(self.weight.data, 2, 0, 1.0)",
        "x = x * float('nan')",
        "x = x[:0]",
    ],
)
def test_a_network_that_repeats_itself_is_taken(tmp_path: Path, line: str) -> None:
    assert built(tmp_path, RANDOM.format(line)).training
