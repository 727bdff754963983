"""The plan of a study: defaults, layers, faults, files, fingerprints, recipes."""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from autoprune.core.budget import Budget
from autoprune.core.metrics import METRICS
from autoprune.errors import SpecError, StudyError, UnknownNameError, UsageError
from autoprune.study import find_study as recipes_module
from autoprune.study.find_study import find_study, local_studies, recipes
from autoprune.study.spec import StudySpec, differences, fingerprint
from autoprune.study.spec_budget import BudgetSpec
from autoprune.study.spec_run import LatencySpec, RuntimeSpec
from autoprune.study.spec_sections import DataSpec, ModelSpec, SpaceSpec
from autoprune.study.spec_toml import Layer, merge_layers, parse_spec, read_resolved, read_study_toml, write_resolved
from autoprune.study.spec_training import FinetuneSpec

FILE, OPTIONS = "studies/x/study.toml", "command line"
SECTIONS: dict[str, type[BaseModel]] = {
    name: type(getattr(StudySpec(), name))
    for name in StudySpec.model_fields
    if isinstance(getattr(StudySpec(), name), BaseModel)
}


def faults_of(*layers: dict[str, Any]) -> tuple[str, ...]:
    """Parse layers called after :data:`FILE` and :data:`OPTIONS`, which must fail, and return the faults."""
    with pytest.raises(SpecError) as caught:
        parse_spec([Layer(source, values) for source, values in zip((FILE, OPTIONS), layers, strict=False)])
    return caught.value.faults


def parsed(**values: Any) -> StudySpec:
    return parse_spec([Layer(FILE, values)])


# --- strategies


def numbers(low: float, high: float = 1e12, **kwargs: Any) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, **kwargs)


rates = numbers(0, exclude_min=True)
counts = st.integers(1, 2**40)
limits = st.one_of(
    rates, counts, rates.map(repr), numbers(0, 100, exclude_min=True, exclude_max=True).map(lambda x: f"{x!r}%")
)
quality = st.sampled_from(["accuracy", "loss"])
optimizers = st.sampled_from(["sgd", "adamw"])
cost = st.sampled_from([name for name, known in METRICS.items() if known.is_cost])


def tables(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


plans = tables(
    name=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]*", fullmatch=True),
    objectives=st.tuples(quality, cost).flatmap(lambda pair: st.permutations(pair)),
    trials=counts,
    seed=st.integers(0, 2**32 - 1),
    sampler=st.sampled_from(["auto", "guided", "tpe", "gp", "nsga2", "random"]),
    model=tables(
        source=st.sampled_from(["resnet20", "torchvision:vgg11", "a.b:c"]), weights=st.text().map("{}.pt".format)
    ),
    data=tables(source=st.text(min_size=1).map("imagefolder:{}".format), root=st.text(), workers=st.integers(0, 64)),
    budget=tables(mflops=limits, mparams=limits, latency_ms=limits, size_mb=limits),
    space=tables(
        importances=st.lists(st.sampled_from(["l1", "taylor", "my.py:f"]), min_size=1, unique=True),
        max_sparsity=numbers(0, 1, exclude_min=True, exclude_max=True),
        round_to=st.sampled_from([1, 2, 4, 8, 16, "auto"]),
        patterns=st.sampled_from([["channel"], ["weight"], ["2:4", "channel"]]),
        mask_criteria=st.lists(st.sampled_from(["magnitude", "gradient", "wanda"]), min_size=1, unique=True),
        keep=st.lists(st.text(min_size=1), max_size=2, unique=True),
        only=st.lists(st.text(min_size=1), max_size=2, unique=True),
        depth=st.booleans(),
        max_drop=numbers(0, 1, exclude_max=True),
    ),
    dense=tables(epochs=counts, lr=rates, weight_decay=numbers(0), optimizer=optimizers),
    sparsity=tables(method=st.sampled_from(["none", "bn_l1", "group_lasso"]), strength=rates, epochs=rates, lr=rates),
    schedule=tables(stages=counts, trainable=st.sampled_from(["all", "cut", "norms_and_head"]), rewind_epoch=counts),
    finetune=tables(
        lr=rates | st.just("auto"),
        optimizer=optimizers,
        epochs=numbers(0),
        distill=st.booleans(),
        temperature=rates,
        distill_weight=numbers(0, 1),
    ),
    stopping=tables(enabled=st.booleans(), images=counts),
    pick=tables(
        epochs=numbers(0),
        lr=rates | st.just("auto"),
        top=counts,
        compare=st.booleans(),
        prefer=st.sampled_from(["accuracy", "latency", "size"]),
        int8_max_drop=numbers(0, 1),
        qat=st.booleans(),
    ),
    latency=tables(
        runtime=st.sampled_from(["auto", "torch", "compile", "onnxruntime", "cuda"]),
        format=st.sampled_from(["auto", "fp32", "int8"]),
        batch=counts,
        threads=counts,
        blocks=st.integers(5, 2**40),
        calls=counts,
    ),
    disk=tables(keep_weights=st.sampled_from(["front", "all", "none"])),
    runtime=tables(device=st.sampled_from(["auto", "cpu", "cuda", "mps"]), precision=st.sampled_from(["fp32", "bf16"])),
)
leaves = st.none() | st.integers() | st.text(max_size=3)
keys = st.sampled_from("abc")
layers = st.dictionaries(keys, leaves, max_size=3).flatmap(
    lambda top: st.dictionaries(keys.map(str.upper), st.dictionaries(keys, leaves), max_size=3).map(lambda t: top | t)
)


