"""Asks a model a question of one's own about a picture, under several methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image as Picture

from adaptinfer_eval.analysis.kept.picture import as_seen
from adaptinfer_eval.analysis.kept.question import Answer, Question
from adaptinfer_eval.analysis.kept.stages import read_stages
from adaptinfer_eval.backbones.messages import Image
from adaptinfer_eval.methods.following import FollowingMethod
from adaptinfer_eval.methods.schedule import budgets_text
from adaptinfer_eval.models.batch import Batch
from adaptinfer_eval.models.generation import Generation
from adaptinfer_eval.models.kept import kept_tokens
from adaptinfer_eval.models.pictures import read_picture
from adaptinfer_eval.models.tally import Cost
from adaptinfer_eval.sweep.cells import Setting, settings
from adaptinfer_eval.sweep.config import SweepConfig, SweepError, make_config
from adaptinfer_eval.sweep.shape import with_family
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
    check_text(text)
    config = own_config(pretrained, methods or METHODS, BUDGET if budget is None else budget, "figure a7")
    chosen = settings(config)
    for setting in chosen:
        if isinstance(setting.build(), FollowingMethod):
            raise SweepError(f"{setting.entry.title} follows another question of a task: show it with --results")
    picture = read_own(image)
    asker = Asker(config)
    batch = asker.encode(picture, text)
    answers = []
    for setting in chosen:
        try:
            answers.append(asker.answer(batch, setting)[0])
        except ValueError as error:
            raise SweepError(f"{setting.entry.title} cannot run here: {error}") from error
    where = f"{pretrained}, {budgets_text(config.budgets)}"
    return Question(where, text, "", asker.seen(picture), answers)


def check_text(text: str) -> None:
    """SweepError where it is empty."""
    if not text.strip():
        raise SweepError("the text is empty: ask something about the picture")


def read_own(image: Path) -> Picture:
    """The picture, as the models read it; SweepError where it cannot be read."""
    try:
        return read_picture(image)
    except OSError as error:
        raise SweepError(f"{image} cannot be read as a picture ({error}): give a PNG, JPEG or the like") from error


class Asker:
    """A checkpoint, loaded once, that is asked questions of one's own. SweepError where it cannot be loaded."""

    def __init__(self, config: SweepConfig) -> None:
        self.config, self.model = config, load_wrapper(config)
        square = self.model.family.square
        assert square is not None  # wrappers cut no tiles unless they are asked to
        self.square = square

    def seen(self, picture: Picture) -> Picture:
        """The square that the model sees."""
        return as_seen(picture, self.square)

    def encode(self, picture: Picture, text: str) -> Batch:
        """The model's input, for any method; SweepError for what cannot be asked."""
        try:
            batch: Batch = self.model.encode([self.model.prompt([("user", [Image(picture), text])])])
        except ValueError as error:
            raise SweepError(f"this cannot be asked: {error}") from error
        return batch

    def answer(self, batch: Batch, setting: Setting, tokens: int = TOKENS) -> tuple[Answer, Cost]:
        """Of at most `tokens` tokens, under the setting's method; ValueError where that cannot run here."""
        self.model.method = method = setting.build()
        (answer,), trace = self.model.traced_answer(batch, Generation.read({"max_new_tokens": tokens}))
        (row,) = kept_tokens(trace, self.model.anatomy.is_vision(batch.inputs["input_ids"]), [1])
        return Answer(method.name, answer.text, "", read_stages(row, answer.cost.vision_tokens)), answer.cost


def own_config(pretrained: str, methods: Sequence[str], budget: float, kind: str) -> SweepConfig:
    """As of a sweep whose one task is the question; the family is read from the checkpoint's config.json."""
    values = {"pretrained": pretrained, "methods": list(methods), "budgets": [budget], "tasks": ["own"], "name": "own"}
    return with_family(make_config(values, [], kind))
