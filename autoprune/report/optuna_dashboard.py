"""optuna-dashboard on a copy of a study: to look at parameters and values, not to choose by.

The dashboard knows neither budgets nor which accuracies differ only by noise. It can also write into what it shows, so
it never gets the study itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from autoprune.core.leftovers import scratch_folder
from autoprune.errors import StudyError, UsageError
from autoprune.study.copy_trials import backup_sqlite, copy_study
from autoprune.study.storage_url import sqlite_url
from autoprune.study.view import StudyView

HOST = "127.0.0.1"
CAVEAT = (
    "optuna-dashboard shows a copy of the study as it is now. It knows nothing about budgets, constraints and noise: "
    "what it lists as best may be over the budget. Trust `autoprune report`"
)


def check_installed() -> None:
    """Check that optuna-dashboard can be imported.

    Raises:
        UsageError: with the command that installs it.
    """
    try:
        import optuna_dashboard  # noqa: F401 - only tested, not used here
    except ImportError as error:
        raise UsageError(
            f"the dashboard needs optuna-dashboard, which cannot be imported ({error}); install it with "
            f"`pip install 'autoprune[dashboard]'`"
        ) from error


@contextmanager
def copied(view: StudyView, storage: str | None = None) -> Iterator[str]:
    """Return a context with the URL of a temporary copy of a study's trials, which is removed at the end.

    Args:
        view: the study.
        storage: Optuna storage URL if its trials are not in its folder.

    Raises:
        StudyError: if the trials cannot be read or copied.
    """
    with scratch_folder("dashboard") as folder:
        copy = folder / "study.db"
        if storage is None:
            backup_sqlite(view.folder.database, copy)
        else:
            copy_study(storage, view.spec.name, sqlite_url(copy), view.spec.name)
        yield sqlite_url(copy)


@contextmanager
def served(url: str, port: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Return a context with the address of a dashboard on this machine, and what serves it until it is interrupted.

    Args:
        url: Optuna storage URL of what it shows.
        port: where it listens; 0 for any free one.

    Raises:
        StudyError: if the port is taken.
    """
    import optuna_dashboard

    try:
        server = make_server(HOST, port, optuna_dashboard.wsgi(url), _Server, _Quiet)
    except OSError as error:
        raise StudyError(
            f"port {port} of {HOST} cannot be opened: {error.strerror or error}; give another one with --port"
        ) from error
    with server:
        yield f"http://{HOST}:{server.server_port}/", server.serve_forever


class _Server(ThreadingMixIn, WSGIServer):
    """A server that answers several requests at once, and waits for none of them when it stops."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    """A request handler that writes nothing to the terminal."""

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""