# --- the types


def test_the_defaults_are_valid_and_are_the_main_job() -> None:
    assert parse_spec([]) == StudySpec()
    assert StudySpec.model_validate(StudySpec().model_dump()) == StudySpec()
    assert (StudySpec().name, StudySpec().model.source, StudySpec().data.source) == (
        "digits-resnet56",
        "resnet56",
        "digits",
    )


@pytest.mark.parametrize("section", [StudySpec, *SECTIONS.values()], ids=lambda kind: kind.__name__)
def test_every_field_is_described(section: type[BaseModel]) -> None:
    assert section.__doc__
    assert all(field.description for field in section.model_fields.values())


def test_a_spec_is_frozen_and_hashable() -> None:
    with pytest.raises(ValidationError):
        StudySpec().trials = 3
    assert hash(StudySpec()) == hash(StudySpec())


@pytest.mark.parametrize(
    ("given_value", "text"),
    [
        (50, "50"),
        (50.0, "50"),
        ("50", "50"),
        (" 40 % ", "40%"),
        ("40.0%", "40%"),
        (0.5, "0.5"),
        ("1.2G", "1.2G"),
        ("none", None),
    ],
)
def test_a_limit_is_held_as_canonical_text(given_value: object, text: str | None) -> None:
    assert parsed(budget={"mflops": given_value}).budget.mflops == text


@given(limits)
def test_a_canonical_limit_stays_and_means_the_same(limit: str | float) -> None:
    text = parsed(budget={"latency_ms": limit}).budget.latency_ms
    assert parsed(budget={"latency_ms": text}).budget.latency_ms == text
    assert Budget.parse({"latency_ms": text}) == Budget.parse({"latency_ms": limit})


# --- layers


def test_later_layers_win_and_none_is_not_given() -> None:
    file = {"trials": 10, "finetune": {"lr": 0.1, "epochs": 3.0}, "budget": {"mflops": "40%"}}
    options = {
        "trials": None,
        "finetune": {"lr": 0.2, "epochs": None},
        "budget": {"mflops": 50},
        "model": {"source": None},
    }
    spec = parse_spec([Layer(FILE, file), Layer(OPTIONS, options)])
    assert (spec.trials, spec.finetune.lr, spec.finetune.epochs, spec.budget.mflops) == (10, 0.2, 3.0, "50")


def test_an_option_can_lift_a_limit_and_mend_a_file() -> None:
    file = {"trials": -1, "budget": {"mflops": "40%"}}
    spec = parse_spec([Layer(FILE, file), Layer(OPTIONS, {"trials": 5, "budget": {"mflops": "none"}})])
    assert (spec.trials, spec.budget) == (5, BudgetSpec())


