"""Work that divides: everything is computed once, in order, whoever computes it and whoever dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from autoprune.core.json_values import JsonObject
from autoprune.errors import EvaluationError, StudyError
from autoprune.study.divided_work import Compute, DividedWork, _Batch

ITEMS: list[JsonObject] = [{"n": n} for n in range(12)]
SQUARES = [{"square": n * n} for n in range(12)]


def squared(item: JsonObject) -> JsonObject:
    return {"square": cast(int, item["n"]) ** 2}


def slowly(item: JsonObject) -> JsonObject:
    time.sleep(0.02)
    return squared(item)


@contextmanager
def helping(folder: Path, compute: Compute) -> Iterator[list[int]]:
    """Help in a thread of its own, which stands for another worker; give what it computed."""
    computed, is_over = list[int](), threading.Event()

    def noted(item: JsonObject) -> JsonObject:
        found = compute(item)
        computed.append(cast(int, item["n"]))
        return found

    def help_on() -> None:
        work = DividedWork(folder)
        while not is_over.is_set():
            if not work.help({"squares": noted}):
                time.sleep(0.001)

    thread = threading.Thread(target=help_on)
    thread.start()
    try:
        yield computed
    finally:
        is_over.set()
        thread.join()


def test_what_is_over_is_not_computed_again_by_one_that_saw_it_before(tmp_path: Path) -> None:
    work = DividedWork(tmp_path / "divided")
    with work.open():
        results = work.results("squares", ITEMS, squared)
        assert next(results) == SQUARES[0]
        seen_before = _Batch.laid_out(tmp_path / "divided")
        assert seen_before is not None
        assert list(results) == SQUARES[1:]
        assert not seen_before.compute_next(range(12), lambda item: pytest.fail(f"{item} was computed again"))


def test_alone_a_worker_computes_everything_in_order(tmp_path: Path) -> None:
    for work in (DividedWork(), DividedWork(tmp_path / "divided")):
        assert list(work.results("squares", ITEMS, squared)) == SQUARES
        with work.open():
            assert list(work.results("squares", ITEMS, squared)) == SQUARES
    assert not (tmp_path / "divided").exists()


def test_items_are_shared_and_each_is_computed_once(tmp_path: Path) -> None:
    work, here = DividedWork(tmp_path / "divided"), list[int]()

    def noted(item: JsonObject) -> JsonObject:
        here.append(cast(int, item["n"]))
        return slowly(item)

    with helping(tmp_path / "divided", slowly) as first, helping(tmp_path / "divided", slowly) as second, work.open():
        for _ in range(3):
            assert list(work.results("squares", ITEMS, noted)) == SQUARES
    assert Counter(here + first + second) == Counter([*range(12)] * 3)
    assert here
    assert first
    assert second
    assert not (tmp_path / "divided").exists()


def test_an_item_of_a_worker_that_is_killed_is_computed_by_another(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from autoprune.study.divided_work import DividedWork\n"
        "def hang(item): print(item['n'], flush=True); time.sleep(600)\n"
        "work = DividedWork(Path(sys.argv[1]))\n"
        "while True: work.help({'squares': hang}) or time.sleep(0.001)\n"
    )
    work = DividedWork(tmp_path / "divided")
    with work.open():
        other = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "divided")], stdout=subprocess.PIPE, text=True
        )
        assert other.stdout is not None

        def once_the_other_hangs(item: JsonObject) -> JsonObject:
            if other.poll() is None:
                assert other.stdout is not None
                assert other.stdout.readline().strip().isdecimal()
                other.send_signal(signal.SIGKILL)
                other.wait()
            return squared(item)

        try:
            assert list(work.results("squares", ITEMS, once_the_other_hangs)) == SQUARES
        finally:
            other.kill()
            other.communicate()


def test_what_fails_for_another_is_computed_here_and_what_fails_here_ends_all(tmp_path: Path) -> None:
    def fail(item: JsonObject) -> JsonObject:
        raise EvaluationError("no memory")

    work = DividedWork(tmp_path / "divided")
    with helping(tmp_path / "divided", fail) as computed, work.open():
        assert list(work.results("squares", ITEMS, slowly)) == SQUARES
        assert computed == []
    with work.open(), pytest.raises(EvaluationError, match="no memory"):
        list(work.results("squares", ITEMS, fail))
    assert not work.help({"squares": squared})


def test_work_of_another_kind_is_left_to_others(tmp_path: Path) -> None:
    work, other = DividedWork(tmp_path / "divided"), DividedWork(tmp_path / "divided")
    helped = list[bool]()

    def while_another_looks(item: JsonObject) -> JsonObject:
        helped.append(other.help({"cubes": squared}))
        return squared(item)

    with work.open():
        assert list(work.results("squares", ITEMS, while_another_looks)) == SQUARES
    assert helped == [False] * 12


def test_a_study_that_is_removed_meanwhile_is_not_brought_back(tmp_path: Path) -> None:
    folder = tmp_path / "study" / "divided"
    work = DividedWork(folder)

    def removing(item: JsonObject) -> JsonObject:
        (tmp_path / "study").rename(tmp_path / "trash")
        return squared(item)

    with work.open(), pytest.raises(StudyError, match=r"cannot write .* restore the folder"):
        list(work.results("squares", ITEMS, removing))
    assert not (tmp_path / "study").exists()


def test_a_study_that_is_removed_between_two_items_ends_the_work(tmp_path: Path) -> None:
    """It would be waited for without end: no item of it can be taken any more."""
    work = DividedWork(tmp_path / "study" / "divided")
    with work.open():
        results = work.results("squares", ITEMS, squared)
        assert next(iter(results)) == {"square": 0}
        (tmp_path / "study").rename(tmp_path / "trash")
        with pytest.raises(StudyError, match=r"cannot write .* restore the folder"):
            next(iter(results))
    assert not (tmp_path / "study").exists()


def test_what_a_killed_worker_laid_out_is_not_taken_for_this_one_s(tmp_path: Path) -> None:
    """The results of other items, under the same places, would be wrong numbers."""
    work = DividedWork(tmp_path / "divided")
    with work.open():
        begun: Any = work.results("squares", [{"n": 100}, {"n": 101}], squared)
        assert next(begun) == {"square": 10000}
        again = DividedWork(tmp_path / "divided")
        with again.open():
            assert list(again.results("squares", ITEMS, squared)) == SQUARES
