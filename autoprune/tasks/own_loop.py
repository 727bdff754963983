"""A user's own loop: a function that trains, a function that judges, with the data of another task or without any."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from torch import Tensor, nn

from autoprune.core.metrics import Metric
from autoprune.core.registry import Registry
from autoprune.core.user_code import as_its_owner_runs_it, in_user_code
from autoprune.errors import AutopruneError, DataError, EvaluationError, UsageError
from autoprune.models.calling.inputs import Inputs
from autoprune.tasks.split_metric import evaluated
from autoprune.tasks.task import Batch, DataTask, Evaluated, OnStep, Placement, ScoredBatch

Finetune: TypeAlias = Callable[[nn.Module, int, int, OnStep], object]
"""(network, steps, seed, on_step): trains a network in place, and calls ``on_step(done, total)`` after each step."""

EvaluateSplit: TypeAlias = Callable[[nn.Module, str], Any]
"""(network, split) → value, (value, standard error, examples), or a dictionary of either by metric."""

_HOOKS_OF_TENSORS = ("_backward_hooks", "_post_accumulate_grad_hooks")  # which a tensor keeps outside of its vars
_FINETUNES, _EVALUATES = Registry("finetune", "autoprune.finetunes"), Registry("evaluate", "autoprune.evaluates")


def finetune_named(source: str) -> Finetune:
    """Return the function that ``pkg.mod:fn`` or ``file.py:fn`` stands for.

    Raises:
        UnknownNameError, UsageError: if there is none of that name, or it does not take what it is called with.
    """
    return cast(Finetune, _taking(_FINETUNES.get(source), source, ("network", "steps", "seed", "on_step")))


def evaluate_named(source: str) -> EvaluateSplit:
    """Return the function that ``pkg.mod:fn`` or ``file.py:fn`` stands for.

    Raises:
        UnknownNameError, UsageError: if there is none of that name, or it does not take what it is called with.
    """
    return cast(EvaluateSplit, _taking(_EVALUATES.get(source), source, ("network", "split")))


def _taking(function: object, source: str, arguments: tuple[str, ...]) -> object:
    expected = f"expected a function ({', '.join(arguments)})"
    if not callable(function):
        raise UsageError(f"{source!r} is {type(function).__name__}; {expected}")
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise UsageError(f"{source!r} cannot be called with {', '.join(arguments)} ({error}); {expected}") from error
    except ValueError:  # some callables written in C show no signature
        pass
    return function


@dataclass(frozen=True)
class Loop:
    """What a user brings of a loop.

    Attributes:
        finetune: trains; ``None`` for our loop.
        evaluate: judges; ``None`` for the data's own judgement.
        example: gives what the network is called with; ``None`` for the data's own.
        metrics: that ``evaluate`` gives, the leading one first.
        steps_per_epoch: that an epoch counts for where there is no data.
        names: of the functions, for messages and as identity.
    """

    finetune: Finetune | None
    evaluate: EvaluateSplit | None
    example: Callable[[], Inputs] | None
    metrics: tuple[Metric, ...]
    steps_per_epoch: int
    names: tuple[str, ...]


class LoopTask(DataTask):
    """A task that is learnt and judged by a user's own loop.

    Args:
        loop: the user's functions.
        data: whose batches criteria look at, and whose loss and score stand in for what the loop lacks; ``None`` for
            none, so that only criteria that read the weights alone can rank channels.

    Raises:
        UsageError: if nothing trains, judges or says what the network is called with.
    """

    cuts_batches = True
    scores_examples = False

    def __init__(self, loop: Loop, data: DataTask | None) -> None:
        self._loop, self._data = loop, data
        self.name = data.name if data is not None else loop.names[0]
        self.metrics = loop.metrics if loop.evaluate is not None else data.metrics if data is not None else ()
        self.finetune = guarded(loop.finetune, loop.names[0]) if loop.finetune is not None else None
        self.has_batches = data is not None
        self.sizes = {"train": 0, "val": 1, "test": 1}
        if data is not None:
            self.sizes, self.needs, self.notes, self.chance = data.sizes, data.needs, data.notes, data.chance
            self.licence, self.description, self.cuts_batches = data.licence, data.description, data.cuts_batches
            self.has_loss = data.has_loss
            self.scores_examples = loop.evaluate is None and data.scores_examples
            self.reductions = data.reductions
        else:
            self.has_loss = False
            self._check_alone()

    def _check_alone(self) -> None:
        loop = self._loop
        given = {"finetune": loop.finetune, "evaluate": loop.evaluate, "example": loop.example}
        missing = [name for name, value in given.items() if value is None]
        if missing:
            raise UsageError(
                f"a loop without data needs finetune, evaluate and example, and {' and '.join(missing)} is not given; "
                "give it, or give --data"
            )

    @property
    def _batches(self) -> DataTask:
        if self._data is None:
            raise UsageError(
                f"{self.name} has no data of its own, and this needs some; give --data, or choose criteria that read "
                "the weights alone, as l2"
            )
        return self._data

    def train_stream(self, batch_size: int, epoch: int, seed: int, runtime: Placement) -> Iterator[Batch]:
        """Yield the training batches of the data."""
        return self._batches.train_stream(batch_size, epoch, seed, runtime)

    def eval_batches(
        self, split: str, batch_size: int, runtime: Placement, limit: int | None = None
    ) -> Iterator[Batch]:
        """Yield the batches of a split of the data."""
        return self._batches.eval_batches(split, batch_size, runtime, limit)

    def identity(self) -> str:
        """Return a hash of the functions' names, and of the data if there is any."""
        data = self._data.identity() if self._data is not None else ""
        return hashlib.sha256(" ".join((*self._loop.names, data)).encode()).hexdigest()

    def inputs(self, network: nn.Module, batch: Batch) -> Inputs:
        """Return what the network is called with for a batch of the data."""
        return self._batches.inputs(network, batch)

    def forward(self, network: nn.Module, batch: Batch) -> Any:
        """Return the network's output for a batch of the data."""
        return self._batches.forward(network, batch)

    def example(self, network: nn.Module) -> Inputs:
        """Return what the network is called with for tracing and export."""
        if self._loop.example is not None:
            return self._loop.example().on("cpu")
        return self._batches.example(network)

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Return the loss of the data."""
        return self._batches.loss(output, batch)

    def dense_loss(self, output: Any, batch: Batch) -> Tensor:
        """Return the loss of the data for dense networks."""
        return self._batches.dense_loss(output, batch)

    def distill(self, student: Any, teacher: Any, batch: Batch, temperature: float) -> Tensor | None:
        """Return how far a student is from its teacher, as the data says."""
        return self._batches.distill(student, teacher, batch, temperature)

    def score_batch(self, output: Any, batch: Batch) -> ScoredBatch:
        """Return what an output is worth by the data's own score."""
        return self._batches.score_batch(output, batch)

    def count(self, batch: Batch) -> int:
        """Return the number of examples in a batch of the data."""
        return self._batches.count(batch)

    def batch_size_of(self, wanted: int) -> int:
        """Return how many examples a training batch of the data has."""
        return wanted if self._data is None else self._data.batch_size_of(wanted)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the training batches of an epoch of the data, or what an epoch counts for without any."""
        return self._loop.steps_per_epoch if self._data is None else self._data.steps_per_epoch(batch_size)

    def evaluate(self, network: nn.Module, split: str, runtime: Placement, limit: int | None) -> Evaluated | None:
        """Return what the user's function says of a split.

        Raises:
            EvaluationError: if it fails.
        """
        loop = self._loop
        if loop.evaluate is None:
            return None if self._data is None else self._data.evaluate(network, split, runtime, limit)
        name = loop.names[-1]
        try:
            with as_its_owner_runs_it(name), unchanged_by(name, network):
                found = loop.evaluate(network, split)
        except AutopruneError:
            raise
        except (Exception, SystemExit) as error:  # the user's own code may raise anything
            raise EvaluationError(f"{name} fails on {split}: {in_user_code(error)}; correct it") from error
        return evaluated(found, self.metrics, name)


def guarded(finetune: Finetune, name: str) -> Finetune:
    """Return the function with what it raises as an error of ours, and checks of what it leaves."""

    def run(network: nn.Module, steps: int, seed: int, on_step: OnStep) -> None:
        ended = list[Exception]()

        def look(done: int, total: int) -> None:
            try:
                on_step(done, total)
            except Exception as end:  # a candidate that is stopped early ends the loop so
                ended.append(end)
                raise

        returned: object = None
        with unchanged_by(name, network):
            try:
                with as_its_owner_runs_it(name):
                    returned = finetune(network, steps, seed, look)
            except AutopruneError:
                raise
            except (Exception, SystemExit) as error:  # the user's own code may raise anything
                if not ended:
                    raise EvaluationError(f"{name} fails: {in_user_code(error)}; correct it") from error
            if ended:
                raise ended[0]
            if isinstance(returned, nn.Module) and returned is not network:
                raise DataError(f"{name} returned another network; train the one that it is given, in place")

    return run


@contextmanager
def unchanged_by(name: str, network: nn.Module) -> Iterator[None]:
    """Look at a network before and after a user's function has it; what only lies elsewhere is put back by others.

    Raises:
        DataError: if it is no longer the one that the function got; names what changed.
    """
    before = _state_of(network)
    yield
    _check_left(before, _state_of(network), name)


@dataclass(frozen=True)
class _State:
    """What a loop must leave as it found it.

    Attributes:
        parameters: path → shape and type of the numbers, of parameters and of buffers that are stored with them.
        layers: path → the layer, its class, and whether ``forward`` is one of its own.
        hooks: how many, on layers and parameters.
        is_meta: whether a parameter has no numbers at all.
    """

    parameters: dict[str, tuple[object, ...]]
    layers: dict[str, tuple[nn.Module, type, bool]]
    hooks: int
    is_meta: bool


def _state_of(network: nn.Module) -> _State:
    stored, layers = network.state_dict(keep_vars=True), dict(network.named_modules())
    parameters = {name: tensor for name, tensor in stored.items() if isinstance(tensor, Tensor)}
    return _State(
        {name: (tuple(parameter.shape), parameter.dtype) for name, parameter in parameters.items()},
        {path: (module, type(module), "forward" in vars(module)) for path, module in layers.items()},
        sum(map(_hooks_of, (*layers.values(), *network.parameters()))),
        any(parameter.is_meta for parameter in parameters.values()),
    )


def _hooks_of(owner: nn.Module | nn.Parameter) -> int:
    """Return how many hooks lie on a layer or a parameter, of any kind: of passes, of gradients, of its state."""
    kept = vars(owner) | {name: getattr(owner, name, None) for name in _HOOKS_OF_TENSORS}
    return sum(len(hooks) for name, hooks in kept.items() if name.endswith("_hooks") and isinstance(hooks, Mapping))


def _check_left(before: _State, after: _State, name: str) -> None:
    """Raise if a loop left a network that is no longer the one it got.

    Raises:
        DataError: naming what changed.
    """
    changed = _changed(before.parameters, after.parameters)
    if changed:
        raise DataError(
            f"{name} leaves the network with other parameters than it got ({changed}); undo what wraps or replaces "
            "layers, turns them into another type or adds buffers, before it returns"
        )
    if after.is_meta:
        raise DataError(f"{name} leaves the network on the device meta, without its weights; leave it where they are")
    changed = _changed(before.layers, after.layers)
    if changed:
        raise DataError(
            f"{name} leaves other layers in the network than it got, or another forward ({changed}); put back what it "
            "replaced before it returns"
        )
    if after.hooks > before.hooks:
        raise DataError(
            f"{name} leaves {after.hooks - before.hooks} hooks on the network, which would be copied with it; remove "
            "them before it returns"
        )


def _changed(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    """Return the first paths of which something else is known afterwards; empty if there are none."""
    paths = [path for path, known in before.items() if after.get(path) != known]
    paths += [path for path in after if path not in before]
    return ", ".join([path or "the network itself" for path in paths][:3])
