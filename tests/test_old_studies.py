"""Studies, picked folders and archives made before the packages were rearranged go on as if nothing had happened.

``fixtures/studies_of_4fcc93f.tar.gz`` was made by that commit: the code of a small task, a study of channels (``tiny``)
and one of channels, masks and depth (``dropped``), each with one network picked, and the archive of the first.
``fixtures/expected_of_4fcc93f.json`` holds the trials that the same commit made when it went on.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from tiny import stored_trials

import autoprune
from autoprune.cli import main
from autoprune.cli.read_request import read_request
from autoprune.core.registry import load_object
from autoprune.errors import ModelError, UsageError
from autoprune.export.card import Card
from autoprune.export.picked_files import missing_files
from autoprune.export.publish import check_target
from autoprune.export.standalone import rebuild
from autoprune.pick.card_text import card_text

FIXTURES = Path(__file__).parent / "fixtures"
STUDIES = FIXTURES / "studies_of_4fcc93f.tar.gz"
EXPECTED = json.loads((FIXTURES / "expected_of_4fcc93f.json").read_text(encoding="utf-8"))
PICKED = {"tiny": Path("studies/tiny/picked/2"), "dropped": Path("studies/dropped/picked/1")}

pytestmark = pytest.mark.usefixtures("here", "process_is_left_as_it_was", "checks_in_this_process")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder that holds what the old commit left: ``tiny.py``, ``studies/`` and ``tiny.tar.gz``."""
    with tarfile.open(STUDIES) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str | Path) -> Result:
    result = CliRunner(env={"COLUMNS": "160", "AUTOPRUNE_STORAGE": ""}).invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def trials_of(folder: Path) -> list[dict[str, Any]]:
    """Return what a study stores of its finished trials, but for latencies, which no two runs share."""
    rows = []
    for trial in stored_trials(folder):
        if not trial["outcome"]:
            continue
        outcome = trial["outcome"]["outcome"]
        outcome.pop("latency_host", None)  # which earlier versions did not store
        for numbers in ("values", "stderr"):
            outcome.get("measurement", {}).get(numbers, {}).pop("latency_ms", None)
        rows.append({**{key: trial[key] for key in ("number", "origin", "policy")}, "outcome": outcome})
    return rows


def assert_as_before(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [trial["policy"] for trial in found] == [trial["policy"] for trial in expected]
    for trial, wanted in zip(found, expected, strict=True):
        assert (trial["number"], trial["origin"]) == (wanted["number"], wanted["origin"])
        outcomes = [
            {key: value for key, value in each["outcome"].items() if key != "reason"} for each in (trial, wanted)
        ]
        assert close(outcomes[0]) == close(outcomes[1]), trial["number"]  # a reason is words, which may be better ones


def close(value: Any) -> Any:
    """Return JSON whose numbers equal those that differ by rounding, as another processor may round."""
    if isinstance(value, dict):
        return {key: close(inner) for key, inner in value.items()}
    return pytest.approx(value, rel=1e-5, abs=1e-9) if isinstance(value, float) else value


@pytest.mark.parametrize(("name", "trials"), [("tiny", 9), ("dropped", 8)])
def test_the_same_command_goes_on_with_the_very_trials(name: str, trials: int) -> None:
    folder = Path("studies") / name
    before = trials_of(folder)
    assert before == EXPECTED[name][: len(before)]
    run("search", name, "--trials", str(trials))
    assert trials_of(folder)[: len(before)] == before
    assert_as_before(trials_of(folder), EXPECTED[name])


def test_a_search_takes_over_what_it_knew_of_study_toml_under_the_older_name() -> None:
    folder = Path("studies/tiny")
    toml = folder / "study.toml"
    written = toml.read_text(encoding="utf-8")
    toml.write_text(written.replace('mflops = "60%"', 'mflops = "70%"'), encoding="utf-8")
    known = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    run("search", "tiny", "--trials", "7")
    assert stored_trials(folder)[-1]["budget"] != stored_trials(folder)[0]["budget"], "the edit counts"
    assert not (folder / "recipe.json").exists()
    now = json.loads((folder / "accepted_toml.json").read_text(encoding="utf-8"))
    assert now == {**known, "budget": {"mflops": "70%"}}


def test_options_given_before_still_count() -> None:
    """The old study ``dropped`` has no ``study.toml``: all it knows was given as options."""
    request = read_request("dropped", Path("studies"), {})
    assert request.spec.space.patterns == ("channel", "weight")
    assert request.spec.budget.nonzero_mparams == "50%"


def test_an_archive_goes_on_with_the_very_trials() -> None:
    run("studies", "import", "tiny.tar.gz", "--as", "copy", "--trust-code")
    run("search", "copy", "--trials", "9")
    assert_as_before(trials_of(Path("studies/copy")), EXPECTED["tiny"])


@pytest.mark.parametrize("name", EXPECTED)
def test_a_report_is_written(name: str) -> None:
    told = json.loads(run("report", name, "--json").stdout)
    stored = {trial["number"]: trial["outcome"]["measurement"]["values"] for trial in trials_of(Path("studies") / name)}
    assert told["rows"]
    for row in told["rows"]:
        assert row["values"] | {"latency_ms": 0} == stored[row["trial"]] | {"latency_ms": 0}
    assert told["best"] in stored


@pytest.mark.parametrize("name", EXPECTED)
def test_what_was_picked_loads_to_the_bit(name: str) -> None:
    network = autoprune.load(PICKED[name], trust_code=True)
    stored, loaded = load_file(PICKED[name] / "model.safetensors"), network.state_dict()
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in stored.items())
    plain = rebuild(str(PICKED[name]), load_object("tiny.py:net")(num_classes=3, in_channels=1))
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network(images), plain(images))


