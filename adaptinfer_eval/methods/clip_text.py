"""CLIP's text tower, for methods that compare the question with CLIP's patches before the language model.

Vision-language models take CLIP's vision tower alone; the text tower, both projections and the vision tower's last norm
come from a CLIP checkpoint beside the model.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NewType

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from adaptinfer_eval.methods.tower import Images

Checkpoint = NewType("Checkpoint", str)
"""A name on the Hub or a folder. (No text like others: in model arguments, those have `/` for a comma.)"""
CLIP_LARGE = Checkpoint("openai/clip-vit-large-patch14-336")


class ClipText:
    """Embeds questions and patches in CLIP's common space, in float32. Each question runs by itself, once.

    (In a batch of others, its embedding would differ in the last bits, and greedy methods would choose other tokens.)
    """

    def __init__(self, checkpoint: str, tokenizer: Any, model: Any) -> None:
        self.checkpoint, self.tokenizer, self.model = checkpoint, tokenizer, model
        self.length: int = model.config.text_config.max_position_embeddings
        self.text = lru_cache(maxsize=4096)(self._text)

    def _text(self, question: str, truncate: bool = False) -> Tensor:
        """Embeddings of the question's segments, (M, E), unnormalised.

        A segment is as many tokens as the tower has positions (77); the last one is padded with token 0.
        `truncate`: one segment alone, cut before its end token.
        """
        ids = self.tokenizer(question, truncation=truncate, max_length=self.length, verbose=False).input_ids
        return self.segments([*ids, *[0] * (-len(ids) % self.length)])

    def segments(self, ids: list[int]) -> Tensor:
        """Embeddings of segments, (M, E), each where its largest token id is: at its end token, if it has one."""
        import torch

        from adaptinfer_eval.methods.seen import from_host

        rows = from_host(torch.tensor(ids).view(-1, self.length), self.model.device)
        hidden = self.model.text_model(rows).last_hidden_state
        at = rows.argmax(1)[:, None, None].expand(-1, 1, hidden.shape[2])
        projected: Tensor = self.model.text_projection(hidden.gather(1, at)[:, 0])
        return projected

    def images(self, images: Images, name: str) -> Tensor:
        """Embeddings of the patches, (I, N, E), unnormalised; ValueError unless they are those of such a CLIP.

        `name`: the method's, for that error.
        """
        width = self.model.config.vision_config.hidden_size
        if images.cls is None or images.hidden.shape[2] != width:
            raise ValueError(
                f"{name} compares the question with the image in CLIP, and this model's vision tower "
                f"({'no class token, ' if images.cls is None else ''}{images.hidden.shape[2]} wide) is not the one of "
                f"{self.checkpoint} ({width} wide), so that it has no text tower there: use a method that needs none, "
                "or name its own CLIP by text_tower="
            )
        embeds: Tensor = self.model.visual_projection(self.model.vision_model.post_layernorm(images.hidden))
        return embeds


@cache
def clip_text(checkpoint: str, device: torch.device) -> ClipText:
    """The text tower of a CLIP checkpoint, on `device`; ValueError where there is none."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, CLIPModel

    class WithoutVisionLayers(CLIPModel):  # type: ignore[no-untyped-call]  # the model has run them
        _keys_to_ignore_on_load_unexpected = [r"vision_model\.encoder\.layers"]  # noqa: RUF012  (not ours)

    try:
        config: Any = AutoConfig.from_pretrained(checkpoint)
        if config.model_type != "clip":
            raise ValueError(f"it is a checkpoint of {config.model_type}")
        config.vision_config.num_hidden_layers = 0
        loaded: Any = WithoutVisionLayers.from_pretrained(
            checkpoint, config=config, dtype=torch.float32, output_loading_info=True
        )
        model, found = loaded
        if missing := sorted(found["missing_keys"]):
            raise ValueError(f"it has no {missing[0]}")
        tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"text_tower={checkpoint!r} cannot be loaded ({reason}): name a CLIP checkpoint, downloaded or in a folder"
        ) from error
    return ClipText(checkpoint, tokenizer, model.eval().requires_grad_(False).to(device))
