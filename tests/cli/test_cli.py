"""The command line: what it prints, what it leaves with, and that no mistake of a user shows a traceback."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from tiny import call, finished, stored_trials, write_study, write_task

import autoprune
from autoprune.cli import main
from autoprune.cli.main import COMMANDS
from autoprune.cli.read_request import check_is_main_job
from autoprune.errors import UsageError
from autoprune.study.folder import StudyFolder

pytestmark = pytest.mark.usefixtures("checks_in_this_process", "process_is_left_as_it_was")

QUICK = (
    *("--objectives", "accuracy,mflops", "--sampler", "random", "--threads", "1", "--device", "cpu"),
    *("--latency-runtime", "torch"),
)


def run(*arguments: str | Path) -> Result:
    """Run a command in this process; an exception that is no deliberate exit is a bug and fails the test."""
    result = CliRunner(env={"COLUMNS": "160", "AUTOPRUNE_STORAGE": ""}).invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    return result


def refused(*arguments: str | Path, code: int = 2) -> str:
    """Run a command that must fail with ``code``; return its message."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.strip()
    return result.stderr


@pytest.fixture(scope="module")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("cli") / "studies", trials=5)
    result = run("search", folder)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def study(finished_study: Path, tmp_path: Path) -> Path:
    """Return a copy of a finished study, free to be changed; its network and data lie elsewhere."""
    return shutil.copytree(finished_study, tmp_path / "studies" / "tiny")


def document(result: Result) -> Any:
    """Return the one JSON document on stdout."""
    found, end = json.JSONDecoder().raw_decode(result.stdout.lstrip())
    assert result.stdout.lstrip()[end:].strip() == "", "more than one document on stdout"
    return found


# -- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_there_and_says_what_a_flop_is_where_numbers_are_shown(command: str) -> None:
    result = run(*([command] if command else []), "--help")
    assert result.exit_code == 0
    if command not in ("studies", "completion", "dashboard", "time"):
        assert "multiply–accumulate" in " ".join(result.output.split())
    for line in COMMANDS if not command else ():
        assert line in result.output


def test_every_option_is_explained() -> None:
    import click

    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.opts[0]} has no help"


def test_version_and_an_unknown_command() -> None:
    assert "0." in run("--version").output
    message = refused("serach")
    assert "did you mean 'search'" in message


def test_help_and_the_list_of_studies_load_no_torch(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom autoprune.cli import main\n"
        "for args in (['--help'], ['search', '--help'], ['studies', '--root', sys.argv[1]]):\n"
        "    assert CliRunner().invoke(main, args).exit_code == 0\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60).returncode == 0


# -- the way through --------------------------------------------------------------------------------------------------


def test_search_report_pick_load(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=4)
    searched = run("search", folder)
    assert searched.exit_code == 0
    for part in ("best within budget", "multiply–accumulate", f"stored in {folder}", "autoprune pick"):
        assert part in searched.stdout
    assert "trial 3 " in searched.stderr
    assert [number for number, _ in finished(folder)] == [0, 1, 2, 3]

    reported = run("report", folder)
    assert reported.exit_code == 0
    for file in ("report.html", "front.csv", "front.json", "front.png", "front.svg"):
        assert (folder / file).stat().st_size > 0
    assert "uniform" in reported.stdout

    listed = run("studies", "--root", folder.parent)
    assert "tiny" in listed.stdout
    assert "4 of 4" in listed.stdout

    picked = run("pick", folder)
    assert picked.exit_code == 0
    assert "accuracy on test" in picked.stdout
    (target,) = (folder / "picked").iterdir()
    network = autoprune.load(target, trust_code=True)
    assert f"written: {target}" in picked.stdout
    assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 3)


def test_the_page_is_opened_where_there_is_a_browser_and_named_where_there_is_none(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import webbrowser

    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or len(opened) == 1)
    assert "no browser" not in run("report", study, "--open").stderr
    assert opened == [(study / "report.html").resolve().as_uri()]
    result = run("report", study, "--open")
    assert result.exit_code == 0
    assert f"no browser could be started; open {study / 'report.html'} in a browser" in result.stderr


def test_the_commands_that_search_suggests_work_as_printed(tmp_path: Path) -> None:
    import shlex

    folder = write_study(tmp_path / "studies", trials=4)
    suggested = [line.split() for line in run("search", folder).stdout.splitlines() if line.startswith("  autoprune ")]
    assert [words[1] for words in suggested] == ["report", "pick", "search"]
    for words in suggested:
        result = run(*shlex.split(" ".join(words[1:])))
        assert result.exit_code == 0, result.output
    origins = [trial["origin"] for trial in stored_trials(folder)]
    assert len(origins) == 8
    baselines = [origin for origin in origins if origin.startswith("baseline:")]
    assert len(baselines) == len(set(baselines)), "the same budget has its baselines once"


