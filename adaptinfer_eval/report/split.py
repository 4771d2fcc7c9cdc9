"""Questions that need the tokens, and those that vanilla gets right: methods scored on them, from a sweep's answers.

A question needs the tokens where `downsample`, which keeps an even grid of them at the same budget, gets it wrong
(VTC-Bench's split); on the others, few tokens are enough whichever they are. Every answer is judged by itself, right
where more than half right; MME's pairs and MMBench's circular copies do not count together here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptinfer_eval.methods.schedule import budget_text
from adaptinfer_eval.report.headings import Record
from adaptinfer_eval.report.page.samples import read_rights
from adaptinfer_eval.report.rows import Cell, Line

CONTROL = "downsample"
ALL = "all"
RIGHT = 0.5
Rights = Mapping[int, bool]


@dataclass(frozen=True)
class Share:
    """How many of some questions are right."""

    right: int
    of: int

    def __add__(self, other: Share) -> Share:
        return Share(self.right + other.right, self.of + other.of)

    def text(self) -> str:
        """In percent, with Wilson's 95 % interval."""
        if not self.of:
            return "–"
        from scipy.stats import binomtest

        between = binomtest(self.right, self.of).proportion_ci(method="wilson")
        return f"{100 * self.right / self.of:.1f} ({100 * between.low:.1f}–{100 * between.high:.1f})"


@dataclass(frozen=True)
class Split:
    """A line in one column, or in `all`: every question of all columns counts once."""

    title: str
    tokens: float
    column: str
    needing: Share | None
    """Of the questions that need the tokens; None where `downsample` was not measured at this budget."""
    rest: Share | None
    kept: int
    """Right with all tokens and still right."""
    lost: int
    gained: int
    both_wrong: int

    def p_value(self) -> float:
        """McNemar's test, exact: how likely so uneven a loss and gain were if pruning changed answers at random."""
        from scipy.stats import binomtest

        changed = self.lost + self.gained
        return float(binomtest(self.lost, changed).pvalue) if changed else 1.0


def splits_of(lines: Sequence[Line], folder: Path, headings: Sequence[str]) -> list[Split]:
    """Of every pruned line in every column that vanilla was measured in too; of several seeds the first.

    Where a line has several columns, one more of all of them together.
    """
    rights = {(id(line), title): _rights(folder, line.cells[title]) for line in lines for title in headings}
    vanilla = next((line for line in lines if line.method == "vanilla"), None)
    found = []
    for line in lines if vanilla else ():
        control = next((one for one in lines if one.place.name == CONTROL and one.tokens == line.tokens), None)
        own = []
        for title in headings:
            here, full = rights[id(line), title], rights[id(vanilla), title]
            if line is vanilla or not here or here.keys() != full.keys():
                continue
            small = rights[id(control), title] if control else {}
            own.append(_split(line, title, here, full, small if small.keys() == here.keys() else {}))
        found += [*own, *([_together(own)] if len(own) > 1 else [])]
    return found


def split_rows(splits: Sequence[Split]) -> list[dict[str, str]]:
    return [
        {
            "Method": one.title,
            "Avg. tokens": budget_text(one.tokens),
            "Column": one.column,
            "Need tokens": str(one.needing.of) if one.needing else "–",
            "right (%)": one.needing.text() if one.needing else "–",
            "Others": str(one.rest.of) if one.rest else "–",
            "right there (%)": one.rest.text() if one.rest else "–",
            "Vanilla right": str(one.kept + one.lost),
            "kept": str(one.kept),
            "lost": str(one.lost),
            "gained": str(one.gained),
            "McNemar p": f"{one.p_value():.2g}",
        }
        for one in splits
    ]


def split_notes(splits: Sequence[Split]) -> list[str]:
    notes = [
        f"Need tokens: questions that {CONTROL} at the same budget gets wrong; others: those that it gets right. "
        f"right: of these, in percent, with the 95 % interval (Wilson) over questions; {CONTROL} itself has 0 and 100.",
        "kept, lost: of the questions that vanilla gets right, those that are right and wrong with fewer tokens; "
        "gained: wrong with all tokens and right with fewer. McNemar p: exact, two-sided, over lost and gained.",
        "Every answer is judged by itself, right where more than half right: MME's pairs and MMBench's circular copies "
        "do not count together, as they do in the scores.",
    ]
    if any(one.needing is None for one in splits):
        notes.append(f"–: {CONTROL} was not measured at this budget on the same questions.")
    return notes


def _rights(folder: Path, cell: Cell) -> Rights:
    done: list[tuple[object, Record]] = [(m, r) for m, r in sorted(cell.records.items()) if r["status"] == "done"]
    if not done:
        return {}
    return {doc: right > RIGHT for doc, right in read_rights(folder, done[0][1]).items()}


def _split(line: Line, title: str, own: Rights, full: Rights, small: Rights) -> Split:
    needing = [own[doc] for doc, right in small.items() if not right]
    rest = [own[doc] for doc, right in small.items() if right]
    pairs = [(full[doc], own[doc]) for doc in own]
    return Split(
        line.place.title,
        line.tokens,
        title,
        Share(sum(needing), len(needing)) if small else None,
        Share(sum(rest), len(rest)) if small else None,
        kept=pairs.count((True, True)),
        lost=pairs.count((True, False)),
        gained=pairs.count((False, True)),
        both_wrong=pairs.count((False, False)),
    )


def _together(own: Sequence[Split]) -> Split:
    needing = [one.needing for one in own if one.needing]
    rest = [one.rest for one in own if one.rest]
    whole = len(needing) == len(own)
    return Split(
        own[0].title,
        own[0].tokens,
        ALL,
        sum(needing, Share(0, 0)) if whole else None,
        sum(rest, Share(0, 0)) if whole else None,
        *(sum(getattr(one, key) for one in own) for key in ("kept", "lost", "gained", "both_wrong")),
    )
