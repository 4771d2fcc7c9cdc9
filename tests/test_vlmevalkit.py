"""The real VLMEvalKit on the small model: same questions, same answers as lmms-eval; nothing is missing in silence."""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sweeps import answers, run
from test_results_schema import validator

from adaptinfer_eval.report.harnesses import compare_harnesses
from adaptinfer_eval.report.page.answers import keep_documents
from adaptinfer_eval.report.page.build import report
from adaptinfer_eval.sweep.config import SweepConfig, SweepError, load_config, shipped
from adaptinfer_eval.vlmevalkit import DATA
from adaptinfer_eval.vlmevalkit.tsv import write_tsv

pytestmark = pytest.mark.skipif(find_spec("vlmeval") is None, reason="VLMEvalKit is not installed (.ci/vlmevalkit)")

MINI = {task: name for task, name in DATA.items() if task.startswith("mini_")}
TASKS = ",".join(MINI)
MODEL = {"pretrained": "tasks/mini/model", "dtype": "float32", "device": "cpu"}
Kit = Any


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """VLMEvalKit's data folder, with the mini tasks in it."""
    folder = tmp_path_factory.mktemp("LMUData")
    write_tsv(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMUData", str(folder))
        yield folder


@pytest.fixture
def kit(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kit:
    from adaptinfer_eval.vlmevalkit.kit import load_kit

    found = load_kit("vlmeval.run")
    monkeypatch.chdir(tmp_path)
    return found


def model(budget: int | None = None, **changes: Any) -> dict[str, Any]:
    own = {"method": "vanilla" if budget is None else "adaptinfer", "family": "llava"}
    checkpoint = {**MODEL, "pretrained": str(shipped("tasks/mini/model"))}
    return {**own, **({} if budget is None else {"budget": budget}), **checkpoint, **changes}


def hand_over(*arguments: object, **models: dict[str, Any]) -> None:
    from adaptinfer_eval.vlmevalkit.run import hand_over as start

    start(list(map(str, arguments)), models, {})


def predictions(name: str, dataset: str, folder: str = "outputs") -> list[str]:
    return list(map(str, pd.read_excel(Path(folder, name, f"{name}_{dataset}.xlsx"))["prediction"]))


def config(tmp_path: Path, name: str, *overrides: str) -> SweepConfig:
    small = ("budgets=64", "limit=4", "batch_size=4", "workers=1", f"tasks={TASKS}", f"output={tmp_path / name}")
    return load_config("mini", ["methods=vanilla,adaptinfer,other_question", *small, *overrides])


def test_importing_it_leaves_certificates_checked(kit: Kit) -> None:
    assert ssl._create_default_https_context is not ssl._create_unverified_context


def test_both_harnesses_ask_the_same_about_the_same_pixels(kit: Kit) -> None:
    from adaptinfer_eval.models.pictures import read_picture
    from adaptinfer_eval.models.requests import chat_messages
    from adaptinfer_eval.sweep.tasks import load_tasks, questions

    sweep = load_config("mini", [f"tasks={TASKS}", "limit=6"])
    asked = []
    for harness in ("lmms-eval", "vlmevalkit"):
        _, tasks = load_tasks(sweep.model_copy(update={"harness": harness}))
        asked.append(
            [
                (chat_messages(request, task.eval_docs[doc]), request.generation)
                for name, task in tasks.items()
                for doc, request in questions(name, task, sweep.limit).items()
            ]
        )
    for (ours, how), (theirs, same) in zip(*asked, strict=True):
        assert how == same
        ((_, (picture, text)),), ((_, (other, same_text)),) = ours, theirs
        assert text == same_text
        assert read_picture(picture.source).tobytes() == read_picture(other.source).tobytes()


def test_a_sweep_through_it_answers_and_scores_as_through_lmms_eval(kit: Kit, tmp_path: Path) -> None:
    """Records of the same schema; a second start does nothing; the page is built; where prompts differ, it is said."""
    sweeps = [config(tmp_path, "ours"), config(tmp_path, "theirs", "harness=vlmevalkit")]
    results = [run(sweep) for sweep in sweeps]
    (ours, failed, _), (theirs, also_failed, _) = results
    assert failed == also_failed == []
    assert ours.keys() == theirs.keys()
    for name, record in theirs.items():
        validator("record").validate(record)
        assert record["harness"] == "vlmevalkit"
        assert {"ms-vlmeval", "nvidia-vlmeval"} & record["versions"].keys()
        assert answers(sweeps[1], record) == answers(sweeps[0], ours[name])
        assert record["score"] == pytest.approx(ours[name]["score"]), name
    compared = compare_harnesses(tmp_path / "ours", tmp_path / "theirs")
    assert len(compared) == len(theirs)
    assert {(line.causes.total(), line.questions) for line in compared} == {(0, 4)}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "theirs" / "cells").glob("*")}
    run(sweeps[1])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "theirs" / "cells").glob("*")} == before
    assert "VLMEvalKit" in report(tmp_path / "theirs")
    with pytest.raises(SweepError, match="harness was"):
        run(config(tmp_path, "theirs"))


