"""A user's own loop: two functions and a batch are enough; what it breaks is said before time is spent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from autoprune import Metric, Task
from autoprune.cli import main
from autoprune.errors import UsageError
from autoprune.search.setup.judged_by import judged_by
from autoprune.study.spec import StudySpec
from autoprune.study.view import open_view

CODE = """
import torch
from torch import nn

rows = torch.Generator().manual_seed(0)
X = torch.randn(120, 6, generator=rows)
Y = (X[:, :1] * 2 - X[:, 1:2]).sin()

def network():
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 1))

def train(network, steps, seed, on_step):
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    draws = torch.Generator().manual_seed(seed)
    for step in range(steps):
        chosen = torch.randint(0, 80, (32,), generator=draws)
        loss = (network(X[chosen]) - Y[chosen]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        on_step(step + 1, steps)

def score(network, split):
    first, last = {"train": (0, 80), "val": (80, 100), "test": (100, 120)}[split]
    return float((network(X[first:last]) - Y[first:last]).square().mean().sqrt())

def score_with_error(network, split):
    return score(network, split), 0.01, 20

batch = X[:4]

def returns_another(network, steps, seed, on_step):
    return nn.Linear(6, 1)

def replaces(network, steps, seed, on_step):
    network[0] = nn.Linear(6, 23)
    network[2] = nn.Linear(23, 16)

def another_of_the_kind(network, steps, seed, on_step):
    train(network, steps, seed, on_step)
    network[0] = nn.Linear(6, 24)

def hooks(network, steps, seed, on_step):
    network[0].register_forward_hook(lambda *_: None)

def fails(network, steps, seed, on_step):
    raise ValueError("no such cluster")

def in_doubles(network, steps, seed, on_step):
    network.double()

def elsewhere(network, steps, seed, on_step):
    network.to("meta")

def another_kind(network, steps, seed, on_step):
    network[1] = nn.Tanh()

def another_forward(network, steps, seed, on_step):
    network.forward = lambda rows: rows[:, :1]

def leaves_it_elsewhere(network, steps, seed, on_step):
    train(network, steps, seed, on_step)
    network.eval().requires_grad_(False)

def says(network, split):
    return "good"

def takes_less(network):
    return 1.0

def data():
    return (X[:80], (Y[:80, 0] > 0).long()), (X[80:], (Y[80:, 0] > 0).long())

def classifier():
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 2))

def right(network, split):
    return float((network(X[80:]).argmax(1) == (Y[80:, 0] > 0)).float().mean())

