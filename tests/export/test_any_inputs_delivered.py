"""Networks with inputs and outputs of every structure: timed, exported, and saved for a process that has no data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import any_inputs
import pytest
import torch
from any_inputs import NETWORKS, Encoder, TwoTowers, ids, images
from torch import Tensor, nn

import autoprune
from autoprune.core.metrics import Metric
from autoprune.core.policy import PruningPolicy
from autoprune.cost.latency import Timer, time_alone
from autoprune.cost.layer_profile import profile_layers
from autoprune.cost.timing_engines import TORCH_ENGINES
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import ExportError, ModelError
from autoprune.export.architecture import Architecture, PrunedArchitecture, read_architecture
from autoprune.export.convert import FORMATS, compare, timed
from autoprune.export.examples import Examples, given_examples, random_examples
from autoprune.export.onnx import OnnxSession, missing_packages, onnx_bytes
from autoprune.export.onnx_check import checked_onnx
from autoprune.export.onnx_derivation import OnnxConverter
from autoprune.export.reference import Reference
from autoprune.export.saved_network import save_network
from autoprune.export.timing_runtimes import engine_of
from autoprune.models.calling.answers import answer_of, are_of_one_shape, difference
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.structure import InputStructure
from autoprune.models.calling.tensors import tensors_in
from autoprune.pruning.cut_plan import CutPlan, plan_cut
from autoprune.pruning.groups import find_groups
from autoprune.pruning.surgery import shrink

needs_onnx = pytest.mark.skipif(bool(missing_packages()), reason=f"not installed: {', '.join(missing_packages())}")
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler"
)
QUICK = TimingPlan(blocks=5, calls=1)
ENDS = {  # names of what goes into an ONNX file and of what comes out
    "two inputs": (["user", "item"], ["output"]),
    "one pair": (["user", "item"], ["output"]),
    "two outputs": (["input"], ["digit", "ink"]),
    "a list": (
        ["images_0", "images_1"],
        ["output_0_boxes", "output_0_scores", "output_1_boxes", "output_1_scores"],
    ),
    "one image in a list": (["images_0"], ["output_0_boxes", "output_0_scores"]),
    "pixels": (["input"], ["output"]),
    "names": (["ids", "mask"], ["logits"]),
    "with labels": (["ids", "labels"], ["loss", "logits"]),
    "arguments and names": (["ids", "mask"], ["logits"]),
}


def made(name: str) -> tuple[nn.Module, Inputs]:
    build, batch, _ = NETWORKS[name]
    torch.manual_seed(0)
    return build().eval(), Inputs.of(batch)


def halved(network: nn.Module, inputs: Inputs) -> tuple[nn.Module, CutPlan]:
    groups = find_groups(network, inputs).cuttable
    cut = plan_cut(network, groups, {group.name: list(range(group.num_channels // 2)) for group in groups})
    return shrink(network, cut).eval(), cut


def apart(found: object, network: nn.Module, inputs: Inputs) -> float:
    answers, expected = tensors_in(found), answer_of(network, inputs)
    assert are_of_one_shape(answers, expected)
    return max(map(difference, answers, expected))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_timed_as_a_whole_and_layer_by_layer(name: str) -> None:
    network, inputs = made(name)
    batch = inputs.of_size(3)
    assert batch.size == (3 if inputs.size else None)
    assert Timer(network, batch, QUICK, TORCH_ENGINES["torch"]).compare(halved(network, inputs)[0]).pruned_ms > 0
    assert time_alone(network, batch, QUICK, TORCH_ENGINES["torch"])[0] > 0
    layers = profile_layers(network, batch, passes=1)
    assert sum(layer.params for layer in layers) == sum(weight.numel() for weight in network.parameters())
    assert timed(network, network, batch, QUICK).batch == (1 if batch.is_plain else batch.size)


@needs_onnx
@pytest.mark.parametrize("name", ENDS)
def test_an_onnx_file_names_every_tensor_and_answers_each_as_pytorch_does(name: str) -> None:
    network, inputs = made(name)
    content = onnx_bytes(network, inputs)
    session = OnnxSession(content)
    ends = session._session.get_inputs(), session._session.get_outputs()
    assert tuple([end.name for end in side] for side in ends) == ENDS[name]
    assert checked_onnx(content).dynamic_batch is (inputs.size is not None)
    assert ("shapes" in FORMATS["onnx"].facts(content)) is (inputs.size is None)
    for batch in map(inputs.of_size, (1, 2, 5)):
        assert apart(batch.run(session), network, batch) < 1e-5


@pytest.mark.parametrize("name", ENDS)
def test_a_program_is_called_as_the_network_is(name: str) -> None:
    network, inputs = made(name)
    form = FORMATS["pt2"]
    answer = form.open(form.convert(network, inputs), 1)
    for batch in map(inputs.of_size, (1, 2, 5)):
        with torch.inference_mode():
            assert apart(batch.run(answer), network, batch) < 1e-6


class Described(Encoder):
    """Answer by an object of its own."""

    def forward(self, ids: Tensor, mask: Tensor | None = None, labels: Tensor | None = None) -> Any:  # type: ignore[override]
        return Pair(super().forward(ids, mask)["logits"], ids)


@pytest.mark.parametrize("batch", [any_inputs.PASSAGES, ((any_inputs.WORDS,), {"mask": torch.ones(4, 9)})])
def test_a_program_answers_by_dictionaries_where_the_network_has_objects_of_its_own(batch: object) -> None:
    network, inputs = Described().eval(), Inputs.of(batch)
    form = FORMATS["pt2"]
    answer = form.open(form.convert(network, inputs), 1)
    with torch.inference_mode():
        for each in map(inputs.of_size, (1, 5)):
            assert apart(each.run(answer), network, each) < 1e-6
            found = each.run(answer)
            assert isinstance(found, dict)
            assert set(found) == {"left", "right"}


@pytest.mark.parametrize("form", FORMATS)
def test_packed_sequences_are_refused_in_words(form: str) -> None:
    with pytest.raises(ExportError, match=r"knows no packed sequences.*give it padded ones and their lengths"):
        FORMATS[form].convert(*made("packed"))


@needs_onnx
def test_tensors_that_are_missing_are_told_with_the_names_of_all() -> None:
    network, inputs = made("names")
    with pytest.raises(ExportError, match=r"takes 2 tensors \(ids, mask\), and 1 were given"):
        OnnxSession(onnx_bytes(network, inputs))(inputs.kwargs["ids"])


@dataclass
class Pair:
    left: Tensor
    right: Tensor


class Weighed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, one: Tensor, other: Tensor, *, third: Tensor) -> Tensor:
        return self.layer(one - 2 * other + 5 * third)


@needs_onnx
def test_arguments_by_name_come_in_any_order() -> None:
    network, (one, other, third) = Weighed().eval(), (images(3, 4) + number for number in range(3))
    inputs = Inputs((one,), {"other": other, "third": third})
    session = OnnxSession(onnx_bytes(network, inputs))
    assert apart(session(one, third=third, other=other), network, inputs) < 1e-5


class Clash(nn.Module):
    """Names of tensors that an exporter could use for its own, and an output that has an input's name."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(4, 4)

    def forward(self, mask: Tensor, add: Tensor) -> dict[str, Tensor]:
        return {"mask": self.network(mask) + add, "linear": mask * 2, "a.b/c": mask - add}


