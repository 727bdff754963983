"""The tables of ``bench_search.py``, made from its file alone, in Markdown.

Means are over seeds, ± the standard error of that mean. A paired difference is taken image by image, averaged over
the seeds both have, and its 95 % interval is the normal one over images: it says how sure these networks differ, while
the standard error over seeds says how much a search varies.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from bench_peers import PEERS

NORMAL_95 = 1.96
REFERENCE, TARGET = "uniform", "knapsack"
PHASES = ("ask", "prune", "recalibrate", "finetune", "score", "latency", "other")
Record = Mapping[str, Any]


def show(records: Sequence[Record]) -> None:
    """Print every table that the records allow."""
    for stored in (r for r in records if r["kind"] == "settings"):
        _show_case(stored, [r for r in records if r.get("case") == stored["case"]])
    _show_ask(records)


class Results:
    """The records of one case."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.searches = {(r["contender"], r["seed"]): r for r in records if r["kind"] == "search"}
        self.finishes = {(r["contender"], r["seed"]): r for r in records if r["kind"] == "finish"}
        self.contenders = list(dict.fromkeys(name for name, _ in self.searches))
        self.splits = ["val", "test"] if any("test" in r["accuracy"] for r in self.finishes.values()) else ["val"]

    def seeds(self, contender: str) -> list[int]:
        """Return the seeds that a contender has searched."""
        return [seed for name, seed in self.searches if name == contender]

    def best_peer(self) -> str | None:
        """Return the peer whose finished networks are best on validation, ``None`` if none has finished."""
        means = {
            name: statistics.fmean(r["accuracy"]["val"] for (who, _), r in self.finishes.items() if who == name)
            for name in self.contenders
            if name in PEERS and any(who == name for who, _ in self.finishes)
        }
        return max(means, key=lambda name: means[name]) if means else None

    def difference(self, contender: str, other: str | None, split: str) -> str:
        """Return the paired difference of the finished networks in points, with its 95 % interval."""
        shared = [seed for name, seed in self.finishes if name == contender and (other, seed) in self.finishes]
        if other is None or contender == other or not shared:
            return "–"
        gains = [
            _right(self.finishes[contender, seed], split) - _right(self.finishes[other, seed], split) for seed in shared
        ]
        per_image = 100 * np.mean(gains, axis=0)
        half = NORMAL_95 * per_image.std(ddof=1) / len(per_image) ** 0.5
        return f"{per_image.mean():+.2f} ({per_image.mean() - half:+.2f} … {per_image.mean() + half:+.2f})"


def _right(finished: Record, split: str) -> np.ndarray:
    stored = finished["right"][split]
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(stored["bits"]), dtype=np.uint8))
    return bits[: stored["count"]].astype(float)


def mean_and_error(values: Sequence[float], digits: int = 2, scale: float = 1.0) -> str:
    """Return ``mean ± standard error``, the mean alone of a single value, a dash of none."""
    if not values:
        return "–"
    mean = f"{scale * statistics.fmean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {scale * statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


def reached(search: Record, accuracy: float) -> tuple[int, float] | None:
    """Return after how many trials and seconds a proposal was as accurate; baselines are no proposals, but trials."""
    for number, row in enumerate(search["trials"], 1):
        if not row["origin"].startswith("baseline:") and row.get("accuracy", 0.0) >= accuracy:
            return number, row["elapsed"]
    return None


def _show_case(stored: Record, records: Sequence[Record]) -> None:
    results, chosen = Results(records), stored["settings"]
    print(
        f"\n### {chosen['case']}: {chosen['network']} within {chosen['budget']} MFLOPs; {chosen['trials']} trials of "
        f"{chosen['steps']} steps, finish {chosen['finish_steps']} steps of {chosen['batch_size']} images"
    )
    for dense in (r for r in records if r["kind"] == "dense"):
        scores = ", ".join(f"{split} {100 * value:.2f} %" for split, value in dense["accuracy"].items())
        print(f"\nDense: {dense['mflops']:.2f} MFLOPs, {scores}.")
    if results.contenders:
        _accuracy_table(results)
        _time_table(results)
        _phase_table(results)


