"""Video, from a file through lmms-eval to an answer: the frames of a prompt are under one budget."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from families import FAMILIES
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from lmms_tiny import load_wrapper
from PIL import Image as Picture
from rich.console import Console
from test_lmms_models import questions

from adaptinfer_eval.analysis.asked import read_asked
from adaptinfer_eval.analysis.shift import measure_shift
from adaptinfer_eval.backbones.messages import Image, Part, Video
from adaptinfer_eval.models.generation import Generation
from adaptinfer_eval.models.requests import Request, RequestError, chat_messages, simple_messages
from adaptinfer_eval.models.videos import read_video
from tasks.mini.make import clips

CLIP = clips.DATA / "clips" / "00.mkv"
TAKE_VIDEOS = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "llava_onevision"]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    folders: dict[str, Path] = {}

    def load(family: str, method: str = "vanilla", arguments: str = "", size: int = 4) -> Any:
        row = FAMILIES[family]
        if family not in folders:
            folders[family] = row.save(tmp_path_factory.mktemp(family), row.layers)
        given = row.placed(arguments, method) + (",frames=8" if family in TAKE_VIDEOS else "")
        return load_wrapper(folders[family], family, method, given, size, dtype="float64")

    return load


# The miniature task --------------------------------------------------------------------------------------------------


def test_shipped_clips_are_the_drawn_ones() -> None:
    assert clips.rows() == pq.read_table(clips.DATA / "video.parquet").to_pylist()
    for number, row in enumerate(clips.rows()):
        frames, asked, answer = clips.draw_clip(number)
        clip = read_video(str(clips.DATA / "clips" / row["clip"]), clips.FRAMES)
        assert np.array_equal(clip.frames, frames)
        assert (row["question"], row["answer"]) == (asked, answer)


def test_answers_are_balanced_and_the_question_does_not_tell() -> None:
    answers = [row["answer"] for row in clips.rows()]
    for way in clips.WAYS:
        assert answers.count(way) == clips.CLIPS // 8
    orders = [row for row in clips.rows() if row["answer"] not in clips.WAYS]
    named_first = [row["question"].index(row["answer"]) < row["question"].index(" or ") for row in orders]
    assert sum(named_first) == len(orders) // 2


def test_frames_are_evenly_spaced_and_know_their_times() -> None:
    clip, whole = read_video(str(CLIP), 4), clips.draw_clip(0)[0]
    assert np.array_equal(clip.frames, whole[[0, 4, 7, 11]])
    assert clip.metadata.timestamps == [0, 1, 1.75, 2.75]
    assert len(read_video(str(CLIP), 99).frames) == clips.FRAMES
    repeated = read_video(str(CLIP), 20, repeats=True)
    assert len(repeated.frames) == 20
    assert np.array_equal(repeated.frames[[0, -1]], whole[[0, -1]])


def test_other_questions_are_about_the_same_video() -> None:
    from adaptinfer_eval.models.other_question import other_question
    from adaptinfer_eval.models.requests import Request
    from tasks.mini.video import doc_to_messages

    documents = clips.rows()
    request = Request(0, "", (doc_to_messages,), "mini_video", 3, "test", {})
    ((role, content),) = other_question(request, documents)
    assert role == "user"
    assert isinstance(content[0], Video)
    assert content[0].source.endswith("03.mkv")
    assert content[1] == f"{documents[2]['question']}\nAnswer the question using a single word or phrase."


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), (b"", ""), (b"no video", "Invalid data")])
def test_what_is_no_video_is_named(content: bytes | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"clip\.mp4 cannot be read as a video \(.*{why}.*restore it"):
        read_video(str(path), 4)


# Asked ---------------------------------------------------------------------------------------------------------------


def prompts(model: Any) -> list[Any]:
    """A video; a picture and a video; a picture; nothing but text; two videos."""
    picture, video = Image(Picture.effect_noise((40, 50), 90).convert("RGB")), Video(str(CLIP))
    other = Video(str(CLIP.with_name("05.mkv")))
    shown: Sequence[list[Part]] = ([video], [picture, other], [picture], [], [video, other])
    return [model.prompt([("user", [*parts, "What moves? " * (n + 1)])]) for n, parts in enumerate(shown)]


@pytest.mark.parametrize("family", TAKE_VIDEOS)
def test_a_mixed_batch_answers_as_single_prompts(load: Callable[..., Any], family: str) -> None:
    model, generation = load(family, "adaptinfer", ",schedule=0:20/3:10"), Generation.read({"max_new_tokens": 6})
    asked = prompts(model)
    together, trace = model.traced_answer(model.encode(asked), generation)
    assert trace.images == [1, 2, 1, 0, 1]
    for number, prompt in enumerate(asked):
        (alone,), _ = model.traced_answer(model.encode([prompt]), generation)
        assert together[number].text == alone.text
        assert together[number].cost.entering == alone.cost.entering
    penalised = Generation.read({"max_new_tokens": 6, "repetition_penalty": 2.0})
    mixed, _ = model.traced_answer(model.encode_images(model.encode(asked)), penalised)
    for number, prompt in enumerate(asked):
        (alone,), _ = model.traced_answer(model.encode([prompt]), penalised)
        assert mixed[number].text == alone.text


@pytest.mark.parametrize("family", TAKE_VIDEOS[:4])
@pytest.mark.parametrize("budget", [16, 0.25])
def test_frames_are_under_one_budget(load: Callable[..., Any], family: str, budget: float) -> None:
    layers = ",layers=1/5/11" if FAMILIES[family].hybrid else ""
    model = load(family, "adaptinfer", f",budget={budget}{layers}")
    batch = model.encode(prompts(model)[:1])
    (answer,) = model.answer(batch, Generation.read({"max_new_tokens": 1}))
    tokens, entering = answer.cost.vision_tokens, answer.cost.entering
    (steps, rows, columns) = batch.inputs["video_grid_thw"][0].tolist()
    assert (steps, tokens) == (4, 4 * rows * columns // 4)  # 8 frames are 4 steps in time
    wanted = budget if budget > 1 else budget * tokens
    assert sum([*entering[1:], entering[-1]]) / len(entering) == pytest.approx(wanted, abs=0.5)


@pytest.mark.parametrize("family", TAKE_VIDEOS[:4])
def test_pixels_are_bounded_in_frames_as_in_images(load: Callable[..., Any], family: str) -> None:
    bound = 24 * 24
    free, bounded = (load(family, arguments=given) for given in ("", f",max_pixels={bound}"))
    patch = bounded.model.config.vision_config.patch_size**2
    for name, prompt in (("video", prompts(free)[0]), ("image", prompts(free)[2])):
        before, after = (model.encode([prompt]).inputs[f"{name}_grid_thw"][0].tolist() for model in (free, bounded))
        assert after[0] == before[0]
        assert after[1] * after[2] * patch <= bound < before[1] * before[2] * patch


def test_shift_is_measured_in_videos_too(tmp_path: Path) -> None:
    checkpoint = FAMILIES["qwen2_5_vl"].save(tmp_path / "tiny", 8)
    found = []
    for size in (1, 3):
        asked = read_asked("shift", str(checkpoint), ("mini_video",), 3, size, "float32", tmp_path / str(size))
        found.append(measure_shift(asked, Console(file=io.StringIO())))
    assert found[0]["measured"] == {"mini_video": 3}
    assert sum(found[0]["histograms"]["mini_video"]) > 0
    assert found[0]["histograms"] == found[1]["histograms"]


def test_a_task_that_gives_up_over_a_video_fails_one_request_by_name(load: Callable[..., Any]) -> None:
    """As Video-MME's does where the file is not there: it ends the process."""

    def gone(document: dict[str, Any]) -> list[Any]:
        sys.exit(f"video path:{document['clip']} does not exist, please check")

    model, documents = load("qwen2_5_vl"), clips.rows()[:1]
    model.task_dict = {"quiz": {"test": documents}}
    with pytest.raises(RequestError, match=r"task quiz, doc_id 0: ValueError: its task gives up: .*00\.mkv does not"):
        model.generate_until(questions(documents, gone))
    with pytest.raises(ValueError, match=r"its task gives up: .*00\.mkv does not exist"):
        simple_messages(Request(0, "", (gone,), "quiz", 0, "test", {}), documents[0])


def test_a_part_of_a_video_is_refused() -> None:
    part = {"type": "video", "url": str(CLIP), "start_time": 1.0, "end_time": 2.0}
    request = Request(0, "", (lambda _: [{"role": "user", "content": [part]}],), "quiz", 0, "test", {})
    with pytest.raises(ValueError, match=r"from 1\.0 to 2\.0 s, and models are shown whole videos: cut it"):
        chat_messages(request, {})


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava_onevision"])
def test_lmms_eval_runs_the_miniature_task(load: Callable[..., Any], family: str) -> None:
    found = {}
    for size in (1, 4):
        model = load(family, "fastv", ",schedule=1:9", size)
        results = simple_evaluate(
            model=model, tasks=["mini_video"], task_manager=TaskManager("WARNING"), limit=6, bootstrap_iters=0
        )
        assert "exact_match,none" in results["results"]["mini_video"]
        found[size] = [sample["filtered_resps"] for sample in results["samples"]["mini_video"]]
        assert model.audit()["requests"] == 6
    assert found[1] == found[4]


def test_a_family_without_video_says_so(load: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="llava is shown no videos here: use Qwen-VL or LLaVA-OneVision"):
        prompts(load("llava"))