@needs_onnx
def test_names_that_clash_are_made_different() -> None:
    network, inputs = Clash().eval(), Inputs.of((images(3, 4), images(3, 4) + 1))
    session = OnnxSession(onnx_bytes(network, inputs))
    assert [end.name for end in session._session.get_outputs()] == ["mask_2", "linear", "a_b_c"]
    assert apart(inputs.run(session), network, inputs) < 1e-5


@needs_onnx
@pytest.mark.parametrize("name", ["two inputs", "two outputs", "names", "a list"])
def test_pruned_networks_come_from_the_first_ones_file(name: str) -> None:
    network, inputs = made(name)
    converter = OnnxConverter(inputs)
    for each in (network, halved(network, inputs)[0]):
        assert apart(inputs.run(converter.session(each)), each, inputs) < 1e-4
    assert (converter.exported, converter.derived) == (1, 1)


@pytest.mark.parametrize(
    "name", [pytest.param("onnxruntime", marks=needs_onnx), pytest.param("compile", marks=needs_compiler)]
)
def test_runtimes_time_a_network_with_named_inputs(name: str) -> None:
    network, inputs = made("names")
    engine = engine_of(name)
    with torch.inference_mode():
        assert apart(engine.prepare(network, inputs, 1)(), network, inputs) < 1e-5
    assert Timer(network, inputs, QUICK, engine).compare().dense_ms > 0


