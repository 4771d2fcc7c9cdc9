"""What upstream's task code lacks: MME's total, GQA's images without copies, MMBench's accuracy without a file, POPE's
F1 as LLaVA has it, one frame of SEED's videos."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from datasets import Dataset, load_dataset
from lmms_eval.tasks.mmbench.en_utils import mmbench_evaluator
from lmms_eval.tasks.mme.utils import mme_process_results as upstream_mme_process_results
from lmms_eval.tasks.pope.utils import pope_aggregate_f1_score

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


def pope_process_results(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """What the answer says as LLaVA's eval_pope.py reads it: no, where its first sentence has that word, else yes."""
    words = results[0].partition(".")[0].replace(",", "").split(" ")
    said = "no" if {"No", "no", "not"} & set(words) else "yes"
    wanted = document["answer"].lower().strip()
    answer = {
        "category": document["category"],
        "prediction": said,
        "ground_truth": wanted,
        "score": float(said == wanted),
    }
    return {"pope_f1_by_category": answer}


def pope_f1_by_category(results: Sequence[Mapping[str, Any]]) -> float:
    """The mean over POPE's categories of the F1 of yes, between 0 and 1."""
    of_category: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        of_category.setdefault(result["category"], []).append(result)
    return fmean(pope_aggregate_f1_score(answers) for answers in of_category.values())


def seed_doc_to_visual(document: Mapping[str, Any]) -> list[Any]:
    """The image, or the middle frame of a video."""
    frames = document["image"]
    return [frames[len(frames) // 2].convert("RGB")]


def seed_process_results(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """1 where the answer's first letter is the right one."""
    return {"exact_match": float(results[0].strip()[:1].upper() == document["answer"].strip().upper())}
