"""From the samples that lmms-eval scores to units: what each answer counts for in its task's score.

A metric of which nothing else is known here counts as a mean over questions where it is one: where the mean of what
upstream gives to each answer is the number that it reports for the task. Where it is not, the number stands alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.scores import MME, Metric
from adaptinfer_eval.sweep.units import WEIGHED, Units, make_units

Sample = Mapping[str, Any]
MMBENCH = "gpt_eval_score"
MMBENCH_COPY = 1_000_000
"""Circular copies of an MMBench question have indices that are this far apart."""
OF_ALL = {"ocrbench_accuracy": 1000}
"""Metric → the questions of the whole task that upstream divides by, however many were asked."""
SAID = ("score", "correct", "is_correct", "hit")
"""Where upstream keeps how right an answer is."""
GIVEN, WANTED = ("parsed_pred", "pred_answer", "pred", "prediction"), ("answer", "ground_truth", "gt", "target")
"""Where it keeps the answer that it has read, and the right one."""
CATEGORY = ("category", "question_type", "task_type", "subdomain", "l2_category", "L2-category", "type")


def units_of(
    samples: Sequence[Sample],
    metric: Metric,
    reported: Mapping[str, float],
    categories: Mapping[int, str] | None = None,
) -> Units:
    """The units of one task, from the samples that lmms-eval's `simple_evaluate` returns for it, in order of doc_id.

    `reported`: upstream's numbers by metric; `categories`: by document, where the task says them. SweepError where a
    unit is not whole, and where upstream reports no number.
    """
    if not samples:
        raise SweepError("no question was answered, so there is nothing to score: raise limit")
    samples = sorted(samples, key=lambda sample: int(sample["doc_id"]))
    if metric.name == "mme":
        return make_units("sum of category means", 100.0, _mme(samples))
    if _is_mmbench(samples[0]):
        return make_units("mean", 100.0, _mmbench([sample[MMBENCH] for sample in samples]))
    scored = [sample for sample in samples if metric.name in sample]
    if metric.name not in reported or not scored:
        raise SweepError(
            f"upstream reports no number for {metric.name}, but {', '.join(reported) or 'none at all'}: name another "
            "with metrics={task: metric}"
        )
    if metric.name.startswith("pope_f1"):
        return make_units(WEIGHED, 100.0, list(map(_agreement, scored)))
    answers = {int(sample["doc_id"]): sample[metric.name] for sample in scored}
    for values in _readings(answers):
        found = _means(values, answers, metric, categories or {})
        if made := next((units for units, mean in found if _are_one(mean, reported[metric.name], units.scale)), None):
            return made
    return make_units("whole", 1.0, [("all", "", reported[metric.name])], metric.higher_is_better)


def _means(
    values: Mapping[int, float], answers: Mapping[int, Any], metric: Metric, categories: Mapping[int, str]
) -> Iterator[tuple[Units, float]]:
    """Units that a score may be made of, with the mean that upstream would report: of all, or of categories' means."""
    scale = 100.0 if all(0 <= value <= 1 for value in values.values()) else 1.0
    told = {doc: categories.get(doc) or _category(answers[doc]) for doc in values}
    rows = [(str(doc), told[doc], value) for doc, value in values.items()]
    yield (
        make_units("mean", scale, rows, metric.higher_is_better),
        sum(values.values()) / OF_ALL.get(metric.name, len(values)),
    )
    for key in CATEGORY:
        of = {doc: str(answer[key]) for doc, answer in answers.items() if isinstance(answer, Mapping) and key in answer}
        if of.keys() == values.keys():
            weighed = [(str(doc), of[doc], value, 1.0) for doc, value in values.items()]
            units = make_units(WEIGHED, scale, weighed, metric.higher_is_better)
            yield units, units.score() / scale


def _are_one(mean: float, reported: float, percent: float) -> bool:
    """Whether upstream reports this mean, as it is or in percent."""
    return any(math.isclose(scale * mean, reported, rel_tol=1e-6, abs_tol=1e-9) for scale in (1.0, percent))


