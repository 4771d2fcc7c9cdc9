"""`adaptinfer-eval calibrate`: what it proposes follows from the model, and can be used as it is printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lmms_tiny import load_wrapper, mixed_documents, save_tiny_llava
from shell import call
from test_lmms_models import questions

import adaptinfer_eval as ae
from adaptinfer_eval.analysis.fitting import STEPS, fitted, spared, spared_of_batch
from adaptinfer_eval.analysis.over_samples import NO_IMAGE
from adaptinfer_eval.analysis.sums import Sums
from adaptinfer_eval.analysis.withdrawal import divergences, first_layer
from adaptinfer_eval.cost import prefill_macs
from adaptinfer_eval.models.requests import generation_requests

SHAPE = (576, 4096, 11008)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("tiny"), layers=8)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    return load_wrapper(checkpoint, "llava", "vanilla")


def loaded(model: Any, documents: list[Any]) -> Any:
    asked = questions(documents)
    model.task_dict = {asked[0].task_name: {asked[0].args[5]: documents}}
    return model.load_batch(generation_requests(asked, is_simple=False))


def test_what_withdrawal_changes_is_that_of_the_model_s_own_logits(model: Any) -> None:
    batch = loaded(model, mixed_documents())
    found, reasons = divergences(model, batch)
    assert found.shape == (len(batch.prompts), 3)
    assert [reason == NO_IMAGE for reason in reasons] == [not prompt.images for prompt in batch.prompts]
    inputs = batch.inputs.to(model.model.dtype)
    whole = model.model.generate(**inputs, max_new_tokens=1, output_logits=True, return_dict_in_generate=True)
    with ae.pruned(model.model, ae.get_method("vtw")(schedule="5:0")):
        left = model.model.generate(**inputs, max_new_tokens=1, output_logits=True, return_dict_in_generate=True)
    target, other = (out.logits[0].double().log_softmax(-1) for out in (left, whole))
    expected = torch.nn.functional.kl_div(other, target, log_target=True, reduction="none").sum(1)
    assert found[:, 1] == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-8)
    assert (found[[not reason for reason in reasons]] > 0).all()


def test_the_first_layer_that_changes_little() -> None:
    means = {5: 0.02, 6: 0.003, 7: 0.004, 8: 0.001}
    assert [first_layer(means, threshold) for threshold in (0.1, 0.003, 0.002, 1e-4)] == [5, 6, 8, None]


def by_hand(text: Any, vision: Any, loss: float) -> list[int]:
    """Tokens that go in each layer: those that both sums can spare of what is left."""
    there, counts = set(range(text.shape[1])), []
    for layer in zip(text, vision, strict=True):
        gone = set(there)
        for sums in layer:
            order = [token for _, token in sorted((sums[token], token) for token in there)]
            spare, left = set(), sum(sums[token] for token in order)
            for token in order:
                left -= sums[token]
                if left < sum(sums) * (1 - loss):
                    break
                spare.add(token)
            gone &= spare
        counts.append(len(gone))
        there -= gone
    return counts


def test_spared_are_the_tokens_that_both_sums_can_spare() -> None:
    draw = torch.Generator().manual_seed(0)
    text, vision = (torch.rand(5, 3, 40, generator=draw).double() ** 4 for _ in range(2))
    mask = torch.arange(40) < torch.tensor([[40], [25], [0]])
    found = spared(text, vision, mask)
    assert found.shape == (3, STEPS - 1, 5)
    assert not found[2].any()
    for row, tokens in ((0, 40), (1, 25)):
        for step in (1, 20, 64, 110):
            counts = by_hand(text[:, row, :tokens].numpy(), vision[:, row, :tokens].numpy(), step / STEPS)
            assert (found[row, step - 1] * tokens).round().int().tolist() == counts
            assert step < 64 or sum(counts) > 0


def test_a_fitted_schedule_saves_what_was_asked_and_no_later_layer_more() -> None:
    shares = np.array([0.3, 0.2, 0.1, 0.05, 0.0, 0.05, 0.0, 0.0])
    whole = prefill_macs([576] * 8, *SHAPE[1:])
    left = fitted(shares, 0.45, *SHAPE)
    assert left == [404, 289, *[232] * 6]
    assert (
        prefill_macs([576, *left[:-1]], *SHAPE[1:]) <= 0.55 * whole < prefill_macs([576, 404, *[289] * 6], *SHAPE[1:])
    )
    assert fitted(shares, 0.8, *SHAPE) is None


def test_what_a_layer_spares_does_not_depend_on_the_batch(model: Any) -> None:
    documents = mixed_documents()
    together, reasons = spared_of_batch(model, loaded(model, documents))
    for row, (document, reason) in enumerate(zip(documents, reasons, strict=True)):
        if not reason:
            alone, _ = spared_of_batch(model, loaded(model, [document]))
            assert np.abs(together[row] - alone[0]).max() <= 1 / 16  # a token at the border
            assert not alone[0, :, -1].any()
    assert together.any()


@pytest.mark.parametrize("method", ["vtw", "fitprune"])
def test_the_schedule_that_is_printed_is_one(
    checkpoint: Path, method: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    goal = {"vtw": ("--threshold", 100), "fitprune": ("--reduction", 50)}[method]
    given = ("--pretrained", checkpoint, "--task", "mini_mme", "--samples", 3, "--dtype", "float32", *goal)
    assert call(monkeypatch, "calibrate", method, *given) == 0
    shown = capsys.readouterr().out
    schedule = re.findall(rf"^{method}: schedule=(\S+)$", shown, re.MULTILINE)[0]
    found = ae.get_method(method)(schedule=schedule).entering(8, 36)
    assert found[0] == 36
    assert found[-1] < 36
    monkeypatch.setattr(Sums, "add", None)  # nothing is measured again
    assert call(monkeypatch, "calibrate", method, *given, "--batch-size", 1) == 0
    assert capsys.readouterr().out == shown
