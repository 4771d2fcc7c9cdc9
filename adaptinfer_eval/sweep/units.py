"""Scores by unit: what a cell's score is made of, and what a bootstrap resamples.

A unit is what a benchmark counts as one: MME's two questions about an image, MMBench's circular copies of a question,
elsewhere a question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.scores import EXACT_MATCH, MMBENCH, MME, VIDEO_MME, check_metrics

Combine = Literal["mean", "sum of category means"]
Sample = Mapping[str, Any]
MMBENCH_COPY = 1_000_000
"""Circular copies of an MMBench question have indices that are this far apart."""


@dataclass(frozen=True, eq=False)
class Units:
    """A task's units with their values: score = `scale` × mean of `values`, or × the sum of the categories' means."""

    combine: Combine
    scale: float
    ids: tuple[str, ...]
    categories: tuple[str, ...]
    values: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.combine not in get_args(Combine):
            raise ValueError(f"combine={self.combine!r}: {' or '.join(get_args(Combine))}")
        if not 0 < len(self.ids) == len(self.categories) == len(self.values) == len(set(self.ids)):
            raise ValueError("units need at least one id, no id twice, and a category and a value each")

    def strata(self) -> list[NDArray[np.intp]]:
        """Indices of the units whose mean is one term of the score: all of them, or those of each category."""
        if self.combine == "mean":
            return [np.arange(len(self.values))]
        categories = np.array(self.categories)
        return [np.flatnonzero(categories == name) for name in dict.fromkeys(self.categories)]

    def score(self) -> float:
        """On the papers' scale: MME in points, everything else in percent."""
        return float(self.scale * sum(self.values[stratum].mean() for stratum in self.strata()))

    def to_json(self) -> dict[str, Any]:
        units = [list(unit) for unit in zip(self.ids, self.categories, self.values.tolist(), strict=True)]
        return {"combine": self.combine, "scale": self.scale, "units": units}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Units:
        return _units(found["combine"], found["scale"], found["units"])


def units_of(samples: Sequence[Sample]) -> Units:
    """The units of one task, from the samples that lmms-eval's `simple_evaluate` returns for it, in order of doc_id.

    SweepError where the samples have no metric that is known here, and where a unit is not whole.
    """
    if not samples:
        raise SweepError("no question was answered, so there is nothing to score: raise limit")
    samples = sorted(samples, key=lambda sample: int(sample["doc_id"]))
    check_metrics("of these samples", samples[0])
    if any(name in samples[0] for name in MME):
        return _units("sum of category means", 100.0, _mme(samples))
    if MMBENCH in samples[0]:
        return _units("mean", 100.0, _mmbench([sample[MMBENCH] for sample in samples]))
    return _units("mean", 100.0, [(str(sample["doc_id"]), "", _right(sample)) for sample in samples])


def rights_of(samples: Sequence[Sample]) -> dict[int, float]:
    """How right each answer is by itself, 0 to 1, by document; of MMBench's circular copies only the original."""
    first = next(iter(samples), {})
    if MMBENCH in first:
        originals = sorted((s for s in samples if s[MMBENCH]["index"] < MMBENCH_COPY), key=lambda s: int(s["doc_id"]))
        docs = [int(sample["doc_id"]) for sample in originals]
        return dict(zip(docs, units_of(originals).values.tolist(), strict=True))
    if EXACT_MATCH in first or VIDEO_MME in first:
        return {int(sample["doc_id"]): _right(sample) for sample in samples}
    scored = {int(sample["doc_id"]): next(sample[name] for name in MME if name in sample) for sample in samples}
    return {doc: float(answer["score"]) for doc, answer in scored.items()}


def _right(sample: Sample) -> float:
    if VIDEO_MME in sample:
        return float(sample[VIDEO_MME]["pred_answer"] == sample[VIDEO_MME]["answer"])
    return float(sample[EXACT_MATCH])


def _units(combine: Combine, scale: float, units: Sequence[tuple[str, str, float]]) -> Units:
    ids, categories, values = zip(*units, strict=True)
    return Units(combine, float(scale), ids, categories, np.array(values, dtype=np.float64))


def _mme(samples: Sequence[Sample]) -> list[tuple[str, str, float]]:
    """An image's share of right answers, plus one where both are right."""
    pairs: dict[tuple[str, str], list[float]] = {}
    for sample in samples:
        answer = next(sample[name] for name in MME if name in sample)
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
