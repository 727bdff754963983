"""What a large study costs: seconds, CPU and peak memory of ``studies``, ``report`` and ``studies export``.

A study of the real ResNet-56 space is filled with made-up finished trials, as ``bench_report`` makes them; nothing is
trained. Each command runs in a process of its own, start of Python included, and its memory is the largest it had.

    python scripts/bench_large_study.py                    # 5,000 trials
    python scripts/bench_large_study.py --trials 500 --json
    python scripts/bench_large_study.py --study FOLDER     # a study that is there already
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_report import store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--study", type=Path, help="a stored study; default: one is made and thrown away")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.study or Path(temporary) / "studies" / "large"
        if options.study is None:
            store(folder, options.trials)
        found = measure(folder, Path(temporary))
    if options.json:
        print(json.dumps({"trials": options.trials, "commands": found}, indent=1))
        return
    for name, (seconds, cpu, megabytes) in found.items():
        print(f"{name:16} {seconds:7.2f} s on the wall, {cpu:7.2f} s of CPU, {megabytes:5.0f} MB")


def measure(folder: Path, scratch: Path) -> dict[str, tuple[float, float, float]]:
    """Return command → seconds on the wall, seconds of CPU, and peak memory in MB of 2²⁰ bytes."""
    return {
        "studies": run("studies", "--root", folder.parent),
        "report": run("report", folder),
        "export .tar.gz": run("studies", "export", folder, scratch / "large.tar.gz"),
        "export .zip": run("studies", "export", folder, scratch / "large.zip"),
    }


# A process of its own: the memory of this one, which has loaded PyTorch, would count as its child's.
RUNNER = """
import json, os, sys, time
started = time.perf_counter()
if not (child := os.fork()):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.execv(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(child, 0)
used = usage.ru_utime + usage.ru_stime
print(json.dumps([os.waitstatus_to_exitcode(status), time.perf_counter() - started, used, usage.ru_maxrss / 1024]))
"""


def run(*arguments: str | Path) -> tuple[float, float, float]:
    """Run a command to its end."""
    command = [str(Path(sys.executable).with_name("autoprune")), *map(str, arguments)]
    done = subprocess.run([sys.executable, "-c", RUNNER, *command], stdout=subprocess.PIPE, text=True, check=True)
    code, seconds, cpu, megabytes = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return seconds, cpu, megabytes


if __name__ == "__main__":
    main()