def _print(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print("\n| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def _accuracy_table(results: Results) -> None:
    peer, last = results.best_peer(), results.splits[-1]
    header = ["contender", "seeds", "evaluated (asked)", "minutes", "budget used, %", "short fine-tune, val %"]
    header += [f"finished, {split} %" for split in results.splits]
    header += [f"{last}, to {REFERENCE}", f"{last}, to {peer or 'the best peer'}"]
    rows = []
    for name in results.contenders:
        found = [results.searches[name, seed] for seed in results.seeds(name)]
        done = [record for (who, _), record in results.finishes.items() if who == name]
        evaluated = statistics.fmean(len(r["trials"]) for r in found)
        asked = statistics.fmean(r["asked"] for r in found)
        rows.append(
            [
                name,
                str(len(found)),
                f"{evaluated:.0f}" + (f" ({asked:.0f})" if asked > evaluated else ""),
                mean_and_error([r["trials"][-1]["elapsed"] / 60 for r in found], 1),
                mean_and_error([r["share"] for r in found], 1, 100),
                mean_and_error([r["accuracy"] for r in found], 2, 100),
                *(mean_and_error([r["accuracy"][s] for r in done], 2, 100) for s in results.splits),
                results.difference(name, REFERENCE, last),
                results.difference(name, peer, last),
            ]
        )
    _print(header, rows)


def _time_table(results: Results) -> None:
    peer = results.best_peer()
    header = ["search", "hypervolume at 25 %", "50 %", "100 % of its time"]
    header += [f"trials and minutes to {name}'s short accuracy" for name in (TARGET, peer or "the best peer")]
    rows = []
    for name in results.contenders:
        found = [(seed, results.searches[name, seed]) for seed in results.seeds(name)]
        if all("hypervolume" in record["trials"][-1] and len(record["trials"]) > 1 for _, record in found):
            rows.append(
                [
                    name,
                    *(mean_and_error([_volume(record, share) for _, record in found], 4) for share in (0.25, 0.5, 1)),
                    *(_until(results, found, target) for target in (TARGET, peer)),
                ]
            )
    if rows:
        _print(header, rows)


def _volume(search: Record, share: float) -> float:
    """Return the hypervolume of what was evaluated within a share of the search's time."""
    end = share * search["trials"][-1]["elapsed"]
    return max((row["hypervolume"] for row in search["trials"] if row["elapsed"] <= end), default=0.0)


def _until(results: Results, found: Sequence[tuple[int, Record]], target: str | None) -> str:
    """Return in how many trials and minutes, by median, and in how many of the seeds a target was reached."""
    goals = [(search, results.searches.get((target or "", seed))) for seed, search in found]
    pairs = [(search, goal["accuracy"]) for search, goal in goals if goal is not None]
    hits = [hit for search, accuracy in pairs if (hit := reached(search, accuracy)) is not None]
    if not hits:
        return f"never ({len(pairs)} seeds)" if pairs else "–"
    trials, minutes = statistics.median(t for t, _ in hits), statistics.median(s for _, s in hits) / 60
    return f"{trials:.0f} trials, {minutes:.1f} min ({len(hits)} of {len(pairs)} seeds)"


def _phase_table(results: Results) -> None:
    rows = []
    for name in results.contenders:
        trials = [row for seed in results.seeds(name) for row in results.searches[name, seed]["trials"]]
        used = [[row["seconds"].get(phase, 0.0) for row in trials] for phase in PHASES]
        rest = [sum(s for phase, s in row["seconds"].items() if phase not in PHASES) for row in trials]
        rows.append([name, *(f"{statistics.median(column):.2f}" for column in [*used, rest])])
    _print(["seconds per trial, median", *PHASES, "a peer's own search"], rows)
    prepared = [r["seconds"] for r in results.records if r["kind"] == "prepared"]
    if prepared:
        total = mean_and_error([sum(seconds.values()) for seconds in prepared], 0)
        print(f"\nPreparation shared by all contenders of a seed, seconds: {total}.")


def _show_ask(records: Sequence[Record]) -> None:
    asks = [r for r in records if r["kind"] == "ask"]
    sizes = sorted({r["stored"] for r in asks})
    if not asks:
        return
    print("\n### Milliseconds of a proposal, median, by stored trials")
    table = {
        (r["sampler"], r["stored"]): f"{1e3 * statistics.median(r['seconds']):.0f}" if r["seconds"] else "too slow"
        for r in asks
    }
    samplers = list(dict.fromkeys(r["sampler"] for r in asks))
    _print(["sampler", *map(str, sizes)], [[s, *(table.get((s, n), "–") for n in sizes)] for s in samplers])
    chosen = {r["stored"]: r for r in records if r["kind"] == "choose"}
    rows = [
        [label, *(f"{1e3 * chosen[size][key]:.1f}" if size in chosen else "–" for size in sizes)]
        for label, key in (("read the study", "read_seconds"), ("choose", "choose_seconds"))
    ]
    _print(["a second budget, ms", *map(str, sizes)], rows)
