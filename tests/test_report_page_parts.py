"""What a report's page is made of: chosen questions, pictures as seen, patches as paths, plots."""

from __future__ import annotations

import base64
import io
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from adaptinfer_eval.analysis.kept.outlines import area, borders
from adaptinfer_eval.analysis.kept.picture import CLIP_MEAN, as_seen, data_uri
from adaptinfer_eval.analysis.kept.stages import Stage, counts, read_stages
from adaptinfer_eval.models.kept import pack
from adaptinfer_eval.report.page.overlay import overlay
from adaptinfer_eval.report.page.plot import plot
from adaptinfer_eval.report.page.provenance import notices
from adaptinfer_eval.report.page.questions import Chosen, choose
from adaptinfer_eval.report.ratios import Ratio
from adaptinfer_eval.report.trend import Panel, Point
from adaptinfer_eval.sweep.config import load_config, shipped
from adaptinfer_eval.sweep.samples import rights_of


def test_questions_that_divide_methods_most_come_first_in_turn_from_every_task_and_budget() -> None:
    rights: dict[tuple[str, float], dict[int, list[float]]] = {
        ("MME", 64.0): {0: [1, 1, 1, 1], 1: [1, 0, 0, 0], 2: [1, 1, 0, 0], 3: [0, 1, 0, 1]},
        ("MME", 32.0): {2: [1, 1, 0, 0], 3: [0, 0, 0, 0], 5: [0, 0, 0, 1]},
        ("GQA", 64.0): {2: [0.3, 0.6, 1, 1]},
    }
    first = [Chosen("MME", 64.0, 2), Chosen("MME", 32.0, 5), Chosen("GQA", 64.0, 2)]
    assert choose(rights, 3) == first
    everything = [first[0], Chosen("MME", 64.0, 3), Chosen("MME", 64.0, 1), *first[1:]]
    assert choose(rights, 100) == everything  # none on which all agree, none twice
    assert choose({}, 3) == []


@pytest.mark.parametrize("pretrained", ["tasks/mini/model", "tasks/mini/model_seed1", str(shipped("tasks/mini/model"))])
def test_the_toy_model_is_told_by_any_path(pretrained: str) -> None:
    notice = notices(load_config("mini", [f"pretrained={pretrained}"]), [])[-1]
    assert (notice.headline, notice.kind) == ("Not real weights.", "warning")


def test_other_models_in_local_folders_are_no_toys(tmp_path: Path) -> None:
    for pretrained in (str(tmp_path), "tasks/mini", "llava-hf/llava-1.5-7b-hf"):
        found = notices(load_config("mini", [f"pretrained={pretrained}"]), [])
        assert "Not real weights." not in [notice.headline for notice in found]


def test_of_mmbenchs_circular_copies_the_original_counts_by_itself() -> None:
    def sample(index: int, prediction: str) -> dict[str, Any]:
        options = {"A": "red", "B": "blue", "C": "nan", "D": "nan", "E": "nan"}
        answer = {"index": index, "answer": "A", "prediction": prediction, "L2-category": "x", "question": "?"}
        return {"doc_id": index % 999_983, "gpt_eval_score": answer | options}

    samples = [sample(3, "A"), sample(4, "B"), sample(1_000_003, "B"), sample(1_000_004, "A")]
    assert rights_of(samples) == {3: 1.0, 4: 0.0}


