"""`lmms-eval` as a user runs it: from any folder, in one process and in two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lmms_tiny import save_tiny_llava

LIMIT = 6  # questions per task
TWO_PROCESSES = ("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("tiny"))


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    own = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    # Upstream's own Accelerator would otherwise look for as many GPUs as there are processes.
    environment |= {"ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=280
    )


def evaluate(checkpoint: Path, folder: Path, *launcher: str) -> tuple[dict[str, Any], str]:
    """Results of a run, with the answers by task and document under "answers", and what it printed."""
    options = ("--model_args", f"pretrained={checkpoint},dtype=float32,device=cpu,schedule=0:20/1:10/2:5")
    output = ("--output_path", str(folder), "--log_samples", "--batch_size", "4", "--limit", str(LIMIT))
    model = ("lmms_eval", "--model", "adaptinfer_llava", *options)
    done = run(*launcher, *model, "--tasks", "adaptinfer_mini", *output, cwd=folder)
    written = list(folder.rglob("*_results.json"))
    assert len(written) == 1, done.stdout + done.stderr  # the exit code is 0 even after an error
    results: dict[str, Any] = json.loads(written[0].read_text())
    results["answers"] = {}
    for samples in folder.rglob("*_samples_*.jsonl"):
        rows = [json.loads(line) for line in samples.read_text().splitlines()]
        task = samples.stem.split("_samples_")[1]
        results["answers"] |= {(task, row["doc_id"]): row["filtered_resps"] for row in rows}
    return results, done.stdout


@pytest.fixture(scope="module")
def one_process(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """Results, what was printed, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("one")
    return *evaluate(checkpoint, folder), folder


def test_the_mini_group_is_found_and_its_cost_reported(one_process: tuple[dict[str, Any], str, Path]) -> None:
    results, log, folder = one_process
    assert {"mini_mme", "mini_gqa", "mini_mmbench", "mini_scienceqa", "mini_textvqa"} <= set(results["results"])
    assert "mme_total_score,none" in results["results"]["mini_mme"]
    assert results["throughput"]["avg_entering"] == pytest.approx((36 + 20 + 10 + 5) / 4)
    assert results["throughput"]["avg_leaving"] == pytest.approx((20 + 10 + 5 + 5) / 4)
    assert "schedule: 0:20,1:10,2:5, entering: 17.75" in log
    assert [path.name for path in folder.iterdir()] == [results["model_name_sanitized"]]


def test_two_processes_give_what_one_gives(
    one_process: tuple[dict[str, Any], str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    one, (two, _) = one_process[0], evaluate(checkpoint, tmp_path, *TWO_PROCESSES)
    assert len(one["answers"]) == 5 * LIMIT
    assert two["answers"] == one["answers"]
    assert two["results"] == one["results"]
    for cost in ("entering", "leaving", "flops", "vision_tokens", "text_tokens", "vision_tokens_after_layer_0"):
        assert two["throughput"][f"avg_{cost}"] == pytest.approx(one["throughput"][f"avg_{cost}"]), cost


def test_lmms_eval_lists_our_models(tmp_path: Path) -> None:
    listed = run("lmms_eval", "models", cwd=tmp_path).stdout.split()
    assert {"adaptinfer_llava", "vanilla_llava", "downsample_llava"} <= set(listed)


def test_a_failing_process_ends_the_others(checkpoint: Path, tmp_path: Path) -> None:
    """Not: an exit code of 0 here, and a wait without end there."""
    (tmp_path / "quiz.yaml").write_text(
        "task: quiz\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: quiz.json\ntest_split: test\n"
        "doc_to_visual: !function quiz.no_image\ndoc_to_text: question\ndoc_to_target: answer\n"
        "generation_kwargs:\n  max_new_tokens: 4\nmetric_list:\n  - metric: exact_match\n    aggregation: mean\n"
        "    higher_is_better: true\n"
    )
    (tmp_path / "quiz.py").write_text(
        "def no_image(doc):\n    if doc['question'] == 'bad':\n        raise OSError('no such image')\n    return []\n"
    )
    rows = [{"question": question, "answer": "yes"} for question in ("good", "fine", "good", "bad")]
    (tmp_path / "quiz.json").write_text(json.dumps(rows))
    arguments = ("--model_args", f"pretrained={checkpoint},dtype=float32,device=cpu", "--include_path", str(tmp_path))
    done = run(*TWO_PROCESSES, "lmms_eval", "--model", "vanilla_llava", *arguments, "--tasks", "quiz", cwd=tmp_path)
    assert done.returncode != 0
    assert "could not answer task quiz, doc_id 3: OSError: no such image" in done.stdout + done.stderr
