"""``autoprune studies rm|cp|export|import``: the work itself is in ``study.manage``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoprune.cli.completed_values import complete_stored
from autoprune.cli.headings import HeadedCommand, Heading, option
from autoprune.cli.output import echo, emit
from autoprune.cli.shared_options import artifacts_option, stored_study_options, trust_option
from autoprune.errors import UsageError

if TYPE_CHECKING:
    from autoprune.study.manage.remove import Removed


@click.command(
    name="rm",
    epilog="""\b
Examples:
  autoprune studies rm digits-resnet56
  autoprune studies rm first second --yes
  autoprune studies rm mine --all --yes
""",
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_stored)
@option("--yes", heading=Heading.OUTPUT, is_flag=True, help="Do not ask for confirmation.")
@option(
    "--all",
    "everything",
    heading=Heading.OUTPUT,
    is_flag=True,
    help="Also remove study.toml and other files of yours.",
)
@artifacts_option
@stored_study_options
def rm_study(
    names: tuple[str, ...],
    yes: bool,
    everything: bool,
    artifacts: str | None,
    root: Path,
    storage: str | None,
    as_json: bool,
) -> None:
    """Remove what searches made of each study NAME: trials, weights, reports and picked networks.

    A study.toml stays, and so does everything that no search made, unless --all is given. With --artifacts, what the
    study's machines have left there for each other goes too. If one of the studies is being searched, none is removed.
    """
    from autoprune.study.disk_usage import size_of
    from autoprune.study.find_study import find_study
    from autoprune.study.manage.file_inventory import stored_folder
    from autoprune.study.manage.remove import check_not_searched, remove_study

    folders = [stored_folder(find_study(name, root)[0]) for name in dict.fromkeys(names)]
    for folder in folders:
        check_not_searched(folder)
    if not yes:
        size = sum(size_of(folder).megabytes for folder in folders)
        picked = sum(len(list(folder.picked.glob("[0-9]*"))) for folder in folders)
        also = f", {picked} picked network{'s' if picked > 1 else ''} among it" if picked else ""
        shown = ", ".join(str(folder.path) for folder in folders)
        _ask(f"remove {shown} ({size:.1f} MB{also})?")
    removed = [remove_study(folder.path, storage, everything=everything, artifacts=artifacts) for folder in folders]
    if as_json:
        emit({"removed": [_removed_json(each) for each in removed]})
        return
    for each in removed:
        kept = f"; kept: {', '.join(each.kept)}" if each.kept else ""
        echo(f"removed {each.folder}: {each.freed_bytes / 1e6:.1f} MB freed{kept}")
        if each.artifact_bytes:
            echo(f"{each.artifact_bytes / 1e6:.1f} MB removed from {artifacts}")
        if each.artifacts_stay:
            echo(f"{each.artifacts_stay} files lie in an artifact store; --artifacts PLACE would have removed them")
        if each.trials_stay:
            where = "nor in the --storage given" if storage else "and no --storage was given"
            echo(f"its trials were not in the folder, {where}: they stay where they are")


def _ask(question: str) -> None:
    """Ask for confirmation.

    Raises:
        UsageError: if the answer is no, or there is no terminal to ask on.
    """
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is no terminal to confirm it on; give --yes")
    if not click.confirm(f"autoprune: {question}", err=True):
        raise UsageError("nothing was removed")


def _removed_json(each: Removed) -> dict[str, object]:
    return {
        "folder": str(each.folder),
        "freed_mb": round(each.freed_bytes / 1e6, 3),
        "kept": list(each.kept),
        "trials_stay": each.trials_stay,
        "artifacts_freed_mb": round(each.artifact_bytes / 1e6, 3),
        "artifacts_stay": each.artifacts_stay,
    }


@click.command(
    name="cp",
    epilog="""\b
Examples:
  autoprune studies cp digits-resnet56 what-if
  autoprune search what-if --sampler tpe --trials 60
""",
)
@click.argument("source", metavar="FROM", shell_complete=complete_stored)
@click.argument("target", metavar="TO")
@stored_study_options
def cp_study(source: str, target: str, root: Path, storage: str | None, as_json: bool) -> None:
    """Copy the study FROM under the name TO, as it is at this moment; FROM may be searched meanwhile.

    Trials, spec, study.toml, weights and scores are copied, so that you can search, report and pick with TO. Reports
    and other files that can be made again are not copied, nor are picked networks.
    """
    from autoprune.study.find_study import find_study
    from autoprune.study.manage.copy import duplicate_study

    path, _ = find_study(source, root)
    goal, values = find_study(target, root, allow_new=True)
    size = duplicate_study(path, goal, str(values["name"]), storage)
    if as_json:
        emit({"folder": str(goal), "size_mb": round(size / 1e6, 3)})
        return
    echo(f"copied {path} to {goal}: {size / 1e6:.1f} MB\nnext:\n  autoprune report {shlex.quote(str(goal))}")


@click.command(
    name="export",
    epilog="""\b