@pytest.mark.parametrize(("size", "side"), [((90, 60), 90), ((1000, 400), 336)])
def test_padded_pictures_are_squares_with_borders_in_clips_mean(size: tuple[int, int], side: int) -> None:
    seen = as_seen(Image.new("RGB", size, "red"), "pad")
    assert seen.size == (side, side)
    assert seen.getpixel((side // 2, 2)) == CLIP_MEAN
    assert seen.getpixel((2, side // 2)) == (255, 0, 0)


def test_cropped_pictures_are_the_central_square() -> None:
    image = Image.new("L", (90, 60), 0)
    image.paste(255, (15, 0, 75, 60))
    assert np.asarray(as_seen(image, "crop")).min() == 255


@pytest.mark.parametrize(("side", "form"), [(96, "PNG"), (336, "JPEG")])
def test_small_pictures_are_embedded_pixel_by_pixel(side: int, form: str) -> None:
    image = Image.effect_noise((side, side), 50).convert("RGB")
    start, _, data = data_uri(image).partition(";base64,")
    found = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (start, found.format) == (f"data:image/{form.lower()}", form)
    if form == "PNG":
        assert np.array_equal(np.asarray(found), np.asarray(image))


def painted(path: str, side: int) -> NDArray[np.bool_]:
    """The cells that `area`'s path covers."""
    mask = np.zeros((side, side), bool)
    for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1H\d+z", path):
        assert not mask[int(y), int(x) : int(x) + int(width)].any()
        mask[int(y), int(x) : int(x) + int(width)] = True
    return mask


def test_a_path_covers_the_cells_of_its_mask_and_no_other() -> None:
    mask = np.random.default_rng(0).random((12, 12)) < 0.5
    assert np.array_equal(painted(area(mask), 12), mask)
    assert area(np.zeros((3, 3), bool)) == ""


def test_borders_lie_between_different_labels_and_around_what_is_kept() -> None:
    assert borders(np.array([[0, 0], [0, 0]])) == ""
    assert borders(np.array([[1, 0], [0, 0]])) == "M0 0H1M0 1H1M0 0V1M1 0V1"
    assert borders(np.array([[1, 1], [2, 2]])) == "M0 0H2M0 1H2M0 2H2M0 0V2M2 0V2"


def stages_of(**answer: Any) -> list[Stage]:
    return read_stages({"kept": {}} | answer, 16)


def bits(*tokens: int) -> str:
    mask = np.zeros(16, bool)
    mask[list(tokens)] = True
    return pack(mask)


def test_each_stage_veils_what_it_dropped_the_earlier_the_more() -> None:
    made = stages_of(kept={"10": bits(5), "1": bits(5, 6, 9)})
    assert counts(made) == "3 → 1"
    drawn = overlay(made, 16, "picture", "AdaptInfer")
    assert drawn is not None
    early, late = drawn.veils
    assert painted(early.path, 4).sum() == 13
    assert np.argwhere(painted(late.path, 4)).tolist() == [[1, 2], [2, 1]]
    assert early.opacity > late.opacity
    assert drawn.kept == borders(np.arange(16).reshape(4, 4) == 5)
    assert drawn.description == "The picture as AdaptInfer has it: 3 → 1 of 16 patches"


def test_merged_patches_are_outlined_together() -> None:
    into = np.repeat([0, 1], 8).astype("<u2")
    made = stages_of(assign=base64.b64encode(zlib.compress(into.tobytes())).decode())
    drawn = overlay(made, 16, "picture", "ToMe")
    assert drawn is not None
    assert counts(made) == "2 merged"
    assert drawn.merged == "M0 0H4M0 2H4M0 4H4M0 0V4M4 0V4"
    assert drawn.veils == []


def test_tokens_that_are_no_square_are_not_drawn() -> None:
    assert overlay([], 15, "picture", "X") is None


def test_names_at_the_ends_of_lines_do_not_overlap() -> None:
    def points(*values: float) -> list[Point]:
        return [Point(32.0 * 2**n, Ratio(value, None, (value - 5, value + 5), "")) for n, value in enumerate(values)]

    series = {f"method {n}": points(50 + n, 80 + n / 10) for n in range(7)}
    view = plot(Panel("Mean", series), list(series), 760, 430, wide=True)
    heights = [line.label_y for line in view.lines]
    assert min(above - below for below, above in zip(heights[1:], heights, strict=False)) > 14
    assert all(view.top <= height <= view.bottom for height in heights)
    assert [tick.text for tick in view.x_ticks] == ["32", "64"]
    for line in view.lines:
        first, last = line.marks
        assert first.x < last.x
        assert first.y > last.y  # more accurate is higher
        assert all(bottom > mark.y > top for mark in line.marks for bottom, top in [mark.interval])