def test_a_study_begins_from_options_alone_and_resumes_without_repeating_them(tmp_path: Path) -> None:
    file = write_task(tmp_path / "code")
    begin = (
        "search",
        "mine",
        "--root",
        tmp_path / "studies",
        "--model",
        f"{file}:net",
        "--data",
        f"{file}:data",
        *QUICK,
    )
    small = (
        "--no-screening",
        "--importances",
        "l1",
        "--dense-epochs",
        "2",
        "--finetune-epochs",
        "1",
        "--set",
        "latency.blocks=5",
    )
    assert run(*begin, *small, "--budget-mflops", "60%", "--trials", "3").exit_code == 0
    assert run("search", "mine", "--root", tmp_path / "studies", "--trials", "5").exit_code == 0
    trials = stored_trials(tmp_path / "studies" / "mine")
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3, 4]
    assert len({json.dumps(trial["budget"]) for trial in trials}) == 1
    assert {trial["session"] for trial in trials} == {0, 1}
    assert {importance for trial in trials for _, importance in trial["policy"]["groups"].values()} == {"l1"}


def test_a_finished_study_does_nothing_more(study: Path) -> None:
    result = run("search", study)
    assert result.exit_code == 0
    assert "nothing to do: 5 of 5" in result.stdout
    assert len(stored_trials(study)) == 5


def breaking_study(root: Path, condition: str, trials: int) -> Path:
    """Write a study of a network whose forward pass raises where a condition on ``self`` holds."""
    folder = write_study(root / "studies", trials=trials)
    file = root / "code" / "tiny.py"
    wrong = (
        f"    def forward(self, x):\n        if {condition}:\n            raise ValueError('a width I cannot bear')\n"
    )
    file.write_text(file.read_text().replace("    def forward(self, x):\n", wrong, 1))
    return folder


# a fault that no proof can see, because it takes gradients
PRUNED = "__import__('torch').is_grad_enabled() and self.conv2.out_channels != 16"


def test_a_search_in_which_every_candidate_fails_alike_ends_at_the_third(tmp_path: Path) -> None:
    folder = breaking_study(tmp_path, PRUNED, trials=9)
    result = CliRunner(env={"AUTOPRUNE_STORAGE": ""}).invoke(main, ["search", str(folder)])
    assert result.exit_code == 1
    assert "the first 3 candidates all failed for one cause, so the next would too: " in result.stderr
    assert "ValueError: a width I cannot bear (tiny.py:" in result.stderr
    assert len(stored_trials(folder)) == 3


@pytest.mark.parametrize("as_json", [False, True])
def test_a_search_in_which_nothing_completes_says_why_and_exits_with_1(tmp_path: Path, as_json: bool) -> None:
    folder = breaking_study(tmp_path, PRUNED, trials=2)
    for _ in range(2):  # the same command again, with nothing left to do
        result = run("search", folder, *(["--json"] if as_json else []))
        assert result.exit_code == 1
        assert "autoprune: 2 of 2 trials failed: " in result.stderr
        assert "ValueError: a width I cannot bear (tiny.py:" in result.stderr
        assert "autoprune: no trial completed, so there is nothing to pick from" in result.stderr
        if as_json:
            assert document(result)["counts"]["failed"] == 2
        else:
            assert "autoprune pick" not in result.stdout


def test_a_run_that_only_adds_failures_to_a_good_study_exits_with_1(tmp_path: Path) -> None:
    folder = breaking_study(tmp_path, f"pathlib.Path(__file__).with_name('broken').exists() and {PRUNED}", trials=3)
    assert run("search", folder).exit_code == 0
    broken = tmp_path / "code" / "broken"
    broken.touch()
    result = run("search", folder, "--trials", "5")
    assert result.exit_code == 1
    assert "autoprune: 2 of 5 trials failed: " in result.stderr
    assert "ValueError: a width I cannot bear (tiny.py:" in result.stderr
    assert "no trial completed" not in result.stderr
    broken.unlink()
    assert run("search", folder, "--trials", "6").exit_code == 0


@pytest.mark.parametrize("as_json", [False, True])
def test_a_report_whose_files_cannot_be_written_prints_its_table(study: Path, as_json: bool) -> None:
    (study / "report.html").mkdir()
    result = run("report", study, *(["--json"] if as_json else []))
    assert result.exit_code == 0
    assert result.stderr.startswith("autoprune: the report's files are not written: cannot write ")
    if as_json:
        assert document(result)["files"] == []
        assert document(result)["rows"]
    else:
        assert "best within budget" in result.stdout
        assert "written: " not in result.stdout


