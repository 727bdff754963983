import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from training_toys import same_state, state_of

from autoprune.errors import ModelError, UnknownNameError, UsageError
from autoprune.models.build import build_model, count_parameters
from autoprune.models.cifar_resnet import resnet20, resnet56
from autoprune.models.load_weights import load_weights
from autoprune.training.device.seeding import seeded


def build(source: str, **options: object) -> nn.Module:
    return build_model(source, **{"num_classes": 10, "in_channels": 3, "seed": 0, **options})  # type: ignore[arg-type]


class TestCifarResNets:
    # By hand, for ResNet-20: stem 3·16·9·1024, stage one 6·16·16·9·1024, stages two and three the same less
    # half a convolution each, two projections, 640 for the classifier.
    @pytest.mark.parametrize(
        ("name", "mmacs"), [("resnet20", 40.81), ("resnet32", 69.12), ("resnet44", 97.44), ("resnet56", 125.75)]
    )
    def test_macs(self, name: str, mmacs: float) -> None:
        network = build(name).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 3, 32, 32))
        assert round(counter.get_total_flops() / 2e6, 2) == mmacs

    @pytest.mark.parametrize(("name", "parameters"), [("resnet20", 272_474), ("resnet56", 855_770)])
    def test_parameters(self, name: str, parameters: int) -> None:
        assert count_parameters(build(name)) == parameters

    def test_names_are_those_of_torchvision(self) -> None:
        names = dict(build("resnet20").named_modules())
        for name in (
            "conv1",
            "bn1",
            "layer1.0.conv1",
            "layer1.2.bn2",
            "layer2.0.downsample.0",
            "layer3.0.downsample.1",
            "fc",
        ):
            assert name in names
        assert "layer1.0.downsample" not in names

    def test_channels_and_classes(self) -> None:
        assert build("resnet20", num_classes=7, in_channels=1)(torch.zeros(2, 1, 8, 8)).shape == (2, 7)

    def test_same_seed_same_weights_another_seed_others(self) -> None:
        one, again, other = (state_of(build("resnet20", seed=seed)) for seed in (1, 1, 2))
        assert same_state(one, again)
        assert not same_state(one, other)

    def test_convolutions_are_kaiming(self) -> None:
        weight = build("resnet20").get_parameter("layer3.2.conv2.weight")
        assert float(weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


class TestUserFunctions:
    def write(self, folder: Path, body: str) -> str:
        file = folder / f"mine_{abs(hash(body))}.py"
        file.write_text(f"from torch import nn\n{body}")
        return f"{file}:fn"

    def test_is_given_what_it_accepts(self, tmp_path: Path) -> None:
        source = self.write(tmp_path, "def fn(num_classes): return nn.Linear(2, num_classes)")
        assert build(source, num_classes=4).get_parameter("bias").shape == (4,)

    def test_may_accept_nothing_or_everything(self, tmp_path: Path) -> None:
        assert isinstance(build(self.write(tmp_path, "def fn(): return nn.ReLU()")), nn.ReLU)
        everything = self.write(tmp_path, "def fn(**all): return nn.Linear(all['in_channels'], all['num_classes'])")
        assert build(everything).get_parameter("weight").shape == (10, 3)

    def test_is_seeded(self, tmp_path: Path) -> None:
        source = self.write(tmp_path, "def fn(): return nn.Linear(5, 5)")
        assert same_state(state_of(build(source)), state_of(build(source)))

    def test_comes_in_training_mode(self, tmp_path: Path) -> None:
        assert build(self.write(tmp_path, "def fn(): return nn.Dropout().eval()")).training

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("def fn(): return 3", "returned int; expected a torch.nn.Module"),
            ("def fn(): return nn.Linear", "returned type"),
            ("def fn(): raise KeyError('layers')", "raised KeyError: 'layers'"),
            ("def fn(depth): return nn.ReLU()", "requires the argument depth.*num_classes, in_channels"),
            ("def fn(num_classes, /): return nn.ReLU()", "requires the argument num_classes"),
            ("fn = 3", "is int; expected a function"),
        ],
    )
    def test_faults(self, tmp_path: Path, body: str, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            build(self.write(tmp_path, body))

    def test_unknown_names(self, tmp_path: Path) -> None:
        with pytest.raises(UnknownNameError, match=r"did you mean 'resnet[23]"):
            build("resnet2")
        with pytest.raises(UsageError, match="there is no file"):
            build(f"{tmp_path}/none.py:fn")


class TestTorchvision:
    def test_builds_with_the_classes_asked_for(self) -> None:
        assert build("torchvision:squeezenet1_1", num_classes=5).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)

    def test_unknown_name(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'resnet18'"):
            build("torchvision:resnet_18")

    def test_segmentation_is_no_classifier(self) -> None:
        with pytest.raises(UnknownNameError):
            build("torchvision:fcn_resnet50")

    def test_unknown_weights(self) -> None:
        with pytest.raises(UnknownNameError, match="DEFAULT, IMAGENET1K_V1"):
            build("torchvision:resnet18", weights="IMAGENET")

    def test_needs_three_channels(self) -> None:
        with pytest.raises(ModelError, match="the data has 1; use a built-in"):
            build("torchvision:resnet18", in_channels=1)

    @pytest.mark.parametrize("name", ["googlenet", "inception_v3", "squeezenet1_1", "mobilenet_v3_small"])
    def test_named_weights_bring_their_head_which_is_replaced(
        self, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        with seeded(0):
            published = published_state(name)
        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *a, **k: published)
        network = build(f"torchvision:{name}", weights="DEFAULT", num_classes=4)
        assert network.eval()(torch.zeros(2, 3, 96, 96)).shape == (2, 4)
        assert "1000 outputs and the data 4 classes" in caplog.text
        assert torch.equal(next(iter(network.state_dict().values())), next(iter(published.values())))

    def test_fitting_head_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with seeded(0):
            published = published_state("squeezenet1_1")
        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *a, **k: published)
        said: list[str] = []
        network = build("torchvision:squeezenet1_1", weights="DEFAULT", num_classes=1000, notify=said.append)
        assert same_state(state_of(network), published)
        assert not said

    def test_failed_download(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def offline(*_: object, **__: object) -> None:
            raise OSError("no route to host")

        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
        with pytest.raises(ModelError, match=r"no route to host.*place the file in"):
            build("torchvision:squeezenet1_1", weights="DEFAULT")


def published_state(name: str) -> dict[str, torch.Tensor]:
    from torchvision import models

    options = {"init_weights": False, "aux_logits": True} if name in ("googlenet", "inception_v3") else {}
    return dict(models.get_model(name, weights=None, **options).state_dict())


class TestWeights:
    @pytest.fixture
    def trained(self) -> nn.Module:
        return build("resnet20", seed=7)

    @pytest.fixture
    def fresh(self) -> nn.Module:
        return build("resnet20", seed=8)

    def test_safetensors(self, trained: nn.Module, fresh: nn.Module, tmp_path: Path) -> None:
        save_file(trained.state_dict(), tmp_path / "w.safetensors")
        load_weights(fresh, tmp_path / "w.safetensors")
        assert same_state(state_of(fresh), state_of(trained))

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda state: state,
            lambda state: {"state_dict": state, "epoch": 3},
            lambda state: {"model": state},
            lambda state: {f"module.{name}": value for name, value in state.items()},
        ],
        ids=["bare", "state_dict", "model", "data parallel"],
    )
    def test_torch_files(self, trained: nn.Module, fresh: nn.Module, tmp_path: Path, wrap: object) -> None:
        torch.save(wrap(trained.state_dict()), tmp_path / "w.pth")  # type: ignore[operator]
        load_weights(fresh, str(tmp_path / "w.pth"))
        assert same_state(state_of(fresh), state_of(trained))

    def test_through_build_model(self, trained: nn.Module, tmp_path: Path) -> None:
        torch.save(trained.state_dict(), tmp_path / "w.pt")
        assert same_state(state_of(build("resnet20", weights=str(tmp_path / "w.pt"))), state_of(trained))

    def test_batch_counts_may_be_missing(self, trained: nn.Module, fresh: nn.Module, tmp_path: Path) -> None:
        state = {k: v for k, v in trained.state_dict().items() if not k.endswith("num_batches_tracked")}
        save_file(state, tmp_path / "w.safetensors")
        load_weights(fresh, tmp_path / "w.safetensors")
        assert same_state(state_of(fresh), state_of(trained))

    def test_missing_file(self, fresh: nn.Module) -> None:
        with pytest.raises(ModelError, match=r"there is no weights file .*none.pt"):
            load_weights(fresh, "none.pt")

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
    @pytest.mark.parametrize("content", [b"", b"not weights at all, just some text"], ids=["empty", "text"])
    def test_damaged_file(self, fresh: nn.Module, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=r"damaged|could not be read"):
            load_weights(fresh, tmp_path / name)

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
    def test_cut_short(self, trained: nn.Module, fresh: nn.Module, tmp_path: Path, name: str) -> None:
        file = tmp_path / name
        if name.endswith("pt"):
            torch.save(trained.state_dict(), file)
        else:
            save_file(trained.state_dict(), file)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        before = state_of(fresh)
        with pytest.raises(ModelError, match=r"damaged|could not be read"):
            load_weights(fresh, file)
        assert same_state(state_of(fresh), before)

    def test_pickled_module_is_refused_and_not_run(self, trained: nn.Module, fresh: nn.Module, tmp_path: Path) -> None:
        torch.save(trained, tmp_path / "w.pt")
        with pytest.raises(ModelError, match=r"more than tensors.*save network.state_dict"):
            load_weights(fresh, tmp_path / "w.pt")

    def test_a_pickle_that_would_run_code_does_not(self, fresh: nn.Module, tmp_path: Path) -> None:
        flag = tmp_path / "ran"

        class Evil:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return Path.touch, (flag,)  # type: ignore[return-value]

        (tmp_path / "w.pt").write_bytes(pickle.dumps(Evil()))
        with pytest.raises(ModelError):
            load_weights(fresh, tmp_path / "w.pt")
        assert not flag.exists()

    @pytest.mark.parametrize("value", [[1, 2], {"epoch": 3}, torch.zeros(2)])
    def test_no_state_dict(self, fresh: nn.Module, tmp_path: Path, value: object) -> None:
        torch.save(value, tmp_path / "w.pt")
        with pytest.raises(ModelError, match="expected a state dict"):
            load_weights(fresh, tmp_path / "w.pt")

    def test_of_another_network(self, fresh: nn.Module, tmp_path: Path) -> None:
        save_file(build("resnet56").state_dict(), tmp_path / "w.safetensors")
        with pytest.raises(ModelError, match=r"216 unexpected \(layer1.3.bn1.bias, .*, …\).*belong together"):
            load_weights(fresh, tmp_path / "w.safetensors")

    def test_missing_and_misshapen(self, trained: nn.Module, fresh: nn.Module, tmp_path: Path) -> None:
        state = trained.state_dict()
        del state["bn1.weight"]
        state["fc.bias"] = torch.zeros(3)
        before = state_of(fresh)
        save_file(state, tmp_path / "w.safetensors")
        with pytest.raises(
            ModelError, match=r"1 missing \(bn1.weight\); 1 of another shape \(fc.bias is \(3,\), expected \(10,\)\)"
        ):
            load_weights(fresh, tmp_path / "w.safetensors")
        assert same_state(state_of(fresh), before)


def test_the_plain_functions_are_networks() -> None:
    with seeded(0):
        assert count_parameters(resnet20()) < count_parameters(resnet56(num_classes=2))
