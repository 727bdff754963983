"""The finish: the best few train longer, the better half goes on, and the last one is put beside uniform."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from cards import finish_to_json
from tiny import write_study
from torch import nn

import autoprune
import autoprune.pick.entrants
import autoprune.pick.final_scores
import autoprune.training.scoring
from autoprune.cli.read_request import read_request
from autoprune.core.budget import Budget, Limit
from autoprune.core.measurement import Measurement
from autoprune.core.policy import MaskPolicy, PruningPolicy
from autoprune.core.trial import Candidate, Completed, Failed, Trial
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import EvaluationError, NonFiniteError, StudyLockedError, UsageError
from autoprune.pick.contest import Finished, hold_contest
from autoprune.pick.contest_parts import FinetunePart, OnTrialPhase, TrainedPart
from autoprune.pick.entrants import Course
from autoprune.pick.unfinished_pick import Unfinished, unfinished
from autoprune.pick.uniform_rival import Incomparable, Rival, uniform_rival
from autoprune.search.evaluation.make_network import NetworkMaker
from autoprune.search.evaluation.stopwatch import Stopwatch
from autoprune.search.setup.build_evaluator import build_maker, build_meter
from autoprune.search.setup.from_spec import finetune_settings, resolve
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.study.folder import StudyFolder
from autoprune.study.study_facts import StudyFacts
from autoprune.study.view import StudyView
from autoprune.training.finetune import finetune
from autoprune.training.loop import Span, TrainingRun
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm

pytestmark = pytest.mark.usefixtures("checks_in_this_process", "process_is_left_as_it_was")

BUDGET = Budget({"mflops": Limit(0.1)})
EPOCHS = 4.0  # of three steps: parts of 3, 3 and 6 steps


def set_up_study(root: Path, values: dict[str, Any]) -> PreparedStudy:
    folder = write_study(root / "studies")
    spec = resolve(read_request(str(folder), folder.parent, values).spec)
    return prepare_study(spec, StudyFolder(folder), lambda message: None)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> PreparedStudy:
    plain = {"finetune": {"compensation_images": 0}}  # as ``by_hand`` makes networks
    return set_up_study(tmp_path_factory.mktemp("pick"), plain)


@pytest.fixture(scope="module")
def maker(bench: PreparedStudy) -> NetworkMaker:
    return build_maker(bench, finetune_settings(bench.spec, epochs=EPOCHS))


def trial(bench: PreparedStudy, number: int, sparsity: float, origin: str = "sampler:test", **policy: Any) -> Trial:
    made = replace(PruningPolicy.uniform(sparsity, "l1", names=bench.space.by_name), **policy)
    asked = Candidate(number, bench.space.canonical(made), 0, origin, BUDGET)
    return Trial(asked, Completed(Measurement({"accuracy": 0.9, "mflops": 0.05})), {}, 0)


@pytest.fixture(scope="module")
def trials(bench: PreparedStudy) -> list[Trial]:
    """Return three trials, the least promising first, and a uniform baseline."""
    few = [trial(bench, number, sparsity) for number, sparsity in ((7, 0.85), (5, 0.2), (3, 0.6))]
    return [*few, trial(bench, 0, 0.5, "baseline:uniform")]


def no_rival(winner: Trial) -> Incomparable:
    return Incomparable("not asked for")


def run(
    maker: NetworkMaker,
    bench: PreparedStudy,
    contenders: list[Trial],
    rival_of: Callable[[Trial], Trial | Incomparable] = no_rival,
    on_phase: Callable[[Trial, str], None] = lambda trial, phase: None,
) -> Finished:
    return hold_contest(maker, build_meter(bench), contenders, bench.dense, rival_of, on_phase)


def by_hand(bench: PreparedStudy, maker: NetworkMaker, asked: Trial, *spans: Span) -> nn.Module:
    """Return a trial's network after some steps of the settings, without the maker."""
    network = bench.device.place(bench.pruner.prune(asked.candidate.policy))
    recalibrate_batchnorm(network, bench.task, 48, bench.device, bench.spec.seed)
    training = TrainingRun(bench.task, maker.settings, bench.device, bench.spec.seed)
    for span in spans:
        finetune(network, training, maker.teacher, span=span)
    return network.eval()