def test_a_stored_study_answers_another_budget(study: Path) -> None:
    result = run("search", study, "--budget-mflops", "45%", "--trials", "8")
    assert result.exit_code == 0, result.output
    trials = stored_trials(study)
    assert [trial["number"] for trial in trials] == list(range(8))
    assert len({json.dumps(trial["budget"]) for trial in trials}) == 2
    assert trials[5]["origin"] == "baseline:uniform"
    assert "studies" in run("report", study, "--budget-mflops", "60%").stdout


def test_another_storage_is_used_everywhere(tmp_path: Path) -> None:
    folder, url = write_study(tmp_path / "studies", trials=2), f"sqlite:///{tmp_path / 'other.db'}"
    assert run("search", folder, "--storage", url).exit_code == 0
    assert not (folder / "study.db").exists()
    assert run("report", folder, "--storage", url).exit_code == 0
    assert run("pick", folder, "--storage", url).exit_code == 0
    assert "no stored study" in refused("report", folder, code=1)


def test_a_dense_network_at_chance_is_said_by_search_and_report(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=1)
    searched = run("search", folder, "--dense-epochs", "0")
    assert searched.exit_code == 0
    assert "the dense network is at chance: 33.33 %" in searched.stderr
    assert "the dense network is at chance: 33.33 %" in " ".join(run("report", folder).stdout.split())


def test_a_logger_whose_library_is_missing_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    folder = write_study(tmp_path / "studies", trials=1)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "mlflow", None)
        assert "pip install 'autoprune[mlflow]'" in refused("search", folder, "--log", "mlflow")
    assert [path.name for path in folder.iterdir()] == ["study.toml"]
    assert "did you mean 'tensorboard'" in refused("search", folder, "--log", "tensorbord")


# -- JSON -------------------------------------------------------------------------------------------------------------


def test_json_of_every_command_is_one_document(study: Path) -> None:
    searched = document(run("search", study, "--trials", "6", "--json"))
    assert (searched["study"], searched["counts"]["completed"]) == ("tiny", 6)
    reported = document(run("report", study, "--json"))
    compared = {entry["baseline"]: entry["trial"] for entry in reported["worth"]}
    assert compared["dense"] is None
    assert len(compared) >= 2
    assert reported["best"] not in compared.values()
    assert all(entry["paired"] for entry in reported["worth"])
    expected = {"report.html", "front.csv", "front.json", "front.png", "front.svg", "sensitivity.png"}
    assert {Path(path).name for path in reported["files"]} == expected
    assert reported["budget"] == searched["budget"]
    picked = document(run("pick", study, "--json"))
    assert reported["best"] in {one["trial"] for one in picked["contenders"]}
    assert len(picked["contenders"]) <= 3
    assert Path(picked["folder"]) == study / "picked" / str(picked["trial"])
    assert "multiply–accumulate" in picked["flop_convention"]
    listed = document(run("studies", "--root", study.parent, "--json"))
    assert [row["name"] for row in listed["studies"]] == ["tiny"]
    assert (listed["studies"][0]["finished"], listed["studies"][0]["trials"]) == (6, 6)
    inspected = document(run("inspect", study, "--json"))
    assert [group["name"] for group in inspected["groups"]] == ["conv1", "conv2"]
    assert inspected["groups"][0]["residual"]
    assert inspected["dense"]["mflops"] == pytest.approx(reported["dense"]["values"]["mflops"])
    assert "multiply–accumulate" in inspected["flop_convention"]


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (("search", "nosuchstudy"), 2, "UnknownNameError"),
        (("search", "digits-resnet20", "--trials", "0"), 2, "SpecError"),
        (("report", "digits-resnet20"), 1, "StudyError"),
        (("inspect", "resnet21"), 2, "UnknownNameError"),
        (("pick", "digits-resnet20"), 1, "StudyError"),
    ],
)
def test_json_of_an_error_is_one_document_too(tmp_path: Path, arguments: tuple[str, ...], code: int, kind: str) -> None:
    result = run(*arguments, "--root", tmp_path, "--json")
    assert result.exit_code == code
    error = document(result)["error"]
    assert (error["kind"], error["exit_code"]) == (kind, code)
    assert error["message"] in result.stderr


