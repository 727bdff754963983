from typing import Any

import pytest
import torch
from torch import nn
from training_toys import make_toy

from autoprune.core.cores import default_threads
from autoprune.errors import UnknownNameError, UsageError
from autoprune.training.device import bf16_on_cpu
from autoprune.training.device import resolve_runtime as module
from autoprune.training.device.bf16_on_cpu import slow_in_bf16
from autoprune.training.device.evaluation_mode import evaluating
from autoprune.training.device.resolve_runtime import resolve_runtime
from autoprune.training.device.runtime import Runtime
from autoprune.training.device.seeding import seeded


@pytest.fixture
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("cpu_only")
class TestResolve:
    def test_auto_takes_the_cpu_where_there_is_nothing_else(self) -> None:
        runtime = resolve_runtime()
        assert (runtime.device, runtime.channels_last) == ("cpu", True)

    def test_auto_prefers_cuda_over_mps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        assert resolve_runtime(precision="fp32").device == "cuda"

    def test_auto_on_mps_is_contiguous_and_fp32(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        assert resolve_runtime() == Runtime("mps", "fp32", False, 0)

    @pytest.mark.parametrize(("fast", "precision"), [(True, "bf16"), (False, "fp32")])
    def test_auto_precision_follows_the_processor(
        self, monkeypatch: pytest.MonkeyPatch, fast: bool, precision: str
    ) -> None:
        monkeypatch.setattr(module, "has_fast_bf16", lambda: fast)
        assert resolve_runtime().precision == precision

    @pytest.mark.parametrize("device", ["cuda", "mps"])
    def test_an_absent_device_says_what_is_present(self, device: str) -> None:
        with pytest.raises(UsageError, match=rf"'{device}'.*present: cpu.*'auto'"):
            resolve_runtime(device)

    @pytest.mark.parametrize(
        "words", [{"device": "gpu"}, {"precision": "fp16"}, {"layout": "nhwc"}], ids=lambda words: next(iter(words))
    )
    def test_an_unknown_word_is_refused(self, words: dict[str, str]) -> None:
        with pytest.raises(UnknownNameError, match="known: auto"):
            resolve_runtime(**words)  # type: ignore[arg-type]

    def test_negative_threads_are_refused(self) -> None:
        with pytest.raises(UsageError, match="threads is -1"):
            resolve_runtime(threads=-1)

    def test_what_is_said_is_taken(self) -> None:
        assert resolve_runtime("cpu", "bf16", "contiguous", 3) == Runtime("cpu", "bf16", False, 3)


class TestCapabilities:
    @pytest.mark.parametrize(
        ("flags", "vendor", "fast"),
        [
            (("amx_bf16", "avx512_bf16"), "GenuineIntel", True),
            (("avx512_bf16",), "GenuineIntel", False),
            (("avx512_bf16",), "AuthenticAMD", True),
            ((), "AuthenticAMD", False),
        ],
    )
    @pytest.mark.parametrize("is_new", [True, False], ids=["torch", "old torch"])
    def test_bf16_pays_with_amx_and_on_amd(
        self, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], vendor: str, fast: bool, is_new: bool
    ) -> None:
        monkeypatch.setattr(bf16_on_cpu, "_cpu_info", lambda: f"vendor_id : {vendor}\nflags : fpu {' '.join(flags)}\n")
        if is_new:
            monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(flags, True), raising=False)
        else:
            monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
        assert bf16_on_cpu.has_fast_bf16() == fast
        assert bf16_on_cpu.has_amx() == ("amx_bf16" in flags)

    def test_a_capability_that_is_no_truth_value_does_not_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": "no", "avx512_bf16": False}, False)
        assert not bf16_on_cpu.has_fast_bf16()

    def test_this_machine_is_asked(self) -> None:
        assert bf16_on_cpu.has_fast_bf16() in (True, False)


@pytest.mark.parametrize(
    ("groups", "stride", "path"), [(8, 2, "1"), (8, (1, 2), "1"), (8, 1, ""), (4, 2, ""), (1, 2, "")]
)
def test_a_strided_depthwise_convolution_is_slow_in_bf16(groups: int, stride: Any, path: str) -> None:
    with seeded(0):
        network = nn.Sequential(nn.Conv2d(1, 8, 1, stride=2), nn.Conv2d(8, 8, 3, stride, groups=groups))
    assert slow_in_bf16(network) == path


class TestRuntime:
    def test_place_changes_the_layout_and_no_value(self) -> None:
        network = make_toy().conv
        before = network.weight.detach().clone()
        placed = Runtime(channels_last=True).place(network)
        assert placed is network
        assert network.weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(network.weight, before)

    def test_place_leaves_three_dimensional_convolutions_alone(self) -> None:
        with seeded(0):
            network = nn.Conv3d(3, 4, 3)
        assert Runtime(channels_last=True).place(network).weight.is_contiguous()

    @pytest.mark.parametrize("channels_last", [True, False])
    def test_place_images(self, channels_last: bool) -> None:
        runtime = Runtime(channels_last=channels_last)
        placed = runtime.place_images(torch.zeros(2, 3, 4, 4))
        assert placed.is_contiguous(memory_format=runtime.memory_format)

    @pytest.mark.parametrize("shape", [(5, 30), (5, 7, 4), (2, 3, 4, 5, 6)])
    def test_only_images_have_a_layout(self, shape: tuple[int, ...]) -> None:
        runtime = Runtime(channels_last=True)
        rows = torch.arange(float(torch.Size(shape).numel())).view(shape).transpose(0, 1)
        assert runtime.format_of(rows) == torch.contiguous_format
        assert runtime.place_images(rows).is_contiguous()
        assert torch.equal(runtime.place_images(rows), rows)

    def test_attention_on_a_cpu_in_bf16_is_not_fused(self) -> None:
        """The fused backward pass is many times slower there; its name shows in the graph."""
        query = torch.zeros(1, 1, 4, 8, requires_grad=True)
        for precision, fused in (("fp32", True), ("bf16", False)):
            with Runtime(precision=precision).autocast():  # type: ignore[arg-type]
                answer = torch.nn.functional.scaled_dot_product_attention(query, query, query)
            assert ("Flash" in type(answer.grad_fn).__name__) == fused

    @pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
    def test_autocast(self, precision: str, dtype: torch.dtype) -> None:
        with Runtime(precision=precision).autocast():  # type: ignore[arg-type]
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype

    def test_answers_of_any_structure_are_float32_in_any_precision(self) -> None:
        with torch.random.fork_rng():
            linear = nn.Linear(3, 3)
        answer = Runtime(precision="bf16").answer(lambda net, batch: {"of": (net(batch), 1)}, linear, torch.ones(2, 3))
        assert answer["of"][0].dtype == torch.float32

    def test_threads(self) -> None:
        Runtime(threads=1).apply_threads()
        assert torch.get_num_threads() == 1
        Runtime(threads=0).apply_threads()
        assert torch.get_num_threads() == default_threads()

    def test_describe_is_plain(self) -> None:
        described = Runtime(threads=2).describe()
        assert described["threads"] == 2
        assert all(isinstance(value, str | int) for value in described.values())


def test_seeded_repeats_and_puts_back() -> None:
    before = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with seeded(5):
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_puts_back_after_an_error() -> None:
    before, flags = torch.get_rng_state(), (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
    with pytest.raises(ZeroDivisionError), seeded(5):
        torch.rand(1) / (1 // 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == flags


def test_evaluating_restores_each_module() -> None:
    network = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(1).eval())
    network.train()
    network[1].eval()
    with evaluating(network):
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network] == [True, False]
