"""Every file of a picked folder: what it holds, what the card says of it, and how damage is found."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cards import finish_to_json
from tiny import write_study
from torch import nn

import autoprune
import autoprune.core.export_formats
import autoprune.export.convert
import autoprune.export.publish
from autoprune.cli.read_request import read_request
from autoprune.core.budget import Budget, Limit
from autoprune.core.export_formats import Int8Limit, Wanted, wanted_formats
from autoprune.core.measurement import Measurement
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Candidate, Completed, Trial
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import EvaluationError, ExportError, ModelError, UnknownNameError, UsageError
from autoprune.export.architecture import Architecture, PrunedArchitecture, read_architecture
from autoprune.export.card import Card
from autoprune.export.card_parts import FileCheck
from autoprune.export.convert import FORMATS, compare, export_network
from autoprune.export.examples import examples_of
from autoprune.export.export_result import FailedExport
from autoprune.export.picked_files import missing_files
from autoprune.export.publish import check_target
from autoprune.export.reference import Reference
from autoprune.export.saved_network import save_network
from autoprune.export.torch_export import program_bytes
from autoprune.export.verify import verify
from autoprune.models.calling.answers import answer_of
from autoprune.models.calling.inputs import Inputs
from autoprune.models.weights_licence import weights_licence
from autoprune.pick.card_text import card_text
from autoprune.pruning.cut_plan import KeptChannels
from autoprune.pruning.surgery import shrink
from autoprune.search.setup.from_spec import resolve
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.study.folder import StudyFolder
from autoprune.study.study_facts import StudyFacts
from autoprune.study.view import StudyView

DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "pick-a-network.md"
PLAIN = Path(autoprune.__file__).with_name("export") / "standalone.py"
EVERY = Wanted(("onnx", "onnx-int8", "pt2"), is_explicit=True, int8=Int8Limit(1.0))
BOTH = Wanted(("onnx", "pt2"), is_explicit=True)
NONE = Wanted(is_explicit=True)
QUICK = TimingPlan(runtime="torch", blocks=5, calls=1)


pytestmark = pytest.mark.usefixtures("process_is_left_as_it_was")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> PreparedStudy:
    folder = write_study(tmp_path_factory.mktemp("files") / "studies")
    spec = resolve(read_request(str(folder), folder.parent, {}).spec)
    return prepare_study(spec, StudyFolder(folder), lambda message: None)


@pytest.fixture(scope="module")
def view(bench: PreparedStudy) -> StudyView:
    policy = bench.space.canonical(PruningPolicy.uniform(0.5, "l1", names=bench.space.by_name))
    asked = Candidate(4, policy, 0, "sampler:test", Budget({"mflops": Limit(0.1)}))
    trial = Trial(asked, Completed(Measurement({"accuracy": 0.9, "mflops": 0.05})), {}, 0)
    return StudyView(bench.folder, bench.spec, (trial,), 0, StudyFacts())


def picked_by(view: StudyView, wanted: Wanted = NONE, force: bool = False) -> tuple[dict[str, Any], Path]:
    return finish_to_json(view, view.trials, Budget(), lambda message: None, compare=False, wanted=wanted, force=force)


@pytest.fixture(scope="module")
def picked(view: StudyView) -> tuple[dict[str, Any], Path]:
    """Return what one pick wrote, exported to everything and checked in a process of its own."""
    return picked_by(view, EVERY)


@pytest.fixture
def copied(picked: tuple[dict[str, Any], Path], tmp_path: Path) -> Path:
    return shutil.copytree(picked[1], tmp_path / "copy")


def validation(bench: PreparedStudy) -> tuple[torch.Tensor, torch.Tensor]:
    batch = next(iter(bench.task.eval_batches("val", 1000, bench.device)))
    return batch.images.contiguous(), batch.labels


def test_the_onnx_file_answers_as_the_card_says(bench: PreparedStudy, picked: tuple[dict[str, Any], Path]) -> None:
    """The oracle is ONNX Runtime itself, one image at a time and all at once."""
    import onnxruntime

    card, folder = picked
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    images, labels = validation(bench)
    one_by_one = [session.run(None, {name: image[None].numpy()})[0] for image in images]
    answers = torch.cat([torch.from_numpy(answer) for answer in one_by_one])
    with torch.no_grad():
        expected = autoprune.load(folder, trust_code=True)(images)
    told = card["exports"]["onnx"]["agreement"]
    assert float((answers - expected).abs().max()) < 1e-4
    assert told["max_difference"] < 1e-4
    assert told["examples"] == len(images) == 48
    assert told["equal_answers"] == float((answers.argmax(1) == expected.argmax(1)).double().mean())
    assert told["score"] == float((answers.argmax(1) == labels).double().mean())
    assert told["reference_score"] == card["validation"]["values"]["accuracy"]
    together = torch.from_numpy(session.run(None, {name: images.numpy()})[0])
    assert torch.allclose(together, answers, atol=1e-5)
    onnx = {path.name for path in folder.iterdir() if "onnx" in path.name}
    assert onnx == {"model.onnx", "model.int8.onnx"}, "no data beside them"
    assert card["exports"]["onnx"]["opset"] >= 18


def test_the_program_answers_as_the_card_says(bench: PreparedStudy, picked: tuple[dict[str, Any], Path]) -> None:
    card, folder = picked
    program = torch.export.load(folder / "model.pt2").module()
    images, _ = validation(bench)
    with torch.no_grad():
        for batch in (images[:1], images):
            assert torch.equal(program(batch), autoprune.load(folder, trust_code=True)(batch))
    assert card["exports"]["pt2"]["agreement"]["bit_equal"]


def test_the_card_tells_sizes_latencies_and_checks(bench: PreparedStudy, picked: tuple[dict[str, Any], Path]) -> None:
    card, folder = picked
    assert json.loads((folder / "card.json").read_text()) == card
    for name in ("model.safetensors", "model.onnx", "model.pt2", "policy.json", "architecture.json"):
        assert card["files"][name]["bytes"] == (folder / name).stat().st_size
    for name in ("model.safetensors", "model.onnx", "model.pt2"):
        assert card["files"][name]["bytes"] < card["files"][name]["dense_bytes"]
    for found in card["exports"].values():
        timing = found["latency"]
        assert timing["ratio"] > 0
        assert timing["ratio_stderr"] >= 0
        assert timing["pruned_ms"] > 0
    assert {check["name"] for check in card["checks"]} == {
        *("autoprune.load", "plain PyTorch", "costs counted anew", "policy.json", "model.onnx", "model.pt2"),
        *("model.int8.onnx", "smaller files", "latency"),
    }
    assert all(check["passed"] for check in card["checks"])
    assert "onnxruntime" in card["versions"]
    text = (folder / "card.md").read_text()
    for part in (
        "| model.onnx | ",
        "| model.int8.onnx | ",
        "- int8: calibrated on 96 training examples",
        "| onnxruntime ",
        "checked in a fresh process: autoprune.load",
        "licence of the we",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("of_float", "of_dense", "said"),
    [
        (0.4, 0.5, []),
        (0.99, 0.5, ["**Int8 is not faster on this machine**: it takes × 0.990 ± 0.010"]),
        (0.4, 1.2, ["**In int8 the pruned network is not faster than the dense one**: it takes × 1.200 ± 0.010"]),
    ],
)
def test_a_card_says_first_what_int8_brings(
    picked: tuple[dict[str, Any], Path], of_float: float, of_dense: float, said: list[str]
) -> None:
    card = Card.from_json(picked[0])
    assert card.to_json() == picked[0]
    found: Any = card.written.exports["onnx-int8"]
    timing = replace(found.int8.against_float, ratio_stderr=0.01)
    times = {"against_float": replace(timing, ratio=of_float), "against_dense_int8": replace(timing, ratio=of_dense)}
    exports = {**card.written.exports, "onnx-int8": replace(found, int8=replace(found.int8, **times))}
    title, _, first, *rest = card_text(replace(card, folder=replace(card.written, exports=exports))).splitlines()
    assert title.startswith("# Trial 4")
    assert re.match(r"\*\*model.int8.onnx\*\*: [0-9.]+ times as fast as the dense network in float32 \(", first)
    assert [line.partition(" of ")[0] for line in rest[: rest.index("")]] == said


# --- without autoprune


def block_of_docs() -> str:
    found = re.search(
        r"<!-- file: autoprune/export/standalone\.py -->\n```python\n(.*?)```", DOCS.read_text(), re.DOTALL
    )
    assert found
    return found[1]


def plain_lines() -> ModuleType:
    """Return the lines of the docs as a module that cannot see autoprune."""
    made = ModuleType("plain_lines")
    exec(compile(block_of_docs(), str(DOCS), "exec"), vars(made))
    return made


def test_the_lines_of_the_docs_are_those_that_every_pick_is_checked_by() -> None:
    text = PLAIN.read_text()
    assert block_of_docs() == text[text.index("import json") :]
    assert "autoprune" not in re.sub(r"needs_autoprune|autoprune\.load", "", block_of_docs())


def test_the_lines_of_the_docs_rebuild_a_picked_network(
    bench: PreparedStudy, picked: tuple[dict[str, Any], Path]
) -> None:
    from autoprune.core.registry import load_object

    dense = load_object(bench.spec.model.source)(num_classes=3, in_channels=1)
    network = plain_lines().rebuild(str(picked[1]), dense)
    images, _ = validation(bench)
    with torch.no_grad():
        assert torch.equal(network(images), autoprune.load(picked[1], trust_code=True)(images))
    assert not network.training
    assert network.conv1.out_channels == len(network.conv1.weight)


class Mixed(nn.Module):
    """Hold a layer of each kind whose sizes are written differently."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.norm = nn.GroupNorm(4, 8)
        self.deep = nn.Conv2d(8, 8, 3, groups=8)
        self.slope = nn.PReLU(8)
        self.block = nn.Conv2d(8, 8, 1)
        self.rows = nn.LSTM(8, 6, batch_first=True)
        self.scale = nn.LayerNorm(6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.slope(self.deep(self.norm(self.conv(x))))
        x = x + self.block(x)
        found: torch.Tensor = self.fc(self.scale(self.rows(x.flatten(2).mT)[0][:, -1]))
        return found


def test_the_lines_of_the_docs_know_every_kind_of_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = Mixed().eval()
    half, units = (0, 1, 4, 5), (0, 2, 3)
    cut = {
        "conv": KeptChannels({"out": half}),
        "norm": KeptChannels({"out": half}),
        "deep": KeptChannels({"in": half, "out": half}),
        "slope": KeptChannels({"out": half}),
        "block": KeptChannels({"block": ()}),
        "rows": KeptChannels({"in": half, "out": units}),
        "scale": KeptChannels({"out": units}),
        "fc": KeptChannels({"in": units}),
    }
    small = shrink(dense, cut).eval()
    dense_one = Architecture("mixed.py:net", 3, (1, 8, 8))
    save_network(tmp_path, small, PrunedArchitecture.of(small, cut, dense_one, PruningPolicy(), {}))
    images = torch.randn(4, 1, 8, 8)
    rebuilt = plain_lines().rebuild(str(tmp_path), Mixed())
    with torch.no_grad():
        assert torch.equal(rebuilt(images), small(images))
    assert (rebuilt.deep.groups, rebuilt.norm.num_channels, rebuilt.rows.hidden_size) == (4, 4, 3)


def test_cut_attention_is_named_by_the_lines_of_the_docs(tmp_path: Path) -> None:
    dense = nn.MultiheadAttention(8, 4, batch_first=True)
    cut = {"0": KeptChannels({"heads": (0, 2)})}
    network = nn.Sequential(dense)
    small = shrink(network, cut)
    pruned = PrunedArchitecture.of(small, cut, Architecture("a:b", 2, (3, 8)), PruningPolicy(), {})
    save_network(tmp_path, small, pruned)
    with pytest.raises(NotImplementedError, match=r"autoprune\.load: 0"):
        plain_lines().rebuild(str(tmp_path), network)


# --- what the checks find


def failed(checks: list[FileCheck]) -> set[str]:
    return {check.name for check in checks if check.passed is False}


@pytest.fixture(scope="module")
def reference(bench: PreparedStudy, picked: tuple[dict[str, Any], Path]) -> Reference:
    images, _ = validation(bench)
    inputs = Inputs.of(images[:8])
    return Reference(inputs, answer_of(autoprune.load(picked[1], trust_code=True), inputs), inputs)


def edit_json(path: Path, edit: Any) -> None:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def test_the_checks_find_what_was_tampered_with(copied: Path, reference: Reference) -> None:
    from safetensors.torch import load_file, save_file

    assert failed(verify(copied, reference)) == set()
    (copied / "model.onnx").write_bytes(b"not a network")
    edit_json(copied / "card.json", lambda card: card["validation"]["values"].update(mflops=0.01))
    edit_json(copied / "card.json", lambda card: card["files"]["model.safetensors"]["latency"].update(pruned_ms=0))
    edit_json(copied / "policy.json", lambda data: data["policy"].update(round_to=8))
    assert failed(verify(copied, reference)) == {"model.onnx", "costs counted anew", "latency", "policy.json"}
    weights = load_file(copied / "model.safetensors")
    weights["fc.bias"][0] += 0.25
    save_file(weights, copied / "model.safetensors")
    told = verify(copied, reference)
    assert {"autoprune.load", "plain PyTorch"} <= failed(told)
    assert "differ by up to 0.25" in next(check.detail for check in told if check.name == "plain PyTorch")


def test_a_file_as_large_as_the_dense_one_is_found(copied: Path, reference: Reference) -> None:
    edit_json(copied / "card.json", lambda card: card["files"]["model.onnx"].update(dense_bytes=1))
    assert failed(verify(copied, reference)) == {"smaller files"}
    edit_json(copied / "card.json", lambda card: card["dense"]["validation"]["values"].update(mparams=1e-9))
    idle = [check for check in verify(copied, reference) if check.passed is None]
    assert [check.name for check in idle] == ["smaller files"], "a network that lost nothing is as large as it was"


def test_a_folder_that_fails_a_check_is_not_called_done(view: StudyView, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(view.trials[0], candidate=replace(view.trials[0].candidate, number=6))
    view = replace(view, trials=(other,))
    bad = [FileCheck("plain PyTorch", False, "outputs differ by up to 7"), FileCheck("latency", True, "measured")]
    monkeypatch.setattr(autoprune.export.publish, "verify_in_new_process", lambda *_: bad)
    with pytest.raises(EvaluationError, match=r"not called done: plain PyTorch: outputs differ by up to 7\. They are"):
        picked_by(view)
    assert not (view.folder.picked / "6").exists()
    (left,) = (view.folder.picked / ".work").glob("*/folder/card.json")
    claimed = json.loads(left.read_text())["validation"]
    monkeypatch.setattr(autoprune.export.publish, "verify_in_new_process", verify)
    card, folder = picked_by(view)
    assert card["validation"] == claimed, "even the latency: all that had been measured was kept"
    assert folder.name == "6"
    assert not (folder.parent / ".work").exists()


@pytest.mark.long
def test_files_of_the_user_beside_us_do_not_stand_for_the_library_s(
    copied: Path, reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autoprune.export.verify import verify_in_new_process

    (tmp_path / "copy.py").write_text("raise SystemExit('the user's own')")
    monkeypatch.chdir(tmp_path)
    assert not failed(verify_in_new_process(copied, reference))


def test_a_check_that_cannot_run_says_why(
    tmp_path: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autoprune.export.verify import verify_in_new_process

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "Traceback\nModuleNotFoundError: no module named net\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(EvaluationError, match=r"ended with exit code 1: ModuleNotFoundError: no module named net"):
        verify_in_new_process(tmp_path / "folder", reference)


# --- exports that fail


def failing(*_: Any) -> bytes:
    raise RuntimeError("no such operator\nand much more")


def test_an_exporter_that_fails_is_named_and_the_others_are_there(
    bench: PreparedStudy, picked: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], convert=failing))
    network, said = autoprune.load(picked[1], trust_code=True), list[str]()
    found = export_network(
        tmp_path, network, bench.network, examples_of(bench.task, bench.network), BOTH, QUICK, said.append
    )
    assert found["onnx"] == FailedExport("model.onnx", "RuntimeError: no such operator and much more")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt2"]
    assert "model.onnx was not written: RuntimeError: no such operator and much more" in said
    exports = {**{name: one.to_json() for name, one in found.items()}, "pt2": picked[0]["exports"]["pt2"]}
    assert "- model.onnx was not written: RuntimeError" in card_text(Card.from_json({**picked[0], "exports": exports}))


def test_a_file_that_answers_otherwise_is_not_written(
    bench: PreparedStudy, picked: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(network: nn.Module, example: object) -> bytes:
        return program_bytes(bench.network, example)

    monkeypatch.setitem(FORMATS, "pt2", replace(FORMATS["pt2"], convert=other))
    wanted, network = Wanted(("pt2",)), autoprune.load(picked[1], trust_code=True)
    found = export_network(
        tmp_path, network, bench.network, examples_of(bench.task, bench.network), wanted, QUICK, lambda message: None
    )
    assert isinstance(found["pt2"], FailedExport)
    assert "outputs on 48 validation examples differ from PyTorch's by up to" in found["pt2"].failure
    assert not list(tmp_path.iterdir())


def test_outputs_that_are_no_numbers_never_agree(bench: PreparedStudy) -> None:
    examples = examples_of(bench.task, bench.network)
    silent = compare(lambda x: torch.full((len(x), 3), float("nan")), lambda x: torch.zeros(len(x), 3), examples)
    assert not silent.is_close
    assert compare(lambda x: torch.ones(len(x), 3), lambda x: torch.ones(len(x), 3), examples).is_close


class OneImage(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :3] if x.shape[0] == 2 else x.flatten(1)[:, 1:4]


def test_a_network_made_for_one_number_of_images_is_refused() -> None:
    with pytest.raises(ExportError, match="cannot be exported as a program"):
        program_bytes(OneImage(), torch.zeros(1, 1, 2, 2))


def test_formats_are_those_asked_for_or_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted_formats("auto") == Wanted(("onnx",))
    assert wanted_formats("none").formats == ()
    assert wanted_formats("pt2,onnx").formats == ("pt2", "onnx")
    with pytest.raises(UnknownNameError, match="did you mean 'onnx'"):
        wanted_formats("onn")
    monkeypatch.setattr(
        autoprune.core.export_formats, "find_spec", lambda name: None if name == "onnxruntime" else name
    )
    assert wanted_formats("auto").formats == ()
    assert "pip install onnxruntime, and" in wanted_formats("auto").note
    with pytest.raises(UsageError, match=r"not everything it needs is installed: onnxruntime; pip install"):
        wanted_formats("onnx")
    assert wanted_formats("pt2").formats == ("pt2",)


# --- its policy


def test_its_policy_applied_to_the_same_network_cuts_the_same_channels(
    bench: PreparedStudy, picked: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importance by l1 depends on the weights alone, so the two ways have to meet."""
    from autoprune.pick.apply_policy import apply_policy
    from autoprune.pick.apply_target import read_policy, target_network
    from autoprune.study.spec_toml import Layer, parse_spec

    monkeypatch.setattr(autoprune.export.publish, "verify_in_new_process", verify)
    values = {
        "model": {"source": bench.spec.model.source, "weights": str(bench.folder.dense_weights)},
        "data": {"source": bench.spec.data.source},
        "latency": {"blocks": 5, "calls": 1},
        "runtime": {"device": "cpu", "precision": "fp32", "threads": 1},
    }
    stored = read_policy(picked[1] / "policy.json")
    subject = target_network(parse_spec([Layer("test", values)]), stored, (), 0, True, lambda message: None)
    card = apply_policy(stored, subject, tmp_path / "applied", NONE, lambda message: None).to_json()
    one, other = (read_architecture(folder) for folder in (picked[1], tmp_path / "applied"))
    assert one.kept == other.kept
    for name in ("mflops", "mparams", "size_mb"):
        assert card["validation"]["values"][name] == picked[0]["validation"]["values"][name]
    images, labels = validation(bench)
    with torch.no_grad():
        right = (autoprune.load(tmp_path / "applied", trust_code=True)(images).argmax(1) == labels).double()
    assert card["validation"]["values"]["accuracy"] == pytest.approx(float(right.mean()))
    assert card["against"]["dense"]["validation"]["accuracy"] == pytest.approx(
        float(right.mean()) - card["dense"]["validation"]["values"]["accuracy"]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["applied"]


# --- half written


def test_a_half_written_folder_is_recognised_and_named(copied: Path) -> None:
    assert missing_files(copied) == []
    with pytest.raises(UsageError, match="exists already"):
        check_target(copied, force=False)
    (copied / "model.onnx").write_bytes((copied / "model.onnx").read_bytes()[:100])
    (copied / "architecture.json").unlink()
    assert missing_files(copied) == ["architecture.json", "model.onnx"]
    with pytest.raises(ModelError, match=r"half written or half copied: it lacks architecture\.json, model\.onnx"):
        autoprune.load(copied, trust_code=True)
    with pytest.raises(UsageError, match=r"half written .* --force"):
        check_target(copied, force=False)
    check_target(copied, force=True)
    (copied / "card.json").write_text('{"files"')
    assert "a card.json that can be read" in missing_files(copied)


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="autoprune did not write"):
        check_target(tmp_path, force=True)
    check_target(tmp_path / "new", force=False)
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty", force=False)


@pytest.mark.parametrize(
    "names",
    [
        ("study.toml", "resolved.toml", "recipe.json", "study.db"),  # a study has a recipe.json of its own
        ("model.safetensors", "config.json"),
        ("model.safetensors",),
        ("recipe.json", "card.json", "model.safetensors", "notes.txt"),
    ],
)
def test_a_folder_that_holds_anything_else_is_never_replaced(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    for force in (False, True):
        with pytest.raises(UsageError, match="autoprune did not write there"):
            check_target(tmp_path, force)
    file = tmp_path / names[0]
    with pytest.raises(UsageError, match="a file"):
        check_target(file, force=True)


def test_a_folder_that_came_meanwhile_stays_and_force_replaces_it(
    view: StudyView, picked: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(view.trials[0], candidate=replace(view.trials[0].candidate, number=8))
    view, target = replace(view, trials=(other,)), view.folder.picked / "8"
    mark = target / "architecture.json"

    def meanwhile(folder: Path, reference: Reference) -> list[FileCheck]:
        shutil.copytree(picked[1], target)
        mark.write_text("of another pick")
        return []

    monkeypatch.setattr(autoprune.export.publish, "verify_in_new_process", meanwhile)
    with pytest.raises(UsageError, match=r"8' exists already|8' is half written"):
        picked_by(view)
    assert mark.read_text() == "of another pick"
    monkeypatch.setattr(autoprune.export.publish, "verify_in_new_process", lambda *_: [])
    budget = Budget({"mflops": Limit(0.001)})
    card, folder = finish_to_json(
        view, view.trials, budget, lambda message: None, compare=False, wanted=NONE, force=True
    )
    assert folder == target
    assert json.loads(mark.read_text())["format"] == 1
    assert not (target.parent / ".work").exists()
    assert card["resumed"]
    found = card["validation"]["values"]["mflops"]
    assert card["not_met"] == {"mflops": pytest.approx(found / 0.001 - 1)}
    assert "- budget: mflops ≤ 0.001; NOT MET: mflops is" in card_text(Card.from_json(card))


@pytest.mark.parametrize("epochs", [-1.0, float("nan"), float("inf")])
def test_a_fine_tune_of_no_length_is_refused(view: StudyView, epochs: float) -> None:
    with pytest.raises(UsageError, match="expected 0 or more"):
        finish_to_json(view, view.trials, Budget(), lambda message: None, epochs=epochs)


# --- whose weights they are


def test_the_licence_of_weights_is_said_as_far_as_it_is_known() -> None:
    data = "digits (CC BY 4.0)"
    assert weights_licence("resnet20", "", data).startswith("trained here from scratch on digits (CC BY 4.0)")
    assert weights_licence("net.py:net", "", data, trained_here=False).startswith("unknown: the weights came with")
    assert "'mine.pt'" in weights_licence("resnet20", "/tmp/mine.pt", data)
    assert "SWAG" in weights_licence("torchvision:vit_b_16", "IMAGENET1K_SWAG_E2E_V1", data)
    given = "torchvision:resnet18", "DEFAULT", data
    assert weights_licence(*given).endswith("(its code is BSD-3-Clause); fine-tuned here on digits (CC BY 4.0)")
    assert weights_licence(*given, finetuned=False).endswith("(its code is BSD-3-Clause)")
    assert weights_licence("torchvision:resnet18", "NOPE", data).startswith("unknown")


@pytest.mark.parametrize(("off", "passed"), [(0.0, True), (1e-6, True), (1e-3, False), (float("nan"), False)])
def test_the_last_bits_may_differ_between_processes_and_no_more(off: float, passed: bool) -> None:
    from autoprune.export.verify import _same_outputs

    outputs = torch.tensor([[1.0, -2.0]])
    found, detail = _same_outputs(
        torch.nn.Identity(), Reference(Inputs.of(outputs + off), [outputs], Inputs.of(outputs))
    )
    assert found is passed
    assert ("which is rounding" in detail) is (off == 1e-6)