@settings(deadline=None)
@given(layers, layers, layers)
def test_merging_is_associative_and_leaves_the_layers_alone(a: Any, b: Any, c: Any) -> None:
    before = copy.deepcopy((a, b, c))
    merged = merge_layers(a, b, c)
    assert merged == merge_layers(merge_layers(a, b), c) == merge_layers(a, merge_layers(b, c))
    for table in merged.values():
        if isinstance(table, dict):
            table["new"] = 1
    assert (a, b, c) == before


@settings(deadline=None)
@given(layers, layers)
def test_merging_takes_the_last_value_given(a: Any, b: Any) -> None:
    for key, value in merge_layers(a, b).items():
        if not isinstance(value, dict):
            assert value == (a.get(key) if b.get(key) is None else b[key])


# --- faults


def test_all_faults_of_all_layers_are_reported_at_once() -> None:
    file = {
        "nme": "x",
        "lr": 0.1,
        "trials": 0,
        "objectives": ["accuracy", "acuracy"],
        "model": {"weights": "DEFAULT"},
        "finetune": {"epoch": 2, "lr": -1, "distill": "yes"},
        "pick": 3,
        "space": {"max_sparsity": 1.0, "importances": ["tailor"]},
    }
    options = {"sampler": "tpes", "seed": 1.5, "budget": {"mflops": "50 apples"}, "data": {"source": "digit"}}
    faults = faults_of(file, options)
    assert [fault.split(":")[0] for fault in faults] == [
        *("nme", "lr", "finetune.epoch", "pick"),  # the shape of each layer
        *("trials", "seed", "sampler", "model.weights", "data.source", "budget.mflops"),
        *("space.importances", "space.max_sparsity", "finetune.lr", "finetune.distill"),
        "objectives",  # which concerns the data too
    ]
    of_options = {"sampler", "seed", "budget.mflops", "data.source"}
    for fault in faults:
        assert (OPTIONS if fault.split(":")[0] in of_options else FILE) in fault


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"finetune": {"epoch": 2}}, f"finetune.epoch: unknown key in {FILE}; did you mean 'epochs'?"),
        ({"smapler": "gp"}, f"smapler: unknown key in {FILE}; did you mean 'sampler'?"),
        ({"temperature": 4.0}, f"temperature: unknown key in {FILE}; it belongs in [finetune]"),
        (
            {"latency": {"trials": 4}},
            f"latency.trials: unknown key in {FILE}; it belongs at the top, before the first [table]",
        ),
        (
            {"disk": {"zzz": 4}},
            f"disk.zzz: unknown key in {FILE}; known: keep_weights",
        ),
        ({"model": "resnet20"}, f"model: given 'resnet20' in {FILE}; expected a table, [model]"),
        ({"trials": 0}, f"trials: given 0 in {FILE}; expected a whole number >= 1"),
        ({"trials": True}, f"trials: given True in {FILE}; expected a whole number >= 1"),
        ({"trials": "40"}, f"trials: given '40' in {FILE}; expected a whole number >= 1"),
        ({"space": {"max_sparsity": 1}}, f"space.max_sparsity: given 1 in {FILE}; expected a number > 0 and < 1"),
        ({"dense": {"lr": float("inf")}}, f"dense.lr: given inf in {FILE}; expected a number > 0"),
        *(
            ({key: {"lr": rate}}, f"{key}.lr: given {rate!r} in {FILE}; expected a number > 0, or auto")
            for key, rate in (("finetune", 0), ("finetune", True), ("pick", -1.0), ("pick", float("inf")))
        ),
        ({"finetune": {"lr": "fast"}}, f"finetune.lr: given 'fast' in {FILE}; expected a number > 0, or auto"),
        ({"finetune": {"distill": 1}}, f"finetune.distill: given 1 in {FILE}; expected true or false"),
        ({"data": {"root": 3}}, f"data.root: given 3 in {FILE}; expected text"),
        ({"objectives": "accuracy"}, f"objectives: given 'accuracy' in {FILE}; expected a list of names"),
        ({"space": {"round_to": 3}}, f"space.round_to: given 3 in {FILE}; expected one of 1, 2, 4, 8, 16, auto"),
        (
            {"sampler": "nsga"},
            f"sampler: given 'nsga' in {FILE}; expected one of auto, guided, tpe, gp, nsga2, random; "
            "did you mean 'nsga2'?",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_fault_says_key_value_place_and_expectation(values: dict[str, Any], fault: str) -> None:
    assert faults_of(values) == (fault,)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"objectives": ["acuracy", "mflops"]}, "did you mean 'accuracy'?"),
        (
            {"objectives": ["accuracy", "loss"]},
            "at least one quality (accuracy, loss, or quality for",
        ),
        ({"objectives": ["mflops"]}, "at least one quality"),
        (
            {"objectives": ["accuracy", "train_accuracy", "mflops"]},
            "at least one quality (accuracy, loss, or quality for",
        ),
        ({"objectives": ["midway_loss", "mflops"]}, "at least one quality (accuracy, loss, or quality for"),
        ({"objectives": []}, "at least one name"),
        ({"objectives": ["accuracy", "mflops", "mflops"]}, "repeated: mflops"),
        ({"objectives": [1, 2]}, "a list of names"),
        ({"space": {"importances": []}}, "at least one name"),
        ({"space": {"importances": ["l1", "l1"]}}, "repeated: l1"),
        ({"space": {"importances": ["tailor"]}}, "did you mean 'taylor'?"),
        ({"space": {"importances": ["my score:fn"]}}, "'package.module:attribute'"),
        ({"space": {"patterns": ["channels"]}}, "names among channel, weight, 2:4; did you mean 'channel'?"),
        ({"space": {"patterns": []}}, "at least one name"),
        ({"space": {"patterns": ["channel", "2:4", "weight"]}}, "one of weight and 2:4 at most"),
        ({"space": {"mask_criteria": ["magnitude", "wander"]}}, "did you mean 'wanda'?"),
        ({"space": {"keep": ["fc", "fc"]}}, "repeated: fc"),
        ({"space": {"only": [""]}}, "module paths such as layer1.*"),
        ({"space": {"max_drop": 1.5}}, "a number >= 0 and < 1"),
        ({"finetune": {"optimizer": "adam"}}, "one of sgd, adamw; did you mean 'adamw'?"),
        ({"schedule": {"stages": 0}}, "a whole number >= 1"),
        ({"schedule": {"start": "rewind"}, "model": {"weights": "net.pt"}}, "give no model.weights"),
        ({"schedule": {"start": "rewind"}, "dense": {"epochs": 0}}, "and some dense.epochs"),
        ({"schedule": {"start": "rewind", "rewind_epoch": 11}}, "schedule.rewind_epoch <= 10"),
        ({"schedule": {"start": "scratch"}, "dense": {"epochs": 0}}, "scratch needs initial weights"),
        ({"schedule": {"start": "scratch"}, "sparsity": {"method": "bn_l1"}}, "set sparsity.method to none"),
        ({"model": {"source": "resnet65"}}, "did you mean 'resnet56'?"),
        ({"model": {"source": "torchvision:"}}, "'torchvision:…'"),
        ({"model": {"source": "my-net.py:"}}, "'path/to/file.py:attribute'"),
        ({"model": {"weights": "net.onnx"}}, ".safetensors"),
        ({"model": {"source": "resnet20", "weights": "DEFAULT"}}, "model.source is 'resnet20'"),
        ({"data": {"source": "imagenetfolder:a/b"}}, "'imagefolder:…'"),
        ({"data": {"source": "digit"}}, "did you mean 'digits'?"),
        ({"budget": {"mflops": 0}}, "a positive number of MFLOPs"),
        ({"budget": {"latency_ms": "100%"}}, "such as 40%"),
        ({"budget": {"size_mb": True}}, "a positive number of MB"),
        ({"budget": {"mparams": float("nan")}}, "a positive number of M parameters"),
        ({"name": "../elsewhere"}, "letters, digits"),
        ({"name": ""}, "letters, digits"),
        ({"seed": 2**32}, "<= 4294967295"),
    ],
    ids=str,
)
def test_a_fault_says_what_to_do(values: dict[str, Any], words: str) -> None:
    (fault,) = faults_of(values)
    assert words in fault


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(), st.dates(), st.just("DEFAULT")
)
junk = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
field_names = st.sampled_from(sorted({field for kind in SECTIONS.values() for field in kind.model_fields}))
junk_plans = st.dictionaries(
    st.sampled_from(list(StudySpec.model_fields)) | st.text(), junk | st.dictionaries(field_names, junk), max_size=6
)


