"""Families that cannot be right are refused with the reason, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

import adaptinfer_eval as ae
from adaptinfer_eval.backbones import FAMILIES, REFUSED, family_of
from adaptinfer_eval.models.checkpoint import CheckpointError, check_checkpoint


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_checkpoint_is_refused_with_the_reason(model_type: str, tmp_path: Path) -> None:
    assert model_type not in FAMILIES
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(CheckpointError, match=f"'{model_type}', which cannot be pruned: {REFUSED[model_type]}"):
        check_checkpoint(str(tmp_path))
    with pytest.raises(ValueError, match=f"{model_type} is not a model that can be pruned: {REFUSED[model_type][:30]}"):
        family_of(AutoConfig.for_model(model_type))


@pytest.mark.parametrize("model_type", ["mllama", "llama4"])
def test_a_model_is_refused_with_the_reason(model_type: str) -> None:
    auto: Any = AutoModelForImageTextToText
    with torch.device("meta"):
        model = auto.from_config(AutoConfig.for_model(model_type)).eval()
    with pytest.raises(
        ValueError, match=f"\\({model_type}\\) is not a model that can be pruned: {REFUSED[model_type]}"
    ):
        ae.pruned(model, ae.get_method("fastv")(schedule="1:9")).__enter__()
