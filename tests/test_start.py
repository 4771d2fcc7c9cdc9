"""Commands import what they need and no more: torch and what comes with it takes seconds that no table waits for."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from test_bench_table3 import record
from transformers import AutoConfig

import adaptinfer_eval as ae
from adaptinfer_eval.backbones import FAMILIES
from adaptinfer_eval.backbones.family import Family
from adaptinfer_eval.bench.records import write_bench
from adaptinfer_eval.bench.table3 import TEXT_TOKENS
from adaptinfer_eval.report.page.answers import keep_documents
from adaptinfer_eval.report.page.build import report
from adaptinfer_eval.sweep.config import load_config
from adaptinfer_eval.sweep.run import run_sweep
from adaptinfer_eval.sweep.task_files import description, tasks_in

HEAVY = ("torch", "transformers", "lmms_eval", "datasets", "accelerate", "pandas", "matplotlib", "ray", "gradio")
COMMAND = """
import json, sys
from adaptinfer_eval.cli import main
try:
    main()
    code = 0
except SystemExit as ended:
    code = ended.code or 0
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""
SWEEP = ("methods=vanilla,adaptinfer,random", "budgets=64", "tasks=mini_mme,mini_mmbench,mini_textvqa", "limit=8")
LLAVA_7B = {  # as its config.json is: what is as by default is left out
    "architectures": ["LlavaForConditionalGeneration"],
    "image_token_index": 32000,
    "model_type": "llava",
    "text_config": {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064},
    "vision_config": {
        "model_type": "clip_vision_model",
        "image_size": 336,
        "patch_size": 14,
        "num_hidden_layers": 24,
    },
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep, and a benchmark's records beside it."""
    folder = tmp_path_factory.mktemp("sweep")
    config = load_config("mini", [*SWEEP, "workers=1", "batch_size=8", f"output={folder}"])
    assert run_sweep(config, Console(file=io.StringIO()), keep_documents) == []
    for text in TEXT_TOKENS.values():
        write_bench(folder, record("vanilla", None, text, 15.0))
    return folder


def started(folder: Path, code: str, *arguments: object, **environment: str) -> tuple[str, int, list[str]]:
    """What a process of its own prints, its exit code, and the heavy modules that it imported."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    run = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False)
    code, modules = json.loads(run.stderr.splitlines()[-1])
    return run.stdout, int(code), [name for name in HEAVY if name in modules]


@pytest.mark.parametrize(
    ("command", "shown", "needed"),
    [
        ("--help", "regress", []),
        ("demo --help", "--pretrained", []),
        ("convert --help", "--tower", []),
        ("calibrate --help", "fitprune", []),
        ("vlmevalkit --help", "--budget", []),
        ("tsv --help", "folder", []),
        ("methods", "| sparsevlm ", []),
        ("plan mini", "mini_textvqa", []),
        ("plan mini tasks=mini_mme,gqa", "x 2 tasks", []),
        ("plan table5", "2:368,4:184,8:92,16:46", []),
        ("table 1 --results {}", "| AdaptInfer ", []),
        ("table 4 --results {} --format tex", "AdaptInfer ", []),
        ("table 3 --results {}", "| Vanilla ", []),
        ("figure 5 --results {}", "figure5.svg", ["matplotlib"]),
        ("report --results {}", "report.html", []),
        ("regress made.json --results {} --update", "made of", []),
    ],
)
def test_commands_import_nothing_heavy(
    sweep: Path, tmp_path: Path, command: str, shown: str, needed: list[str]
) -> None:
    printed, code, heavy = started(tmp_path, COMMAND, *command.format(sweep).split())
    assert (code, heavy) == (0, needed)
    assert shown in printed
    if command.startswith("regress"):
        printed, code, heavy = started(tmp_path, COMMAND, "regress", "made.json", "--results", sweep)
        assert (code, heavy) == (0, needed)
        assert "9 cells: 9 the same" in printed


def test_what_was_kept_is_drawn_from_the_sweeps_folder_alone(sweep: Path, tmp_path: Path) -> None:
    documents = json.loads((sweep / "documents" / "mini_textvqa.json").read_text(encoding="utf-8"))["documents"]
    command = ("figure", "a7", "--results", sweep, "--question", f"mini_textvqa:{next(iter(documents))}")
    printed, code, heavy = started(tmp_path, COMMAND, *command)
    assert (code, heavy) == (0, ["matplotlib"])
    assert "figure_a7.svg" in printed


def test_plan_knows_a_checkpoint_of_the_hub_without_transformers(tmp_path: Path) -> None:
    files = tmp_path / "models--llava-hf--llava-1.5-7b-hf"
    (files / "refs").mkdir(parents=True)
    (files / "refs" / "main").write_text("0123abc")
    (files / "snapshots" / "0123abc").mkdir(parents=True)
    (files / "snapshots" / "0123abc" / "config.json").write_text(json.dumps(LLAVA_7B))
    overrides = ("methods=vanilla,adaptinfer", "budgets=64", "shape=null")
    printed, code, heavy = started(tmp_path, COMMAND, "plan", "table1", *overrides, HF_HUB_CACHE=str(tmp_path))
    assert (code, heavy) == (0, [])
    assert "0.9749" in printed


@pytest.mark.parametrize("family", FAMILIES.values())
def test_what_a_config_json_leaves_out_is_as_transformers_has_it(family: type[Family]) -> None:
    for kind, left in family.left_out.items():
        defaults = AutoConfig.for_model(kind)
        assert {key: getattr(defaults, key) for key in left} == left


def test_task_files_tell_tasks_from_groups(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    files = {
        "one": "task: one  # the first\ndataset_path: x\n",
        "deep/two": '"task": "two"\n"dataset_path": "x"\n',
        "group": "group: several\ntask:\n  - one\n  - two\n",
        "python": "task: programmed\nclass: !function utils.Task\n",
        "text": 'task: three\ndescription: "\n  task: four"\n',
        "default": "dataset_path: x\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    assert tasks_in(tmp_path).keys() == {"one", "two", "three"}


def test_a_report_is_the_same_from_the_sweeps_folder_as_from_the_data_sets(sweep: Path, tmp_path: Path) -> None:
    kept = report(sweep)
    assert kept.count("data:image/png") > 3
    older = shutil.copytree(sweep, tmp_path / "older", ignore=shutil.ignore_patterns("documents"))
    for path in (older / "scores").iterdir():
        scores = json.loads(path.read_text(encoding="utf-8"))
        assert scores.pop("rights")
        path.write_text(json.dumps(scores), encoding="utf-8")
    assert report(older) == kept
    other = shutil.copytree(sweep, tmp_path / "other")  # kept of other data: not taken
    for path in (other / "documents").iterdir():
        path.write_text(path.read_text(encoding="utf-8").replace('"data": "', '"data": "0'), encoding="utf-8")
    assert report(other) == kept


def test_public_names_are_imported_when_used() -> None:
    assert set(ae.__all__) == {name for names in ae._MODULES.values() for name in names}
    assert set(ae.__all__) <= set(dir(ae))
    assert all(getattr(ae, name).__name__ == name for name in ae.__all__)
    assert ae.cost.Audit is ae.Audit
    assert not hasattr(ae, "prune")
    method = ae.get_method("sparsevlm")(budget=64)
    assert pickle.loads(pickle.dumps(method)) == method


def test_methods_and_costs_are_known_without_torch(tmp_path: Path) -> None:
    code = """
import json, sys
import adaptinfer_eval as ae
import adaptinfer_eval.models
shape = {"num_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "vision_tokens": 576, "text_tokens": 66}
for name in ae.available_methods():
    options = {"vanilla": {}, "vtw": {"schedule": "14:0"}}.get(name, {"budget": 64})
    print(ae.audit(ae.get_method(name)(**options), **shape).schedule)
print(json.dumps([0, sorted(sys.modules)]), file=sys.stderr)
"""
    printed, _, heavy = started(tmp_path, code)
    assert "1:133,10:27,20:3" in printed
    assert heavy == []


def test_a_tasks_description_is_its_file_over_those_that_it_includes(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.yaml").write_text(
        "include: [../two.yaml, ../three.yaml]\ntask: one\nscore: !function u.f\n"
    )
    (tmp_path / "two.yaml").write_text("task: two\nmetric_list: [{metric: exact_match}]\n")
    (tmp_path / "three.yaml").write_text("metric_list: []\noutput_type: generate_until\n")
    told = {"task": "one", "score": None, "metric_list": [{"metric": "exact_match"}], "output_type": "generate_until"}
    assert description(tmp_path / "deep" / "one.yaml") == told