# -- what a user may get wrong: names and options ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("search", "digits-resnet65"), ("did you mean 'digits-resnet56'", "known:")),
        (("report", "digits-resnet65"), ("did you mean 'digits-resnet56'",)),
        (("search", "digits-resnet20", "--model", "resnet21"), ("resnet20", "did you mean")),
        (("search", "digits-resnet20", "--model", "torchvision:resnet181"), ("did you mean", "resnet18")),
        (("search", "digits-resnet20", "--data", "digit"), ("did you mean 'digits'",)),
        (("search", "digits-resnet20", "--importances", "l1,tailor"), ("did you mean 'taylor'",)),
        (("search", "digits-resnet20", "--sampler", "tpee"), ("sampler", "tpe")),
        (("search", "digits-resnet20", "--objectives", "accuracy,latency"), ("latency_ms",)),
        (("search", "digits-resnet20", "--objectives", "accuracy"), ("one cost",)),
        (("search", "digits-resnet20", "--set", "finetune.epoch=3"), ("epochs",)),
        (("search", "digits-resnet20", "--set", "finetune.epochs"), ("KEY=VALUE",)),
        (("search", "digits-resnet20", "--set", "trials.number=3"), ("trials",)),
        (("search", "digits-resnet20", "--budget-mflops", "-5"), ("positive number", "40%")),
        (("search", "digits-resnet20", "--budget-mflops", "120%"), ("40%",)),
        (("search", "digits-resnet20", "--budget-latency-ms", "5k"), ("latency_ms", "40%")),
        (("search", "digits-resnet20", "--trials", "many"), ("integer",)),
        (("search", "digits-resnet20", "--trails", "3"), ("--trials",)),
        (("search", "digits-resnet20", "--device", "gpu"), ("cpu, cuda, mps",)),
        (("search", "digits-resnet20", "--round-to", "3"), ("1, 2, 4, 8, 16",)),
        (("search", "digits-resnet20", "--max-sparsity", "1.5"), ("max_sparsity",)),
        (("search", ""), ("empty",)),
        (("search", "--model", "resnet20"), ("no study is named", "the main job", "search NAME --model resnet20")),
        (("search", "--weights", "mine.pt"), ("no study is named", "search NAME --weights mine.pt")),
        (("search", "--set", "data.source=imagefolder:mine"), ("no study is named", "--data imagefolder:mine")),
        (("inspect", "resnet20", "--input", "32xx32"), ("CxHxW",)),
        (("inspect", "torchvision:resnet181", "--input", "3x32x32", "--classes", "10"), ("resnet18",)),
        (("pick", "digits-resnet20", "--trial", "x"), ("integer",)),
    ],
)
def test_a_mistake_in_names_or_options_is_named_with_what_was_meant(
    tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    message = refused(*arguments, "--root", tmp_path)
    for part in parts:
        assert part in message
    assert list(tmp_path.rglob("resolved.toml")) == [], "a study was begun"


def test_a_study_of_the_main_jobs_name_goes_on_with_the_network_that_it_has(tmp_path: Path) -> None:
    """It was begun so before a search without a name refused other networks than the main job's."""
    begun = StudyFolder(tmp_path / "digits-resnet56").resolved
    begun.parent.mkdir()
    begun.write_text('[model]\nsource = "resnet20"\n')
    check_is_main_job({"model": {"source": "resnet20"}}, tmp_path)
    with pytest.raises(UsageError, match="no study is named"):
        check_is_main_job({"model": {"source": "resnet56"}}, tmp_path)


def test_every_fault_of_a_study_toml_and_of_the_options_is_listed_at_once(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies")
    text = (folder / "study.toml").read_text()
    text = text.replace('sampler = "random"', 'sampler = "magic"\ntrails = 3').replace(
        "calibration_images = 48", "max_sparsity = 2"
    )
    (folder / "study.toml").write_text(text)
    message = refused("search", folder, "--set", "finetune.lr=-1", "--budget-mflops", "lots")
    assert "6 faults" in message
    for part in ("sampler", "trails", "did you mean 'trials'", "max_sparsity", "finetune.lr", "budget.mflops"):
        assert part in message
    assert not (folder / "study.db").exists()


def test_a_study_toml_that_is_not_toml_says_where(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies")
    (folder / "study.toml").write_text("trials = = 3\n")
    message = refused("search", folder)
    assert "not TOML" in message
    assert "line 1" in message


# -- networks and data that cannot be used ----------------------------------------------------------------------------


def test_missing_and_corrupt_weights(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies")
    message = refused("search", folder, "--weights", tmp_path / "none.safetensors", code=1)
    assert "no weights file" in message
    for name in ("bad.safetensors", "bad.pt"):
        (tmp_path / name).write_bytes(b"these are no weights" * 50)
        assert name in refused("search", folder, "--weights", tmp_path / name, code=1)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    assert "state_dict()" in refused("search", folder, "--weights", tmp_path / "module.pt", code=1)
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    assert "do not fit" in refused("search", folder, "--weights", tmp_path / "other.pt", code=1)
    assert run("search", folder).exit_code == 0, "what was refused must not stick to the study"


def png(path: Path, side: int = 8, value: int = 0) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (value, 10, 200)).save(path)


def image_folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), images: int = 4) -> Path:
    for split in ("train", "val"):
        for number, name in enumerate(classes):
            for image in range(images):
                png(root / split / name / f"{image}.png", value=60 * number + image)
    return root


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        ("missing", "no image folder"),
        ("one class", "two or more"),
        ("unreadable", "1.png"),
        ("empty split", "no image"),
        ("empty class", "holds no image"),
        ("no val", "val"),
        ("other classes", "different class folders"),
    ],
)
def test_an_image_folder_that_cannot_be_used(tmp_path: Path, damage: str, part: str) -> None:
    folder = write_study(tmp_path / "studies")
    images = image_folder(tmp_path / "images", ("cat",) if damage == "one class" else ("cat", "dog"))
    match damage:
        case "missing":
            shutil.rmtree(images)
        case "unreadable":
            (images / "train" / "dog" / "1.png").write_bytes(b"no image")
        case "empty split":
            for file in (images / "val").rglob("*.png"):
                file.unlink()
        case "empty class":
            for file in (images / "train" / "dog").iterdir():
                file.unlink()
        case "no val":
            shutil.rmtree(images / "val")
        case "other classes":
            (images / "val" / "dog").rename(images / "val" / "wolf")
    message = refused("search", folder, "--data", f"imagefolder:{images}", code=1)
    assert part in message
    assert not stored_trials_or_none(folder)


