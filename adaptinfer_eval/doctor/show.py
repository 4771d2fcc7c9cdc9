"""Findings on a terminal, a line each, as they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich.console import Console

from adaptinfer_eval.doctor.finding import Finding, Verdict

COLOURS: dict[Verdict, str] = {"ok": "green", "warning": "yellow", "fails": "red"}


def show(findings: Iterable[Finding], console: Console) -> bool:
    """Print them, and what they come to; whether none of them fails."""
    verdicts: Counter[Verdict] = Counter()
    seconds = 0.0
    for finding in findings:
        verdicts[finding.verdict] += 1
        seconds += finding.seconds
        line = f"{finding.seconds:5.1f} s  {finding.name:<32}  {finding.text}"
        console.print(f"{finding.verdict:<7}", style=COLOURS[finding.verdict], end=" ", highlight=False)
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        if finding.remedy and finding.verdict != "ok":
            console.print(f"{'':<17}→ {finding.remedy}", markup=False, highlight=False, soft_wrap=True)
    looked_at = f"{verdicts.total()} checks in {seconds:.0f} s"
    if verdicts["fails"]:
        text = f"a sweep would not work here: {verdicts['fails']} of {looked_at} fail, what to do stands below each"
    elif verdicts["warning"]:
        text = f"a sweep should work here ({looked_at}); see the warnings"
    else:
        text = f"a sweep works here ({looked_at})"
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    return not verdicts["fails"]
