"""Random-weight models of 4 layers with a real tokenizer and processor, saved in a checkpoint's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lmms_eval.models import get_model
from PIL import Image as Picture
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

TEXT = [
    "A chat between a curious human and an artificial intelligence assistant. USER: ASSISTANT: helpful, detailed,",
    "Is there a red circle in the picture? yes no Answer the question using a single word or phrase.\n\n",
    "There are several options:\nA. one\nB. two\nC. three\nD. four. What word is on the green sign? 0123456789",
]
CHAT_ML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def save_tiny_llava(folder: Path, layers: int = 4) -> Path:
    """Write the checkpoint to `folder`; 36 vision tokens per image of 24 × 24 pixels."""
    tokenizer = _tokenizer(
        ["<unk>", "<s>", "</s>", "<pad>", "<image>"],
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, do_center_crop=True
    )
    LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=24,
            patch_size=4,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.3,
        ),
        image_token_index=tokenizer.image_token_id,
        image_seq_length=36,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    return folder


def save_tiny_internvl(folder: Path, layers: int = 4) -> Path:
    """Write the checkpoint to `folder`; 36 vision tokens per tile of 24 × 24 pixels."""
    marks = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    marks["video_token"] = "<video>"
    tokenizer = _tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *marks.values()],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=marks,
    )
    InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size={"height": 24, "width": 24}),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size={"height": 24, "width": 24}),
        image_seq_length=36,
        chat_template=CHAT_ML,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config: Any = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=24,
            patch_size=2,
            initializer_range=0.3,
            layer_scale_init_value=1.0,
        ),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.3,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=36,
        tie_word_embeddings=False,
    )
    InternVLForConditionalGeneration(config).save_pretrained(folder)
    return folder


def _tokenizer(special: list[str], **roles: Any) -> Any:
    """Byte-level, trained on `TEXT`; `roles` say which special token is what."""
    words = Tokenizer(models.BPE(unk_token=None))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, model_input_names=["input_ids", "attention_mask"], **roles
    )


def load_wrapper(
    checkpoint: Path,
    family: str,
    method: str = "vanilla",
    arguments: str = "",
    batch_size: int = 4,
    simple: bool = False,
) -> Any:
    """The model `method`_`family` as lmms-eval's command line makes it; `arguments`: `,key=value…`."""
    return get_model(f"{method}_{family}", simple).create_from_arg_string(
        f"pretrained={checkpoint},dtype=float32,device=cpu{arguments}", {"batch_size": str(batch_size)}
    )


def mixed_documents() -> list[dict[str, Any]]:
    """Questions of unequal length over 1, 0, 2, 1 images of unequal shape."""
    rng = np.random.default_rng(0)
    documents = []
    for index, count in enumerate((1, 0, 2, 1)):
        sizes = [(20 + 7 * index, 60 - 3 * image, 3) for image in range(count)]
        images = [Picture.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in sizes]
        documents.append({"images": images, "question": "Is there a red circle? " * (index + 1)})
    return documents