def stored_trials_or_none(folder: Path) -> list[dict[str, Any]]:
    return stored_trials(folder) if (folder / "study.db").exists() else []


def test_an_image_folder_is_searched(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=1)
    images = image_folder(tmp_path / "images", images=8)
    result = run("search", folder, "--data", f"imagefolder:{images}", "--set", "data.workers=0")
    assert result.exit_code == 0, result.output
    assert len(stored_trials(folder)) == 1


@pytest.mark.parametrize(
    ("source", "code", "part"),
    [
        ("gone.py:net", 2, "no file"),
        ("{file}:nett", 2, "did you mean 'net'"),
        ("{file}:images", 1, "count"),
        ("{file}:torch", 1, "expected a function"),
        ("{broken}:net", 2, "ZeroDivisionError"),
        ("no.such.module:net", 2, "no.such.module"),
        ("{broken_later}:net", 1, "RuntimeError"),
    ],
)
def test_a_model_function_that_cannot_be_used(tmp_path: Path, source: str, code: int, part: str) -> None:
    folder = write_study(tmp_path / "studies")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "later.py").write_text("def net(num_classes):\n    raise RuntimeError('not today')\n")
    given = source.format(
        file=tmp_path / "code" / "tiny.py", broken=tmp_path / "broken.py", broken_later=tmp_path / "later.py"
    )
    assert part in refused("search", folder, "--model", given, code=code)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("return 3", "int"),
        ("return {'train': (torch.zeros(4, 1, 8, 8), torch.zeros(4))}", "val"),
        (
            "x = torch.zeros(4, 8, 8, dtype=torch.uint8), torch.arange(4); return x, x",
            "(N, C, H, W)",
        ),
        ("x = torch.full((4, 1, 8, 8), float('nan')), torch.arange(4); return x, x", "NaN"),
        ("x = torch.zeros(0, 1, 8, 8), torch.arange(0); return x, x", "empty"),
        ("x = torch.zeros(4, 1, 8, 8), torch.zeros(4).long(); return x, x", "1 class"),
        ("raise OSError('the disk is away')", "the disk is away"),
    ],
)
def test_a_data_function_that_cannot_be_used(tmp_path: Path, body: str, part: str) -> None:
    folder = write_study(tmp_path / "studies")
    (tmp_path / "mine.py").write_text(f"import torch\ndef data():\n    {body}\n")
    assert part in refused("search", folder, "--data", f"{tmp_path / 'mine.py'}:data", code=1)


