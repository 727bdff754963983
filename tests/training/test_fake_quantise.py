"""Fake quantisation rounds as ONNX Runtime does where the export does, and lets the gradient through."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from autoprune.export.cpu_flags import reduces_range
from autoprune.export.int8_calibration import calibrated
from autoprune.export.int8_quantise import quantised_here
from autoprune.export.onnx import OnnxSession
from autoprune.training.fake_quantise import (
    REDUCED_LEVELS,
    WEIGHT_LEVELS,
    fake_activations,
    fake_quantised,
    fake_weights,
    not_rounded,
)


@pytest.fixture(autouse=True)
def own_random_state() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def one_layer(weight: Tensor) -> bytes:
    """Return an ONNX file of a convolution of three by three and what cuts off below zero."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Conv", ["input", "weight"], ["sums"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["sums"], ["output"]),
    ]
    ends = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 2, 6, 6]),
        helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 3, 6, 6]),
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [numpy_helper.from_array(weight.numpy(), "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("reduce_range", [False, True])
def test_a_layer_answers_as_in_onnx_runtime_to_a_rounding_step(reduce_range: bool) -> None:
    """The oracle is the file in int8, whose answers are rounded too; what lies halfway may fall on either side."""
    if reduces_range() and not reduce_range:
        pytest.skip("this processor has no VNNI, so that products of eight bits overflow in ONNX Runtime")
    layer = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.ReLU())
    with torch.no_grad():
        layer[0].weight.mul_(torch.tensor([0.01, 1.0, 30.0])[:, None, None, None])
    images = torch.randn(32, 2, 6, 6)
    given = one_layer(layer[0].weight.detach())
    model = calibrated(given, [OnnxSession(given).feed(images)])
    theirs = OnnxSession(quantised_here(model, reduce_range))(images)
    with torch.no_grad(), fake_quantised(layer.train(), REDUCED_LEVELS if reduce_range else WEIGHT_LEVELS) as mode:
        sums = layer(images)
        ours = fake_activations(sums, *torch.aminmax(layer[:].eval()(images)))
    assert isinstance(theirs, Tensor)
    step = float(theirs.max()) / 255
    apart = (ours - theirs).abs()
    assert float(apart.max()) <= 1.01 * step
    assert float((apart < 0.01 * step).float().mean()) > 0.97, "nearly all fall on the very same step"
    assert not_rounded(layer, mode) == ()


def test_the_gradient_passes_as_if_nothing_were_rounded() -> None:
    given, weight = torch.randn(5, 4).requires_grad_(), torch.randn(3, 4).requires_grad_()
    towards = torch.randn(5, 4)
    (fake_activations(given, torch.tensor(-1.0), torch.tensor(1.0)) * towards).sum().backward()
    assert torch.equal(given.grad, towards)  # type: ignore[arg-type]
    (fake_weights(weight) * towards[:3]).sum().backward()
    assert torch.equal(weight.grad, towards[:3])  # type: ignore[arg-type]


def test_each_output_channel_has_its_own_scale() -> None:
    weight = torch.randn(3, 4, 2) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    step = weight.abs().amax(dim=(1, 2), keepdim=True) / WEIGHT_LEVELS
    found = fake_weights(weight)
    assert bool(((found - weight).abs() <= 0.501 * step).all())
    assert torch.equal(fake_weights(weight.transpose(0, 1), 1), found.transpose(0, 1))
    assert torch.allclose(fake_weights(found), found), "rounding what is rounded changes nothing"


def test_a_range_reaches_out_at_once_and_stands_still_in_evaluation() -> None:
    layer = nn.Sequential(nn.Linear(1, 1, bias=False))
    with torch.no_grad(), fake_quantised(layer.train()):
        layer[0].weight.fill_(1.0)
        layer(torch.tensor([[0.0], [2.55]]))
        layer(torch.tensor([[0.0], [255.0]]))
        assert float(layer(torch.tensor([[0.6]]))) == pytest.approx(1.0, abs=0.05), "a step is nearly one"
        layer.eval()
        assert float(layer(torch.tensor([[900.0]]))) < 256


class Sums(nn.Module):
    """Joins, sums in place and out of place, a norm and a pool, and an attention whose weights cannot be reached."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.norm(self.conv(x))
        x += x.relu()
        x = torch.cat([x, x * x.sigmoid()], 1).mean(2).transpose(1, 2)
        return {"logits": self.head(self.attend(x, x, x)[0].mean(1))}


def test_any_network_runs_and_is_left_as_it_was() -> None:
    net, images = Sums(), torch.randn(4, 2, 6, 6)
    before, mean = net.eval()(images)["logits"], net.norm.running_mean
    with fake_quantised(net.train()) as mode:
        found = net(images)["logits"]
        found.sum().backward()
        assert not_rounded(net, mode) == ("attend", "attend.out_proj")
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert mean is not None
    assert not mean.any(), "statistics of batch norm stand still"
    assert torch.equal(net.eval()(images)["logits"], before)
    assert 0 < float((found - before).detach().abs().max()) < 0.5


def test_a_network_that_fails_leaves_nothing_behind() -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    with fake_quantised(net):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            net(torch.zeros(1, 4))
        assert torch.add(torch.tensor([0.3]), torch.tensor([0.123456])).item() == pytest.approx(0.423456)
        net(torch.ones(1, 3))


def test_behind_a_standing_batch_norm_no_gradient_is_longer_than_one() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    with fake_quantised(net.train()):
        (1000 * net(torch.randn(4, 2, 6, 6))).sum().backward()
        assert all(float(one.grad.norm()) < 1.001 for one in net.parameters() if one.grad is not None)
    net.zero_grad()
    (1000 * net(torch.randn(4, 2, 6, 6))).sum().backward()
    assert net[1].bias.grad is not None
    assert float(net[1].bias.grad.norm()) > 1, "afterwards all is as before"
