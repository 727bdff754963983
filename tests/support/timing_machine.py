"""A machine that times by a command, without ONNX Runtime and in a moment: what it does is written in a file."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROGRAM = """
import hashlib, io, json, pathlib, sys, tarfile, time
state_file = pathlib.Path(__file__).with_suffix(".json")
state = json.loads(state_file.read_text())
state["calls"] += 1
mode = "up"
for first, name in state["modes"]:
    if state["calls"] >= first:
        mode = name
state_file.write_text(json.dumps(state))
if mode.startswith("slow "):
    time.sleep(float(mode.split()[1]))
if mode == "hangs":
    time.sleep(600)
content = sys.stdin.buffer.read()
if mode == "down":
    sys.stderr.write("debug: connecting\\nssh: connect to host pi port 22: Connection refused\\n")
    sys.exit(255)
if mode == "rubbish":
    print("Welcome to pi!")
    sys.exit(0)
if mode == "endless":
    while True:
        print("x" * 1000)
if mode == "full":
    print(json.dumps({"format": 1, "error": "OSError: [Errno 28] No space left on device", "host": "pi"}))
    sys.exit(1)
with tarfile.open(fileobj=io.BytesIO(content)) as archive:
    files = {member.name: archive.extractfile(member).read() for member in archive}
plan = json.loads(files["timing.json"])
sizes = [len(files["dense.onnx"]), len(files["pruned.onnx"])]
document = {
    "format": 1, "ratio": sizes[1] / sizes[0], "ratio_stderr": 0.001,
    "dense_ms": 8.0, "pruned_ms": 8.0 * sizes[1] / sizes[0],
    "blocks": plan["blocks"], "calls": plan["calls"], "threads": plan["threads"],
    "sha256": {name: hashlib.sha256(files[name + ".onnx"]).hexdigest() for name in ("dense", "pruned")},
    "host": "pi", "architecture": "aarch64", "processor": "Pi 5", "onnxruntime": "1.20",
    "governor": None, "throttled": None,
}
if mode.startswith("{"):
    document.update(json.loads(mode))
print(json.dumps(document))
"""


@dataclass(frozen=True)
class TimingMachine:
    """A machine in a folder: ``will`` says what it does from which call on."""

    program: Path

    @property
    def command(self) -> str:
        return shlex.join([sys.executable, "-I", str(self.program)])

    @property
    def calls(self) -> int:
        return int(json.loads(self.program.with_suffix(".json").read_text())["calls"])

    def will(self, mode: str | dict[str, Any] = "up", after: int = 0) -> None:
        """Do so from now on, or after so many further calls, and as usual until then."""
        text = mode if isinstance(mode, str) else json.dumps(mode)
        calls = self.calls if self.program.with_suffix(".json").exists() else 0
        state = {"calls": calls, "modes": [[calls + after + 1, text]]}
        self.program.with_suffix(".json").write_text(json.dumps(state))


def timing_machine(folder: Path) -> TimingMachine:
    folder.mkdir(parents=True, exist_ok=True)
    machine = TimingMachine(folder / "machine.py")
    machine.program.write_text(_PROGRAM, encoding="utf-8")
    machine.will("up")
    return machine
