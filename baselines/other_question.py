"""Control: AdaptInfer's choice for another question. A method that does not beat it is not guided by what is asked."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from adaptinfer_eval.adaptinfer import AdaptInfer
from adaptinfer_eval.methods.following import FollowingMethod


@dataclass(frozen=True, kw_only=True)
class OtherQuestion(FollowingMethod, AdaptInfer):
    """Answers with the vision tokens that AdaptInfer, with the same options, keeps when another question is asked.

    Two passes: the same images under the text of another document (`models/other_question.py` says which), then the
    question itself, pruned to exactly those tokens. Only the second pass is counted.
    """

    source: ClassVar = ""  # a control, of nobody's
    licence: ClassVar = ""

    @property
    def leader(self) -> AdaptInfer:
        return AdaptInfer(**{field.name: getattr(self, field.name) for field in fields(AdaptInfer)})
