"""What upstream's task code lacks: MME's total, GQA's images without copies, MMBench's accuracy without a file."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset, load_dataset
from lmms_eval.tasks.mmbench.en_utils import mmbench_evaluator
from lmms_eval.tasks.mme.utils import mme_process_results as upstream_mme_process_results

GQA = "lmms-lab-encoder/GQA"


def mme_process_results(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Upstream's score of the answer, once under perception or cognition and once under their total."""
    scores: dict[str, Any] = upstream_mme_process_results(document, results)
    (score,) = scores.values()
    return {**scores, "mme_total_score": score}


@functools.cache
def gqa_images() -> tuple[Dataset, dict[str, int]]:
    """GQA's 398 testdev images and the row of each image id."""
    images = load_dataset(GQA, "testdev_balanced_images", split="testdev")
    return images, {image_id: row for row, image_id in enumerate(images["id"])}


def gqa_process_docs(questions: Dataset) -> Dataset:
    """The questions as they are. Fetches the images now, while lmms-eval lets one process at a time load data."""
    gqa_images()
    return questions


def gqa_doc_to_visual(document: Mapping[str, Any]) -> list[Any]:
    """The question's image, by its id: upstream stores a decoded copy of it with each of the 12,578 questions."""
    images, rows = gqa_images()
    return [images[rows[document["imageId"]]]["image"].convert("RGB")]


def mmbench_accuracy(results: Sequence[Mapping[str, Any]]) -> float:
    """Circular accuracy in percent by upstream's evaluator; letters are read from the answer, no judge is asked."""
    overall, _, _ = mmbench_evaluator.eval_result(results, eval_method="static")
    return float(overall) * 100