def test_a_network_that_does_not_run_on_the_data(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies")
    (tmp_path / "net.py").write_text("import torch\ndef net():\n    return torch.nn.Conv2d(7, 3, 1)\n")
    message = refused("search", folder, "--model", f"{tmp_path / 'net.py'}:net", code=1)
    assert "does not run on an input of shape (32, 1, 8, 8)" in message
    assert "7 channels" in message
    assert run("search", folder).exit_code == 0


# -- budgets ----------------------------------------------------------------------------------------------------------


def test_a_budget_above_dense_says_that_there_is_nothing_to_do(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies")
    message = refused("search", folder, "--budget-mflops", "50")
    assert "nothing to do" in message
    assert "0.15 MFLOPs" in message
    assert "seed: stored 0, given 1" in refused("search", folder, "--seed", "1"), "the dense network is made by now"
    assert run("search", folder).exit_code == 0, "a refused budget must not be remembered"
    assert "nothing to do" in refused("search", folder, "--budget-mflops", "50", "--trials", "9")
    assert run("search", folder, "--trials", "5").exit_code == 0
    assert len({json.dumps(trial["budget"]) for trial in stored_trials(folder)}) == 1


def test_an_unreachable_budget_names_the_nearest_which_then_works(tmp_path: Path) -> None:
    import re

    folder = write_study(tmp_path / "studies", trials=2)
    message = refused("search", folder, "--budget-mparams", "0.00001")
    assert "cannot be reached" in message
    nearest = re.search(r"smallest network of this search space has ([\d.]+) M parameters", message)
    assert nearest is not None
    assert run("search", folder, "--budget-mparams", nearest[1]).exit_code == 0
    assert len(stored_trials(folder)) == 2


# -- a stored study that something has changed under ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("--finetune-epochs", "2", "finetune.epochs"),
        ("--seed", "1", "seed"),
        ("--importances", "l1", "space.importances"),
        ("--objectives", "accuracy,mparams", "objectives"),
        ("--set", "finetune.lr=0.5", "finetune.lr"),
        ("--precision", "bf16", "runtime.precision"),
    ],
)
def test_a_spec_that_changes_the_meaning_is_refused_and_the_study_unharmed(
    study: Path, option: str, value: str, field: str
) -> None:
    before = {
        path.name: path.read_bytes() for path in study.iterdir() if path.suffix in (".toml", ".json", ".safetensors")
    }
    trials = stored_trials(study)
    message = refused("search", study, option, value, "--trials", "9")
    assert f"{field}: stored" in message
    assert "another folder" in message
    assert stored_trials(study) == trials
    assert {name: (study / name).read_bytes() for name in before} == before
    assert run("search", study, "--trials", "6").exit_code == 0
    assert len(stored_trials(study)) == 6


def test_an_edited_study_toml_counts_and_is_refused_if_it_changes_the_meaning(study: Path) -> None:
    recipe = study / "study.toml"
    original = recipe.read_text()
    recipe.write_text(original.replace("epochs = 1\nbatch_size = 32\nrecal", "epochs = 2\nbatch_size = 32\nrecal"))
    assert recipe.read_text() != original
    assert "finetune.epochs: stored 1.0, given 2.0" in refused("search", study)
    recipe.write_text(original.replace("trials = 5", "trials = 6"))
    assert run("search", study).exit_code == 0
    assert len(stored_trials(study)) == 6


def test_options_of_the_first_run_are_remembered_and_a_later_edit_wins_over_them(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=2)
    assert run("search", folder, "--seed", "7", "--trials", "3").exit_code == 0
    assert run("search", folder, "--trials", "4").exit_code == 0, "the seed need not be repeated"
    assert len(stored_trials(folder)) == 4
    recipe = folder / "study.toml"
    recipe.write_text("seed = 3\n" + recipe.read_text())
    assert "seed: stored 7, given 3" in refused("search", folder)


class Killed(BaseException):
    """Stand for SIGKILL."""


@pytest.mark.parametrize(
    ("moment", "begun"),
    [
        ("search.setup.dense_network.train_dense", False),
        ("search.setup.find_space.find_groups", False),
        ("search.setup.measure_dense.quality_and_answers", False),
        ("search.setup.find_space.find_groups", True),
    ],
)
def test_options_survive_a_kill_while_the_study_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, begun: bool
) -> None:
    """Neither the options of the first command nor its budget may be lost with the process."""
    file, root = write_task(tmp_path / "code"), tmp_path / "studies"
    command: tuple[Any, ...] = ("search", "mine", "--root", root, "--model", f"{file}:net", "--data", f"{file}:data")
    command += (*QUICK, "--dense-epochs", "2", "--finetune-epochs", "1", "--budget-mflops", "60%")
    if begun:
        assert run(*command, "--trials", "2").exit_code == 0

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(f"autoprune.{moment}", die)
        with pytest.raises(Killed):
            run(*(("search", "mine", "--root", root) if begun else command), "--trials", "4")
    assert run("search", "mine", "--root", root, "--trials", "4").exit_code == 0
    trials = stored_trials(root / "mine")
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]
    assert [list(trial["budget"]) for trial in trials] == [["mflops"]] * 4
    assert len({json.dumps(trial["budget"]) for trial in trials}) == 1