# --- saved


def saved(name: str, folder: Path) -> tuple[nn.Module, Inputs]:
    dense, inputs = made(name)
    network, cut = halved(dense, inputs)
    folder.mkdir()
    what = Architecture.of(f"{any_inputs.__file__}:{type(dense).__name__}", inputs)
    save_network(folder, network, PrunedArchitecture.of(network, cut, what, PruningPolicy(), {}))
    return network, inputs


_ELSEWHERE = """
import json, sys
from pathlib import Path
from typing import Any
import autoprune
from autoprune.cost.cost_model import measure_network
from autoprune.export.architecture import read_architecture
from autoprune.export.build_dense import build_dense
from autoprune.export.reference import Reference
from autoprune.export.standalone import rebuild
from autoprune.models.calling.answers import answer_of

found = {}
for folder in map(Path, sys.argv[1:]):
    reference, dense = Reference.read(folder / "reference"), read_architecture(folder).dense
    loaded = autoprune.load(folder, trust_code=True)
    plain = rebuild(str(folder), build_dense(dense, seed=1))
    apart = [reference.difference(answer_of(one, reference.inputs)) for one in (loaded, plain)]
    made_up = dense.example(3)
    found[folder.name] = [*apart, len(answer_of(loaded, made_up)), measure_network(loaded, made_up)["mflops"] >= 0]
print(json.dumps(found))
"""


def test_saved_networks_are_loaded_and_called_in_a_process_without_their_data(tmp_path: Path) -> None:
    expected = {}
    for name in NETWORKS:
        network, inputs = saved(name, tmp_path / name)
        answers = answer_of(network, inputs)
        Reference(inputs, answers, inputs).write(tmp_path / name / "reference")
        expected[name] = [0.0, 0.0, len(answers), True]
    command = [sys.executable, "-c", _ELSEWHERE, *(str(tmp_path / name) for name in NETWORKS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, (loaded, plain, *rest) in found.items():
        assert max(loaded, plain) < 1e-6, name
        assert rest == expected[name][2:], name
    assert set(found) == set(NETWORKS)


def test_a_saved_network_says_what_it_is_called_with_and_one_of_images_says_what_it_always_did(tmp_path: Path) -> None:
    saved("names", tmp_path / "names")
    told = json.loads((tmp_path / "names" / "architecture.json").read_text())["architecture"]
    assert told["inputs"]["kwargs"]["mask"] == {"tensor": "int64", "shape": [4, 9], "low": 1, "high": 1}
    assert read_architecture(tmp_path / "names").dense.inputs is not None
    saved("pixels", tmp_path / "pixels")
    told = json.loads((tmp_path / "pixels" / "architecture.json").read_text())["architecture"]
    assert set(told) == {"source", "num_classes", "input_shape"}
    assert told["input_shape"] == [1, 16, 16]


@pytest.mark.parametrize(
    "inputs",
    [
        {"args": [{"tensor": "int65", "shape": [2]}], "kwargs": {}},
        {"args": [{"tensor": "int64", "shape": [-2]}], "kwargs": {}},
        {"args": [{"tensor": "int64"}], "kwargs": {}},
        {"args": [{"what": 3}], "kwargs": {}},
        {"args": [{"list": [{}]}], "kwargs": {}},
        {"args": 3},
    ],
)
def test_a_damaged_structure_is_told(inputs: object, tmp_path: Path) -> None:
    saved("names", tmp_path / "names")
    path = tmp_path / "names" / "architecture.json"
    data = json.loads(path.read_text())
    data["architecture"]["inputs"] = inputs
    path.write_text(json.dumps(data))
    with pytest.raises(ModelError, match="is damaged"):
        autoprune.load(tmp_path / "names", trust_code=True)


# --- structures


@pytest.mark.parametrize("name", NETWORKS)
def test_a_structure_is_stored_and_inputs_are_made_from_it(name: str) -> None:
    network, inputs = made(name)
    structure = InputStructure.from_json(json.loads(json.dumps(InputStructure.of(inputs).to_json())))
    filled = structure.filled(inputs.tensors)
    assert all(one is other for one, other in zip(filled.tensors, inputs.tensors, strict=True))
    assert str(filled) == str(inputs)
    example = structure.example()
    assert str(example) == str(inputs)
    answer_of(network, example)
    assert structure.strangers == []


def test_made_up_integers_lie_in_the_range_that_was_seen_and_pad_on_the_right() -> None:
    lengths, mask = torch.tensor([7, 2, 5]), torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]])
    found = InputStructure.of(Inputs.of({"lengths": lengths, "mask": mask, "flags": mask.bool()})).example().kwargs
    assert found["lengths"].tolist() == [7, 4, 2]
    assert found["mask"].tolist() == [[1, 1, 0, 0]] * 2
    assert found["flags"].dtype == torch.bool


class TakesPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, pair: Pair) -> Tensor:
        return self.second(self.first(pair.left).relu()) + pair.right


def test_objects_of_the_user_s_own_are_named_where_nobody_can_make_them(tmp_path: Path) -> None:
    inputs = Inputs.of(Pair(images(3, 4), images(3, 2)))
    assert inputs.size == 3
    structure = InputStructure.of(inputs)
    assert structure.strangers == ["Pair"]
    with pytest.raises(ModelError, match=r"is a Pair, which autoprune cannot make by itself; give inputs"):
        structure.example()
    network = TakesPair().eval()
    assert Reference(inputs, answer_of(network, inputs), inputs).strangers == ["Pair"]
    if not missing_packages():
        session = OnnxSession(onnx_bytes(network, inputs))
        assert [end.name for end in session._session.get_inputs()] == ["pair_left", "pair_right"]
        assert apart(inputs.of_size(5).run(session), network, inputs.of_size(5)) < 1e-5


# --- agreement


def test_agreement_is_looked_at_tensor_by_tensor_and_scored_by_the_task() -> None:
    network, inputs = made("names")
    labels = ids(5, 4)
    logits = answer_of(network, inputs)[0]
    judged = Examples(
        "validation passages",
        inputs,
        lambda size, limit: iter([(inputs, labels)]),
        score=lambda output, wanted: output["logits"].gather(1, wanted[:, None])[:, 0],
        reduction=lambda values: float(values.sum()),
        quality=Metric("reached", goal="max"),
    )
    found = compare(lambda **given: (logits + 1,), network, judged)
    assert (found.examples, found.equal_answers, found.metric) == (4, None, "reached")
    assert found.max_difference == pytest.approx(1)
    assert not found.is_close
    assert found.score == pytest.approx(float(logits.gather(1, labels[:, None]).sum()) + 4)
    assert found.reference_score == pytest.approx(float(logits.gather(1, labels[:, None]).sum()))
    assert type(found).from_json(found.to_json()) == found
    silent = compare(lambda **given: (logits,), network, given_examples(inputs))
    assert (silent.score, silent.max_difference) == (None, 0)


def test_classes_are_counted_only_where_one_is_named_for_each_example() -> None:
    network, inputs = made("pixels")
    assert compare(network, network, random_examples((1, 16, 16), 0)).equal_answers is None
    flat = nn.Sequential(nn.Flatten(), nn.Linear(256, 3)).eval()
    assert compare(flat, flat, random_examples((1, 16, 16), 0)).equal_answers == 1
    assert given_examples(made("a list")[1]).kind == "batch of example inputs"
    assert inputs.is_plain


def test_an_answer_of_another_shape_or_number_never_agrees() -> None:
    network, inputs = made("two outputs")
    answers = answer_of(network, inputs)
    for wrong in (answers[:1], answers[::-1], [answers[0], answers[1] * float("nan")]):
        assert not compare(lambda given, wrong=wrong: tuple(wrong), network, given_examples(inputs)).is_close


def test_ids_to_time_on_are_ids_and_images_are_zeros() -> None:
    pair = Inputs.of((ids(50, 6), ids(70, 6)))
    answer_of(TwoTowers().eval(), given_examples(pair).timed(9))
    assert given_examples(pair).timed(9).size == 9
    assert not given_examples(Inputs.of(images(2, 3))).timed(4).tensors[0].any()
    assert Encoder().eval()(**given_examples(made("names")[1]).timed(2).kwargs)["logits"].shape == (2, 5)