def rights_of(samples: Sequence[Sample], metric: Metric | None = None) -> dict[int, float]:
    """How right each answer is by itself, 0 to 1, by document; of MMBench's circular copies only the original.

    Empty where upstream does not say. `metric`: the task's score; None: of an older sweep, one of the papers' five.
    """
    first = next(iter(samples), {})
    if _is_mmbench(first):
        originals = sorted((s for s in samples if s[MMBENCH]["index"] < MMBENCH_COPY), key=lambda s: int(s["doc_id"]))
        docs = [int(sample["doc_id"]) for sample in originals]
        right = [value for _, _, value in _mmbench([sample[MMBENCH] for sample in originals])]
        return dict(zip(docs, right, strict=True))
    name = metric.name if metric else "mme" if set(MME) & first.keys() else "exact_match"
    if name == "mme":
        return {int(sample["doc_id"]): float(_of_mme(sample)["score"]) for sample in samples}
    for values in _readings({int(sample["doc_id"]): sample[name] for sample in samples if name in sample}):
        if values and all(0 <= value <= 1 for value in values.values()):
            return values
    return {}


def _is_mmbench(sample: Sample) -> bool:
    """MM-Vet's metric has the same name."""
    return isinstance(sample.get(MMBENCH), Mapping) and "L2-category" in sample[MMBENCH]


def _of_mme(sample: Sample) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(sample[name] for name in MME if name in sample)
    return found


def _readings(answers: Mapping[int, Any]) -> Iterator[dict[int, float]]:
    """Ways to read how right each answer is, by document, those that are said before those that are concluded."""
    if all(isinstance(answer, bool | int | float) for answer in answers.values()):
        yield {doc: float(answer) for doc, answer in answers.items()}
    if not all(isinstance(answer, Mapping) for answer in answers.values()):
        return
    for key in SAID:
        if all(isinstance(answer.get(key), bool | int | float) for answer in answers.values()):
            yield {doc: float(answer[key]) for doc, answer in answers.items()}
    for given, wanted in product(GIVEN, WANTED):
        if all(isinstance(answer.get(key), str | int) for answer in answers.values() for key in (given, wanted)):
            yield {doc: float(_same(answer[given], answer[wanted])) for doc, answer in answers.items()}


def _same(given: object, wanted: object) -> bool:
    return str(given).strip().lower() == str(wanted).strip().lower()


def _category(answer: Any) -> str:
    """What upstream calls the question's category; empty where it has none."""
    found = next((answer[key] for key in CATEGORY if key in answer), "") if isinstance(answer, Mapping) else ""
    return found if isinstance(found, str) else ""


def _agreement(sample: Sample) -> tuple[str, str, float, float]:
    """POPE's F1 = 2 TP / (said yes + is yes): an answer's part above and below."""
    answer = next(value for name, value in sample.items() if name.startswith("pope_f1"))
    said, wanted = answer["prediction"] == "yes", answer["ground_truth"] == "yes"
    return str(sample["doc_id"]), _category(answer), 2.0 * (said and wanted), float(said) + float(wanted)


def _mme(samples: Sequence[Sample]) -> list[tuple[str, str, float]]:
    """An image's share of right answers, plus one where both are right."""
    pairs: dict[tuple[str, str], list[float]] = {}
    for answer in map(_of_mme, samples):
        pairs.setdefault((answer["category"], str(answer["question_id"])), []).append(answer["score"])
    for (category, question), scores in pairs.items():
        if len(scores) != 2:
            raise SweepError(
                f"MME asks two questions about {category}/{question}, answered were {len(scores)}: use an even limit"
            )
    return [(f"{kind}/{image}", kind, sum(two) / 2 + (sum(two) == 2)) for (kind, image), two in pairs.items()]


def _mmbench(answers: Sequence[Sample]) -> list[tuple[str, str, float]]:
    """1 where all circular copies of a question are answered right; as upstream, for the originals asked alone."""
    import pandas as pd
    from lmms_eval.tasks.mmbench.en_utils import mmbench_evaluator

    frame = pd.DataFrame(answers)
    frame["prediction"] = frame["prediction"].astype(str)
    truth = dict(zip(frame["index"], frame["answer"], strict=True))
    categories = dict(zip(frame["index"], frame["L2-category"], strict=True))
    copies = dict(list(frame.groupby(frame["index"] % MMBENCH_COPY)))
    originals = [index for index in frame["index"] if index < MMBENCH_COPY]
    if not originals:
        raise SweepError(
            "only circular copies of MMBench's questions were answered, which count for nothing: raise limit"
        )
    return [
        (str(index), categories[index], float(mmbench_evaluator.eval_sub_data(copies[index], truth, static_only=True)))
        for index in originals
    ]
