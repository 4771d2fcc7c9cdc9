"""What a reader must know to read a table: the notes below it."""

from __future__ import annotations

from collections.abc import Sequence

from adaptinfer_eval.methods.schedule import budgets_text, is_share
from adaptinfer_eval.report.bootstrap import RESAMPLES
from adaptinfer_eval.report.headings import Record
from adaptinfer_eval.report.layouts import TITLES, Layout
from adaptinfer_eval.report.published import RATIO, Published
from adaptinfer_eval.report.ratios import Ratio
from adaptinfer_eval.report.rows import Line, Member


def notes_of(
    lines: Sequence[Line],
    ratios: Sequence[Ratio | None],
    layout: Layout,
    known: Published | None,
    lineage: str,
    mismatch: str,
    wholes: Sequence[str] = (),
) -> list[str]:
    """`known`: what `lineage` prints for the table, if anything; `mismatch`: why it is not compared.

    `wholes`: columns whose scores are no means over questions.
    """
    records = [record for line in lines for cell in line.cells.values() for record in cell.records.values()]
    counts = sorted({_counting(record) for record in records if record["count"]})
    notes = [
        f"Avg. tokens: the budget, in vision tokens per layer ({' or '.join(counts) or 'none'}). Entering, "
        "leaving: vision tokens of a prompt that a layer computed and passed on, measured. FLOPs: prefill by the "
        "paper's Eq. 5, where a multiply-add is one operation. All are means over the line's tasks.",
    ]
    notes += sorted({harness_of(record) for record in records if record.get("harness") == "vlmevalkit"})
    if any(ratio and ratio.interval for ratio in ratios):
        notes.append(
            f"95 % interval: of the accuracy ratio, over the choice of questions (paired bootstrap, {RESAMPLES} "
            "resamples, the same for all lines; MME by image within its categories, MMBench by question with all its "
            "circular copies). Other seeds or models may differ by more."
        )
    if any(ratio and ratio.group for ratio in ratios):
        notes.append(
            "Group: lines with as many tokens that share a letter do not differ: the 95 % interval of the difference "
            "of their accuracy ratios contains 0 (each pair by itself, without correction for their number)."
        )
    if any(ratio is None for ratio in ratios):
        notes.append(
            "Acc. ratio –: the line or vanilla has no score in one of the columns, they were asked other questions, "
            "or vanilla's score is 0."
        )
    if any(ratio and ratio.interval is None for ratio in ratios):
        unsure = ", ".join(wholes) + ": a score that is no mean over questions"
        few = "too few questions, a resample leaves vanilla nothing right"
        notes.append(f"95 % interval –: {unsure if wholes else few}.")
    notes += _published(lines, layout, known, lineage, mismatch)
    if layout.found:
        notes.append(f"Found: attention shifts around the layers {layout.found.layers} ({layout.found.path}).")
    return [*notes, *_means(lines), *_limits(lines), *_reasons(lines)]


def harness_of(record: Record) -> str:
    """A sentence on the data, prompts and scoring of a sweep through VLMEvalKit."""
    whose = {"papers": "the papers' prompts, where there are any", "kit": "its own prompts"}[record["prompts"]]
    versions = [f"{name} {version}" for name, version in record["versions"].items() if name.endswith("vlmeval")]
    return f"Harness: VLMEvalKit ({', '.join(versions)}), its data and scoring, {whose}."


def _counting(record: Record) -> str:
    share = record["budget"] is not None and is_share(record["budget"])
    return f"{record['count']}, " + ("as a share of the prompt's" if share else f"per {record['per']}")


def _published(
    lines: Sequence[Line], layout: Layout, known: Published | None, lineage: str, mismatch: str
) -> list[str]:
    if not layout.config:
        return []
    if known is None:
        return [f"Published numbers: {lineage} has none for this table."]
    if mismatch:
        return [f"Published numbers ({lineage}) are not compared: {mismatch}."]
    same = "difference: measured - published, in the same unit."
    notes = [f"published: {lineage}, {known.source}; {known.model}. {same}", *_averages(lines, known)]
    others = {line.place.title: None for line in lines if line.method in TITLES and not line.place.name}
    if others:
        notes.append(f"Not compared: {', '.join(others)}: published are the methods without these options.")
    return notes


def _averages(lines: Sequence[Line], known: Published) -> list[str]:
    """What the lineage's average is, and which printed ones are not that."""
    average, notes = known.average, []
    if average and average.column != RATIO:
        divided = [f"{title}/{by:g}" for title, by in average.divide.items()]
        titles = [title for title in average.of if title not in average.divide]
        notes.append(f"{average.column}: the mean of {', '.join([*titles, *divided])}; – where one is not measured.")
    shown = [(line.place, tokens) for line in lines if (tokens := known.tokens(line)) is not None]
    wrong = [(place, tokens, made) for place, tokens in shown if (made := known.misfit(place.name, tokens)) is not None]
    if wrong:
        found = ", ".join(f"{place.title} at {budgets_text([t], 'tokens')} {made:.1f}" for place, t, made in wrong)
        notes.append(f"† The numbers in the row do not make the printed average. They make: {found}.")
    return notes


def _means(lines: Sequence[Line]) -> list[str]:
    """Which measurements a line is the mean of."""
    lists: dict[str, list[str]] = {}
    for line in lines:
        if len(line.members) > 1 and any(cell.status == "done" for cell in line.cells.values()):
            lists.setdefault(_members(sorted(line.members)), []).append(
                f"{line.place.title} at {budgets_text([line.tokens], 'tokens')}"
            )
    return [f"{', '.join(titles)}: mean ± standard deviation over {members}." for members, titles in lists.items()]


def _members(members: Sequence[Member]) -> str:
    variants = sorted({member.variant for member in members}, key=lambda variant: (variant.count(","), variant))
    seeds = sorted({member.seed for member in members})
    repeats = {member.repeat for member in members}
    parts = []
    if len(variants) > 1:
        parts.append("pruning locations " + ", ".join(f"{{{variant}}}" for variant in variants))
    if len(seeds) > 1:
        parts.append(f"seeds {', '.join(map(str, seeds))}")
    if len(repeats) > 1:
        parts.append(f"{len(repeats)} repeats")
    return " and ".join(parts)


def _limits(lines: Sequence[Line]) -> list[str]:
    asked = {
        (title, record["questions"], record["questions_available"])
        for line in lines
        for title, cell in line.cells.items()
        for record in cell.measured
    }
    limited = [f"{title} {some} of {available}" for title, some, available in sorted(asked) if some < available]
    return [f"* not the whole task, only its first questions: {', '.join(limited)}."] if limited else []


def _reasons(lines: Sequence[Line]) -> list[str]:
    """Why cells have no score, equal reasons once with their tasks."""
    reasons: dict[str, list[str]] = {}
    for line in lines:
        setting = line.place.title + (f", {budgets_text([line.place.budget], 'tokens')}" if line.place.budget else "")
        for cell in line.cells.values():
            for member, record in sorted(cell.records.items()):
                if record["status"] != "done":
                    which = f", pruning after {member.variant}" if member.variant else ""
                    which += f", seed {member.seed}" if len({other.seed for other in line.members}) > 1 else ""
                    text = f"{setting}{which}: {record['status']}: {record['reason']}"
                    reasons.setdefault(text, []).append(record["task"])
    return [f"{reason} ({', '.join(tasks)})" for reason, tasks in reasons.items()]
