"""A study in a Python program: :class:`Study`, searched, looked at and picked from with live objects.

Nothing is decided here: ``run_search``, ``write_report`` and ``pick_network`` do the work, for the commands of the same
names too, which bring names in the place of objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.analysis.quality_limits import QualityLimits
from autoprune.core.budget import Budget
from autoprune.core.live_objects import is_live, live, live_name
from autoprune.core.metrics import METRICS, register
from autoprune.core.preference import Preference
from autoprune.errors import StudyError, StudyMismatchError, UsageError
from autoprune.loggers.events import Event, EventDisplay
from autoprune.study.accepted_toml import read_accepted
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.study.spec_toml import Layer, merge_layers, parse_spec, read_study_toml
from autoprune.study.study_trial import StudyTrial

if TYPE_CHECKING:
    from torch import nn

    from autoprune.loggers.protocol import Display
    from autoprune.pick.picked_network import PickedNetwork
    from autoprune.search.session import Run
    from autoprune.search.time_owed import LaterTimings
    from autoprune.study.view import StudyView
    from autoprune.tasks.task import DataTask

_PYTHON = "Python"
Limits = Mapping[str, "str | float"]


class Study:
    """A search of pruning policies for one network and one task, stored in a folder.

    The same arguments again open what is stored. A study begun here can be watched, reported and picked from by the
    command line; what needs a live object says so there.

    Args:
        folder: where it is stored; made by the first search. Its last part is the study's name.
        model: the dense network: a module, which stays as it is; or a name, ``"torchvision:resnet18"``,
            ``"mine.py:network"``. ``None`` for what the study began with.
        task: a :class:`Task`; or the name of data, ``"digits"``, ``"imagefolder:data"``, ``"mine.py:task"``. ``None``
            for what the study began with.
        settings: values of its spec, nested or by dotted keys: ``{"finetune.epochs": 2, "seed": 1}``.
        storage: URL of the Optuna storage that holds the trials; ``None`` for SQLite in the folder.
        artifacts: where machines that search one study without a common folder leave what they prepare for each other:
            a folder that all of them see, ``"s3://BUCKET/PREFIX"`` or ``"gs://BUCKET/PREFIX"``; ``None`` for nowhere.
        on_event: called with an :class:`Event` for everything that happens; nothing is printed by itself.
        show: whether progress is shown: live in a terminal, in one block below the cell of a notebook, and in plain
            lines elsewhere.

    Raises:
        SpecError: listing everything that is wrong with the settings.
    """

    def __init__(
        self,
        folder: str | Path,
        model: nn.Module | str | None = None,
        task: DataTask | str | None = None,
        *,
        settings: Mapping[str, object] | None = None,
        storage: str | None = None,
        artifacts: str | Path | None = None,
        on_event: Callable[[Event], object] | None = None,
        show: bool = False,
    ) -> None:
        self.folder, self._storage, self._on_event, self._show = Path(folder), storage, on_event, show
        self._artifacts = None if artifacts is None else str(artifacts)
        self._live: dict[str, object] = {}
        self._given = merge_layers(
            {"model": self._named(model, "")},
            {"data": self._named(task, "task")},
            _nested(settings),
        )
        register(getattr(task, "metrics", ()))  # which may be objectives
        self.spec  # noqa: B018 — faults of the settings are told now

    def _named(self, given: Any, word: str) -> dict[str, object]:
        if given is None or isinstance(given, str):
            return {"source": given} if given else {}
        name = live_name(given, word)
        self._live[name] = lambda: given  # called as a user's function is
        return {"source": name}

    @property
    def spec(self) -> StudySpec:
        """Return the plan of the study: what was given here over what it began with over the defaults."""
        return self._spec_with({})

    def _spec_with(self, more: Mapping[str, object]) -> StudySpec:
        stored = StudyFolder(self.folder)
        began = read_study_toml(stored.resolved) if stored.has_begun else {}
        is_trained = is_live(_source(self._given, "model")) and not began
        trained: dict[str, object] = {"dense": {"epochs": 0}} if is_trained else {}
        name = {} if began else {"name": self.folder.resolve().name}
        layers = [Layer(str(stored.resolved), began), Layer(_PYTHON, merge_layers(name, trained, self._given, more))]
        return parse_spec(layers)

    def _objects(self) -> AbstractContextManager[None]:
        return live(self._live)

    def search(self, budget: Limits | None = None, trials: int | None = None, *, trust_code: bool = False) -> Run:
        """Search until the study has so many trials; again, it goes on.

        Args:
            budget: cost → limit, absolute or a share of the dense network's: ``{"mflops": "40%", "latency_ms": 3}``;
                ``None`` for the study's last one.
            trials: how many the study reaches in total; ``None`` for the settings' own.
            trust_code: whether code may be run that an imported study names.

        Returns:
            what the run did: trials added, and the absolute budget.

        Raises:
            StudyMismatchError: if something was given that would change what the stored trials mean.
            UsageError: if the study has not begun, and no network or no task was given.
            AutopruneError: if the network, the task, the budget or the folder cannot be used.
        """
        from autoprune.search.session import run_search

        self._check_can_begin()

        more: dict[str, object] = {"trials": trials, "budget": None if budget is None else _only(_written(budget))}
        spec = self._spec_with(more)
        with self._objects(), self._display() as display:
            self._check_same_weights(spec)
            return run_search(
                *(spec, StudyFolder(self.folder), display, self._storage, self._accepted()),
                artifacts=self._artifacts,
                trust_code=trust_code,
            )

    def time_owed(self, *, trust_code: bool = False) -> LaterTimings:
        """Have the networks timed that still lack their latency, since the machine of ``latency.command`` was away.

        Args:
            trust_code: whether code may be run that an imported study names.

        Returns:
            how many were timed, and how many still lack it.

        Raises:
            StudyError: if the study has not begun.
            AutopruneError: if the network, the task or the folder cannot be used.
        """
        from autoprune.search.time_owed import time_owed

        folder = StudyFolder(self.folder)
        if not folder.has_begun:
            raise StudyError(f"there is no study in {str(self.folder)!r} yet; search first")
        with self._objects(), self._display() as display:
            return time_owed(self.spec, folder, display, self._storage, trust_code=trust_code)

    def _check_can_begin(self) -> None:
        lacking = [
            word for word, section in (("model", "model"), ("task", "data")) if not _source(self._given, section)
        ]
        if lacking and not StudyFolder(self.folder).has_begun:
            raise UsageError(
                f"there is no study in {str(self.folder)!r} to go on with, and to begin one {' and '.join(lacking)} is "
                "needed: give Study(folder, model, task)"
            )

    def _accepted(self) -> Mapping[str, object]:
        stored = StudyFolder(self.folder)
        return read_accepted(stored) or {} if stored.has_begun else {}

    @contextmanager
    def _display(self) -> Iterator[Display]:
        """Yield what shows a person what happens, or tells the program, or both."""
        if not self._show:
            yield EventDisplay(self._on_event or (lambda event: None))
            return
        from autoprune.loggers.shown_display import shown_display

        with shown_display() as shown:
            yield shown if self._on_event is None else EventDisplay(self._on_event, beside=shown)

    def _check_same_weights(self, spec: StudySpec) -> None:
        """Refuse a live network whose weights are not those that the study began with."""
        stored, source = StudyFolder(self.folder).dense_weights, spec.model.source
        if spec.dense.epochs or not stored.exists() or source not in self._live:
            return
        from autoprune.search.setup.same_weights import differing_weight

        found = differing_weight(self._live[source](), stored)  # type: ignore[operator]
        if found:
            raise StudyMismatchError(
                f"the network's {found} is not what the study in {str(self.folder)!r} began with, so its trials are of "
                "another network; give the same weights, or begin a new study in another folder"
            )

    def view(self) -> StudyView:
        """Return everything stored at this moment.

        Raises:
            StudyError: if the study has not begun, or cannot be read.
        """
        from autoprune.study.view import open_view

        return open_view(self.folder, self._storage)

    @property
    def trials(self) -> list[StudyTrial]:
        """Return the finished trials, by number."""
        return [StudyTrial.of(trial) for trial in self.view().trials]

    def front(self, *, noise_aware: bool = True) -> list[StudyTrial]:
        """Return the trials worth choosing from, best quality first.

        Args:
            noise_aware: whether values within their standard error count as equal.

        Raises:
            StudyError: if the study has not begun, or cannot be read.
        """
        from autoprune.analysis.pareto import front

        view = self.view()
        ordered = sorted(view.spec.objectives, key=lambda name: name != view.spec.quality.name)
        return [StudyTrial.of(trial) for trial in front(view.trials, ordered, noise_aware)]

    def report(self, budget: Limits | None = None, *, prefer: Preference | None = None) -> Path:
        """Write the report into the folder, and return the path of ``report.html``.

        Args:
            budget: that the best network is shown for; ``None`` for the last search's.
            prefer: as for :meth:`pick`.
        """
        from autoprune.report.write_report import write_report

        limits = None if budget is None else Budget.parse(_written(budget))
        return write_report(self.view(), limits, prefer=prefer)[1][0]

    def pick(
        self,
        budget: Limits | None = None,
        *,
        trial: int | None = None,
        epochs: float | None = None,
        export: str | Sequence[str] | None = None,
        int8: bool = False,
        qat: bool | None = None,
        prefer: Preference | None = None,
        quality: Limits | None = None,
        top: int | None = None,
        compare: bool | None = None,
        force: bool = False,
        trust_code: bool = False,
        workers: int = 1,
    ) -> PickedNetwork:
        """Finish the best network within a budget: a longer fine-tune, test once, files that are checked.

        What was picked before is given back as it is, unless ``force`` is true. Where no trial lies near a budget that
        the study's screening has seen, a network is solved for exactly that budget, and stored as a trial of the origin
        ``pick``.

        Args:
            budget: as for :meth:`search`; ``None`` for the last search's.
            trial: finish this one and no other.
            epochs: length of the fine-tune; ``None`` for the study's own; 0 for the weights that the search measured.
            export: a format, ``"onnx"``, or several; ``None`` for the study's own.
            int8: whether ``model.int8.onnx`` is written too, with what it costs and brings on the card; the study's
                ``pick.int8_max_drop`` limits what it may lose.
            qat: whether the last quarter of the fine-tune is taken once more with the rounding of int8, the result
                being kept if it is better in int8 beyond noise; ``None`` for the study's own.
            prefer: which of several networks is the best if their quality is the same within one standard error:
                ``"latency"`` the fastest, ``"size"`` the smallest, ``"accuracy"`` the one with the lowest loss;
                ``None`` for the study's own.
            quality: the worst values that will do: ``{"accuracy": "97%", "rmse": 0.5}``; ``None`` for no limit. Without
                a budget the cheapest network that is good enough is picked.
            top: how many trials begin the fine-tune; ``None`` for the study's own.
            compare: whether the uniform baseline of the same budget is finished too; ``None`` for the study's own.
            force: whether a network that was picked before is picked anew.
            trust_code: whether code may be run that an imported study names.
            workers: processes that fine-tune the contenders at once; only for a model and a task given by name, which
                another process can build.

        Raises:
            UsageError: if what is asked for excludes itself, as ``trial`` and ``top``; or if several workers are asked
                for, and the model or the task is a live object.
            NothingFitsError: if no trial meets the budget; names the nearest.
            UsageError: if a limit cannot be read, or it was picked before with other ``epochs`` or without an
                ``export`` that is asked for now.
            AutopruneError: if the network cannot be finished, written or checked.
        """
        from autoprune.pick.choose_formats import choose_formats
        from autoprune.pick.choose_trials import Wish
        from autoprune.pick.goes_together import check_goes_together
        from autoprune.pick.pick_network import Order, pick_network
        from autoprune.pick.picked_network import PickedNetwork

        self._check_workers(workers)
        limits = ("quality",) if quality else ()
        check_goes_together(trial=trial, top=top, prefer=prefer, limits=limits, epochs=epochs, qat=qat)
        view, formats = self.view(), [export] if isinstance(export, str) else export
        worst = QualityLimits.parse(quality or {}, view.spec.qualities)
        order = Order(
            Wish(_written(budget), trial, lambda qualities, dense: worst, top, epochs, prefer),
            choose_formats(
                view, None if formats is None else ",".join(formats) or "none", int8=int8, quality=worst, qat=qat
            ),
            names_formats=int8 or bool(qat) or bool(formats),
            compare=compare,
            force=force,
            takes_known=True,
            trust_code=trust_code,
            workers=({},) * workers,
        )
        with self._objects(), self._display() as display:
            card, folder = pick_network(view, order, display.say, self._storage)
            return PickedNetwork(self._loaded(folder, view.spec), card, folder)

    def _check_workers(self, workers: int) -> None:
        if workers < 1:
            raise UsageError(f"workers is {workers}; expected 1 or more")
        if workers > 1 and self._live:
            raise UsageError(
                f"workers is {workers}, and {', '.join(self._live)} lives in this process alone; name the model and "
                "the task, as 'mine.py:network', or pick with one worker"
            )

    def _loaded(self, folder: Path, spec: StudySpec) -> nn.Module:
        from autoprune.export.saved_network import load

        known = self._live.get(spec.model.source)
        return load(folder, known() if callable(known) else None, trust_code=True)


def _source(given: Mapping[str, Any], section: str) -> str:
    return str(given.get(section, {}).get("source", ""))


def _written(budget: Limits | None) -> dict[str, str]:
    """Return limits as they are written on a command line.

    Raises:
        UsageError: if they are no dictionary.
    """
    if budget is not None and not isinstance(budget, Mapping):
        raise UsageError(f"budget is {budget!r}; expected a dictionary by cost, such as {{'mflops': '40%'}}")
    return {cost: str(limit) for cost, limit in (budget or {}).items()}


def _only(limits: Mapping[str, str]) -> dict[str, str]:
    """Return a whole budget: these limits, of which the spec refuses unknown ones, and none on any other cost."""
    return {**{name: "none" for name, known in METRICS.items() if known.is_cost}, **limits}


def _nested(settings: Mapping[str, object] | None) -> dict[str, object]:
    """Return settings as a ``study.toml`` nests them.

    >>> _nested({"finetune.epochs": 2, "seed": 1})
    {'finetune': {'epochs': 2}, 'seed': 1}
    """
    if settings is not None and not isinstance(settings, Mapping):
        raise UsageError(f"settings is {settings!r}; expected a dictionary, such as {{'finetune.epochs': 2}}")
    found: dict[str, object] = {}
    for key, value in (settings or {}).items():
        section, _, name = key.rpartition(".")
        found = merge_layers(found, {section: {name: value}} if section else {key: value})
    return found