def loss_of(bench: PreparedStudy, network: nn.Module) -> float:
    """Return the mean loss on validation by a plain loop."""
    with torch.no_grad():
        losses = [
            nn.functional.cross_entropy(network(batch.images), batch.labels, reduction="none")
            for batch in bench.task.eval_batches("val", 9, bench.device)
        ]
    return float(torch.cat(losses).double().mean())


def settled_loss(bench: PreparedStudy, network: nn.Module) -> float:
    """Return the loss of a network in the midst of its training: with batch norm recalibrated, as a contest sees it."""
    recalibrate_batchnorm(network, bench.task, 48, bench.device, bench.spec.seed)
    return loss_of(bench, network)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())


def test_the_best_of_three_is_picked_and_each_loser_is_left_behind_at_its_rung(
    bench: PreparedStudy, maker: NetworkMaker, trials: list[Trial]
) -> None:
    contenders = trials[:3]
    first = {t.number: settled_loss(bench, by_hand(bench, maker, t, Span(0, 3))) for t in contenders}
    last_behind = max(first, key=lambda number: first[number])
    rest = [t for t in contenders if t.number != last_behind]
    second = {t.number: settled_loss(bench, by_hand(bench, maker, t, Span(0, 3), Span(3, 6))) for t in rest}
    best = min(rest, key=lambda t: second[t.number])

    finished = run(maker, bench, contenders)

    assert finished.trial is best
    assert best is not contenders[0], "the first is the worst, so the contest changed the pick"
    assert finished.borders == (0.25, 0.5, 1.0)
    winner, runner_up, loser = finished.contenders
    assert loser.trial.number == last_behind
    for contender, shares in ((winner, [0.25, 0.5, 1.0]), (runner_up, [0.25, 0.5]), (loser, [0.25])):
        assert [share for share, _ in contender.scores] == shares
        known = first[contender.trial.number], second.get(contender.trial.number)
        for (_, found), expected in zip(contender.scores, known, strict=False):
            assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert same_weights(finished.network, by_hand(bench, maker, best, Span(0, 3), Span(3, 6), Span(6, 12)))


def test_one_contender_is_a_plain_fine_tune_to_the_last_bit(
    bench: PreparedStudy, maker: NetworkMaker, trials: list[Trial]
) -> None:
    finished = run(maker, bench, trials[2:3])
    plain = by_hand(bench, maker, trials[2])
    training = TrainingRun(bench.task, maker.settings, bench.device, bench.spec.seed)
    finetune(plain, training, maker.teacher)
    assert same_weights(finished.network, plain)
    assert finished.borders == (1.0,)


