"""The one model class that VLMEvalKit is given, for every method and family.

It imports VLMEvalKit: `kit.load_kit` comes first.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from vlmeval.vlm.base import BaseModel

from adaptinfer_eval.backbones import DEFAULT
from adaptinfer_eval.backbones.messages import Image, Part, Video
from adaptinfer_eval.methods.following import FollowingMethod
from adaptinfer_eval.methods.method import get_method
from adaptinfer_eval.vlmevalkit.answerer import Batcher, Question, answerers
from adaptinfer_eval.vlmevalkit.papers import generation_of, paper_of, papers_message


class PrunedVLM(BaseModel):  # type: ignore[misc]
    """A model of VLMEvalKit's that answers with `method` over a `family`'s checkpoint.

    `batch_size`: questions answered together; under torchrun, where VLMEvalKit asks one after the other, 1.
    `workers`: models, each in a process of its own, where there are several. `prompts`: "papers", where there are any,
    or "kit", VLMEvalKit's own. `arguments`: those of the wrapper in lmms-eval: `pretrained`, `budget`, `dtype`, ….
    """

    INSTALL_REQ: ClassVar = False
    INTERLEAVE: ClassVar = True
    allowed_types: ClassVar = ["text", "image", "video"]

    def __init__(
        self,
        method: str,
        family: str = DEFAULT,
        batch_size: int = 1,
        workers: int = 1,
        prompts: str = "papers",
        **arguments: Any,
    ) -> None:
        super().__init__()
        if issubclass(get_method(method), FollowingMethod):
            raise ValueError(
                f"{method} needs the other questions of a task, and VLMEvalKit asks one at a time: run it as a sweep "
                "(adaptinfer-eval run CONFIG harness=vlmevalkit)"
            )
        self.prompts = prompts
        # While a model is made VLMEvalKit hides WORLD_SIZE, but not these.
        among = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if among > 1 and workers > 1:
            raise ValueError(f"workers={workers} under torchrun, which starts processes itself: leave one of them out")
        if among > 1:  # each process has been left its own GPUs alone
            batch_size, arguments = 1, {"device": "cuda:0", **arguments}
        self.is_api = among == 1  # asked from many threads
        models = answerers(f"{method}_{family}", {"batch_size": batch_size, **arguments}, workers)
        self.batcher = Batcher(models, batch_size)
        weakref.finalize(self, self.batcher.close)  # the next model needs the memory

    def use_custom_prompt(self, dataset: str) -> bool:
        """Whether the papers ask about a data set in their own way."""
        return self.prompts == "papers" and paper_of(dataset) is not None

    def build_prompt(self, line: Any, dataset: str) -> list[dict[str, str]]:
        """A row's pictures, and the papers' question about them."""
        paper = paper_of(dataset)
        assert paper is not None, dataset  # else it is not called
        return papers_message(paper, line, self.dump_image_func)

    def generate_inner(self, message: Sequence[Mapping[str, str]], dataset: str | None = None) -> str:
        """The answer to pictures and texts in any order."""
        return self.batcher.ask(Question([("user", list(map(part_of, message)))], generation_of(dataset)))


def part_of(part: Mapping[str, str]) -> Part:
    """A part of VLMEvalKit's message as one of ours."""
    if part["type"] == "text":
        return part["value"]
    return Image(part["value"]) if part["type"] == "image" else Video(part["value"])
