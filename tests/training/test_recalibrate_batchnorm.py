import pytest
import torch
from torch import nn
from training_toys import Toy, make_toy, same_state, state_of

from autoprune.errors import ModelError
from autoprune.tasks.in_memory import ArrayTask
from autoprune.training.device.runtime import Runtime
from autoprune.training.loop import TrainingRun
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm
from autoprune.training.scoring import score
from autoprune.training.settings import FinetuneSettings
from autoprune.training.train_dense import train_dense


class TestRecalibration:
    def test_is_the_average_over_the_batches(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        nn.init.constant_(toy.bn.running_mean, 100.0)
        recalibrate_batchnorm(toy, task, 32, runtime, 0, batch_size=16)
        batches = list(task.train_stream(16, 0, 0, runtime))[:2]
        with torch.no_grad():
            means = [toy.conv(batch.images).mean((0, 2, 3)) for batch in batches]
            variances = [toy.conv(batch.images).var((0, 2, 3)) for batch in batches]
        assert torch.allclose(toy.bn.running_mean, sum(means) / 2, atol=1e-5)
        assert torch.allclose(toy.bn.running_var, sum(variances) / 2, atol=1e-5)

    def test_weights_modes_momentum_and_gradients_are_as_before(
        self, task: ArrayTask, toy: Toy, runtime: Runtime
    ) -> None:
        toy.bn.momentum = 0.3
        toy.eval()
        before = {name: parameter.clone() for name, parameter in toy.named_parameters()}
        recalibrate_batchnorm(toy, task, 20, runtime, 0, batch_size=16)
        assert toy.bn.momentum == 0.3
        assert not any(module.training for module in toy.modules())
        assert all(torch.equal(before[name], parameter) for name, parameter in toy.named_parameters())
        assert all(parameter.grad is None for parameter in toy.parameters())

    def test_momentum_comes_back_after_an_error(self, task: ArrayTask, runtime: Runtime) -> None:
        network = make_toy(num_classes=4)
        with pytest.raises(ModelError):
            recalibrate_batchnorm(network, task, 20, runtime, 0)
        assert network.bn.momentum == 0.1

    def test_more_images_than_there_are_goes_round_again(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        recalibrate_batchnorm(toy, task, 320, runtime, 0, batch_size=16)
        assert int(toy.bn.num_batches_tracked) == 20

    def test_repeats(self, task: ArrayTask, runtime: Runtime) -> None:
        networks = [make_toy(dropout=0.5), make_toy(dropout=0.5)]
        for network in networks:
            recalibrate_batchnorm(network, task, 64, runtime, 4, 16)
        assert same_state(state_of(networks[0]), state_of(networks[1]))

    @pytest.mark.parametrize("images", [0, 64])
    def test_nothing_to_do(self, task: ArrayTask, runtime: Runtime, images: int) -> None:
        network = make_toy()
        if images:
            network.bn = nn.BatchNorm2d(8, track_running_stats=False)
        before = state_of(network)
        recalibrate_batchnorm(network, task, images, runtime, 0)
        assert same_state(state_of(network), before)

    def test_makes_a_disturbed_network_well_again(self, task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
        train_dense(toy, TrainingRun(task, FinetuneSettings(15, 16, 0.1, 1e-4), runtime, 0))
        with torch.no_grad():
            toy.conv.bias += 10 * torch.arange(8) - 40  # batch norm undoes this, once it has measured it
        ill = score(toy, task, "val", runtime).loss
        recalibrate_batchnorm(toy, task, 64, runtime, 0, 16)
        assert score(toy, task, "val", runtime).loss < ill / 2