@settings(deadline=None)
@given(junk_plans, junk_plans)
def test_whatever_is_given_is_a_spec_or_a_spec_error(file: dict[str, Any], options: dict[str, Any]) -> None:
    both = [Layer(FILE, file), Layer(OPTIONS, options)]
    with contextlib.suppress(SpecError):
        spec = parse_spec(both)
        assert StudySpec.model_validate(spec.model_dump()) == spec
        return
    assert all(FILE in fault or OPTIONS in fault for fault in faults_of(file, options))


def test_a_fault_between_fields_names_the_layer_of_its_value() -> None:
    (fault,) = faults_of(
        {"model": {"source": "torchvision:vgg11", "weights": "DEFAULT"}}, {"model": {"source": "resnet20"}}
    )
    assert fault.startswith(f"model.weights: given 'DEFAULT' in {FILE}")


def test_a_fault_between_fields_is_not_hidden_by_faulty_fields_beside_it() -> None:
    faults = faults_of({"model": {"weights": "net.onnx", "sauce": 1}, "trials": 0, "data": {"workers": -1}})
    assert [fault.split(":")[0] for fault in faults] == ["model.sauce", "trials", "model.weights", "data.workers"]


def test_the_echo_of_a_fault_is_not_reported() -> None:
    (fault,) = faults_of({"model": {"source": "torchvision:", "weights": "DEFAULT"}})
    assert fault.startswith("model.source")


