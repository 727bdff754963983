"""Read the file that W&B writes for a run: LevelDB's log format, with a protocol buffer in each record."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class LoggedRun:
    """What one session logged: rows by step, the last config and summary, how it ended, and its kinds of records."""

    id: str = ""
    project: str = ""
    name: str = ""
    tags: tuple[str, ...] = ()
    host: str = ""
    kinds: set[str] = field(default_factory=set)
    exit_code: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)


def read_runs(folder: Path) -> list[LoggedRun]:
    """Return what every session of a study logged, in order, once W&B has written everything."""
    import wandb

    wandb.teardown()
    files = sorted((folder / "wandb").glob("*run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return [read_run(path) for path in files]


def read_run(path: Path) -> LoggedRun:
    from wandb.proto.wandb_internal_pb2 import Record

    run = LoggedRun()
    for data in _records(path.read_bytes()):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        run.kinds.add(kind)
        if kind == "run":
            run.id, run.project, run.name = record.run.run_id, record.run.project, record.run.display_name
            run.tags, run.host = tuple(record.run.tags), record.run.host
            run.config |= _values(record.run.config.update)
        elif kind == "config":
            run.config |= _values(record.config.update)
        elif kind == "summary":
            run.summary |= _values(record.summary.update)
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
        elif kind == "history":
            step = record.history.step.num
            assert step not in run.rows, "a step was logged twice"
            run.rows[step] = _values(record.history.item)
    return run


def _values(items: Any) -> dict[str, Any]:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def _records(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    at, parts = HEADER, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        body = data[at + HEADER : at + HEADER + length]
        if len(body) < length:
            return  # cut off by a kill
        at += HEADER + length
        parts = body if kind in (FULL, FIRST) else parts + body
        if kind in (FULL, LAST):
            yield parts
