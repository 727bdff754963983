"""What our search is worth, compared with what people would do without it: same machine, fine-tune and finish.

    python scripts/bench_search.py --case digits --trials 12 --seeds 2 --json digits.jsonl      # no files needed
    python scripts/bench_search.py --case resnet20 --weights resnet20.safetensors --images cifar10 --json r20.jsonl
    python scripts/bench_search.py --ask --json ask.jsonl       # what a proposal costs; nothing is trained
    python scripts/bench_search.py --json r20.jsonl --table     # the tables of what is there

Contenders are listed in ``bench_contenders.py``; peers need an environment of their own, see ``bench_peers.py``. All
of a seed start from one dense network and fine-tune on one stream of images. Each contender's best by validation
is fine-tuned for longer from its pruned state, scored on validation and, once, on test. Every finished piece is a
line of the ``--json`` file; a second run with the same file does what is missing, and studies go on within
``--work`` where they were cut off.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_ask import ask_records
from bench_cases import Prepared, baseline_trials, case_parser, completed, prepare, settings
from bench_contenders import OURS, dense_record, finish_record, search_record
from bench_peers import PEERS
from bench_tables import show

from autoprune.core.versions import versions

QUICK = ("ours", "uniform", "plain-tpe")
Record = dict[str, Any]


def main() -> None:
    options = parse_arguments()
    journal = Journal(Path(options.json))
    if options.ask:
        run_ask(options, journal)
    elif not options.table:
        run_case(options, journal)
    show(journal.records)


def parse_arguments() -> argparse.Namespace:
    parser = case_parser(__doc__)
    parser.add_argument("--work", default="", help="folder for studies; empty: beside the file")
    known = f"{', '.join(OURS)}; plain-tpe, -random, -nsga2, -gp; a baseline's name; {', '.join(PEERS)}"
    parser.add_argument("--contenders", type=lambda text: tuple(text.split(",")), default=QUICK, help=known)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, help="to run seeds side by side, each into its own file")
    parser.add_argument("--trials", type=int, default=30, help="evaluated by each search, baselines included")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--layout", default="contiguous")
    parser.add_argument("--max-drop", type=float, default=0.02, help="of the threshold baseline; 0: without it")
    for name, kind in (("steps", int), ("batch-size", int), ("lr", float), ("finish-steps", int)):
        parser.add_argument(f"--{name}", type=kind, default=None, help="unless given, the case's own")
    parser.add_argument("--finish-lr", type=float, default=None, help="of the finish; default: the case's")
    parser.add_argument("--dense-epochs", type=int, default=None, help="of a case that trains its dense network")
    parser.add_argument("--budget", default=None, help="MFLOPs, or a share such as 50%%")
    parser.add_argument("--ask", action="store_true", help="time proposals instead")
    parser.add_argument("--ask-samplers", type=lambda text: text.split(","), default=["auto", "random", "nsga2", "gp"])
    parser.add_argument("--ask-sizes", type=lambda text: [int(n) for n in text.split(",")], default=[100, 1000, 5000])
    return parser.parse_args()


class Journal:
    """A file of one JSON object per line; a line that a kill cut short is skipped, and its piece is done again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.records: list[Record] = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                self.records.append(json.loads(line))
            except json.JSONDecodeError:
                notify("a line of the file was cut short and is skipped")

    def get(self, **key: Any) -> Record | None:
        """Return the record that has these values, or ``None``."""
        return next((r for r in self.records if all(r.get(name) == value for name, value in key.items())), None)

    def add(self, record: Record) -> Record:
        """Write a record down."""
        self.records.append(record)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            begun = file.tell() and not self._path.read_bytes().endswith(b"\n")
            file.write(("\n" if begun else "") + json.dumps(record) + "\n")
        return record

    def once(self, make: Callable[[], Record], **key: Any) -> Record:
        """Return the record of a piece, made now unless it is there."""
        found = self.get(**key)
        if found is not None:
            return found
        started = time.perf_counter()
        made = make()
        notify(f"{' '.join(str(value) for value in key.values())}: done in {time.perf_counter() - started:.0f} s")
        return self.add({**key, **made})


def notify(message: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {message}", flush=True)


def run_ask(options: argparse.Namespace, journal: Journal) -> None:
    for size in options.ask_sizes:
        wanted = [name for name in options.ask_samplers if journal.get(kind="ask", sampler=name, stored=size) is None]
        slow = [name for name in wanted if _was_slow(journal, name)]
        for record in ask_records([name for name in wanted if name not in slow], [size], notify) if wanted else ():
            if record["kind"] == "ask" or journal.get(kind="choose", stored=size) is None:
                journal.add(record)
        for name in slow:
            journal.add({"kind": "ask", "sampler": name, "stored": size, "seconds": []})


def _was_slow(journal: Journal, sampler: str) -> bool:
    """Return whether a smaller study already cost a sampler more than patience lasts."""
    found = [r["seconds"] for r in journal.records if r["kind"] == "ask" and r["sampler"] == sampler]
    return any(not seconds or len(seconds) < 2 for seconds in found)


def run_case(options: argparse.Namespace, journal: Journal) -> None:
    """Do every piece of a case that the file lacks.

    Raises:
        SystemExit: if the file was made with other settings.
    """
    chosen = settings(options)
    stored = journal.once(lambda: {"settings": chosen, **machine()}, kind="settings", case=options.case)
    if stored["settings"] != chosen:
        changed = {name: (old, chosen.get(name)) for name, old in stored["settings"].items() if old != chosen.get(name)}
        raise SystemExit(f"{options.json} was made with other settings (stored, given): {changed}; give another file")
    work = Path(options.work or f"{options.json}.work") / options.case
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        if any(_missing(journal, options.case, name, seed) for name in options.contenders):
            run_seed(options, journal, prepare(options, work, seed, notify), seed)


def _missing(journal: Journal, case: str, contender: str, seed: int) -> bool:
    return journal.get(kind="finish", case=case, contender=contender, seed=seed) is None


def run_seed(options: argparse.Namespace, journal: Journal, prepared: Prepared, seed: int) -> None:
    case = options.case
    journal.once(lambda: {"seconds": prepared.seconds}, kind="prepared", case=case, seed=seed)
    journal.once(lambda: dense_record(prepared), kind="dense", case=case)
    baselines = baseline_trials(
        prepared, lambda trial: notify(f"{trial.candidate.origin}: {trial.total_seconds:.1f} s")
    )
    notify(f"baselines: {', '.join(trial.candidate.origin for trial in completed(baselines))}")
    for name in options.contenders:
        key = {"case": case, "contender": name, "seed": seed}
        found = journal.once(
            lambda name=name: search_record(name, prepared, baselines, options, notify), kind="search", **key
        )
        notify(f"{name} seed {seed}: {100 * found['accuracy']:.2f} % at {found['mflops']:.2f} MFLOPs")
        done = journal.once(lambda name=name, found=found: finish_record(name, found, prepared), kind="finish", **key)
        notify(
            f"{name} seed {seed} finished: " + ", ".join(f"{s} {100 * a:.2f} %" for s, a in done["accuracy"].items())
        )


def machine() -> Record:
    """Return what the figures depend on besides the settings."""
    return {
        "versions": versions(),
        "machine": platform.platform(),
        "cpu": platform.processor(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
