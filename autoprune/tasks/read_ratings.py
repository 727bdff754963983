"""Who rated what, and how: a CSV file as rows of (user, item, rating), with a header or without."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoprune.errors import DataError

_DELIMITERS = ("::", "\t", ";", ",")  # of MovieLens, of tables, of spreadsheets where a comma is the decimal sign
_NAMES = {
    "user": ("user", "userid", "uid", "reviewerid", "customer", "customerid"),
    "item": ("item", "itemid", "iid", "movie", "movieid", "product", "productid", "book", "bookid", "isbn", "asin"),
    "rating": ("rating", "ratings", "score", "stars", "overall"),
}
_EXPECTED = "expected the columns user, item, rating"


@dataclass(frozen=True)
class Ratings:
    """The rows of a file, in its order: ids as text, ratings as numbers."""

    users: tuple[str, ...]
    items: tuple[str, ...]
    ratings: tuple[float, ...]


def read_ratings(file: Path) -> Ratings:
    """Return all ratings of a file.

    Columns are separated by commas, semicolons, tabs or ``::``. Without a header the first three are user, item and
    rating, and more are ignored, such as the time; with a header they are found by their names, as ``userId``.

    Raises:
        DataError: if the file is missing, no text or empty, lacks a column, or a rating is no number; names the line.
    """
    rows = _rows(file)
    try:
        first_line, first = next(rows)
    except StopIteration:
        raise DataError(f"{str(file)!r} is empty; {_EXPECTED}") from None
    columns = _columns(first, file)
    body = [*([] if columns else [(first_line, first)]), *rows]
    read = [_row(row, columns or (0, 1, 2), f"{str(file)!r}, line {line}") for line, row in body]
    if not read:
        raise DataError(f"{str(file)!r} holds a header and no rating; {_EXPECTED}, and a row for each rating")
    users, items, ratings = zip(*read, strict=True)
    return Ratings(users, items, ratings)


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the fields of every row that is not blank."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            head = lines.readline()
            lines.seek(0)
            delimiter = next((each for each in _DELIMITERS if head.count(each) >= 2), ",")
            plain = (line.replace("::", "\t") for line in lines) if delimiter == "::" else lines
            reader = csv.reader(plain, delimiter="\t" if delimiter == "::" else delimiter)
            for row in reader:
                if any(field.strip() for field in row):
                    yield reader.line_num, [field.strip() for field in row]
    except FileNotFoundError:
        raise DataError(f"there is no file of ratings {str(file.absolute())!r}; expected a CSV file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{str(file)!r}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{str(file)!r} cannot be read as CSV: {error}; {_EXPECTED}") from error
    except OSError as error:
        raise DataError(f"{str(file)!r} cannot be read: {error.strerror or error}; expected a CSV file") from error


def _columns(first: Sequence[str], file: Path) -> tuple[int, ...] | None:
    """Return where user, item and rating are by a header; ``None`` if the first row is none.

    Raises:
        DataError: if it is a header that lacks one of them, or has too few fields.
    """
    plain = ["".join(letter for letter in field.lower() if letter.isalnum()) for field in first]
    found = {name: next((plain.index(each) for each in names if each in plain), None) for name, names in _NAMES.items()}
    if len(first) >= 3 and not any(place is not None for place in found.values()) and _number(first[2]) is not None:
        return None
    missing = [name for name, place in found.items() if place is None]
    if missing:
        raise DataError(
            f"{str(file)!r} begins with {', '.join(first[:5])}, and has no column {' and none '.join(missing)}; "
            f"{_EXPECTED}: name them so in the first line, or put them first"
        )
    return tuple(place for place in found.values() if place is not None)


def _row(row: Sequence[str], columns: tuple[int, ...], where: str) -> tuple[str, str, float]:
    if len(row) <= max(columns):
        raise DataError(f"{where} has {len(row)} fields; {_EXPECTED}")
    user, item, text = (row[column] for column in columns)
    rating = _number(text)
    if rating is None:
        raise DataError(f"{where}: the rating {text!r} is not a finite number; correct it, or remove the line")
    if not user or not item:
        raise DataError(f"{where}: the {'item' if user else 'user'} is empty; correct it, or remove the line")
    return user, item, rating


def _number(text: str) -> float | None:
    """Return a finite number, ``None`` if the text is none.

    >>> _number("4.5"), _number("nan"), _number("good")
    (4.5, None, None)
    """
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
