"""Time two ONNX files against each other on the machine where this runs, and print one JSON document.

This very file is ``autoprune time -``, and what ``autoprune time --script`` writes: it needs Python 3.9 or newer, NumPy
and onnxruntime, and nothing of autoprune or PyTorch, so that a small board can run it.

    tar of timing.json, dense.onnx, pruned.onnx and perhaps inputs.npz on standard input  ->  a JSON document

``timing.json`` holds ``inputs`` (name -> {"shape": [...], "type": "float32"}), ``blocks``, ``calls`` and ``threads``.
An input that ``inputs.npz`` lacks is all zeros, since time does not depend on real numbers. Blocks of calls alternate
between the two files, because a machine drifts by tens of per cent within seconds and their ratio does not. The
document echoes a SHA-256 of each file, so that nobody takes it for an answer about others. What goes wrong is a
document with the key ``error``, and exit code 1.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import importlib
import io
import json
import os
import platform
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

FORMAT = 1
WARM_UP_BLOCKS = 2
LEAST_BLOCKS = WARM_UP_BLOCKS + 3  # of fewer there is no spread to speak of
PLAN, DENSE, PRUNED, INPUTS = "timing.json", "dense.onnx", "pruned.onnx", "inputs.npz"
PATIENCE_SECONDS = 300.0  # how long to wait for another process that times here
STEP_SECONDS = 10.0  # within which whoever trains here comes to the end of a step
_LONGEST_REASON = 300
_PI_THROTTLED = "/sys/devices/platform/soc/soc:firmware/get_throttled"

Document = dict[str, Any]  # as JSON holds it; what reads this in autoprune gives it a type


class Refused(Exception):
    """What was given cannot be timed here; the message says why."""


def timed_archive(content: bytes, host: str = "") -> Document:
    """Return the document of an archive.

    Args:
        content: a tar file, as the module says.
        host: what this machine is called; empty for its own name.

    Raises:
        Refused: if the archive, a file of it or this machine does not serve.
    """
    members = read_archive(content)
    plan = read_plan(members)
    feed = read_inputs(plan, members)
    started, throttles = time.time(), throttle_count()
    calls = [session_call(members[name], name, feed, plan["threads"]) for name in (DENSE, PRUNED)]
    with turn():
        pairs = alternate(calls[0], calls[1], plan["blocks"], plan["calls"], plan["threads"] == 1)
    after = throttle_count()
    return {
        "format": FORMAT,
        **comparison(pairs[WARM_UP_BLOCKS:]),
        **{name: plan[name] for name in ("blocks", "calls", "threads")},
        "sha256": {"dense": digest(members[DENSE]), "pruned": digest(members[PRUNED])},
        **machine(host),
        "throttled": None if throttles is None or after is None else after > throttles or is_throttled_pi(),
        "seconds": time.time() - started,
    }


def read_archive(content: bytes) -> dict[str, bytes]:
    """Return name -> content of the files in a tar; nothing is written to disk.

    Raises:
        Refused: if it is no tar, was cut off, or lacks a file.
    """
    members = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None and member.name in (PLAN, DENSE, PRUNED, INPUTS):
                    members[member.name] = file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Refused(
            f"the {len(content)} bytes on standard input are no whole tar archive ({error}); was the connection cut?"
        ) from error
    missing = [name for name in (PLAN, DENSE, PRUNED) if name not in members]
    if missing:
        raise Refused(f"the archive on standard input lacks {', '.join(missing)}; expected {PLAN}, {DENSE}, {PRUNED}")
    return members


def read_plan(members: dict[str, bytes]) -> Document:
    """Return how to time.

    Raises:
        Refused: if it is not what the module says.
    """
    try:
        plan = json.loads(members[PLAN].decode("utf-8"))
        numbers = {name: int(plan[name]) for name in ("blocks", "calls", "threads")}
        shapes = {str(name): ([int(n) for n in one["shape"]], str(one["type"])) for name, one in plan["inputs"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(
            f"{PLAN} is not as expected ({type(error).__name__}: {error}); use one version of both"
        ) from error
    if numbers["blocks"] < LEAST_BLOCKS or numbers["calls"] < 1 or numbers["threads"] < 1:
        raise Refused(f"{PLAN} asks for {numbers}; expected at least {LEAST_BLOCKS} blocks, 1 call and 1 thread")
    return {**numbers, "inputs": shapes}


def read_inputs(plan: Document, members: dict[str, bytes]) -> Document:
    """Return input name -> array.

    Raises:
        Refused: if NumPy is missing, or the arrays cannot be read or made.
    """
    numpy = _needed("numpy")
    try:
        given: Document = {}
        if INPUTS in members:
            with numpy.load(io.BytesIO(members[INPUTS]), allow_pickle=False) as stored:
                given = {name: stored[name] for name in stored.files}
        return {
            name: given[name] if name in given else numpy.zeros(shape, dtype=kind)
            for name, (shape, kind) in plan["inputs"].items()
        }
    except Exception as error:  # zipfile's, zlib's or NumPy's own
        raise Refused(f"the inputs cannot be made: {_first_line(error)}") from error


def session_call(content: bytes, name: str, feed: Document, threads: int) -> Callable[[], object]:
    """Return a call that runs an ONNX file on the CPU once, after it has run for the first time.

    Raises:
        Refused: if onnxruntime is missing, or does not take the file or the inputs.
    """
    onnxruntime = _needed("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # not errors, which are raised
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or it would slow down what runs next
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        session.run(None, feed)
    except Exception as error:  # onnxruntime's own, which have no common parent
        version = onnxruntime.__version__
        raise Refused(f"ONNX Runtime {version} cannot run {name}: {_first_line(error)}") from error
    return lambda: session.run(None, feed)


def alternate(
    dense: Callable[[], object],
    pruned: Callable[[], object],
    blocks: int,
    calls: int,
    is_one_thread: bool = False,
    wall: Callable[[], float] = time.perf_counter,
    processor: Callable[[], float] = time.process_time,
) -> list[tuple[float, float]]:
    """Return seconds per call of both, block by block in alternation, the first ones among them.

    Args:
        dense: runs one network once.
        pruned: runs the other.
        blocks: pairs of blocks.
        calls: in each block.
        is_one_thread: whether one thread does all; then the time in which other programs had the processor is left out.
        wall: returns seconds; replaced in tests.
        processor: likewise, those for which this process had a processor.
    """

    def seconds(call: Callable[[], object]) -> float:
        start, before = wall(), processor()
        for _ in range(calls):
            call()
        elapsed, had = wall() - start, processor() - before
        return (min(elapsed, had) if is_one_thread else elapsed) / calls

    return [(seconds(dense), seconds(pruned)) for _ in range(blocks)]


def comparison(pairs: Sequence[tuple[float, float]]) -> Document:
    """Return what pairs of seconds per call say, the dense network's first.

    Raises:
        Refused: if the clock stood still.
    """
    if min(min(pair) for pair in pairs) <= 0:
        raise Refused("the clock did not advance during a block; raise latency.calls")
    ratios = [after / before for before, after in pairs]
    return {
        "ratio": statistics.median(ratios),
        "ratio_stderr": median_stderr(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "dense_ms": 1e3 * statistics.median(before for before, _ in pairs),
        "pruned_ms": 1e3 * statistics.median(after for _, after in pairs),
    }


def median_stderr(values: Sequence[float]) -> float:
    """Return the standard error of the median, from the median absolute deviation.

    For normal noise the deviation is 1.4826 MAD, and the median of n values has 1.2533 of it by the root of n.

    Source: Rousseeuw & Croux 1993, Alternatives to the Median Absolute Deviation, section 1.
    """
    centre = statistics.median(values)
    deviation = 1.4826 * statistics.median(abs(value - centre) for value in values)
    return float(1.2533 * deviation / len(values) ** 0.5)


def digest(content: bytes) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def machine(host: str = "") -> Document:
    """Return what this machine is, as far as it can be read; ``None`` for what cannot."""
    governors = {
        text for path in glob.glob("/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor") if (text := _text(path))
    }
    return {
        "host": host or platform.node() or "unnamed",
        "architecture": platform.machine(),
        "processor": _processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": _needed("numpy").__version__,
        "onnxruntime": _needed("onnxruntime").__version__,
        "governor": ", ".join(sorted(governors)) or None,
    }


def _processor() -> str | None:
    model = (_text("/proc/device-tree/model") or "").strip("\0 ")  # of a board
    lines = (_text("/proc/cpuinfo") or "").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name"))
    return model or next(names, None) or platform.processor() or None


def throttle_count() -> int | None:
    """Return how often the cores were slowed down for heat since they started; ``None`` if that cannot be read."""
    counts = [_text(path) for path in glob.glob("/sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")]
    if not counts and _text(_PI_THROTTLED):
        return 0
    known = [int(text) for text in counts if text and text.isdigit()]
    return sum(known) if known else None


def is_throttled_pi() -> bool:
    """Return whether a Raspberry Pi is slowed down now, for heat or for want of voltage (bits 0 to 3)."""
    try:
        return bool(int(_text(_PI_THROTTLED) or "0", 16) & 0xF)
    except ValueError:
        return False


@contextmanager
def turn() -> Iterator[None]:
    """Have this machine's CPU for timing, as processes of autoprune leave it to one another; go on without if need be.

    The two locks are those of ``autoprune.core.quiet``: who times holds the first, who trains the second.
    """
    files = []
    try:
        import fcntl

        name = os.path.join(tempfile.gettempdir(), f"autoprune-{os.getuid()}-cpu")
        for path, seconds in ((f"{name}.lock", PATIENCE_SECONDS), (f"{name}-work.lock", STEP_SECONDS)):
            files.append(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            _wait(lambda: fcntl.flock(files[-1], fcntl.LOCK_EX | fcntl.LOCK_NB), seconds)
    except (ImportError, AttributeError, OSError):  # no such locks on this system, or a disk that is full
        pass
    try:
        yield
    finally:
        for file in reversed(files):
            os.close(file)


def _wait(take: Callable[[], object], seconds: float) -> None:
    """Try to take a lock until it is had, or the time is over."""
    until = time.monotonic() + seconds
    while True:
        try:
            take()
            return
        except BlockingIOError:
            if time.monotonic() > until:
                return
        time.sleep(0.001)


def _needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except Exception as error:  # one built for another processor raises what it likes
        raise Refused(
            f"{package} cannot be loaded on {platform.node()} ({_first_line(error)}); pip install {package}"
        ) from error


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:_LONGEST_REASON]


def document_of(read: Callable[[], bytes], host: str = "") -> Document:
    """Return the document of what is read: of a timing, or of what went wrong; never raises but for an interrupt."""
    try:
        return timed_archive(read(), host)
    except Refused as error:
        return {"format": FORMAT, "error": str(error), "host": host or platform.node()}
    except Exception as error:  # whatever befalls a small machine: no memory, no disk
        said = f"{type(error).__name__}: {_first_line(error)}"
        return {"format": FORMAT, "error": said, "host": host or platform.node()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Read an archive on standard input, print its document, and return the exit code."""
    parser = argparse.ArgumentParser(prog="autoprune_time.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("archive", nargs="?", choices=["-"], default="-", help="standard input, the only one there is")
    parser.add_argument("--host", default="", help="what this machine is called; default: its own name")
    document = document_of(sys.stdin.buffer.read, parser.parse_args(arguments).host)
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()
    return 1 if "error" in document else 0


if __name__ == "__main__":
    sys.exit(main())