Examples:
  autoprune studies export digits-resnet56 digits.tar.gz
  autoprune studies export mine mine.zip --force
""",
)
@click.argument("name", metavar="NAME", shell_complete=complete_stored)
@click.argument("file", type=click.Path(path_type=Path))
@option("--force", heading=Heading.OUTPUT, is_flag=True, help="Replace FILE if it exists.")
@stored_study_options
def export_study(name: str, file: Path, force: bool, root: Path, storage: str | None, as_json: bool) -> None:
    """Pack the study NAME into FILE, a .tar.gz or .zip with which another machine can continue it.

    The file holds trials, spec, weights and scores. It holds no code and no data of yours, no picked networks (copy
    their folders), no pickle and no absolute path. The same study gives the same bytes.
    """
    from autoprune.study.find_study import find_study
    from autoprune.study.manage.export import export_study as pack

    done = pack(find_study(name, root)[0], file, storage, force=force)
    if as_json:
        size = round(done.size_bytes / 1e6, 3)
        unpacked = round(done.unpacked / 1e6, 3)
        about = {"file": str(file), "size_mb": size, "unpacked_mb": unpacked, "trials": done.trials}
        emit({**about, "needs": dict(done.needs)})
        return
    size_mb, unpacked_mb = done.size_bytes / 1e6, done.unpacked / 1e6
    echo(f"written: {file} ({size_mb:.1f} MB, {unpacked_mb:.1f} MB unpacked, {done.trials} trials)")
    _print_needs(done.needs)
    echo(f"elsewhere:\n  autoprune studies import {shlex.quote(file.name)}")


def _print_needs(needs: object) -> None:
    for key, value in dict(needs).items():  # type: ignore[call-overload]
        echo(f"also needed: {value} ({key})")


@click.command(
    cls=HeadedCommand,
    name="import",
    epilog="""\b
Examples:
  autoprune studies import digits.tar.gz
  autoprune studies import mine.zip --as theirs --model net.py:build --data imagefolder:/data/birds
""",
)
@click.argument("file", type=click.Path(path_type=Path))
@option("--model", heading=Heading.NETWORK, metavar="NAME", help="The network on this machine, e.g. net.py:build.")
@option("--weights", heading=Heading.NETWORK, metavar="FILE", help="Its trained weights on this machine.")
@option("--data", heading=Heading.NETWORK, metavar="NAME", help="The data on this machine, e.g. imagefolder:PATH.")
@option("--data-root", heading=Heading.NETWORK, metavar="DIR", help="Folder for downloaded data on this machine.")
@option("--as", "name", heading=Heading.OUTPUT, metavar="NAME", help="Name of the study here; default: the one it had.")
@option(
    "--force",
    heading=Heading.OUTPUT,
    is_flag=True,
    help="Replace a stored study of that name; its study.toml stays.",
)
@option(
    "--max-gb",
    heading=Heading.OUTPUT,
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    help="Refuse an archive that unpacks to more gigabytes.",
)
@trust_option
@stored_study_options
def import_study(
    file: Path,
    name: str | None,
    force: bool,
    max_gb: float,
    trust_code: bool,
    model: str | None,
    weights: str | None,
    data: str | None,
    data_root: str | None,
    root: Path,
    storage: str | None,
    as_json: bool,
) -> None:
    """Unpack the study in FILE under --root, so that you can search, report and pick with it here.

    The file is checked and nothing in it is run. The study appears whole or not at all. The data must be the same as
    where the study was made; latencies stay those of the machine that measured them.
    """
    from autoprune.study.manage.import_archive import import_study as unpack

    given = {"model.source": model, "model.weights": weights, "data.source": data, "data.root": data_root}
    places = {key: value for key, value in given.items() if value is not None}
    limit = 1e9 * max_gb
    done = unpack(file, root, name, storage, force=force, places=places, trust_code=trust_code, limit=limit)
    if as_json:
        about = {"folder": str(done.folder), "unpacked_mb": round(done.unpacked / 1e6, 3), "trials": done.trials}
        emit({**about, "needs": dict(done.needs), "code": {key: list(names) for key, names in done.code.items()}})
        return
    echo(f"imported {done.folder}: {done.trials} trials, {done.unpacked / 1e6:.1f} MB unpacked")
    _print_needs(done.needs)
    if done.code and not trust_code:
        named = ", ".join(f"{name} ({key})" for key, names in done.code.items() for name in names)
        echo(f"its spec names code that a search or pick would run: {named}; look at it, then give --trust-code once")
    if device := done.measured_on.get("device_name"):
        echo(f"its latencies were measured on {device}; new trials are timed on this machine")
    echo(f"next:\n  autoprune report {shlex.quote(str(done.folder))}")
