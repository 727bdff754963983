"""Everything that can go wrong on purpose, in one tree.

Every deliberate error of the package is an :class:`AutopruneError`. The command line prints its
message without a traceback and exits with its ``exit_code``; any other exception is a bug and
shows itself. A message says what happened, what was given, what was expected and what to do.

::

    AutopruneError                       exit 1   something failed while running
    ├── UsageError                       exit 2   the request makes no sense
    │   ├── UnknownNameError                      no such criterion, model, data set, study …
    │   ├── SpecError                             faults of a study.toml or of the options, all at once
    │   ├── BudgetError                           a budget that is malformed, needless or out of reach
    │   ├── UntrustedCodeError                    a file names code to run, and nobody has allowed that
    │   └── StudyMismatchError                    the spec would change the meaning of stored trials
    ├── ModelError                       exit 1   the network cannot be built, loaded or pruned
    ├── ExportError                      exit 1   the network cannot be written in another format, or run from it
    ├── DataError                        exit 1   the data cannot be read or used
    ├── StudyError                       exit 1   the stored study cannot be opened or written
    │   ├── StudyLockedError                      another process removes this study, or searches it alone
    │   ├── StudyElsewhereError                   the study's dense network lies on another machine
    │   └── LeaseLostError                        another worker has taken over what this one evaluated
    ├── EvaluationError                  exit 1   a candidate could not be scored
    │   ├── NonFiniteError                        a loss or an output is NaN or infinite
    │   └── TimingError                           another machine did not time a network
    └── NothingFitsError                 exit 3   no stored trial meets the request
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any


class AutopruneError(Exception):
    """The root of every deliberate error; the command line exits with ``exit_code``."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the message, in which text of files and of other exceptions cannot command a terminal."""
        return printable(super().__str__())

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickles the error whole, whatever its constructor takes."""
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[AutopruneError], args: tuple[Any, ...], state: dict[str, object]) -> AutopruneError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class UsageError(AutopruneError):
    """A request that makes no sense, noticed before any work was done."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that does not exist, with the nearest known one.

    Args:
        kind: what was looked up, for the message (``"importance criterion"``).
        name: the name that was given.
        known: every name that would have been accepted.
        hint: one more sentence on what else is accepted, or an empty string.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        message = f"no {kind} named {name!r}{did_you_mean(name, names)}; known: {', '.join(names) or 'none'}"
        super().__init__(f"{message}. {hint}" if hint else message)
        self.name = name


class SpecError(UsageError):
    """Every fault of a study's spec at once.

    Args:
        source: the file or the options the faults were found in.
        faults: one line per fault, each beginning with the key it concerns.
    """

    def __init__(self, source: str, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        count = f"{len(self.faults)} fault" + ("s" if len(self.faults) != 1 else "")
        super().__init__("\n".join([f"{source}: {count}", *(f"  - {fault}" for fault in self.faults)]))


class BudgetError(UsageError):
    """A budget that is malformed, above the dense cost, or below what can be reached."""


class UntrustedCodeError(UsageError):
    """Code that a file from elsewhere names, and that the caller has not allowed to be run."""


class StudyMismatchError(UsageError):
    """A spec that would change the meaning of the trials already stored."""


class ModelError(AutopruneError):
    """A network that cannot be built, loaded or pruned."""


class ExportError(AutopruneError):
    """A network that cannot be written in another format, or that its runtime does not run."""


class DataError(AutopruneError):
    """Data that cannot be read or used."""


class StudyError(AutopruneError):
    """A stored study that cannot be opened, read or written."""


class StudyLockedError(StudyError):
    """A study that another process holds now."""


class StudyElsewhereError(StudyError):
    """A study that began on another machine, whose dense network is not here."""


class LeaseLostError(StudyError):
    """A candidate or a preparation that was given to another worker, because nothing had been heard of this one."""


class EvaluationError(AutopruneError):
    """A candidate that could not be scored."""


class NonFiniteError(EvaluationError):
    """A loss or an output that is NaN or infinite."""


class TimingError(EvaluationError):
    """A latency that the machine that is to time it did not give."""


class NothingFitsError(AutopruneError):
    """A request that no stored trial meets; the message names the nearest trial."""

    exit_code = 3


# what terminals take for commands (colours, titles, links), other control characters, and marks that turn text around
_COMMANDS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\r(?=\n)")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Return a text without anything that commands a terminal; line breaks and tabs stay.

    >>> printable("\x1b[31mred\x1b[0m\a\tand \x1b]0;a title\x07plain\r\n")
    'red\tand plain\n'
    """
    return _CONTROL.sub("", _COMMANDS.sub("", text))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or an empty string.

    >>> did_you_mean("tailor", ["taylor", "l1"])
    "; did you mean 'taylor'?"
    >>> did_you_mean("zzz", ["taylor", "l1"])
    ''
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
