"""What a check has found, and how checks are run: none of them raises out of here."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from adaptinfer_eval.sweep.alike import reason_of
from adaptinfer_eval.sweep.config import SweepError

Verdict = Literal["ok", "warning", "fails"]


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and what to do where it is not well."""

    name: str
    verdict: Verdict
    text: str
    remedy: str = ""
    seconds: float = 0.0


Check = Callable[[], Iterable[Finding]]


def found_by(name: str, check: Check) -> Iterator[Finding]:
    """What a check finds, with the seconds that each took; one that crashes has found that, under `name`."""
    started = time.perf_counter()
    findings = _findings(name, check)
    while (finding := next(findings, None)) is not None:
        now = time.perf_counter()
        yield Finding(finding.name, finding.verdict, finding.text, finding.remedy, now - started)
        started = time.perf_counter()


def _findings(name: str, check: Check) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:
        traceback.print_exc()
        if isinstance(error, SweepError):  # which says itself what to do
            yield Finding(name, "fails", " ".join(str(error).split()))
        else:
            yield Finding(name, "fails", one_line(error), BROKEN)


BROKEN = "put right first what fails above; where nothing does, install the tested versions (README), or report the log"


def one_line(error: BaseException) -> str:
    """Type and message of an error, short enough for a line."""
    text = " ".join(reason_of(error).split())
    return text if len(text) <= 300 else f"{text[:297]}..."
