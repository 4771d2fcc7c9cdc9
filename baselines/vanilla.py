"""No pruning: the model as it is."""

from dataclasses import dataclass

from adaptinfer_eval.methods.method import Method


@dataclass(frozen=True, kw_only=True)
class Vanilla(Method):
    """Every layer computes every vision token; what accuracy ratios are relative to. Takes no budget."""

    def entering(self, num_layers: int, vision_tokens: int, images: int = 1) -> list[int]:
        return [vision_tokens] * num_layers

    def describe(self, num_layers: int, vision_tokens: int, images: int = 1) -> str:
        return "none"
