"""The screening: on its budgets, the same for a seed, whole after a kill, and what trials are chosen from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_fakes import make_proposals

import autoprune.search.screening.screen_study as screen_study
from autoprune.core.budget import Budget, Limit
from autoprune.core.counts import ChannelCounts
from autoprune.core.measurement import Measurement
from autoprune.core.screened import ScreenedNetwork
from autoprune.core.sensitivity import Curve, Sensitivity
from autoprune.core.trial import Candidate, Completed, Trial
from autoprune.search.proposals.budget_projection import Projector
from autoprune.search.proposals.proposer import Proposals
from autoprune.search.proposals.screened_pool import ScreenedPool
from autoprune.search.screening.budget_ladder import ScreeningPart, budget_part, curve_part
from autoprune.search.screening.bulk_proposals import BulkProposals
from autoprune.search.screening.screen_study import Screener
from autoprune.study.folder import StudyFolder
from autoprune.study.screened_file import read_screening

WIDTHS = (16, 32, 24, 48, 16)
NETWORKS = 60
HURTS = np.array([3.0, 0.3, 1.0, 0.3, 2.0])


class Killed(BaseException):
    """Stand for SIGKILL."""


@dataclass
class FakeLooker:
    """A looker whose rises follow from the counts."""

    full: dict[str, int]
    seen: list[ChannelCounts] = field(default_factory=list)

    def seen_of(self, item: dict[str, Any]) -> dict[str, Any]:
        counts = ChannelCounts(item["channels"], frozenset(item["dropped_blocks"]))
        if item["look"] == "closed_form":
            return {"rise": self.closed_form(counts)}
        rise, quality = self.compensated(counts)
        return {"rise": rise, "quality": quality.to_json()}

    def closed_form(self, counts: ChannelCounts) -> float:
        self.seen.append(counts)
        cut = np.array([1 - counts.channels[name] / full for name, full in self.full.items()])
        return float(HURTS @ cut**2)

    def compensated(self, counts: ChannelCounts) -> tuple[float, Measurement]:
        rise = 0.5 * self.closed_form(counts)
        return rise, Measurement({"accuracy": 1 / (1 + rise), "loss": 0.1 + rise}, {"accuracy": 0.02})


def guided(share: float = 0.5, seed: int = 0) -> Proposals:
    proposals = make_proposals(WIDTHS, sampler="guided", share=share, seed=seed, with_baselines=False)
    curves = {name: Curve(n, {n // 2: 0.1, n // 4: 0.5}) for name, n in proposals.space.full.channels.items()}
    return replace(proposals, sensitivity=Sensitivity(curves))


def screener(folder: Path, seed: int = 0) -> tuple[Screener, list[ScreeningPart], FakeLooker]:
    proposals = guided(seed=seed)
    space, looker = proposals.space, FakeLooker(dict(proposals.space.full.channels))
    plain = Projector(space, proposals.cost, Budget())
    parts = [curve_part(plain, None, NETWORKS), budget_part(proposals.budget, proposals.projector(()), NETWORKS)]
    folder.mkdir(exist_ok=True)
    bulk = BulkProposals(space, proposals.sensitivity, seed, 0.1, (space.smallest,))
    made = Screener(StudyFolder(folder), bulk, lambda: looker, plain, lambda said: None, {"seed": seed})  # type: ignore[arg-type]
    return made, [part for part in parts if part is not None], looker


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    made, parts, _ = screener(folder)
    made.screen(parts)
    return folder


def networks_of(folder: Path) -> tuple[ScreenedNetwork, ...]:
    return read_screening(folder / "screened.jsonl").networks


def test_every_screened_network_meets_its_budget_and_is_new(whole: Path) -> None:
    proposals, networks = guided(), networks_of(whole)
    for one in networks:
        assert one.counts == proposals.space.normalized(one.counts)
        assert one.budget.limits
        assert one.budget.admits(one.costs)
        assert one.costs == proposals.cost.measure(one.counts)
    assert len({one.kept for one in networks}) == len(networks) >= 0.8 * NETWORKS
    of_run = [one for one in networks if one.part == str(proposals.budget.to_json())]
    used = [proposals.projector(()).usage(one.counts) for one in of_run if one.origin != "baseline"]
    assert len(used) >= 10
    assert min(used) >= 0.98
    assert {one.origin for one in networks} >= {"knapsack", "mutated", "crossed", "drawn", "baseline"}


def test_the_curve_covers_the_costs_that_can_be_reached(whole: Path) -> None:
    proposals = guided()
    full, least = (proposals.cost.measure(c)["mflops"] for c in (proposals.space.full, proposals.space.smallest))
    costs = [one.costs["mflops"] / full for one in networks_of(whole) if one.part == "curve"]
    assert min(costs) <= max(0.2, 1.1 * least / full)
    assert max(costs) >= 0.95


def test_evolution_finds_better_networks_than_knapsacks_on_what_was_measured(whole: Path) -> None:
    """Sensitivity holds all groups for equal, which they are not: only the looks know."""
    of_run = [one for one in networks_of(whole) if one.part != "curve" and one.origin != "baseline"]
    plain = min(one.closed_form for one in of_run if one.origin == "knapsack")
    assert min(one.closed_form for one in of_run) <= plain


def test_the_nearest_of_most_budgets_gets_a_second_look_and_few_others_do(whole: Path) -> None:
    networks = networks_of(whole)
    levels = sorted({(one.part, str(one.budget.to_json())) for one in networks})
    of_levels = [[one for one in networks if (one.part, str(one.budget.to_json())) == level] for level in levels]
    best = [min(found, key=lambda one: (one.closed_form, one.number)) for found in of_levels]
    assert sum(one.compensated is not None for one in best) >= 0.75 * len(levels)
    twice = [one for one in networks if one.compensated is not None]
    assert all(one.compensated == pytest.approx(0.5 * one.closed_form, abs=1e-5) for one in twice)
    assert len(networks) / 9 <= len(twice) <= len(networks) / 3 + 1


def test_the_last_second_looks_are_taken_several_at_a_time(whole: Path) -> None:
    """One at a time, all workers but one would wait."""
    rounds = [json.loads(line) for line in (whole / "screened.jsonl").read_text().splitlines()][1:]
    last = [one for one in rounds if all("closed_form" not in look for look in one["looks"])]
    of_part = {
        part: [len(one["looks"]) for one in last if one["part"] == part] for part in {one["part"] for one in last}
    }
    assert of_part
    for counts in of_part.values():
        owed = 1 if counts[0] <= screen_study.ROUND // screen_study.FIRST_FOR_SECOND else 0  # by the last first looks
        assert all(count >= screen_study.TOGETHER for count in counts[owed:-1])
    assert max(of_part["curve"]) >= screen_study.TOGETHER


@pytest.mark.parametrize("records", [0, 1, 4, 6])
def test_a_screening_that_is_killed_goes_on_to_the_same_file(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    add, written = screen_study.add_record, list[dict[str, object]]()

    def killed(path: Path, record: dict[str, object]) -> None:
        if len(written) == records:
            with path.open("ab") as file:
                file.write(b'{"number": 7, "par')  # torn by the kill
            raise Killed
        written.append(record)
        add(path, record)

    monkeypatch.setattr(screen_study, "add_record", killed)
    made, parts, _ = screener(tmp_path)
    with pytest.raises(Killed):
        made.screen(parts)
    monkeypatch.setattr(screen_study, "add_record", add)
    made, parts, looker = screener(tmp_path)
    made.screen(parts)
    assert (tmp_path / "screened.jsonl").read_bytes() == (whole / "screened.jsonl").read_bytes()
    looks = sum(
        len(json.loads(line)["looks"])
        for line in (whole / "screened.jsonl").read_text().splitlines()
        if '"looks"' in line
    )
    stored = sum(len(record["looks"]) for record in written)  # type: ignore[arg-type]
    assert len(looker.seen) == looks - stored, "what was stored is not looked at again"
    assert stored or not records


def test_what_is_whole_is_not_looked_at_again_and_another_budget_adds_its_own_part(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "screened.jsonl").write_bytes((whole / "screened.jsonl").read_bytes())
    made, parts, looker = screener(tmp_path)
    assert made.screen(parts) == networks_of(whole)
    assert looker.seen == []
    other = guided(share=0.3)
    further = budget_part(other.budget, other.projector(()), NETWORKS)
    assert further is not None
    found = made.screen([*parts, further])
    assert found[: len(networks_of(whole))] == networks_of(whole)
    assert len(found) > len(networks_of(whole))
    assert all(other.budget.admits(one.costs) for one in found[len(networks_of(whole)) :])


def test_another_seed_looks_at_others_and_other_settings_begin_anew(whole: Path, tmp_path: Path) -> None:
    made, parts, _ = screener(tmp_path, seed=1)
    made.screen(parts)
    assert {one.kept for one in networks_of(tmp_path)} != {one.kept for one in networks_of(whole)}
    (tmp_path / "screened.jsonl").write_bytes((whole / "screened.jsonl").read_bytes())
    made, parts, looker = screener(tmp_path, seed=1)
    made.screen(parts)
    assert len(looker.seen) > NETWORKS / 2


# -- from the screening to trials -------------------------------------------------------------------------------------


def told(proposals: Proposals, count: int) -> list[Trial]:
    """Return the trials of a search whose losses follow the same rule as the looks."""
    looker, trials = FakeLooker(dict(proposals.space.full.channels)), list[Trial]()
    for number in range(count):
        found = proposals.propose(number, trials, lambda name, seed: {})
        measured = proposals.cost.measure(found.counts).merged(
            Measurement({"accuracy": 0.9, "loss": 0.1 + 0.2 * looker.closed_form(found.counts)})
        )
        candidate = Candidate(number, found.policy, 0, found.origin, found.budget)
        trials.append(Trial(candidate, Completed(measured), {}, 0))
    return trials


def test_the_best_screened_networks_become_trials_and_none_twice(whole: Path) -> None:
    proposals = replace(guided(), screened=networks_of(whole))
    trials = told(proposals, 16)
    screened = [trial for trial in trials if trial.candidate.origin.startswith("screened:")]
    assert 4 <= len(screened) <= 14
    assert len({trial.candidate.policy for trial in trials}) == len(trials)
    pool = ScreenedPool(proposals.space, proposals.screened, 0.1)
    usages = pool.usages(proposals.projector(()))
    fitting = sorted(float(r) for r, used in zip(pool.rises, usages, strict=True) if 0.95 <= used <= 1)
    of_first = {one.kept: rise for one, rise in zip(proposals.screened, pool.rises.tolist(), strict=True)}
    first = proposals.space.counts(screened[0].candidate.policy)
    assert of_first[replace(proposals.screened[0], counts=first).kept] <= fitting[len(fitting) // 2]
    assert all(proposals.budget.admits(trial.outcome.measurement) for trial in trials)  # type: ignore[union-attr]


def test_how_well_looks_foretell_decides_how_many_go_on(whole: Path) -> None:
    pool = ScreenedPool(guided().space, networks_of(whole), 0.1)
    trials = told(replace(guided(), screened=networks_of(whole)), 12)
    found = pool.foretelling(trials)
    assert found.is_known
    assert found.agreement > 0.9
    assert found.share > 0.7
    upside_down = [
        replace(trial, outcome=Completed(Measurement({"loss": 1 / trial.outcome.measurement["loss"]})))  # type: ignore[union-attr]
        for trial in trials
    ]
    assert pool.foretelling(upside_down).share == 0.25


def test_the_loss_model_learns_from_what_was_looked_at(whole: Path) -> None:
    """Without any trial it knows already which groups hurt."""
    plain, taught = guided(), replace(guided(), screened=networks_of(whole))
    looker = FakeLooker(dict(plain.space.full.channels))

    def mean_rise(proposals: Proposals) -> float:
        onto = proposals.projector(())
        found = [proposals._guide.propose(n, 0, [], onto, proposals.budget) for n in range(24)]
        return float(np.mean([looker.closed_form(one.counts) for one in found if one.origin == "guided:drawn"]))

    assert mean_rise(taught) < mean_rise(plain)


def test_without_a_screening_proposals_are_what_they_were_before_there_was_one() -> None:
    trials = told(guided(), 24)
    said = "\n".join(f"{trial.candidate.origin} {trial.candidate.policy.to_json()}" for trial in trials)
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == "680881c1a3e65c77"


def test_a_network_that_a_pick_solved_for_teaches_nothing(whole: Path) -> None:
    proposals = replace(guided(), screened=networks_of(whole))
    trials = told(proposals, 10)
    spoilt = replace(trials[5].candidate, origin="pick", number=10)
    awful = Trial(spoilt, Completed(Measurement({"mflops": 1.0, "loss": 50.0, "accuracy": 0.1})), {}, 0)
    pool = ScreenedPool(proposals.space, proposals.screened, 0.1)
    assert pool.foretelling([*trials, awful]) == pool.foretelling(trials)
    before, after = (
        replace(proposals, screened=()).propose(11, seen, lambda n, s: {}) for seen in (trials, [*trials, awful])
    )
    assert before.policy == after.policy


def test_latency_takes_its_own_steps_where_it_is_predicted() -> None:
    proposals = guided()

    @dataclass(frozen=True)
    class Timed:
        def measure(self, counts: ChannelCounts) -> Measurement:
            return proposals.cost.measure(counts).merged(
                Measurement({"latency_ms": 1 + sum(counts.channels.values()) / 50})
            )

    timed = Projector(proposals.space, Timed(), Budget(), frozenset({"latency_ms"}))  # type: ignore[arg-type]
    part = curve_part(Projector(proposals.space, proposals.cost, Budget()), timed, 100)
    limits = [level.budget.limits for level in part.levels]
    assert [list(each) for each in limits] == sorted(([list(each) for each in limits]), reverse=True)
    times = [each["latency_ms"].value for each in limits if "latency_ms" in each]
    assert len(times) == 6
    assert timed.smallest()["latency_ms"] < min(times)
    assert max(times) < timed.measure_full()["latency_ms"]
    assert isinstance(limits[0]["mflops"], Limit)