def test_a_killed_sweep_goes_on(kit: Kit, tmp_path: Path) -> None:
    sweep = config(tmp_path, "theirs", "harness=vlmevalkit", "tasks=mini_mme,mini_mmbench", "methods=vanilla")
    whole, _, _ = run(sweep)
    for path in (tmp_path / "theirs" / "journal").glob("*.jsonl"):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    for path in (tmp_path / "theirs" / "cells").glob("*"):
        path.unlink()
    again, _, shown = run(sweep)
    assert "is answered again" in shown
    assert {name: record["score"] for name, record in again.items()} == {n: r["score"] for n, r in whole.items()}


def test_its_own_prompts_are_another_reason_than_the_rest(kit: Kit, tmp_path: Path) -> None:
    few = ("methods=vanilla", "tasks=mini_mmbench,mini_scienceqa", "limit=8")
    for name, harness in (("ours", ()), ("theirs", ("harness=vlmevalkit", "prompts=kit"))):
        run(config(tmp_path, name, *few, *harness))
    compared = compare_harnesses(tmp_path / "ours", tmp_path / "theirs")
    causes = {cause for line in compared for cause in line.causes}
    assert causes == {"prompt"}, "a model that knows one wording alone answers another otherwise"


def test_batches_and_processes_give_the_answers_of_one_by_one(kit: Kit) -> None:
    for name, how in {"one": {}, "eight": {"batch_size": 8}, "two": {"batch_size": 2, "workers": 2}}.items():
        hand_over("--data", "MINI_MME", "MINI_MMBench", "--limit", 12, **{name: model(64, **how)})
    for dataset in ("MINI_MME", "MINI_MMBench"):
        found = [predictions(name, dataset) for name in ("one", "eight", "two")]
        assert found[0] == found[1] == found[2]
        assert len(set(found[0])) > 1


def test_models_are_found_by_name_from_its_own_side(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line, and a class in its JSON."""
    from vlmeval.config import supported_VLM

    told = {"class": "PrunedVLM", **model(64)}
    named = {"class": "adaptinfer_llava", **{k: v for k, v in model(64).items() if k not in ("method", "family")}}
    datasets = {"MINI_GQA": {"class": "ImageVQADataset", "dataset": "MINI_GQA"}}
    Path("config.json").write_text(json.dumps({"model": {"told": told, "named": named}, "data": datasets}))
    hand_over("--config", "config.json", "--limit", 4)
    assert predictions("told", "MINI_GQA") == predictions("named", "MINI_GQA")
    from adaptinfer_eval.vlmevalkit.names import register

    register({}, ["fastv_llava_32", "vanilla_llava"], {})
    assert supported_VLM["fastv_llava_32"].keywords == {"method": "fastv", "family": "llava", "budget": 32}
    assert supported_VLM["vanilla_llava"].keywords["method"] == "vanilla"


def test_pictures_and_text_in_any_order_are_answered_as_by_the_wrapper(kit: Kit) -> None:
    from lmms_eval.models import get_model

    from adaptinfer_eval.backbones.messages import Image
    from adaptinfer_eval.models.generation import Generation
    from adaptinfer_eval.vlmevalkit.model import PrunedVLM

    dataset = kit.build_dataset("MINI_GQA")
    one, other = (dataset.dump_image(dataset.data.iloc[row])[0] for row in (0, 1))
    parts = ["What is in", one, "and what is in", other, "?"]
    message = [{"type": "image" if part in (one, other) else "text", "value": part} for part in parts]
    asked = [("user", [Image(part) if part in (one, other) else part for part in parts])]
    wrapper = get_model("adaptinfer_llava")(**{k: v for k, v in model(64).items() if k not in ("method", "family")})
    batch = wrapper.encode([wrapper.prompt(asked)])
    assert batch.prompts[0].text.count("<image>") == 2
    (expected,) = wrapper.answer(batch, Generation.read({"max_new_tokens": 1024}))
    assert PrunedVLM(**model(64)).generate(message, dataset="BLINK") == expected.text


def test_a_score_that_is_missing_is_an_error(kit: Kit) -> None:
    """VLMEvalKit stops scoring pairs of which half was asked, and ends with code 0."""
    with pytest.raises(SweepError, match="1 of 2 are without a score, the log says why: half on MINI_MME"):
        hand_over("--data", "MINI_MME", "MINI_GQA", "--limit", 3, half=model())


def test_answers_of_fewer_questions_are_not_the_score_of_more(kit: Kit) -> None:
    """VLMEvalKit would take what was extracted of the first run's answers for all."""
    hand_over("--data", "MINI_MME", "--limit", 2, cell=model())
    with pytest.raises(SweepError, match=r"has answers already.*--reuse"):
        hand_over("--data", "MINI_MME", "--limit", 6, cell=model())
    hand_over("--data", "MINI_MME", "--limit", 6, "--reuse", cell=model())
    assert len(predictions("cell", "MINI_MME")) == 6
    assert len(pd.read_excel("outputs/cell/cell_MINI_MME_auxmatch.xlsx")) == 6


@pytest.mark.parametrize(
    ("prepare", "arguments", "said"),
    [
        (lambda patch, _: patch.setitem(sys.modules, "xlsxwriter", None), "--data MINI_MME", "pip install xlsxwriter"),
        (lambda patch, _: patch.setenv("LMUData", "/nowhere"), "--data MINI_MME", "LMUData=/nowhere is no folder"),
        (lambda patch, _: patch.setenv("SKIP_ERR", "1"), "--data MINI_MME", "unset it"),
        (lambda patch, kit: patch.setattr(kit, "WORLD_SIZE", 2), "--data MINI_MME", "needs GPUs.*--workers N"),
        (lambda *_: None, "--data MINI_MME MMVet", "MMVet.*name a judge for all"),
        (lambda *_: None, "--data MINI_POPE", "no data set MINI_POPE"),
        (lambda *_: None, "--data MINI_MME --api-mode", "leave them out"),
        (lambda *_: None, "--limit 3", "say what to run"),
    ],
)
def test_what_it_would_pass_over_is_refused_before_anything_is_answered(
    kit: Kit,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[pytest.MonkeyPatch, Kit], None],
    arguments: str,
    said: str,
) -> None:
    prepare(monkeypatch, kit)
    with pytest.raises(SweepError, match=said):
        hand_over(*arguments.split(), cell=model())
    assert not Path("outputs").exists()