def test_other_data_under_a_stored_study_is_refused(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=2)
    assert run("search", folder).exit_code == 0
    seed = tmp_path / "code" / "seed.txt"
    seed.write_text("100")
    message = refused("search", folder, "--trials", "3")
    assert "data" in message
    assert "differs" in message
    assert len(stored_trials(folder)) == 2
    assert "differs" in refused("pick", folder)
    seed.unlink()
    assert run("search", folder, "--trials", "3").exit_code == 0


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    file = write_task(tmp_path / "code")
    (tmp_path / "blocked").write_text("a regular file where a folder should be")
    options = ("--model", f"{file}:net", "--data", f"{file}:data", "--budget-mflops", "60%")
    message = refused("search", "mine", "--root", tmp_path / "blocked", *options, code=1)
    assert "cannot be written" in message
    assert "--root" in message
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "mine").write_text("")
    assert "expected a folder" in refused("search", "mine", "--root", tmp_path / "studies", *options)


def test_a_corrupt_database_of_a_study(study: Path) -> None:
    for extra in study.glob("study.db-*"):
        extra.unlink()
    (study / "study.db").write_bytes(b"no database" * 500)
    for command in ("search", "report", "pick"):
        assert "study.db" in refused(command, study, code=1)
    listed = run("studies", "--root", study.parent)
    assert listed.exit_code == 0
    assert "tiny" in listed.stdout


@pytest.mark.parametrize("name", ["dense.json", "dense.safetensors", "resolved.toml", "accepted_toml.json"])
def test_a_damaged_file_of_a_study_is_named(study: Path, name: str) -> None:
    half = (study / name).read_bytes()[: (study / name).stat().st_size // 2]
    if name.endswith(".toml"):  # half of its lines would be a whole file
        half = half[: half.rindex(b"=") + 1]
    (study / name).write_bytes(half)
    result = run("search", study, "--trials", "6")
    assert result.exit_code in (1, 2), result.output
    assert name in result.stderr


def test_damaged_scores_are_computed_again(study: Path) -> None:
    (study / "scores.safetensors").write_bytes(b"\xff" * 100)
    assert run("search", study, "--trials", "6").exit_code == 0
    assert len(stored_trials(study)) == 6


def test_a_study_that_somebody_holds_alone_is_refused_to_a_search_but_not_to_a_report(study: Path) -> None:
    import filelock

    with filelock.FileLock(study / "study.lock"):
        message = refused("search", study, "--trials", "6", code=1)
        assert "another process removes this study" in message
        assert run("report", study).exit_code == 0


def test_trials_that_all_fail_end_the_search_with_the_cause(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=10)
    message = refused("search", folder, "--set", "finetune.lr=1e30", code=1)
    assert "the first 3 candidates all failed for one cause" in message
    assert "NonFiniteError" in message
    assert len(stored_trials(folder)) == 3
    assert "no completed trial" in refused("pick", folder, code=3)
    assert run("report", folder).exit_code == 0


# -- pick -------------------------------------------------------------------------------------------------------------


def test_nothing_fits_names_the_nearest_trial(study: Path) -> None:
    message = refused("pick", study, "--budget-mflops", "0.01", code=3)
    assert "the nearest is trial" in message
    assert "MFLOPs" in message
    count = len(stored_trials(study))
    assert message.splitlines()[-1] == f"  autoprune search {study} --budget-mflops 0.01 --trials {count + 20}"
    assert "nearest" in refused("pick", study, "--budget-latency-ms", "0.000001", code=3)


def test_a_budget_that_is_not_covered_is_covered_by_the_command_that_is_named(study: Path) -> None:
    import shlex

    message = refused("pick", study, "--budget-mflops", "25%", code=3)
    words = shlex.split(message.splitlines()[-1])
    assert words[0] == "autoprune"
    searched = run(*words[1:-1], "7")  # of the 25 trials two are enough: baselines lie on the budget
    assert searched.exit_code == 0, searched.output
    card = document(run("pick", study, "--budget-mflops", "25%", "--top", "1", "--json"))
    assert card["validation"]["values"]["mflops"] <= 0.25 * card["dense"]["validation"]["values"]["mflops"]


def test_top_one_is_the_best_in_the_report_and_finished_alone(study: Path) -> None:
    reported = document(run("report", study, "--json"))
    picked = run("pick", study, "--top", "1", "--no-compare", "--json")
    card = document(picked)
    assert card["trial"] == reported["best"]
    assert [one["trial"] for one in card["contenders"]] == [card["trial"]]
    assert (card["uniform"], card["finetune"]["borders"]) == (None, [1.0])
    assert {line.split(":")[0] for line in picked.stderr.splitlines() if line.startswith("trial ")} == {
        f"trial {card['trial']}"
    }


def test_pick_by_trial_and_an_existing_folder_is_kept_unless_forced(study: Path) -> None:
    assert run("pick", study, "--trial", "1").exit_code == 0
    card = (study / "picked" / "1" / "card.json").read_bytes()
    assert "--force" in refused("pick", study, "--trial", "1")
    assert (study / "picked" / "1" / "card.json").read_bytes() == card
    assert run("pick", study, "--trial", "1", "--force", "--finetune-epochs", "2").exit_code == 0
    assert json.loads((study / "picked" / "1" / "card.json").read_text())["finetune"]["epochs"] == 2
    message = refused("pick", study, "--trial", "77")
    assert "completed: 0, 1, 2, 3, 4" in message


def test_an_export_that_fails_is_an_error_only_if_it_was_asked_for(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from autoprune.export.convert import FORMATS

    def convert(*_: Any) -> bytes:
        raise RuntimeError("no such operator")

    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], convert=convert))
    asked = run("pick", study, "--trial", "1", "--no-compare", "--export", "onnx", "--json")
    assert asked.exit_code == 1
    card = document(asked)
    assert card["exports"]["onnx"]["failure"] == "RuntimeError: no such operator"
    assert (study / "picked" / "1" / "model.safetensors").exists()
    assert "model.onnx was not written; the other files are complete" in asked.stderr
    unasked = run("pick", study, "--trial", "1", "--no-compare", "--export", "auto", "--force")
    assert unasked.exit_code == 0
    assert "- model.onnx was not written: RuntimeError: no such operator" in unasked.stdout
    known = "known: auto, none, onnx, onnx-int8, openvino, pt2"
    assert known in refused("pick", study, "--trial", "0", "--export", "onxx")


