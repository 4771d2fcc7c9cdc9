"""Asks a model a question of one's own about a picture, under several methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptinfer_eval.analysis.kept.picture import as_seen, squared
from adaptinfer_eval.analysis.kept.question import Answer, Question
from adaptinfer_eval.analysis.kept.stages import read_stages
from adaptinfer_eval.methods.following import FollowingMethod
from adaptinfer_eval.methods.schedule import Count, Per
from adaptinfer_eval.models.checkpoint import CheckpointError, check_checkpoint
from adaptinfer_eval.models.generation import Generation
from adaptinfer_eval.models.kept import kept_tokens
from adaptinfer_eval.models.pictures import read_picture
from adaptinfer_eval.models.requests import Image
from adaptinfer_eval.sweep.cells import settings
from adaptinfer_eval.sweep.config import MethodEntry, shipped
from adaptinfer_eval.sweep.errors import SweepError

METHODS = ("vanilla", "adaptinfer", "sparsevlm", "pdrop", "fastv")
"""Asked by default: those that run on every backbone."""
BUDGET = 64.0
TOKENS = 64
"""An answer's most."""


@dataclass(frozen=True)
class Chosen:
    """What `settings` makes methods from."""

    methods: Sequence[MethodEntry]
    budgets: Sequence[float]
    count: Count = "leaving"
    per: Per = "image"
    seeds: Sequence[int] = (0,)
    repeats: int = 1


def ask(image: Path, text: str, pretrained: str, methods: Sequence[str] = (), budget: float | None = None) -> Question:
    """What the checkpoint answers to `text` about `image` under each of `methods` (by default `METHODS`).

    SweepError for a picture that cannot be read, an empty text, and a checkpoint or a method that cannot run.
    """
    if not text.strip():
        raise SweepError("the text is empty: ask something about the picture")
    budget = BUDGET if budget is None else budget
    chosen = settings(Chosen([MethodEntry(name=name) for name in methods or METHODS], [budget]))
    for setting in chosen:
        if isinstance(setting.build(), FollowingMethod):
            raise SweepError(f"{setting.entry.name} follows another question of a task: show it with --results")
    try:
        picture = read_picture(image)
    except OSError as error:
        raise SweepError(f"{image} cannot be read as a picture ({error}): give a PNG, JPEG or the like") from error
    backbone, model = load(pretrained)
    square = squared(backbone, model.settings())
    if square is None:
        raise SweepError(f"where a vision token of {backbone} lies in a picture is not known: use max_patches=1")
    batch = model.encode([model.prompt([("user", [Image(picture), text])])])
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
    where = f"{pretrained}, {budget:g} vision tokens"
    return Question(where, text, "", as_seen(picture, square), answers)


def load(pretrained: str) -> tuple[str, Any]:
    """The family of a checkpoint (on the hub, a folder, or shipped here), and its wrapper, under no method yet."""
    from lmms_eval.models import get_model

    here = Path(pretrained)
    found = here if here.is_dir() else shipped(pretrained) or pretrained
    try:
        config = check_checkpoint(str(found))
        assert config is not None
        return config["model_type"], get_model(f"vanilla_{config['model_type']}")(pretrained=str(found))
    except CheckpointError as error:
        raise SweepError(str(error)) from error