def test_a_start_that_is_not_there_is_reported_beside_the_other_faults() -> None:
    faults = faults_of(
        {"trials": 0, "schedule": {"start": "rewind"}, "finetune": {"lr": 0}}, {"model": {"weights": "a.pt"}}
    )
    assert [fault.split(":")[0] for fault in faults] == ["trials", "finetune.lr", "schedule.start"]
    assert faults[-1].startswith(f"schedule.start: given 'rewind' in {FILE}; rewind needs a dense network")


def test_a_long_value_is_shortened() -> None:
    (fault,) = faults_of({"sampler": "x" * 1000})
    assert len(fault) < 300


@pytest.mark.parametrize(
    "section",
    [
        ModelSpec(source="torchvision:mobilenet_v2", weights="MobileNet_V2_Weights.IMAGENET1K_V1"),
        ModelSpec(source="pkg.mod:make.net", weights="nets/dense.safetensors"),
        ModelSpec(source="../nets/mine.py:net"),
        DataSpec(source="imagefolder:/data/my pictures"),
        SpaceSpec(importances=("l1", "my_score.py:score")),
        SpaceSpec(keep=(), only=("layer1.*", "fc"), patterns=("2:4",)),
        FinetuneSpec(epochs=0, optimizer="adamw"),
        LatencySpec(batch=128),
        RuntimeSpec(device="mps"),
    ],
    ids=repr,
)
def test_what_should_be_accepted_is(section: BaseModel) -> None:
    assert type(section).model_validate(section.model_dump()) == section


# --- files


