"""Files of ratings: how they are read and split, what a network gets, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import DataError, ModelError, UnknownNameError
from autoprune.tasks.builtin import build_task
from autoprune.tasks.ratings import RatingTask
from autoprune.tasks.read_ratings import Ratings, read_ratings
from autoprune.training.device.runtime import Runtime

ROWS = [("ann", "a film", 4.5), ("bob", "a film", 1.0), ("ann", "b, or c", 3.0)]
READ = Ratings(("ann", "bob", "ann"), ("a film", "a film", "b, or c"), (4.5, 1.0, 3.0))


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    file = folder / "r.csv"
    file.write_bytes(text.encode(encoding))
    return file


def many(folder: Path, users: int = 20, items: int = 15) -> Path:
    lines = [f"u{user},i{item},{(user * item) % 5}" for user in range(users) for item in range(items)]
    return written(folder, "\n".join(lines))


@pytest.mark.parametrize(
    "text",
    [
        'ann,a film,4.5\nbob,a film,1\nann,"b, or c",3\n',
        'user,item,rating\nann,a film,4.5\nbob,a film,1\n\nann,"b, or c",3',
        'timestamp,Rating,movieId,User_ID\n7,4.5,a film,ann\n7,1,a film,bob\n7,3,"b, or c",ann',
        "ann\ta film\t4.5\t881\nbob\ta film\t1\t881\nann\tb, or c\t3\t881\n",
        "ann::a film::4.5::881\nbob::a film::1::881\nann::b, or c::3::881\n",
        "user;item;rating\r\nann;a film;4.5\r\nbob;a film;1\r\nann;b, or c;3\r\n",
        '\ufeffuser,item,rating\nann,a film,4.5\nbob,a film,1\nann,"b, or c",3\n',
        'ann, a film ,4.5\nbob,a film, 1\nann,"b, or c",3e0\n',
    ],
)
def test_a_file_is_read_with_a_header_or_without(text: str, tmp_path: Path) -> None:
    assert read_ratings(written(tmp_path, text)) == READ


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected the columns user, item, rating"),
        ("\n\n", "is empty"),
        ("user,item,rating\n", "holds a header and no rating"),
        ("user,item\na,b\n", "has no column rating; expected the columns user, item, rating: name them so"),
        ("who,what,how\na,b,3\n", "begins with who, what, how, and has no column user and none item and none rating"),
        ("a,b\nc,d\n", "has no column user"),
        ("user,item,rating\na,b,good\n", "line 2: the rating 'good' is not a finite number; correct it"),
        ("a,b,3\nc,d,\n", "line 2: the rating '' is not a finite number"),
        ("a,b,3\nc,d,nan\n", "the rating 'nan' is not"),
        ("a;b;3\nc;d;3,5\n", "the rating '3,5' is not"),
        ("a,b,3\nc,d\n", "line 2 has 2 fields"),
        ("a,b,3\n,d,4\n", "line 2: the user is empty"),
        ("a,b,3\nc,,4\n", "line 2: the item is empty"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_ratings(written(tmp_path, text))


def test_a_file_that_is_missing_a_folder_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file of ratings"):
        build_task(f"ratings:{tmp_path / 'none.csv'}")
    with pytest.raises(DataError, match="cannot be read"):
        build_task(f"ratings:{tmp_path}")
    with pytest.raises(DataError, match="is not UTF-8; save the file as UTF-8"):
        build_task(f"ratings:{written(tmp_path, 'zoë,a,3', 'latin-1')}")


def test_too_few_or_equal_ratings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds 1 ratings, too few to train and validate on"):
        RatingTask(written(tmp_path, "a,b,3\n"))
    equal = "\n".join(f"u{user},i,3" for user in range(50))
    with pytest.raises(DataError, match=r"every rating in '.*' is 3, so that there is nothing to learn"):
        RatingTask(written(tmp_path, equal))


class TestTask:
    @pytest.fixture
    def task(self, tmp_path: Path) -> RatingTask:
        return RatingTask(many(tmp_path))

    def test_splits_are_tenths_that_more_ratings_do_not_change(self, task: RatingTask, tmp_path: Path) -> None:
        assert sum(task.sizes.values()) == 300
        assert task.sizes["train"] == pytest.approx(240, abs=25)
        more = RatingTask(many(tmp_path, users=40))
        assert more.sizes["val"] > task.sizes["val"]
        assert more.identity() != task.identity()
        assert RatingTask(many(tmp_path)).identity() == task.identity()

    def test_who_is_in_no_training_row_has_the_id_0(self, tmp_path: Path, runtime: Runtime) -> None:
        rare = "\n".join(f"rare{number},i1,2" for number in range(200))  # some of whom only validate or test
        file = written(tmp_path, many(tmp_path).read_text() + "\n" + rare)
        task = RatingTask(file)
        seen = {split: torch.cat([batch[0] for batch in task.eval_batches(split, 64, runtime)]) for split in task.sizes}
        assert int(seen["train"].min()) == 1
        assert int(seen["val"].min()) == int(seen["test"].min()) == 0
        assert int(seen["train"].max()) == task.needs.offers["num_users"] - 1
        assert task.needs.offers["num_items"] == 16

    def test_streams_depend_on_their_arguments_alone(self, task: RatingTask, runtime: Runtime) -> None:
        def stream(epoch: int, seed: int) -> list[int]:
            return [int(user) for batch in task.train_stream(32, epoch, seed, runtime) for user in batch[0]]

        assert stream(0, 0) == stream(0, 0)
        assert stream(0, 0) != stream(1, 0)
        assert stream(0, 0) != stream(0, 1)
        assert len(list(task.train_stream(32, 0, 0, runtime))) == task.steps_per_epoch(32)
        sizes = [task.count(batch) for batch in task.eval_batches("val", 7, runtime, limit=10)]
        assert sizes == [7, 3]
        with pytest.raises(UnknownNameError, match="did you mean 'train'"):
            next(iter(task.eval_batches("trian", 4, runtime)))

    @pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
    def test_a_network_is_judged_by_the_root_of_its_mean_squared_error(
        self, task: RatingTask, runtime: Runtime, shape: tuple[int, ...]
    ) -> None:
        from autoprune.training.scoring import score

        class Mean(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.mean = nn.Parameter(torch.tensor(1.5))

            def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
                return (self.mean + 0 * (users + items)).view(shape)

        wanted = torch.cat([batch[2] for batch in task.eval_batches("val", 64, runtime)]).numpy()
        found = score(Mean(), task, "val", runtime)
        assert found.measurement["rmse"] == pytest.approx(float(np.sqrt(np.mean((wanted - 1.5) ** 2))), rel=1e-5)
        assert found.measurement.error("rmse") > 0
        assert found.count == task.sizes["val"]
        assert task.metric.goal == "min"

    def test_a_network_that_gives_anything_else_is_told_so(self, task: RatingTask, runtime: Runtime) -> None:
        batch = next(iter(task.eval_batches("val", 4, runtime)))
        for output, given in ((torch.zeros(4, 5), r"shape \(4, 5\)"), ({"ratings": torch.zeros(4)}, "dict")):
            with pytest.raises(ModelError, match=rf"returned {given} for 4 pairs of user and item; expected \(4,\)"):
                task.loss(output, batch)
