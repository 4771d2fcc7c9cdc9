"""What lmms-eval finds of ours: models for every installed method, tasks; and that nothing of its own changes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmms_eval.models
import pytest
from datasets import Dataset
from lmms_eval.api.task import TaskConfig
from lmms_eval.models.registry_v2 import ModelRegistryV2
from lmms_eval.tasks import TaskManager, get_task_dict
from lmms_tiny import save_tiny_llava
from PIL import Image

import adaptinfer_eval as ae
from adaptinfer_eval.models import add_tasks, manifests, wrappers

OWN_METHOD = """
from dataclasses import dataclass

from adaptinfer_eval import ImageMethod, Selection


@dataclass(frozen=True, kw_only=True)
class First(ImageMethod):
    def select(self, images, count):
        import torch

        return Selection(torch.arange(count).expand(len(images.projected), -1))
"""


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    return TaskManager("WARNING", model_name="adaptinfer_llava")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a distribution with one method of the given name."""

    def install(name: str) -> None:
        (tmp_path / "own_method.py").write_text(OWN_METHOD)
        info = tmp_path / "own_method-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-method\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[adaptinfer_eval.methods]\n{name} = own_method:First\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(lmms_eval.models, "AVAILABLE_SIMPLE_MODELS", dict(lmms_eval.models.AVAILABLE_SIMPLE_MODELS))
        monkeypatch.setattr(
            lmms_eval.models, "AVAILABLE_CHAT_TEMPLATE_MODELS", dict(lmms_eval.models.AVAILABLE_CHAT_TEMPLATE_MODELS)
        )

    return install


def test_every_method_is_a_model_of_both_kinds() -> None:
    assert {"adaptinfer", "vanilla"} <= set(ae.available_methods())
    for method in ae.available_methods():
        name = f"{method}_llava"
        assert name in lmms_eval.models.AVAILABLE_SIMPLE_MODELS
        assert name in lmms_eval.models.AVAILABLE_CHAT_TEMPLATE_MODELS
        chat, simple = (lmms_eval.models.get_model(name, force_simple=kind) for kind in (False, True))
        assert (chat.is_simple, simple.is_simple) == (False, True)
        assert chat.method_name == simple.method_name == method
        assert getattr(wrappers, chat.__name__) is chat


def test_no_other_attribute_appears() -> None:
    with pytest.raises(AttributeError):
        _ = wrappers.LlavaVideo_fastv


def test_an_authors_own_method_needs_no_further_file(install: Callable[[str], None], tmp_path: Path) -> None:
    install("first")
    registry = ModelRegistryV2()
    registry.load_entrypoint_manifests()
    cls = registry.get_model_class("first_llava")
    checkpoint = save_tiny_llava(tmp_path / "tiny")
    model = cls.create_from_arg_string(f"pretrained={checkpoint},budget=7", {"device": "cpu"})
    assert model.method.budget == 7
    assert "first_llava" in lmms_eval.models.AVAILABLE_SIMPLE_MODELS


def test_a_model_of_lmms_eval_keeps_its_name(install: Callable[[str], None]) -> None:
    install("video")  # lmms-eval has a video_llava
    assert "video_llava" not in [manifest.model_id for manifest in manifests()]
    assert lmms_eval.models.AVAILABLE_SIMPLE_MODELS["video_llava"] == "VideoLLaVA"


def test_an_lmms_eval_without_its_task_manager_still_gets_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmms_eval.tasks", None)
    assert "adaptinfer_llava" in [manifest.model_id for manifest in manifests()]


def test_our_tasks_are_found_and_upstreams_are_as_they_were(tmp_path: Path) -> None:
    add_tasks()  # once more: nothing happens twice
    (tmp_path / "mine.yaml").write_text("task: adaptinfer_mme\ndataset_path: mine\n")
    manager = TaskManager("WARNING", include_path=str(tmp_path))
    upstream: Any = TaskManager.initialize_tasks.__wrapped__
    index = upstream(manager)
    assert {name: manager.task_index[name] for name in index} == index
    assert manager.task_index["adaptinfer_mme"]["yaml_path"] == str(
        tmp_path / "mine.yaml"
    )  # the user's own comes first
    ours = set(manager.task_index) - set(index)
    benchmarks = {"mme", "gqa", "mmbench_en_dev", "scienceqa_img", "textvqa"}
    benchmarks |= {"mmbench_cn_dev", "pope", "seedbench", "vizwiz_val"}
    small = {"mme", "gqa", "mmbench", "scienceqa", "textvqa", "video"}
    assert ours == {f"adaptinfer_{name}" for name in benchmarks | {"paper", "mini"}} | {
        f"mini_{name}" for name in small
    }
    assert not hasattr(upstream, "__wrapped__")
    alone = TaskManager("WARNING", include_path=str(tmp_path), include_defaults=False)
    assert list(alone.task_index) == ["adaptinfer_mme"]