def test_an_interrupted_pick_says_how_to_go_on(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import autoprune.export.publish

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(autoprune.export.publish, "verify_in_new_process", interrupt)
        stopped = run("pick", study, "--trial", "1", "--no-compare")
    assert stopped.exit_code == 130
    assert f"are kept. Resume with:\n  autoprune pick {study} --trial 1 --no-compare\n" in stopped.stderr
    assert not (study / "picked" / "1").exists()
    gone_on = run("pick", study, "--trial", "1", "--no-compare")
    assert gone_on.exit_code == 0
    assert "going on with a pick that was cut off" in gone_on.stderr
    assert "trial 1: finetune" not in gone_on.stderr
    assert "trial 1: test" not in gone_on.stderr


def test_pick_by_drop_and_by_accuracy(study: Path) -> None:
    trials = {t["number"]: t["outcome"]["outcome"]["measurement"]["values"] for t in stored_trials(study)}
    dense = json.loads((study / "dense.json").read_text())["measurement"]["values"]["accuracy"]
    least = dense - 0.99
    cheapest = min((n for n in trials if trials[n]["accuracy"] >= least), key=lambda n: trials[n]["mflops"])
    picked = document(run("pick", study, "--max-drop", "99%", "--prefer", "accuracy", "--json"))
    assert picked["trial"] == cheapest
    again = document(run("pick", study, "--min-accuracy", "1%", "--prefer", "accuracy", "--force", "--json"))
    assert again["trial"] == cheapest
    assert "accuracy ≥" in refused("pick", study, "--min-accuracy", "100%", "--budget-mflops", "0.01", code=3)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--max-drop", "1%", "--min-accuracy", "90%"), "give one of them"),
        (("--max-drop", "much"), "1%"),
        (("--min-accuracy", "120%"), "fraction"),
        (("--budget-mflops", "x"), "40%"),
        (("--top", "0"), "x>=1"),
        (("--top", "2", "--trial", "1"), "leave --top out"),
        (("--max-drop", "1%", "--trial", "1"), "leave --min-accuracy and --max-drop out"),
    ],
)
def test_pick_refuses_what_makes_no_sense(study: Path, arguments: tuple[str, ...], part: str) -> None:
    assert part in refused("pick", study, *arguments)
    assert not (study / "picked").exists()


# -- inspect ----------------------------------------------------------------------------------------------------------


def test_inspect_a_network_without_data_or_weights(tmp_path: Path) -> None:
    result = run("inspect", "resnet20", "--input", "3x32x32", "--classes", "10", "--root", tmp_path)
    assert result.exit_code == 0
    assert "40.81 MFLOPs" in result.stdout
    assert "layer3.2.conv1" in result.stdout


# -- the installed command --------------------------------------------------------------------------------------------


def test_the_installed_command_keeps_stdout_for_the_result(study: Path) -> None:
    result = call("search", study, "--trials", "6", "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["counts"]["completed"] == 6
    assert "trial 5" in result.stderr
    assert "Traceback" not in result.stderr
