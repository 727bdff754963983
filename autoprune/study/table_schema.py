"""What is known of the stored tables without loading Optuna: their versions, and the names of our attributes."""

from __future__ import annotations

KNOWN_SCHEMA = ("v3.2.0.a",)  # versions of Optuna's tables that autoprune reads and writes directly
CANDIDATE, OUTCOME = "candidate", "outcome"
WORKER = "worker"  # key of who evaluates a candidate, in the first of them
RUNNING = "RUNNING"  # the state of a trial that has no outcome yet