def test_the_papers_tasks_ask_and_score_as_upstream_does(manager: TaskManager) -> None:
    pairs = {
        "adaptinfer_mme": "mme",
        "adaptinfer_gqa": "gqa",
        "adaptinfer_mmbench_en_dev": "mmbench_en_dev_static",
        "adaptinfer_scienceqa_img": "scienceqa_img",
        "adaptinfer_textvqa": "textvqa_val",
    }
    assert manager._get_config("adaptinfer_paper")["task"] == list(pairs)
    for name, upstream_name in pairs.items():
        ours, upstream = manager._get_config(name), manager._get_config(upstream_name)
        assert TaskConfig(**ours).task == name
        for key in ("dataset_path", "dataset_name", "test_split", "output_type"):
            assert ours.get(key) == upstream.get(key), (name, key)
        asked = ours["lmms_eval_specific_kwargs"]["default"]
        expected = upstream["lmms_eval_specific_kwargs"]["default"]
        assert asked == {**expected, **({"ocr": True} if "textvqa" in name else {})}
        assert (ours["doc_to_text"].__module__, ours["doc_to_text"].__name__) == (
            f"lmms_eval.tasks.{upstream_name.split('_')[0]}.{'en_utils' if 'mmbench' in name else 'utils'}",
            upstream["doc_to_text"].__name__,
        )
        assert "max_new_tokens" in ours["generation_kwargs"]
        assert not (ours.get("dataset_kwargs") or {}).get("token")  # public data: no login


def test_gqa_finds_the_image_of_a_question_by_its_id(manager: TaskManager, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [Image.new("RGBA", (size, 5)) for size in (1, 2, 3)]
    images = Dataset.from_dict({"id": ["n1", "n2", "n3"], "image": pictures})
    asked: list[tuple[str, ...]] = []

    def load(*name: str, split: str) -> Dataset:
        asked.append((*name, split))
        return images

    config = manager._get_config("adaptinfer_gqa")
    for function in (config["process_docs"], config["doc_to_visual"]):
        monkeypatch.setitem(function.__globals__, "load_dataset", load)
    questions = Dataset.from_dict({"imageId": ["n3", "n1", "n3"]})
    assert config["process_docs"](questions) is questions
    assert asked == [("lmms-lab-encoder/GQA", "testdev_balanced_images", "testdev")]
    shown = [config["doc_to_visual"](question) for question in questions]
    assert [(image.width, image.mode) for (image,) in shown] == [(3, "RGB"), (1, "RGB"), (3, "RGB")]
    assert len(set(asked)) == 1


def test_the_mini_tasks_are_the_papers_over_our_data(manager: TaskManager) -> None:
    tasks = get_task_dict(["adaptinfer_mini"], manager, "chat")
    (by_name,) = tasks.values()
    assert sorted(by_name) == ["mini_gqa", "mini_mmbench", "mini_mme", "mini_scienceqa", "mini_textvqa"]
    for name, task in by_name.items():
        assert len(task.eval_docs) >= 100, name
        document = task.eval_docs[0]
        (message,) = task.doc_to_messages(document)
        assert message["content"][-1]["text"].strip() == task.doc_to_text(document).strip()
    assert "Reference OCR token: " in by_name["mini_textvqa"].doc_to_text(by_name["mini_textvqa"].eval_docs[0])
    mme = by_name["mini_mme"]
    scores = [mme.process_results(document, [document["answer"]]) for document in mme.eval_docs]
    totals = [score["mme_total_score"] for score in scores]
    categories = {document["category"] for document in mme.eval_docs}
    assert mme.aggregation()["mme_total_score"](totals) == pytest.approx(200 * len(categories))
    mmbench = by_name["mini_mmbench"]
    results = [mmbench.process_results(d, [d["answer"]])["gpt_eval_score"] for d in mmbench.eval_docs]
    assert mmbench.aggregation()["gpt_eval_score"](results) == pytest.approx(100)