@settings(deadline=None)
@given(plans)
def test_a_written_spec_is_read_back_the_same(tmp_path_factory: pytest.TempPathFactory, plan: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("resolved") / "spec.toml"
    spec = parsed(**plan)
    write_resolved(spec, path)
    assert read_resolved(path) == spec
    assert fingerprint(read_resolved(path)) == fingerprint(spec)


def test_the_written_file_says_who_wrote_it_and_what_a_flop_is(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "spec.toml"
    write_resolved(StudySpec(), path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Written by autoprune")
    assert "one FLOP = one multiply" in text
    assert [file.name for file in path.parent.iterdir()] == ["spec.toml"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "spec.toml"
    write_resolved(StudySpec(), path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StudyError, match=r"cannot write '.*spec\.toml': No space left on device; make the folder"):
        write_resolved(StudySpec(trials=7), path)
    assert read_resolved(path) == StudySpec()
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_cannot_be_written_into(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match="cannot write"):
        write_resolved(StudySpec(), tmp_path / "file" / "spec.toml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"trials = 3\nseed =\n", "not TOML: .*line 2"),
        (b"trials = 3\ntrials = 4\n", "not TOML"),
        (b"seed = " + b"9" * 5000, "not TOML"),
        (b'name = "\xff"\n', "byte 8 is not UTF-8"),
        (None, "no such file"),
    ],
)
def test_an_unreadable_file_says_why(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "study.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=words) as caught:
        read_study_toml(path)
    assert str(path) in str(caught.value)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="this is a folder"):
        read_study_toml(tmp_path)


def test_a_forbidden_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(SpecError, match="cannot be read: Permission denied"):
        read_study_toml(tmp_path / "study.toml")


def test_a_byte_order_mark_and_windows_line_ends_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(b"\xef\xbb\xbftrials = 3\r\nseed = 1\r\n")
    assert read_study_toml(path) == {"trials": 3, "seed": 1}


# --- fingerprints


MEANING_FREE = {
    *("name", "trials", "sampler", "data.root", "data.workers", "runtime.threads", "disk.keep_weights"),
    *(f"budget.{name}" for name in BudgetSpec.model_fields),
    *("pick.epochs", "pick.lr", "pick.top", "pick.compare", "pick.export"),
    *("pick.prefer", "pick.int8_max_drop", "pick.qat"),
    *("space.max_drop", "space.seconds", "stopping.enabled", "stopping.half_way", "logging.loggers"),
    *("sensitivity.enabled", "sensitivity.images", "sensitivity.share"),
    *("screening.enabled", "screening.networks", "screening.images"),
    *("latency.command", "latency.command_seconds"),  # the machine is held otherwise
}
ADDED = {  # since studies are stored
    *("sparsity", "schedule", "stopping", "dense.optimizer", "finetune.optimizer", "latency.runtime"),
    "latency.format",
    "finetune.compensation_images",
    *(f"space.{name}" for name in ("patterns", "mask_criteria", "max_mask_sparsity", "depth", "keep", "only")),
}


def test_the_fingerprint_covers_what_changes_a_trial_and_nothing_else() -> None:
    every = {name for name in StudySpec.model_fields if name not in SECTIONS}
    every |= {f"{name}.{field}" for name, section in SECTIONS.items() for field in section.model_fields}
    assert set(fingerprint(StudySpec())) == every - MEANING_FREE


@given(plans)
def test_a_fingerprint_survives_json(plan: dict[str, Any]) -> None:
    prints = fingerprint(parsed(**plan))
    assert json.loads(json.dumps(prints)) == prints
    assert differences(json.loads(json.dumps(prints)), prints) == []


@given(plans)
def test_what_has_no_meaning_for_a_trial_leaves_the_fingerprint(plan: dict[str, Any]) -> None:
    free = {key: value for key, value in plan.items() if key in MEANING_FREE | {"budget", "pick", "disk"}}
    assert fingerprint(parsed(**free)) == fingerprint(StudySpec())


def test_differences_are_told_in_lines() -> None:
    stored = fingerprint(StudySpec())
    changed = fingerprint(parsed(finetune={"lr": 0.1}, model={"source": "resnet20"}))
    assert differences(stored, changed) == [
        "model.source: stored 'resnet56', given 'resnet20'",
        "finetune.lr: stored 'auto', given 0.1",
    ]
    assert differences({"seed": 0}, {"new": 1}) == ["seed: stored 0, given nothing", "new: stored nothing, given 1"]


def without_added(plan: dict[str, Any]) -> dict[str, Any]:
    """Return a dumped spec, or a fingerprint by dotted keys, as an earlier version would have stored it."""
    kept = {key: value for key, value in plan.items() if key not in ADDED and key.split(".")[0] not in ADDED}
    return {
        key: {name: inner for name, inner in value.items() if f"{key}.{name}" not in ADDED}
        if isinstance(value, dict)
        else value
        for key, value in kept.items()
    }


def test_a_study_stored_before_a_value_existed_has_its_default(tmp_path: Path) -> None:
    stored = without_added(fingerprint(StudySpec()))
    assert stored.keys() < fingerprint(StudySpec()).keys()
    # what there was before there was a choice, and not the default
    earlier = {"latency": {"runtime": "torch"}, "finetune": {"compensation_images": 0}, "space": {"depth": False}}
    timed = parsed(**earlier)
    assert differences(stored, fingerprint(timed)) == []
    assert differences(stored, fingerprint(parsed(schedule={"stages": 3}, latency={"runtime": "compile"}))) == [
        "space.depth: stored False, given True",
        "schedule.stages: stored 1, given 3",
        "finetune.compensation_images: stored 0, given 256",
        "latency.runtime: stored 'torch', given 'compile'",
    ]
    old = tmp_path / "resolved.toml"
    old.write_text(tomli_w.dumps(without_added(StudySpec().model_dump(exclude_none=True))), encoding="utf-8")
    assert "optimizer" not in old.read_text(encoding="utf-8")
    assert read_resolved(old) == parsed(**earlier, stopping={"half_way": "always"})


@pytest.mark.parametrize(("stored", "read"), [(3, 5), (4, 5), (5, 5), (7, 7)])
def test_a_study_timed_in_fewer_blocks_than_are_allowed_now_can_be_read(tmp_path: Path, stored: int, read: int) -> None:
    old = tmp_path / "resolved.toml"
    write_resolved(parsed(latency={"blocks": 7}), old)
    old.write_text(old.read_text(encoding="utf-8").replace("blocks = 7", f"blocks = {stored}"), encoding="utf-8")
    assert read_resolved(old).latency.blocks == read


# --- studies and recipes


@pytest.mark.parametrize("name", recipes())
def test_every_shipped_recipe_is_a_valid_study_of_its_folders_name(name: str, tmp_path: Path) -> None:
    folder, values = find_study(name, tmp_path / "studies")
    assert folder == tmp_path / "studies" / name
    assert parse_spec([Layer(name, values)]).name == name
    assert "name" not in read_study_toml(recipes()[name])  # so that a copy is a study of its own


def test_the_recipes_packed_into_the_wheel_are_the_ones_in_the_repository() -> None:
    root = Path(__file__).parents[2]
    packed = read_study_toml(root / "pyproject.toml")["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    files = [f"{name}/study.toml" for name in (*SHIPPED, *WITH_CODE)]
    files += [f"{name}/{code.name}" for name in WITH_CODE for code in (root / "studies" / name).glob("*.py")]
    assert {f"studies/{file}": f"autoprune/recipes/{file}" for file in files} == packed
    assert {*SHIPPED, *WITH_CODE} <= set(local_studies(root / "studies"))
    assert all(list((root / "studies" / name).glob("*.py")) for name in WITH_CODE)


WITH_CODE = (
    *("digits-unet", "digits-detector", "diabetes-mlp", "digits-two-heads"),
    *("stdlib-text", "stdlib-lm", "audiofolder", "ratings-two-tower"),
)
SHIPPED = (
    *("digits-resnet56", "digits-resnet20", "digits-lstm", "digits-vit", "breast-cancer-mlp"),
    *("cifar10-resnet20", "cifar10-resnet56", "imagefolder-mobilenetv2"),
)


def test_the_main_recipe_is_the_defaults_with_fewer_trials_and_a_budget_in_the_format_that_pays() -> None:
    main = parse_spec([Layer(FILE, find_study(None, Path("nowhere"))[1])])
    assert main.budget.mflops == "40%"
    assert main.latency.format == "auto"
    assert main.trials == 18
    changed = {"budget": BudgetSpec(), "latency": LatencySpec(), "trials": StudySpec().trials}
    assert main.model_copy(update=changed) == StudySpec()


def test_recipes_lie_beside_the_package_when_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "autoprune" / "recipes" / "packed" / "study.toml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("trials = 3\n")
    module = tmp_path / "autoprune" / "study" / "find_study.py"
    monkeypatch.setattr(recipes_module, "__file__", str(module))
    assert recipes() == {"packed": recipe}
    assert find_study("packed", tmp_path / "mine") == (tmp_path / "mine" / "packed", {"name": "packed", "trials": 3})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be a working directory with one study, ``studies/mine``, of 3 trials."""
    monkeypatch.chdir(tmp_path)
    Path("studies/mine").mkdir(parents=True)
    Path("studies/mine/study.toml").write_text("trials = 3\n")
    return tmp_path


@pytest.mark.parametrize(
    "argument", ["mine", "studies/mine", "studies/mine/", "./studies/mine", "studies/mine/study.toml"]
)
def test_a_study_is_found_by_name_folder_or_file(here: Path, argument: str) -> None:
    assert find_study(argument) == (Path("studies/mine"), {"name": "mine", "trials": 3})


def test_a_study_is_found_from_inside_its_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("studies/mine")
    for argument in (".", "study.toml"):
        assert find_study(argument) == (Path(), {"name": "mine", "trials": 3})


def test_a_name_in_the_file_wins_and_an_odd_folder_gives_a_plain_name(here: Path) -> None:
    for folder, text, name in (("own", 'name = "other"\n', "other"), ("my study!", "", "my-study-")):
        Path(folder).mkdir()
        Path(folder, "study.toml").write_text(text)
        _, values = find_study(f"./{folder}")
        assert parse_spec([Layer(FILE, values)]).name == name


def test_no_argument_is_the_main_job(here: Path) -> None:
    folder, values = find_study(None)
    assert (folder, values["name"]) == (Path("studies/digits-resnet56"), "digits-resnet56")


def test_a_local_study_wins_over_the_recipe_of_its_name(here: Path) -> None:
    Path("studies/cifar10-resnet20").mkdir()
    Path("studies/cifar10-resnet20/study.toml").write_text("trials = 4\n")
    assert find_study("cifar10-resnet20")[1] == {"name": "cifar10-resnet20", "trials": 4}


def test_a_folder_that_a_recipe_ran_in_keeps_the_recipe(here: Path) -> None:
    Path("studies/cifar10-resnet20").mkdir()
    assert find_study("cifar10-resnet20")[1]["model"]["source"] == "resnet20"


def test_a_folder_without_a_file_has_no_values(here: Path) -> None:
    Path("studies/by-options").mkdir()
    assert find_study("by-options") == (Path("studies/by-options"), {"name": "by-options"})


def test_an_unknown_study_names_the_nearest_local_or_packaged_one(here: Path) -> None:
    with pytest.raises(UnknownNameError, match="no study named 'mien'; did you mean 'mine'"):
        find_study("mien")
    with pytest.raises(UnknownNameError, match="did you mean 'cifar10-resnet56'"):
        find_study("cifar-resnet56")


@pytest.mark.parametrize("argument", ["new", "elsewhere/new"])
def test_a_new_study_is_welcome_where_it_is_allowed(here: Path, argument: str) -> None:
    folder, values = find_study(argument, allow_new=True)
    assert (folder.name, values) == ("new", {"name": "new"})
    assert not folder.exists()


@pytest.mark.parametrize("argument", ["", " ", "my study", "-new", "notes/list.txt"])
def test_what_cannot_be_a_study_says_so(here: Path, argument: str) -> None:
    Path("notes").mkdir()
    Path("notes/list.txt").touch()
    with pytest.raises(UsageError):
        find_study(argument, allow_new=True)


def test_a_named_file_that_is_missing_is_not_a_new_study(here: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        find_study("studies/mien/study.toml", allow_new=True)


def test_reading_a_spec_imports_nothing_heavy() -> None:
    heavy = ("torch", "optuna", "numpy", "sklearn")
    code = f"import sys, autoprune.study.find_study; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"finetune": {"batch_size": 2**70}}, "finetune.batch_size: given 1180591620717411303424"),
        ({"latency": {"calls": 2**63}}, "latency.calls: .*as 64 bits hold"),
        ({"trials": 10**30}, "trials: .*as 64 bits hold"),
    ],
)
def test_whole_numbers_that_no_machine_holds(values: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parsed(**values)


def test_a_toml_that_is_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text("a = " + "[" * 100_000)
    with pytest.raises(SpecError, match="nested too deeply"):
        read_study_toml(tmp_path / "study.toml")


def test_an_objective_that_only_the_data_knows_is_left_to_it() -> None:
    own = {"objectives": ["within_it", "mflops"], "data": {"source": "mine.py:task"}}
    assert parse_spec([Layer(FILE, own)]).objectives == ("within_it", "mflops")
    (fault,) = faults_of({"objectives": ["within_it", "mflops"], "loop": {"evaluate": "mine.py:score"}})
    assert fault.endswith("If evaluate gives it, say so: --metric within_it:max, or :min.")
    (fault,) = faults_of({**own, "objectives": ["within_it"]})
    assert "and one cost" in fault
