"""EvalScope over the same answering: `TaskConfig(model="adaptinfer_llava_64", eval_type="adaptinfer_eval", …)`.

Import this module first, which registers the name. `model_args` are those of the wrapper in lmms-eval; and as
EvalScope asks from as many threads as `eval_batch_size` says, `batch_size` questions are answered together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evalscope.api.model import GenerateConfig, ModelAPI, ModelOutput
from evalscope.api.registry import register_model_api

from adaptinfer_eval.backbones.messages import Image, Message, Part
from adaptinfer_eval.vlmevalkit.answerer import Batcher, Question, answerers
from adaptinfer_eval.vlmevalkit.names import read_name, with_budget


@register_model_api("adaptinfer_eval")
class PrunedModelAPI(ModelAPI):  # type: ignore[misc]
    """A pruned model by its name, METHOD_FAMILY or METHOD_FAMILY_BUDGET; ValueError for any other."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        batch_size: int = 1,
        workers: int = 1,
        **arguments: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, config or GenerateConfig())
        read = read_name(model_name)
        if read is None:
            raise ValueError(f"model={model_name}: say METHOD_FAMILY or METHOD_FAMILY_BUDGET (adaptinfer_llava_64)")
        method, family, budget = read
        given = {"batch_size": batch_size, **with_budget(budget), **arguments}
        self.batcher = Batcher(answerers(f"{method}_{family}", given, workers), batch_size)

    def generate(self, input: Sequence[Any], tools: Any, tool_choice: Any, config: GenerateConfig) -> ModelOutput:
        """The answer to a conversation of texts and pictures. ValueError where it has anything else."""
        messages: list[Message] = [(str(message.role), parts_of(message.content)) for message in input]
        asked = {
            "max_new_tokens": config.max_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "until": config.stop_seqs,
        }
        generation = {name: value for name, value in asked.items() if value is not None}
        return ModelOutput.from_content(self.model_name, self.batcher.ask(Question(messages, generation)))


def parts_of(content: Any) -> list[Part]:
    """EvalScope's parts of a message as ours."""
    if isinstance(content, str):
        return [content]
    kinds = {part.type for part in content}
    if not kinds <= {"text", "image"}:
        raise ValueError(f"models are shown text and images here, not {', '.join(sorted(kinds))}: use other data")
    return [part.text if part.type == "text" else Image(part.image) for part in content]
