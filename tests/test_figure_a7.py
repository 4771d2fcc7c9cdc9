"""Figure A.7: what is left of a picture at each stage, drawn from a sweep's folder and of a picture of one's own."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.internvl import save_internvl
from lmms_tiny import load_wrapper
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from shell import call

from adaptinfer_eval.analysis.kept.asking import ask
from adaptinfer_eval.analysis.kept.draw import DIM, enlarged, stage_image, stage_images
from adaptinfer_eval.analysis.kept.figure_a7 import kept_figure
from adaptinfer_eval.analysis.kept.picture import as_seen, read_uri
from adaptinfer_eval.analysis.kept.question import Answer, Question
from adaptinfer_eval.analysis.kept.stages import Stage, read_stages
from adaptinfer_eval.backbones import make_family
from adaptinfer_eval.report.asked import asked, read_sweep
from adaptinfer_eval.report.page.answers import keep_documents
from adaptinfer_eval.report.page.documents import read_documents
from adaptinfer_eval.sweep.config import SweepError, load_config
from adaptinfer_eval.sweep.journal import read_answers
from adaptinfer_eval.sweep.run import run_sweep

SIDE = 6
METHODS = ("vanilla", "tome", "sparsevlm", "adaptinfer")
SMALL = ("budgets=64,32", "tasks=mini_textvqa", "limit=4", "workers=1", "batch_size=1", "dtype=auto")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    config = load_config("mini", [*SMALL, f"methods={','.join(METHODS)}", f"output={folder}"])
    assert run_sweep(config, Console(file=io.StringIO()), keep_documents) == []
    return folder


def picture(size: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))


def stage(kept: list[int], groups: dict[int, int]) -> Stage:
    """`groups`: vision token → merged token."""
    mask, group = np.zeros(SIDE * SIDE, bool), np.zeros(SIDE * SIDE, np.int64)
    mask[kept] = True
    for token, number in groups.items():
        group[token] = number
    return Stage(1, mask, group)


def inside(image: Image.Image, token: int) -> NDArray[np.int64]:
    """The pixels of a patch that no line runs through, (n, 3)."""
    step = image.width // SIDE
    x, y = token % SIDE * step, token // SIDE * step
    return np.asarray(image, np.int64)[y + 2 : y + step - 2, x + 2 : x + step - 2].reshape(-1, 3)


def test_kept_patches_are_the_images_own_and_dropped_ones_dimmed() -> None:
    drawn, large = stage_image(picture(), stage([0, 7, 8, 35], {})), enlarged(picture(), SIDE)
    for token in range(SIDE * SIDE):
        shown, own = inside(drawn, token), inside(large, token)
        if token in (0, 7, 8, 35):
            assert np.array_equal(shown, own)
        else:
            assert np.abs(shown - (DIM * 255 + (1 - DIM) * own)).max() <= 0.5


def test_patches_of_a_merged_token_have_their_mean_colour_and_a_line_around_them() -> None:
    drawn, large = stage_image(picture(), stage([0], {14: 1, 15: 1, 33: 1, 20: 2})), enlarged(picture(), SIDE)
    step, pixels = large.width // SIDE, np.asarray(large, float).reshape(SIDE, large.width // SIDE, SIDE, -1, 3)
    mean = np.mean([pixels[t // SIDE, :, t % SIDE].reshape(-1, 3).mean(0) for t in (14, 15, 33)], axis=0)
    for token in (14, 15, 33):
        assert np.abs(inside(drawn, token) - mean).max() <= 0.5
    assert np.array_equal(inside(drawn, 20), inside(large, 20))  # a merged token of one patch is that patch
    # Between 14 and 15 there is no line; between them and what is around, white on black.
    row = np.asarray(drawn)[2 * step + step // 2]
    assert np.abs(row[2 * step + 4 : 4 * step - 4] - mean).max() <= 0.5
    assert (row[2 * step] == 255).all()
    assert (row[2 * step - 1] == 0).all()


@pytest.mark.parametrize(("size", "width"), [(24, 384), (96, 384), (336, 672), (50, 400), (301, 384)])
def test_a_drawing_is_as_wide_as_whole_patches(size: int, width: int) -> None:
    large = enlarged(picture(size), 24 if size != 50 else 8)
    assert large.width == width
    if width % size == 0:  # then every pixel is a square of pixels
        assert np.array_equal(np.asarray(large)[:: width // size, :: width // size], np.asarray(picture(size)))


def test_tokens_that_are_no_square_are_refused() -> None:
    odd = Stage(1, np.ones(15, bool), np.zeros(15, np.int64))
    with pytest.raises(ValueError, match="15 vision tokens over 24 × 24 pixels are not the patches of one square"):
        stage_image(picture(), odd)
    with pytest.raises(SweepError, match=r"GQA 3: where its 15 vision tokens lie in the picture is not known"):
        Question("GQA 3", "?", "", picture(), [Answer("X", "yes", "", [odd])])


def shown_by(figure: Figure) -> dict[str, NDArray[np.uint8]]:
    return {axes.get_title(): np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images}


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_the_figure_has_a_picture_for_each_stage_and_every_answer(sweep: Path) -> None:
    question = asked(read_sweep(sweep, METHODS, 64), "mini_textvqa:3")
    assert [answer.method for answer in question.answers] == ["Vanilla", "ToMe", "SparseVLM", "AdaptInfer"]
    figure = kept_figure(question)
    shown = shown_by(figure)
    assert len(shown) == 1 + 0 + 1 + 3 + 3
    for name, answer in zip(METHODS, question.answers, strict=True):
        made = read_answers(sweep, f"llava-{name}{'-64' * (name != 'vanilla')}-mini_textvqa")[3]
        assert answer.text == made["text"]
        for title, image in stage_images(question.image, read_stages(made, 576)):
            assert np.array_equal(shown[title], np.asarray(image))
    words = texts(figure)
    assert "TextVQA, question 3, 64 vision tokens" in words
    assert "What does the yellow sign say?" in words
    assert f"Right answer: {question.target}" in words
    for answer in question.answers:
        assert (answer.verdict == "right") == (answer.text == question.target)
        assert f"{'✓' if answer.verdict == 'right' else '✗'} {answer.text}" in words


def test_tomes_groups_and_recycled_tokens_count_what_enters_the_next_layer(sweep: Path) -> None:
    for name in ("tome", "sparsevlm", "adaptinfer"):
        for answer in read_answers(sweep, f"llava-{name}-64-mini_textvqa").values():
            entering = [tokens for tokens, layers in answer["entering"] for _ in range(layers)]
            for found in read_stages(answer, 576):
                assert found.kept.sum() + found.merged == entering[found.layer + 1]


def test_a_sweep_without_kept_documents_or_a_budget_is_drawn_all_the_same(sweep: Path, tmp_path: Path) -> None:
    other = shutil.copytree(sweep, tmp_path / "other", ignore=shutil.ignore_patterns("documents"))
    question, known = asked(read_sweep(other), "TextVQA:1"), asked(read_sweep(sweep, budget=32), "mini_textvqa:1")
    assert question.where.endswith("64 vision tokens")  # ToMe has no answers at 32
    assert np.array_equal(np.asarray(question.image), np.asarray(known.image))
    assert (question.text, question.target) == (known.text, known.target)


def test_a_question_of_ones_own_is_answered_as_in_the_sweep(sweep: Path, tmp_path: Path) -> None:
    """The same picture and text, through the model again: the same tokens are kept."""
    of_sweep = asked(read_sweep(sweep, METHODS, 64), "mini_textvqa:3")
    of_sweep.image.save(tmp_path / "picture.png")
    own = ask(tmp_path / "picture.png", of_sweep.text, "tasks/mini/model", METHODS, 64)
    assert own.target == ""
    for one, other in zip(own.answers, of_sweep.answers, strict=True):
        assert (one.method, one.text, len(one.stages)) == (other.method, other.text, len(other.stages))
        for mine, theirs in zip(one.stages, other.stages, strict=True):
            assert mine.layer == theirs.layer
            assert np.array_equal(mine.kept, theirs.kept)
            assert np.array_equal(mine.group, theirs.group)


def test_both_files_come_out_of_the_command(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--results", sweep, "--question", "mini_textvqa:0", "--methods", "adaptinfer,tome", "--budget", "64")
    assert call(monkeypatch, "figure", "a7", *arguments, "--output", tmp_path / "a7") == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "a7.png"), str(tmp_path / "a7.svg")]
    with Image.open(tmp_path / "a7.png") as image:
        assert image.width > 1000


def wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert call(monkeypatch, "figure", "a7", *arguments) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--question", "mini_textvqa:99"), "mini_textvqa has no question 99 in {}: choose from 0 to 3"),
        (("--question", "mini_textvq:1"), "{} has no task 'mini_textvq': did you mean 'mini_textvqa'?"),
        (("--question", "mini_textvqa"), "'mini_textvqa' is not of the form TASK:ID, as in mini_textvqa:0"),
        (("--question", "mini_textvqa:1", "--methods", "fastv"), "{} has no answers of 'fastv'"),
        (("--question", "mini_textvqa:1", "--budget", "128"), "{} has no answers at budget 128: choose from 32, 64"),
        (("--question", "mini_textvqa:1", "--text", "?"), "give --results and --question, or --image and --text"),
        ((), "give --results and --question, or --image and --text"),
    ],
)
def test_what_is_wrong_with_a_question_is_a_sentence(
    sweep: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert message.format(sweep) in wrong(monkeypatch, capsys, "--results", sweep, *arguments)


def test_a_missing_journal_and_tiles_are_a_sentence(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(sweep, tmp_path / "other")
    (other / "journal" / "llava-tome-64-mini_textvqa.jsonl").unlink()
    said = wrong(monkeypatch, capsys, "--results", other, "--question", "mini_textvqa:1")
    assert "llava-tome-64-mini_textvqa.jsonl has no answer to question 1 that can be checked: delete " in said
    config = (other / "config.yaml").read_text(encoding="utf-8")
    tiles = config.replace("backbone: llava", "backbone: internvl").replace(
        "model_args: {}", "model_args: {max_patches: 4}"
    )
    (other / "config.yaml").write_text(tiles, encoding="utf-8")
    shutil.rmtree(other / "documents")
    said = wrong(monkeypatch, capsys, "--results", other, "--question", "mini_textvqa:1")
    assert "TextVQA, question 1 cannot be drawn" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image", "no.png", "--text", "?"), "no.png cannot be read as a picture"),
        (("--image", "text.png", "--text", "?"), "text.png cannot be read as a picture (cannot identify"),
        (("--image", "good.png", "--text", " "), "the text is empty"),
        (("--image", "good.png", "--text", "<image>?"), "this cannot be asked: the prompt has 1 images and 2 times"),
        (("--image", "good.png", "--text", "?", "--methods", "adaptinfr"), "did you mean 'adaptinfer'?"),
        (("--image", "good.png", "--text", "?", "--methods", "other_question"), "show it with --results"),
        (("--image", "good.png", "--text", "?", "--methods", "tome", "--budget", "3"), "at least 36"),
        (("--image", "good.png", "--text", "?", "--budget", "0"), "budget"),
        (("--image", "good.png", "--text", "?", "--pretrained", "."), "has no config.json"),
    ],
)
def test_what_is_wrong_with_a_picture_of_ones_own_is_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    picture().save("good.png")
    Path("text.png").write_text("no picture")
    assert message in wrong(monkeypatch, capsys, *arguments)


# InternVL with one tile ------------------------------------------------------------------------------------------


def test_vision_tokens_of_internvls_tile_are_the_patches_of_the_stretched_picture(tmp_path: Path) -> None:
    model: Any = load_wrapper(save_internvl(tmp_path), "internvl", batch_size=1)
    assert model.family.square == "stretch"
    assert make_family("internvl", {"max_patches": 2}).square is None
    wide = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 90, 3), dtype=np.uint8))
    processed = model.processor.image_processor(wide, return_tensors="pt")["pixel_values"]
    stretched = np.asarray(wide.resize((24, 24), Image.Resampling.BICUBIC), np.float32) / 255
    (tile,) = processed.permute(0, 2, 3, 1).numpy()
    middle, width = (np.array(getattr(model.processor.image_processor, name)) for name in ("image_mean", "image_std"))
    assert np.abs(tile - (stretched - middle) / width).max() < 0.02
    assert as_seen(wide, "stretch").size == (90, 90)
    # Four patches of the tower make a vision token, and those are in order, row by row.
    patches = torch.arange(144.0).view(1, 12, 12, 1)
    tokens = model.model.model.pixel_shuffle(patches, 0.5).reshape(36, 4)
    for number, four in enumerate(tokens.tolist()):
        corner = number // 6 * 24 + number % 6 * 2
        assert sorted(four) == [corner, corner + 1, corner + 12, corner + 13]


def test_internvl_is_drawn_too(tmp_path: Path) -> None:
    save_internvl(tmp_path / "model", layers=8)
    picture().save(tmp_path / "picture.png")
    question = ask(tmp_path / "picture.png", "What is it?", str(tmp_path / "model"), ("adaptinfer",), 12)
    (answer,) = question.answers
    assert [len(found.kept) for found in answer.stages] == [36] * len(answer.stages)
    assert len(shown_by(kept_figure(question))) == 1 + len(answer.stages)


def test_documents_are_read_back_pixel_by_pixel(sweep: Path) -> None:
    chosen = read_sweep(sweep)
    record = chosen.cells["mini_textvqa"][0].record
    uri = read_documents(chosen.config, record, [2], sweep)[2].picture
    assert read_uri(uri).size == (96, 96)
