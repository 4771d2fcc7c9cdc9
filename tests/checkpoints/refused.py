"""Tiny Mllama and Gemma 3n, whose decoders cannot be pruned: weights and configuration alone."""

from __future__ import annotations

from pathlib import Path

from checkpoints.parts import text_config, write
from checkpoints.words import trained

SPECIAL = ["<pad>", "<eos>", "<image>"]


def save_mllama(folder: Path, layers: int = 4) -> Path:
    """Every other layer looks at the images, which are in no sequence."""
    words = trained(SPECIAL, eos_token="<eos>", pad_token="<pad>")
    return write(
        "mllama",
        folder,
        words,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "vision_output_dim": 64,
            "image_size": 16,
            "patch_size": 4,
            "intermediate_layers_indices": [0],
        },
        text_config={
            **text_config("mllama_text_model", words, layers),
            "cross_attention_layers": list(range(1, layers, 2)),
        },
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )


def save_gemma3n(folder: Path, layers: int = 4) -> Path:
    """The later half of its layers looks at keys of the earlier; its towers are the smallest that can be built."""
    words = trained(SPECIAL, eos_token="<eos>", pad_token="<pad>")
    size = len(words)
    return write(
        "gemma3n",
        folder,
        words,
        vision_config={"architecture": "resnet10t", "hidden_size": 512, "vocab_size": 8, "vocab_offset": size},
        audio_config={
            "hidden_size": 16,
            "input_feat_size": 16,
            "conf_num_attention_heads": 2,
            "conf_num_hidden_layers": 1,
            "sscp_conv_channel_size": [4, 4],
            "vocab_size": 8,
            "vocab_offset": size + 8,
        },
        text_config={
            **text_config("gemma3n_text", words, layers),
            "head_dim": 16,
            "laurel_rank": 4,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": size,
            "num_kv_shared_layers": layers // 2,
            "layer_types": ["sliding_attention", "full_attention"] * (layers // 2),
            "activation_sparsity_pattern": [0.0] * layers,
        },
    )