def test_data_that_are_not_there_are_named(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMUData", str(tmp_path))
    with pytest.raises(SweepError, match=r"MINI_MME\.tsv is not there: adaptinfer-eval tsv"):
        hand_over("--data", "MINI_MME", cell=model())
    Path(tmp_path, "OWN.tsv").write_text("index\tquestion\tanswer\timage\n")
    with pytest.raises(SweepError, match="scores no data of your own without options"):
        hand_over("--data", "OWN", cell=model())


def test_a_method_that_needs_other_questions_says_how_to_run_it(kit: Kit) -> None:
    from adaptinfer_eval.vlmevalkit.model import PrunedVLM

    with pytest.raises(ValueError, match=r"run it as a sweep \(adaptinfer-eval run"):
        PrunedVLM(**model(64, method="other_question"))


@pytest.mark.skipif(find_spec("evalscope") is None, reason="EvalScope is not installed (.ci/vlmevalkit)")
def test_evalscope_asks_the_same_model(kit: Kit) -> None:
    from evalscope.api.messages import ChatMessageUser, ContentImage, ContentText
    from evalscope.api.model import GenerateConfig
    from evalscope.api.registry import get_model_api

    import adaptinfer_eval.vlmevalkit.evalscope  # noqa: F401
    from adaptinfer_eval.vlmevalkit.model import PrunedVLM

    dataset = kit.build_dataset("MINI_GQA")
    row = dataset.data.iloc[0]
    pruned = PrunedVLM(**model(64))
    pruned.set_dump_image(dataset.dump_image)
    picture, text = pruned.build_prompt(row, "MINI_GQA")
    parts = [ContentImage(image=f"data:image/png;base64,{row['image']}"), ContentText(text=text["value"])]
    others = {k: v for k, v in model(64).items() if k not in ("method", "family", "budget")}
    api = get_model_api("adaptinfer_eval")("adaptinfer_llava_64", **others)
    output = api.generate([ChatMessageUser(content=parts)], [], "none", GenerateConfig(max_tokens=16, temperature=0.0))
    assert output.completion == pruned.generate([picture, text], "MINI_GQA") == row["answer"]


def test_keep_documents_reads_its_data(kit: Kit, tmp_path: Path) -> None:
    from adaptinfer_eval.sweep.tasks import load_tasks

    sweep = config(tmp_path, "theirs", "harness=vlmevalkit", "methods=[adaptinfer, random]", "tasks=mini_textvqa")
    run(sweep)
    _, tasks = load_tasks(sweep)
    keep_documents(sweep, tasks)
    for path in (tmp_path / "theirs" / "documents").glob("*.json"):
        documents = json.loads(path.read_text())["documents"]
        assert all(picture.startswith("data:image/") for _, picture, _ in documents.values())
