"""What tests of the doctor share."""

from __future__ import annotations

from typing import Any

from adaptinfer_eval.doctor.finding import Finding
from adaptinfer_eval.sweep.config import SweepConfig, load_config

ONE_TASK = "tasks=mini_gqa"


def mini(*overrides: str) -> SweepConfig:
    return load_config("mini", [ONE_TASK, *overrides])


def found(findings: Any) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}
