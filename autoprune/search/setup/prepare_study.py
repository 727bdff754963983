"""The composition root: from a spec to a study that is ready to be searched, step by step.

What is needed only once is stored in the study's folder by the step that makes it (``once``); everything else is cheap
enough to build at each start.
"""

from __future__ import annotations

from collections.abc import Callable

from autoprune.core.measurement import Measurement
from autoprune.core.notify import Notify
from autoprune.errors import UsageError
from autoprune.pruning.surgery import Pruner
from autoprune.search.setup.build_costs import cost_model, timer_of
from autoprune.search.setup.choose_latency_engine import check_engine_takes, named_engine, with_latency_engine
from autoprune.search.setup.choose_latency_format import with_latency_format
from autoprune.search.setup.choose_layout import with_layout
from autoprune.search.setup.choose_peak_rate import with_peak_rate
from autoprune.search.setup.choose_round_to import with_round_to
from autoprune.search.setup.choose_runtime import with_working_runtime
from autoprune.search.setup.context import open_context
from autoprune.search.setup.dense_network import dense_network
from autoprune.search.setup.find_space import find_prunable, search_space
from autoprune.search.setup.importance_scores import importance_scores
from autoprune.search.setup.int8_sizes import int8_overhead
from autoprune.search.setup.measure_dense import measure_dense
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.search.setup.starting_weights import starting_networks
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.tasks.task import DataTask


def prepare_study(spec: StudySpec, folder: StudyFolder, notify: Notify) -> PreparedStudy:
    """Build everything a study works with, as :func:`prepare_all_but_rate`, and decide the peak rate of its fine-tunes.

    Args and raises: as there.
    """
    return with_peak_rate(prepare_all_but_rate(spec, folder, notify))


def prepare_all_but_rate(
    spec: StudySpec,
    folder: StudyFolder,
    notify: Notify,
    on_decided: Callable[[StudySpec], None] = lambda spec: None,
    task: DataTask | None = None,
) -> PreparedStudy:
    """Build everything a study works with, doing once what is needed only once; trying rates is left to the workers.

    Args:
        spec: resolved for this machine.
        folder: where the study is stored; it must be writable.
        notify: called with a sentence on what is going on.
        on_decided: called for a new study, before time is spent on its network, with the spec in which the settings are
            decided that the network works in.
        task: the data, if it is open already.

    Raises:
        AutopruneError: if the network, the data or the folder cannot be used.
    """
    opened = open_context(spec, folder, notify, task)
    if opened.spec.runtime.precision == "auto" or not folder.dense_weights.exists():
        opened = with_working_runtime(opened)
        on_decided(opened.spec)
    engine = named_engine(opened)
    network = opened.device.place(dense_network(opened, check_engine_takes(opened, engine))).eval()
    example = opened.example(network)
    prunable = find_prunable(opened, network, example)
    origins = starting_networks(opened, network, prunable.groups)
    scores = importance_scores(opened, origins.scored, prunable.groups)
    space, frozen = search_space(opened.spec, prunable, scores)
    pruner = Pruner(network, space, scores)
    laid_out = with_layout(opened, pruner)
    laid_out.device.place(network)
    start = laid_out.device.place(origins.start)
    engined, float_engine = with_latency_engine(laid_out, pruner, engine)
    formatted, timing_engine = with_latency_format(engined, network, float_engine)
    decided, pruner = with_round_to(formatted, pruner, timing_engine)
    cost = cost_model(network, pruner.space, example, int8_overhead(decided, pruner, float_engine))
    timer = timer_of(decided, network, timing_engine)
    dense = measure_dense(decided, network, cost, timer, float_engine)
    _check_objectives(spec, dense)
    return PreparedStudy(decided, pruner, start, frozen, cost, timer, dense)


def _check_objectives(spec: StudySpec, dense: Measurement) -> None:
    missing = [name for name in spec.objectives if name not in dense.values]
    if missing:
        raise UsageError(
            f"objectives name {', '.join(missing)}, which this study does not measure: what is not zero is counted "
            f"where there are masks; add weight or 2:4 to space.patterns, or trade mflops or mparams"
        )