def test_an_old_picked_folder_is_known_to_be_whole_or_not() -> None:
    folder = PICKED["tiny"]
    assert missing_files(folder) == []
    with pytest.raises(UsageError, match="exists already"):
        check_target(folder, force=False)
    (folder / "recipe.json").unlink()
    assert missing_files(folder) == ["recipe.json"]
    with pytest.raises(ModelError, match=r"half copied: it lacks recipe\.json"):
        autoprune.load(folder)


def test_what_trials_left_loads_to_the_bit() -> None:
    stored = load_file("studies/dropped/weights/3.safetensors")
    loaded = autoprune.load_trial("studies/dropped", 3, trust_code=True).state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in stored.items())


@pytest.mark.parametrize("name", EXPECTED)
def test_the_same_pick_gives_the_same_network(name: str) -> None:
    number = PICKED[name].name
    before = {key: tensor.clone() for key, tensor in load_file(PICKED[name] / "model.safetensors").items()}
    card = json.loads((PICKED[name] / "card.json").read_text(encoding="utf-8"))
    again = json.loads(run("pick", name, "--trial", number, "--no-compare", "--force", "--json").stdout)
    for key, tensor in load_file(PICKED[name] / "model.safetensors").items():
        assert torch.allclose(tensor, before[key], rtol=1e-4, atol=1e-6), key
    assert close(again["test"]) == close(card["test"])
    assert not (PICKED[name] / "recipe.json").exists(), "its name is architecture.json now"
    assert again.keys() - {"folder"} == card.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_card_is_read_and_written_unchanged(name: str) -> None:
    document = json.loads((PICKED[name] / "card.json").read_text(encoding="utf-8"))
    card = Card.from_json(document)
    assert card.to_json() == document
    assert Card.from_json(card.to_json()) == card
    written = (PICKED[name] / "card.md").read_text(encoding="utf-8")
    reworded = written.replace("docs/picked.md", "docs/how-to/pick-a-network.md")  # the page has moved
    reworded = reworded.replace("answers to the same images", "answers to the same examples")  # any data
    reworded = reworded.replace("| size_mb |", "| size_mb in float32 |")  # since sizes may be those of int8
    assert card_text(card) == reworded.replace(
        "load('.')", "load('.', trust_code=True)"
    )  # tiny.py:net has to be trusted


@pytest.mark.parametrize("name", EXPECTED)
def test_a_stored_policy_is_applied(name: str) -> None:
    before = json.loads((PICKED[name] / "policy.json").read_text(encoding="utf-8"))
    task = ("--model", "tiny.py:net", "--data", "tiny.py:data", "--export", "none")
    run("apply", PICKED[name] / "policy.json", *task)
    after = json.loads(Path("applied/policy.json").read_text(encoding="utf-8"))
    assert after["policy"]["groups"] == before["policy"]["groups"]
    document = json.loads(Path("applied/card.json").read_text(encoding="utf-8"))
    assert Card.from_json(document).to_json() == document


def test_a_study_is_packed_copied_and_removed() -> None:
    run("studies", "export", "dropped", "dropped.zip")
    run("studies", "import", "dropped.zip", "--as", "unpacked")
    run("studies", "cp", "tiny", "twin")
    for name, source in (("unpacked", "dropped"), ("twin", "tiny")):
        assert trials_of(Path("studies") / name) == trials_of(Path("studies") / source)
    run("studies", "rm", "tiny", "--yes")
    assert sorted(path.name for path in Path("studies/tiny").iterdir()) == ["study.toml"]
    shutil.rmtree("studies/dropped/picked")
    run("studies", "rm", "dropped", "--yes")
    assert not Path("studies/dropped").exists()