def learn(network, steps, seed, on_step):
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(steps):
        loss = nn.functional.cross_entropy(network(X[:80]), (Y[:80, 0] > 0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        on_step(step + 1, steps)
"""
QUICK = (
    *("--trials", "3", "--budget-mflops", "50%", "--dense-epochs", "2", "--finetune-epochs", "1", "--threads", "1"),
    *("--latency-runtime", "torch", "--set", "latency.blocks=5", "--set", "loop.steps_per_epoch=30", "--no-stopping"),
    "--no-screening",
)


def search(folder: Path, *options: str) -> Result:
    (folder / "mine.py").write_text(CODE)
    mine = [option.replace("mine.py", str(folder / "mine.py")) for option in options]
    return CliRunner().invoke(main, ["search", str(folder / "own"), *QUICK, *mine])


LOOP = ("--model", "mine.py:network", "--finetune", "mine.py:train", "--example", "mine.py:batch", "--metric", "rmse")


@pytest.mark.long
def test_two_functions_and_a_batch_are_enough(tmp_path: Path) -> None:
    begun = search(tmp_path, *LOOP, "--evaluate", "mine.py:score")
    assert begun.exit_code == 0, begun.output
    view = open_view(tmp_path / "own")
    assert view.spec.quality.name == "rmse"
    assert view.spec.objectives == ("rmse", "mflops", "latency_ms")
    assert "rmse" not in view.dense.stderr
    assert "no standard error" in " ".join(begun.output.split())
    assert view.spec.space.importances == ("fpgm", "l2")  # without data no criterion can look at any
    again = CliRunner().invoke(main, ["search", str(tmp_path / "own"), "--trials", "4", "--no-stopping"])
    assert again.exit_code == 0, again.output
    picked = CliRunner().invoke(main, ["pick", str(tmp_path / "own"), "--finetune-epochs", "1", "--top", "2", "--json"])
    assert picked.exit_code == 0, picked.output
    assert "validation rmse" in " ".join(picked.output.split())
    assert "validation loss" not in " ".join(picked.output.split())
    assert json.loads(picked.stdout)["test"]["values"]["rmse"] > 0


def test_a_standard_error_that_the_function_gives_is_kept(tmp_path: Path) -> None:
    begun = search(tmp_path, *LOOP, "--evaluate", "mine.py:score_with_error")
    assert begun.exit_code == 0, begun.output
    assert open_view(tmp_path / "own").dense.stderr["rmse"] == 0.01


def test_looks_on_the_way_are_taken(tmp_path: Path) -> None:
    begun = search(tmp_path, *LOOP, "--evaluate", "mine.py:score", "--stopping")
    assert begun.exit_code == 0, begun.output
    measured = [trial.outcome.measurement for trial in open_view(tmp_path / "own").trials]  # type: ignore[union-attr]
    assert all("midway_loss" in one.values or "recalibrated_loss" in one.values for one in measured)


def test_data_beside_a_loop_is_what_criteria_look_at(tmp_path: Path) -> None:
    begun = search(
        tmp_path,
        *("--model", "mine.py:classifier", "--data", "mine.py:data", "--finetune", "mine.py:learn"),
        *("--evaluate", "mine.py:right", "--metric", "accuracy", "--importances", "taylor,l2"),
    )
    assert begun.exit_code == 0, begun.output
    assert open_view(tmp_path / "own").spec.space.importances == ("taylor", "l2")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--finetune", "mine.py:returns_another"), "returned another network; train the one that it is given"),
        (("--finetune", "mine.py:replaces"), "leaves the network with other parameters than it got (0.weight"),
        (("--finetune", "mine.py:in_doubles"), "other parameters than it got (0.weight, 0.bias, 2.weight)"),
        (("--finetune", "mine.py:elsewhere"), "leaves the network on the device meta"),
        (
            ("--finetune", "mine.py:another_kind"),
            "leaves other layers in the network than it got, or another forward (1)",
        ),
        (("--finetune", "mine.py:another_of_the_kind"), "leaves other layers in the network than it got"),
        (("--finetune", "mine.py:another_forward"), "another forward (the network itself)"),
        (("--finetune", "mine.py:hooks"), "leaves 1 hooks on the network"),
        (("--finetune", "mine.py:fails"), "ValueError: no such cluster (mine.py"),
        (("--evaluate", "mine.py:says"), "gave 'good' for rmse; expected a number"),
        (("--evaluate", "mine.py:takes_less"), "expected a function (network, split)"),
        (("--importances", "fisher,l2"), "the importance criteria fisher need data, and"),
        (("--example", ""), "data: digits, as no other is given; a loop without data needs --finetune, --evaluate and"),
        (("--finetune", "mine.py:nothing"), "nothing"),
        (("--finetune", "train"), "expected package.module:name or path/to/file.py:name"),
    ],
)
def test_what_a_loop_breaks_is_said_before_time_is_spent(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    found = search(tmp_path, *LOOP, "--evaluate", "mine.py:score", *options)
    assert found.exit_code in (1, 2), found.output
    assert said in found.output.replace("\n", " ")
    assert "training the dense network" not in found.output


def test_what_a_loop_only_leaves_lying_is_put_right(tmp_path: Path) -> None:
    found = search(tmp_path, *LOOP, "--evaluate", "mine.py:score", "--finetune", "mine.py:leaves_it_elsewhere")
    assert found.exit_code == 0, found.output


def test_a_loop_without_an_example_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    from autoprune.errors import UsageError
    from autoprune.tasks.own_loop import Loop, LoopTask

    with pytest.raises(UsageError, match="needs finetune, evaluate and example, and example is not given"):
        LoopTask(Loop(lambda *_: None, lambda *_: 1.0, None, (), 1, ("mine.py:train",)), None)


def test_a_metric_of_the_data_s_own_is_an_objective_by_its_name() -> None:
    rows = [(torch.ones(4, 6), torch.ones(4))]
    metrics = ["rmse", Metric("hit_it", "%", "max")]
    task = Task(rows, rows, loss=lambda *_: torch.zeros(()), score=lambda *_: {}, metric=metrics, name="sums")

    def wished(*objectives: str) -> StudySpec:
        return StudySpec.model_validate({"objectives": objectives, "data": {"source": "mine.py:task"}})

    judged = judged_by(wished("hit_it", "mflops"), task)
    assert (judged.objectives, judged.metrics) == (("hit_it", "mflops"), ("rmse:min", "hit_it:max:%"))
    with pytest.raises(UsageError, match="objectives name hits, and sums is judged by rmse, hit_it; name one of these"):
        judged_by(wished("hits", "mflops"), task)
