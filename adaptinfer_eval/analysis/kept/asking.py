"""Asks a model a question of one's own about a picture, under several methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adaptinfer_eval.analysis.kept.picture import as_seen, squared
from adaptinfer_eval.analysis.kept.question import Answer, Question
from adaptinfer_eval.analysis.kept.stages import read_stages
from adaptinfer_eval.methods.following import FollowingMethod
from adaptinfer_eval.models.checkpoint import CheckpointError, check_checkpoint
from adaptinfer_eval.models.generation import Generation
from adaptinfer_eval.models.kept import kept_tokens
from adaptinfer_eval.models.pictures import read_picture
from adaptinfer_eval.models.requests import Image
from adaptinfer_eval.sweep.cells import settings
from adaptinfer_eval.sweep.config import SweepConfig, SweepError, make_config
from adaptinfer_eval.sweep.worker import load_wrapper

METHODS = ("vanilla", "adaptinfer", "sparsevlm", "pdrop", "fastv")
"""Asked by default: those that run on every backbone."""
BUDGET = 64.0
TOKENS = 64
"""An answer's most."""


def ask(image: Path, text: str, pretrained: str, methods: Sequence[str] = (), budget: float | None = None) -> Question:
    """What the checkpoint answers to `text` about `image` under each of `methods` (by default `METHODS`).

    SweepError for a picture that cannot be read, an empty text, and a checkpoint or a method that cannot run.
    """
    if not text.strip():
        raise SweepError("the text is empty: ask something about the picture")
    config = _config(pretrained, methods or METHODS, BUDGET if budget is None else budget)
    chosen = settings(config)
    for setting in chosen:
        if isinstance(setting.build(), FollowingMethod):
            raise SweepError(f"{setting.entry.name} follows another question of a task: show it with --results")
    try:
        picture = read_picture(image)
    except OSError as error:
        raise SweepError(f"{image} cannot be read as a picture ({error}): give a PNG, JPEG or the like") from error
    model = load_wrapper(config)
    square = squared(config.backbone, model.settings())
    assert square is not None  # wrappers cut no tiles unless they are asked to
    try:
        batch = model.encode([model.prompt([("user", [Image(picture), text])])])
    except ValueError as error:
        raise SweepError(f"this cannot be asked: {error}") from error
    is_vision = batch.inputs["input_ids"] == model.processor.image_token_id
    answers = []
    for setting in chosen:
        model.method = method = setting.build()
        try:
            (answer,), trace = model.traced_answer(batch, Generation.read({"max_new_tokens": TOKENS}))
        except ValueError as error:
            raise SweepError(f"{setting.entry.name} cannot run here: {error}") from error
        (row,) = kept_tokens(trace, is_vision, [1])
        answers.append(Answer(method.name, answer.text, "", read_stages(row, answer.cost.vision_tokens)))
    where = f"{pretrained}, {config.budgets[0]:g} vision tokens"
    return Question(where, text, "", as_seen(picture, square), answers)


def _config(pretrained: str, methods: Sequence[str], budget: float) -> SweepConfig:
    """As of a sweep whose one task is the question; the family is read from the checkpoint's config.json."""
    values = {"pretrained": pretrained, "methods": list(methods), "budgets": [budget], "tasks": ["own"], "name": "own"}
    config = make_config(values, [], "figure a7")
    try:
        found = check_checkpoint(config.checkpoint)
    except CheckpointError as error:
        raise SweepError(str(error)) from error
    assert found is not None  # it is None only where nothing may be downloaded
    return config.model_copy(update={"backbone": found["model_type"]})
