"""What a person sees while a search runs: a live display on a terminal, plain lines elsewhere.

Everything goes to stderr, so that stdout holds nothing but the result.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from autoprune.analysis.pareto import best_within
from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY, METRICS, Metric, decimals
from autoprune.core.trial import Candidate, Completed, Failed, OverBudget, Stopped, Trial, Untimed

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Verbosity: TypeAlias = Literal["quiet", "normal", "verbose"]
RECENT = 10  # trials whose median time predicts the rest


class Progress:
    """The state behind any display: trials done, the best within the budget, the time left, the phase."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.wanted = 0
        self.budget = Budget()
        self.dense: Measurement | None = None
        self.current: Candidate | None = None
        self.phase_name = ""
        self.recent: list[float] = []
        self.qualities: Sequence[Metric] = (ACCURACY,)
        self.workers = 1
        self._at: dict[str, str] = {}

    def began(
        self,
        trials: list[Trial],
        wanted: int,
        budget: Budget,
        dense: Measurement,
        qualities: Sequence[Metric] = (ACCURACY,),
    ) -> None:
        """See the search begin."""
        self.qualities = qualities
        self.trials, self.wanted, self.budget, self.dense = list(trials), wanted, budget, dense

    def asked(self, candidate: Candidate) -> None:
        """See a candidate before it is evaluated."""
        self.current = candidate

    def phase(self, name: str) -> None:
        """See a phase begin."""
        self.phase_name = name

    def at(self, worker: str, what: str, *, further: bool = False) -> None:
        """See what one of several workers is at.

        Args:
            worker: its name.
            what: a trial, or a phase of it.
            further: whether it is a phase of what it was at before.
        """
        before = self._at.get(worker, "").partition(":")[0]
        self._at[worker] = f"{before}: {what}" if further and before else what

    @property
    def now(self) -> str:
        """Return what is going on, in words."""
        if self._at:
            return ", ".join(f"{what} ({worker})" for worker, what in sorted(self._at.items()))
        return f"trial {self.current.number}: {self.phase_name}" if self.current else ""

    def told(self, trial: Trial) -> None:
        """See a trial after it is stored."""
        self.trials.append(trial)
        self.recent = [*self.recent, trial.total_seconds][-RECENT:]

    @property
    def seconds_left(self) -> float | None:
        """Return the median time of recent trials times those to come for each worker; ``None`` before the first."""
        to_come = (self.wanted - len(self.trials)) / self.workers
        return statistics.median(self.recent) * to_come if self.recent else None

    def best_line(self) -> str:
        """Return the best network within the budget, in words."""
        best = best_within(self.trials, self.budget, self.qualities[0], dense=self.dense)
        if best is None or not isinstance(best.outcome, Completed):
            return "no network within the budget yet"
        return f"best {describe(best.outcome.measurement, self.dense, self.qualities)} (trial {best.number})"


def describe(measurement: Measurement, dense: Measurement | None, qualities: Sequence[Metric]) -> str:
    """Return each quality ± its standard error, MFLOPs, and latency with its speed-up over dense.

    >>> describe(Measurement({"rmse": 0.5, "mflops": 40.0}, {"rmse": 0.01}), None, [Metric("rmse", "mm")])
    'rmse 0.5000 ± 0.0100 mm, 40.00 MFLOPs'
    >>> describe(Measurement({"rmse": 0.5, "mflops": 0.00481, "latency_ms": 0.0412}), None, [])
    '0.0048 MFLOPs, 0.04 ms'
    """
    known = [one for one in qualities if one.name in measurement.values]
    shown = [_quality(measurement, one, is_named=one != ACCURACY or one != qualities[0]) for one in known]
    parts = [*shown, METRICS["mflops"].with_unit(measurement["mflops"])]
    if "latency_ms" in measurement.values:
        faster = f" (×{dense['latency_ms'] / measurement['latency_ms']:.2f})" if dense else ""
        latency = measurement["latency_ms"]
        parts.append(f"{latency:.{decimals(latency, 2)}f} ms{faster}")
    return ", ".join(parts)


def _quality(measurement: Measurement, metric: Metric, is_named: bool) -> str:
    """Return a quality with its standard error, if it has one; accuracy that leads needs no name."""
    value, error = measurement[metric.name], measurement.stderr.get(metric.name)
    if not is_named:
        return f"{metric.show(value)} ± {metric.show(error)}" if error is not None else metric.show(value)
    shown = f"{metric.number(value)} ± {metric.number(error)}" if error is not None else metric.number(value)
    return f"{metric.name} {shown} {metric.unit}".rstrip()