def test_test_is_scored_once_for_each_network_and_only_after_the_last_decision(
    bench: PreparedStudy, maker: NetworkMaker, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    score = autoprune.training.scoring.score

    def watched(network: nn.Module, task: Any, split: str, *rest: Any) -> Any:
        events.append(split)
        return score(network, task, split, *rest)

    for module in (autoprune.pick.entrants, autoprune.pick.final_scores):
        monkeypatch.setattr(module, "score", watched)
    run(maker, bench, trials[:3], lambda winner: trials[3], lambda of, phase: events.append(f"{phase} {of.number}"))
    assert events.count("test") == 3  # the winner, uniform and dense
    contest = events[: events.index("test")]
    assert {f"finetune {number}" for number in (7, 5, 3)} <= set(contest)
    assert not [event for event in events[len(contest) :] if event.startswith("finetune") and event != "finetune 0"]


def test_uniform_is_finished_alike_whether_it_was_a_contender_or_not(
    bench: PreparedStudy, maker: NetworkMaker, trials: list[Trial]
) -> None:
    worst, good, _, uniform = trials
    phases: list[tuple[int, str]] = []
    apart = run(maker, bench, [worst, good, trials[2]], lambda winner: uniform)
    inside = run(
        maker,
        bench,
        [worst, good, uniform],
        lambda winner: uniform,
        lambda of, phase: phases.append((of.number, phase)),
    )
    assert inside.trial is apart.trial is good
    assert isinstance(apart.uniform, Rival)
    assert isinstance(inside.uniform, Rival)
    for name in ("accuracy", "loss", "train_accuracy", "mflops"):
        assert apart.uniform.final_scores.validation[name] == inside.uniform.final_scores.validation[name]
    assert phases.count((0, "prune")) == 1, "it goes on from where it was left behind"
    assert phases.count((0, "finetune")) == 3
    plain = by_hand(bench, maker, uniform, Span(0, 3), Span(3, 6), Span(6, 12))
    assert apart.uniform.final_scores.validation["loss"] == pytest.approx(loss_of(bench, plain), rel=1e-5)


def breaking(monkeypatch: pytest.MonkeyPatch, numbers: set[int], trials: list[Trial]) -> None:
    """Let some trials' networks have a loss that is not finite."""
    policies = [t.candidate.policy for t in trials if t.number in numbers]
    pruned = NetworkMaker.pruned

    def maybe(self: NetworkMaker, policy: PruningPolicy, *rest: Any) -> nn.Module:
        if policy in policies:
            raise NonFiniteError("the loss is nan")
        return pruned(self, policy, *rest)

    monkeypatch.setattr(NetworkMaker, "pruned", maybe)


def test_a_contender_that_breaks_is_left_behind_and_a_rival_that_breaks_is_told(
    bench: PreparedStudy, maker: NetworkMaker, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking(monkeypatch, {5, 0}, trials)
    finished = run(maker, bench, trials[:3], lambda winner: trials[3])
    assert finished.trial.number in (7, 3)
    broken = next(one for one in finished.contenders if one.trial.number == 5)
    assert (broken.scores, broken.failure) == ((), "the loss is nan")
    assert finished.uniform == Incomparable("the uniform baseline, trial 0, could not be finished: the loss is nan")


def test_if_the_last_contender_breaks_at_the_end_the_one_left_behind_before_it_is_finished(
    bench: PreparedStudy, maker: NetworkMaker, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune = NetworkMaker.finetune

    def breaks(self: NetworkMaker, *rest: Any, share: tuple[float, float], **named: Any) -> None:
        if share[1] == 1 and not broken:
            broken.append(True)
            raise NonFiniteError("the loss is nan")
        finetune(self, *rest, share=share, **named)

    broken: list[bool] = []
    expected = run(maker, bench, trials[:3])
    monkeypatch.setattr(NetworkMaker, "finetune", breaks)
    phases: list[tuple[int, str]] = []
    finished = run(maker, bench, trials[:3], on_phase=lambda of, phase: phases.append((of.number, phase)))
    winner, runner_up = expected.trial, expected.contenders[1].trial
    assert finished.trial is runner_up
    assert [share for share, _ in finished.contenders[0].scores] == [0.25, 0.5, 1.0]
    assert finished.contenders[-1].trial is winner
    assert finished.contenders[-1].failure == "the loss is nan"
    said = phases.index((runner_up.number, "goes on after all: the contenders that were ahead of it failed"))
    assert phases.index((winner.number, "failed: the loss is nan")) < said
    whole = by_hand(bench, maker, runner_up, Span(0, 3), Span(3, 6), Span(6, 12))
    assert same_weights(finished.network, whole), "it has the same steps as any other pick"


class OneByOne:
    """Train parts as processes of their own do, through the memory of the pick, the last part first."""

    def __init__(self, maker: NetworkMaker, memory: Unfinished) -> None:
        self.maker, self.memory, self.trained = maker, memory, list[tuple[int, float]]()

    def train(self, parts: Sequence[FinetunePart], on_phase: OnTrialPhase) -> list[TrainedPart]:
        ended = []
        for part in reversed(parts):
            self.trained.append((part.trial.number, part.last))
            course = Course(self.maker, self.memory, on_phase)
            ended.append(TrainedPart(course.train_part(part), course.seconds))
        return ended[::-1]


@pytest.mark.parametrize(
    ("contenders", "broken", "beside"),
    [
        ((7, 5, 3), set(), [(0, 0.25), (0, 0.5), (0, 1.0)]),
        ((7, 5, 0), set(), None),
        ((7, 5, 3), {5, 0}, [(0, 0.25)]),
        ((3,), set(), [(0, 1.0)]),
    ],
)
def test_contenders_that_are_trained_at_once_come_to_what_one_after_the_other_do(
    bench: PreparedStudy,
    maker: NetworkMaker,
    trials: list[Trial],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    contenders: tuple[int, ...],
    broken: set[int],
    beside: list[tuple[int, float]] | None,
) -> None:
    breaking(monkeypatch, broken, trials)
    some = [t for number in contenders for t in trials if t.number == number]
    alone = run(maker, bench, some, lambda winner: trials[3])
    with unfinished(tmp_path, maker, TimingPlan(), some) as memory:
        trainer = OneByOne(maker, memory)
        rest = bench.dense, lambda winner: trials[3], lambda of, phase: None, memory, None, trainer
        together = hold_contest(maker, build_meter(bench), some, *rest)
    assert together.trial is alone.trial
    assert [(c.trial.number, c.failure) for c in together.contenders] == [
        (c.trial.number, c.failure) for c in alone.contenders
    ]
    assert [c.scores for c in together.contenders] == [c.scores for c in alone.contenders]
    assert same_weights(together.network, alone.network)
    if isinstance(alone.uniform, Rival):
        assert isinstance(together.uniform, Rival)
        assert together.uniform.final_scores.validation["loss"] == alone.uniform.final_scores.validation["loss"]
    else:
        assert together.uniform == alone.uniform
    assert together.seconds.keys() == alone.seconds.keys()
    if beside is not None:
        assert [part for part in trainer.trained if part[0] == 0] == beside, "uniform is trained beside them"


def test_a_part_that_was_not_kept_is_said(
    bench: PreparedStudy, maker: NetworkMaker, trials: list[Trial], tmp_path: Path
) -> None:
    class Forgetful(OneByOne):
        def train(self, parts: Sequence[FinetunePart], on_phase: OnTrialPhase) -> list[TrainedPart]:
            return [TrainedPart(None, {}) for _ in parts]

    with unfinished(tmp_path, maker, TimingPlan(), trials[:1]) as memory:
        rest = bench.dense, no_rival, lambda of, phase: None, memory, None, Forgetful(maker, memory)
        with pytest.raises(EvaluationError, match="was not kept"):
            hold_contest(maker, build_meter(bench), trials[:1], *rest)


def test_when_every_contender_breaks_the_pick_fails(
    bench: PreparedStudy, maker: NetworkMaker, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking(monkeypatch, {7, 5}, trials)
    with pytest.raises(EvaluationError, match="the loss is nan"):
        run(maker, bench, trials[:2])


def test_masks_hold_and_stages_come_first(tmp_path: Path) -> None:
    bench = set_up_study(tmp_path, {"space": {"patterns": ["channel", "weight"]}, "schedule": {"stages": 2}})
    maker = build_maker(bench, finetune_settings(bench.spec, epochs=EPOCHS))
    few = [
        trial(bench, n, s, mask=MaskPolicy("weight", "magnitude", dict.fromkeys(bench.space.mask.layers, 0.5)))  # type: ignore[union-attr]
        for n, s in ((0, 0.2), (1, 0.5))
    ]
    finished = run(maker, bench, few)
    policy = finished.trial.candidate.policy
    zeros = sum(int((p == 0).sum()) for name, p in finished.network.named_parameters() if name.startswith("conv"))
    assert zeros == bench.cost.count_zeros(bench.space.counts(policy))[1] > 0
    watch = Stopwatch(lambda phase: None)
    alike = maker.pruned(policy, watch)  # with the first stage's steps, 0 … 5
    for share in ((0.0, 0.5), (0.5, 1.0)):
        maker.finetune(alike, policy, watch, share=share)
    assert same_weights(finished.network, alike)


def test_uniform_of_the_same_budget_is_found_or_the_reason_said(bench: PreparedStudy, trials: list[Trial]) -> None:
    winner, uniform = trials[1], trials[3]
    written = Budget({"mflops": Limit(0.1 * (1 + 1e-9))})
    other = Budget({"mflops": Limit(0.08)})
    assert uniform_rival(trials, written, winner) is uniform
    assert uniform_rival(trials, Budget(), winner) is uniform, "without a budget that of the winner counts"
    missing = uniform_rival(trials, other, winner)
    assert isinstance(missing, Incomparable)
    assert "no completed uniform baseline for 0.08 MFLOPs" in missing.reason
    assert "itself" in uniform_rival(trials, BUDGET, uniform).reason  # type: ignore[union-attr]
    failed = replace(uniform, outcome=Failed("E", "m"))
    assert isinstance(uniform_rival([winner, failed], BUDGET, winner), Incomparable)
    free = replace(winner, candidate=replace(winner.candidate, budget=Budget()))
    assert "no budget" in uniform_rival(trials, Budget(), free).reason  # type: ignore[union-attr]


# --- the card


@pytest.fixture(scope="module")
def view(bench: PreparedStudy, trials: list[Trial]) -> StudyView:
    return StudyView(bench.folder, bench.spec, tuple(trials), 0, StudyFacts())


@pytest.fixture(scope="module")
def carded(view: StudyView) -> tuple[dict[str, Any], Path]:
    return finish_to_json(view, view.trials[:3], BUDGET, lambda message: None, epochs=EPOCHS)


def test_the_card_s_differences_are_those_of_the_loaded_network(
    bench: PreparedStudy, maker: NetworkMaker, carded: tuple[dict[str, Any], Path], trials: list[Trial]
) -> None:
    card, folder = carded
    spans = (Span(0, 3), Span(3, 6), Span(6, 12))
    others = {"dense": bench.network, "uniform": by_hand(bench, maker, trials[3], *spans)}
    for split, key in (("val", "validation"), ("test", "test")):
        batch = next(iter(bench.task.eval_batches(split, 1000, bench.device)))
        with torch.no_grad():
            ours = (autoprune.load(folder, trust_code=True)(batch.images).argmax(1) == batch.labels).double()
            theirs = {name: (one(batch.images).argmax(1) == batch.labels).double() for name, one in others.items()}
        assert card[key]["values"]["accuracy"] == pytest.approx(float(ours.mean()))
        for name, right in theirs.items():
            assert card[name][key]["values"]["accuracy"] == pytest.approx(float(right.mean()))
            supposed = torch.cat([ours - right, torch.tensor([1.0, -1.0])])  # as autoprune.core.paired_scores says
            expected = float((ours - right).mean()), float(supposed.std()) / math.sqrt(50)
            found = card["against"][name][key]
            assert (found["accuracy"], found["stderr"]) == pytest.approx(expected, abs=1e-12)


def test_the_card_tells_of_every_contender(carded: tuple[dict[str, Any], Path]) -> None:
    card, folder = carded
    assert json.loads((folder / "card.json").read_text()) == card
    assert folder.name == str(card["trial"])
    assert [one["left_behind"] for one in card["contenders"]] == [None, 0.5, 0.25]
    assert {one["trial"] for one in card["contenders"]} == {7, 5, 3}
    assert card["uniform"]["trial"] == 0
    assert card["finetune"]["borders"] == [0.25, 0.5, 1.0]
    text = (folder / "card.md").read_text()
    loser = card["contenders"][2]
    loss = loser["rungs"][0]["validation"]["values"]["loss"]
    assert f"| {loser['trial']} | sampler:test | {loss:.4f}, " in text
    for part in ("against uniform", "against dense", "left behind at 25 %", "| picked |", "- uniform: trial 0"):
        assert part in text
    table = text.split("\n\n")[1].splitlines()
    assert len({line.count("|") for line in table}) == 1, "every row has as many cells"
    dense = card["dense"]["validation"]["values"]["mflops"]
    assert f"× {card['validation']['values']['mflops'] / dense:.3f} |" in text


def test_a_folder_of_any_contender_stops_the_pick_before_it_begins(
    view: StudyView, carded: tuple[dict[str, Any], Path]
) -> None:
    others = [t for t in view.trials[:3] if t.number != carded[0]["trial"]]
    before = {path.name: path.read_bytes() for path in carded[1].iterdir()}
    with pytest.raises(UsageError, match="--force"):
        finish_to_json(view, [others[0], *view.trials[:3]], BUDGET, lambda message: pytest.fail(message))
    assert {path.name: path.read_bytes() for path in carded[1].iterdir()} == before
    card, folder = finish_to_json(view, view.trials[:3], BUDGET, lambda message: None, epochs=EPOCHS, force=True)
    assert (folder / "model.safetensors").read_bytes() == before["model.safetensors"]
    assert card["trial"] == carded[0]["trial"]


def test_without_comparison_the_card_says_so(view: StudyView) -> None:
    phases: list[str] = []
    card, folder = finish_to_json(view, view.trials[:1], BUDGET, phases.append, compare=False)
    assert (card["uniform"], card["uniform_missing"]) == (None, "not asked for")
    assert list(card["against"]) == ["dense"]
    text = (folder / "card.md").read_text()
    assert "not compared with uniform: not asked for" in text
    assert "contender" not in text
    assert not [line for line in phases if line.startswith("trial 0")]


@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_a_layer_of_one_channel_loads_back_in_either_layout(tmp_path: Path, layout: str) -> None:
    """Strides of one channel fit both layouts, and kernels go by strides."""
    bench = set_up_study(tmp_path, {"runtime": {"layout": layout}})
    narrow = trial(bench, 0, 0.85)
    assert min(bench.space.counts(narrow.candidate.policy).channels.values()) == 1
    view = StudyView(bench.folder, bench.spec, (narrow,), 0, StudyFacts())
    _, folder = finish_to_json(view, [narrow], BUDGET, lambda message: None, compare=False)
    assert autoprune.load(folder, trust_code=True)(torch.zeros(1, 1, 8, 8)).shape == (1, 3)


def test_a_network_that_answers_alike_is_not_said_to_be_surely_equal(
    view: StudyView, carded: tuple[dict[str, Any], Path]
) -> None:
    from autoprune.export.card import Card
    from autoprune.pick.card_text import card_text

    same = {
        **carded[0],
        "against": {
            name: {split: {"accuracy": 0.0, "stderr": 0.0} for split in ("test", "validation")}
            for name in ("dense", "uniform")
        },
    }
    text = card_text(Card.from_json(same))
    assert text.count("no example differs") == 4
    assert "± 0.00 points" not in text


@pytest.mark.parametrize(
    ("gain", "stderr", "shown"),
    [
        (0.02, 0.005, "better by 0.0200 ± 0.0050 mm"),
        (-0.02, 0.005, "worse by 0.0200 ± 0.0050 mm"),
        (-0.02, None, "worse by 0.0200 mm, no standard error"),
    ],
)
def test_a_card_of_another_metric_says_what_is_better_in_words(
    carded: tuple[dict[str, Any], Path], gain: float, stderr: float | None, shown: str
) -> None:
    from autoprune.export.card import Card
    from autoprune.pick.card_text import card_text

    stored = json.loads(json.dumps(carded[0]).replace('"accuracy"', '"rmse"'))
    gains = {split: {"rmse": gain, "stderr": stderr} for split in ("test", "validation")}
    card = Card.from_json({**stored, "metrics": ["rmse:min:mm"], "against": {"dense": gains, "uniform": gains}})
    assert Card.from_json(card.to_json()) == card
    text = card_text(card)
    assert text.count(shown) == 4
    assert re.search(r"\| rmse on test \| \d\.\d{4} mm ± ", text)
    assert "Validation loss and rmse after each part" in text
    assert "accuracy" not in text.partition("| file |")[0]


def test_a_card_says_which_differences_were_paired(carded: tuple[dict[str, Any], Path]) -> None:
    from autoprune.export.card import Card
    from autoprune.pick.card_text import card_text

    def said(**changes: Any) -> str:
        text = card_text(Card.from_json({**carded[0], **changes}))
        return text.partition("± is one standard error")[2].partition("\n")[0]

    def against(**gain: Any) -> dict[str, Any]:
        return {name: dict.fromkeys(("test", "validation"), gain) for name in ("dense", "uniform")}

    paired, apart = "that of the paired answers to the same examples", "that of two scores taken apart, often too large"
    assert said() == f", of differences {paired}"
    unpaired = against(accuracy=0.01, stderr=0.02, paired=False)
    assert said(against=unpaired) == f", of differences {apart}"
    assert Card.from_json({**carded[0], "against": unpaired}).to_json()["against"] == unpaired
    assert said(against=against(accuracy=0.01, stderr=None, paired=False)) == ""
    two = said(metrics=["accuracy", "rmse:min:mm"])
    assert two == f", of differences in accuracy {paired}, of other differences {apart}"


def test_a_card_of_a_task_without_a_loss_names_its_metric(carded: tuple[dict[str, Any], Path]) -> None:
    from autoprune.export.card import Card
    from autoprune.pick.card_text import card_text

    stored = json.loads(json.dumps(carded[0]))
    assert "Validation loss and accuracy after each part; the better half by loss" in card_text(Card.from_json(stored))
    for one in stored["contenders"]:
        for rung in one["rungs"]:
            values = rung["validation"]["values"]
            values["loss"] = 1 - values["accuracy"]
    text = card_text(Card.from_json(stored))
    assert "Validation accuracy after each part; the better half by accuracy went on." in text
    assert "loss" not in text.partition("| file |")[0]


# --- cut off, and going on


class Cut(Exception):
    """Stand for a power cut."""


def cut_after(monkeypatch: pytest.MonkeyPatch, scores: int, split: str) -> list[str]:
    """Let the power fail when a split is scored once more than so often; return every split that is scored."""
    score, seen = autoprune.training.scoring.score, list[str]()

    def watched(network: nn.Module, task: Any, wanted: str, *rest: Any) -> Any:
        if wanted == split and seen.count(split) == scores:
            raise Cut
        seen.append(wanted)
        return score(network, task, wanted, *rest)

    for module in (autoprune.pick.entrants, autoprune.pick.final_scores):
        monkeypatch.setattr(module, "score", watched)
    return seen


@pytest.fixture
def alone(bench: PreparedStudy, trials: list[Trial], tmp_path: Path) -> StudyView:
    """Return the study with an empty folder of picked networks."""

    class Elsewhere(StudyFolder):
        @property
        def picked(self) -> Path:
            return tmp_path / "picked"

    return StudyView(Elsewhere(bench.folder.path), bench.spec, tuple(trials), 0, StudyFacts())


def pick_again(view: StudyView, said: list[str], epochs: float = EPOCHS) -> tuple[dict[str, Any], Path]:
    return finish_to_json(view, view.trials[:3], BUDGET, said.append, epochs=epochs)


@pytest.mark.parametrize(
    ("split", "scores", "trained_again"),
    [
        ("val", 0, {7: 3, 5: 3, 3: 3, 0: 3}),  # before the first rung is done: as if nothing had been
        ("val", 4, None),  # within the second rung
        ("val", 6, {0: 3}),  # the contest is decided
        ("test", 1, {0: 0}),  # only dense is left
    ],
)
def test_a_pick_that_is_cut_off_goes_on_to_the_same_bits(
    alone: StudyView,
    carded: tuple[dict[str, Any], Path],
    monkeypatch: pytest.MonkeyPatch,
    split: str,
    scores: int,
    trained_again: dict[int, int] | None,
) -> None:
    with monkeypatch.context() as patch:
        before = cut_after(patch, scores, split)
        with pytest.raises(Cut):
            pick_again(alone, [])
    assert not [path for path in alone.folder.picked.iterdir() if path.name != ".work"]
    with monkeypatch.context() as patch:
        after, said = cut_after(patch, 99, split), list[str]()
        card, folder = pick_again(alone, said)
    assert (folder / "model.safetensors").read_bytes() == (carded[1] / "model.safetensors").read_bytes()
    for key in ("test", "against", "contenders", "finetune", "uniform_missing"):
        assert card[key] == carded[0][key], key
    assert before.count("test") + after.count("test") == 3, "the winner, uniform and dense, once each"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing is left of what was kept"
    assert any("cut off" in line for line in said) == (scores > 0)
    done = [int(line.split()[1].rstrip(":")) for line in said if line.endswith(" finetune")]
    if trained_again is None:
        assert 0 < done.count(carded[0]["trial"]) < 3
    else:
        wanted = {number: count for number, count in trained_again.items() if number == 0}
        assert {number: done.count(number) for number in wanted} == wanted


def test_what_was_kept_of_another_pick_or_is_damaged_is_not_taken(
    alone: StudyView, carded: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        cut_after(patch, 3, "val")
        with pytest.raises(Cut):
            pick_again(alone, [])
    said: list[str] = []
    card, folder = pick_again(alone, said, epochs=1)
    assert card["finetune"]["epochs"] == 1
    assert not any("cut off" in line for line in said)
    (work,) = (folder.parent / ".work").iterdir()
    for stored in work.glob("trial-*.safetensors"):
        stored.write_bytes(stored.read_bytes()[:-40])
    shutil.rmtree(folder)
    card, folder = pick_again(alone, said)
    assert (folder / "model.safetensors").read_bytes() == (carded[1] / "model.safetensors").read_bytes()
    assert not (folder.parent / ".work").exists()


def test_the_same_pick_twice_at_once_is_refused(alone: StudyView, maker: NetworkMaker) -> None:
    with (
        unfinished(alone.folder.picked, maker, TimingPlan(), alone.trials),
        pytest.raises(StudyLockedError, match="another process is finishing the same trials"),
        unfinished(alone.folder.picked, maker, TimingPlan(), alone.trials),
    ):
        pass
    assert not (alone.folder.picked / ".work").exists(), "nothing was kept, so nothing is left"


def test_of_picks_that_nobody_went_on_with_the_last_four_are_kept(alone: StudyView, maker: NetworkMaker) -> None:
    work = alone.folder.picked / ".work"
    for age in range(7):
        (work / f"of-{age}-days").mkdir(parents=True)
        os.utime(work / f"of-{age}-days", (1e9 - 86400 * age,) * 2)
    with filelock.FileLock(work / "of-6-days" / "lock"):
        os.utime(work / "of-6-days", (1, 1))
        with unfinished(alone.folder.picked, maker, TimingPlan(), alone.trials) as memory:
            found = {path.name for path in work.iterdir()} - {memory.folder.name}
    assert found == {f"of-{age}-days" for age in (0, 1, 2, 3, 6)}, "the oldest is going on"