def how_it_ended(trial: Trial, dense: Measurement | None, qualities: Sequence[Metric]) -> str:
    """Return a trial's outcome on one line."""
    match trial.outcome:
        case Completed(measurement, spared=spared):
            return describe(measurement, dense, qualities) + ("; a check: it would have been stopped" if spared else "")
        case OverBudget(_, violations):
            return f"over budget: {', '.join(f'{name} by {100 * over:.1f} %' for name, over in violations.items())}"
        case Stopped(reason, _):
            return f"stopped: {reason}"
        case Untimed(reason, measurement):
            shown = describe(measurement, None, qualities)
            return f"{shown}; no latency yet: {reason.splitlines()[0] if reason else ''}"
        case Failed(error, message, _):
            return f"failed: {error}: {message.splitlines()[0] if message else ''}"


def seconds_by_phase(trial: Trial) -> str:
    """Return what each phase of a trial took, the longest first, without those of less than a tenth of a second."""
    spent = sorted(trial.seconds.items(), key=lambda each: -each[1])
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent if seconds >= 0.1) or "every phase under 0.1 s"


def details(trial: Trial) -> list[str]:
    """Return the further lines of a verbose display: seconds by phase, and a failed trial's traceback."""
    trace = trial.outcome.trace.rstrip().splitlines() if isinstance(trial.outcome, Failed) else []
    return [f"    {line}" for line in (f"seconds: {seconds_by_phase(trial)}", *trace)]


def duration(seconds: float) -> str:
    """Return a time in words.

    >>> duration(42), duration(190), duration(7300)
    ('42 s', '3 min 10 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class PlainDisplay(Progress):
    """A display that prints one line for each event, and one for each phase if it is verbose."""

    def __init__(self, console: Console, verbose: bool = False) -> None:
        super().__init__()
        self._console = console
        self._is_verbose = verbose

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def say(self, message: str) -> None:
        """Print a sentence."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print a sentence: every line stays in sight."""
        self.say(message)

    def phase(self, name: str) -> None:
        """Print that a phase begins, if the display is verbose."""
        super().phase(name)
        if self._is_verbose and self.current:
            self.say(f"trial {self.current.number}: {name}")

    def told(self, trial: Trial) -> None:
        """Print how a trial ended."""
        super().told(trial)
        left = f", {duration(self.seconds_left)} left" if self.seconds_left else ""
        self.say(
            f"[{len(self.trials)}/{self.wanted}] trial {trial.number} {trial.candidate.origin.partition(':')[2]}: "
            f"{how_it_ended(trial, self.dense, self.qualities)}; {trial.total_seconds:.1f} s{left}"
        )
        for line in details(trial) if self._is_verbose else ():
            self.say(line)


class QuietDisplay(PlainDisplay):
    """A display that prints only warnings and failed trials."""

    def say(self, message: str) -> None:
        """Ignore a sentence."""

    def warn(self, message: str) -> None:
        """Print a sentence."""
        super().say(message)

    def told(self, trial: Trial) -> None:
        """Print a trial only if it failed."""
        super().told(trial)
        if isinstance(trial.outcome, Failed):
            self.warn(f"trial {trial.number} {how_it_ended(trial, self.dense, self.qualities)}")


class LiveDisplay(Progress):
    """A display of a few live lines at the bottom of a terminal, with the trials scrolling above them."""

    def __init__(self, console: Console, verbose: bool = False) -> None:
        super().__init__()
        from rich.live import Live

        self._console = console
        self._is_verbose = verbose
        self._status = ""
        self._started = time.monotonic()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def say(self, message: str) -> None:
        """Show a sentence as the current status."""
        self._status = message

    def warn(self, message: str) -> None:
        """Scroll a sentence past, so that it stays in sight."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def told(self, trial: Trial) -> None:
        """Scroll a trial past, and update the rest."""
        super().told(trial)
        origin = trial.candidate.origin.partition(":")[2]
        line = f"trial {trial.number:>3} {origin:<8} {how_it_ended(trial, self.dense, self.qualities)}"
        for shown in (line, *(details(trial) if self._is_verbose else ())):
            self._console.print(shown, markup=False, highlight=False)

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        elapsed = duration(time.monotonic() - self._started)
        if not self.wanted:
            return Text(f"{self._status} … {elapsed}")
        left = f"{duration(self.seconds_left)} left" if self.seconds_left is not None else "estimating the time left"
        bar: Any = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=self.wanted, completed=len(self.trials), width=30),
            f"{len(self.trials)} of {self.wanted} trials",
            f"{elapsed} elapsed, {left}",
        )
        best = Text(f"{self.best_line()}; budget {self.budget.describe()}")
        return Group(bar, best, Text(f"now: {self.now or self._status}"))


AnyDisplay: TypeAlias = PlainDisplay | LiveDisplay


def make_display(console: Console, verbosity: Verbosity = "normal", *, live: bool = True) -> AnyDisplay:
    """Return a live display on a terminal, and plain lines elsewhere.

    Args:
        console: where to print.
        verbosity: how much to print.
        live: whether a terminal may get a live display.
    """
    if verbosity == "quiet":
        return QuietDisplay(console)
    is_live = live and console.is_terminal and not console.is_dumb_terminal
    return (LiveDisplay if is_live else PlainDisplay)(console, verbosity == "verbose")
