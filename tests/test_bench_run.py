"""A benchmark from the command line to its records and tables, on a tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from shell import call
from tiny_models import internvl
from torch import nn
from torch._dynamo.utils import counters

import adaptinfer_eval as ae
from adaptinfer_eval.bench import measure
from adaptinfer_eval.bench.chosen import chosen
from adaptinfer_eval.bench.compiled import compiled
from adaptinfer_eval.bench.config import bench_config
from adaptinfer_eval.bench.measure import Subject, decoder, sample, sizes
from adaptinfer_eval.bench.records import read_bench, summary
from adaptinfer_eval.bench.run import run_bench
from adaptinfer_eval.bench.shapes import build, prompts, ready
from adaptinfer_eval.sweep.config import SweepError

SMALL = ("dtype=float32", "batch_sizes=2", "runs=2", "warmup=1", "new_tokens=3", "text_tokens=66")
TIMES = {"images", "prefill", "decode", "first_token", "request"}


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return ready(build("tiny", torch.float32, torch.device("cpu")))


def test_from_the_command_line_to_table_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = ("methods=vanilla,adaptinfer,tome", "budgets=64,20", f"output={tmp_path}")
    assert call(monkeypatch, "bench", "--shape", "tiny", *SMALL, *asked) == 0
    shown = capsys.readouterr().out
    assert "| adaptinfer |" in shown
    assert "cannot run: sdpa: tome-20: budget=20: 4 layers that merge half of their tokens leave 36" in shown

    records = {record["id"]: record for record in read_bench(tmp_path)}
    assert set(records) == {
        f"{label}-b2-sdpa-t66" for label in ("vanilla", "adaptinfer-64", "adaptinfer-20", "tome-64", "tome-20")
    }
    done = [record for record in records.values() if record["status"] == "done"]
    assert len(done) == 4
    for record in done:
        measured = record["measured"]
        assert set(measured) == {*TIMES, "decode_tokens_per_second", "requests_per_second"}
        assert all(len(number["rounds"]) == 2 and min(number["rounds"]) > 0 for number in measured.values())
        assert record["subject"] == "tiny"
        assert (record["choosing_share"] > 0) == (record["method"] != "vanilla")
        assert all(("to_chosen" in number) == (record["method"] != "vanilla") for number in measured.values())
        assert record["versions"]["torch"]
        assert record["date"]
        # Two prompts, 32 layers, keys and values, 2 heads of 32, float32.
        tokens = record["audit"]["entering"] + 66
        assert record["cache_bytes"] == 2 * 32 * 2 * 64 * 4 * tokens
        assert record["peak_bytes"] <= records["vanilla-b2-sdpa-t66"]["peak_bytes"]

    assert call(monkeypatch, "table", "3", "--results", tmp_path, "--format", "csv") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Method,Tokens,Batch,Attention,Metric,MME,GQA,MMBench,TextVQA,Average"
    assert sum(line.startswith("AdaptInfer,64,2,sdpa,") for line in lines) == 3

    assert call(monkeypatch, "bench", "--shape", "tiny", *SMALL, f"output={tmp_path}", "new_tokens=4") == 1
    assert "new_tokens was 3, is 4" in capsys.readouterr().err


def test_the_shipped_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found from everywhere; and every key of its records is described."""
    documented = Path(__file__).parent.parent.joinpath("docs", "cost.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    asked = [*SMALL, "batch_sizes=1", "methods=vanilla,fastv"]
    vanilla, fastv = run_bench(bench_config("tasks/mini/model", None, asked), lambda _: None)
    assert len(vanilla["checkpoint"]) == 64
    assert read_bench(Path("results/runs/bench-tasks_mini_model")) == [fastv, vanilla]
    assert fastv["schedule"] == "1:47"
    for record in (vanilla, fastv):
        assert not [key for key in (*record, *record["audit"], *record["measured"]) if f"`{key}`" not in documented]


def test_configurations_take_turns_and_vanilla_is_the_bare_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    order: list[str] = []

    def spied(subject: Subject) -> measure.Sample:
        order.append("vanilla" if subject.method is None else subject.method.name)
        return sample(subject)

    monkeypatch.setattr("adaptinfer_eval.bench.run.sample", spied)
    small = [*SMALL, "batch_sizes=1", "methods=vanilla,fastv,pdrop", f"output={tmp_path}"]
    run_bench(bench_config(None, "tiny", small), lambda _: None)
    twin = "ChosenInside"
    assert order == ["vanilla", "FastV", twin, "PDrop", twin] * 3


@torch.inference_mode()
def test_parts_of_a_request_are_what_they_say(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mark of the clock falls where the part before it has just run."""
    calls: list[str] = []
    mark = measure.Clock.mark

    def marked(clock: measure.Clock) -> None:
        calls.append("|")
        mark(clock)

    monkeypatch.setattr(measure.Clock, "mark", marked)
    with noted(model.model.vision_tower, "image", calls), noted(model.model.language_model.layers[5], "layer", calls):
        found = sample(Subject(model, ae.get_method("adaptinfer")(budget=64), prompts(model, 1, 66), new_tokens=4))
    decode = "layer layer layer"
    assert " ".join(calls) == f"| image | layer | {decode} | | image layer | image layer {decode} |"
    assert found["decode_tokens_per_second"] == pytest.approx(3 / found["decode"])
    assert found["requests_per_second"] == pytest.approx(1 / found["request"])


@contextmanager
def noted(module: nn.Module, name: str, calls: list[str]) -> Iterator[None]:
    handle = module.register_forward_hook(lambda *_: calls.append(name))
    yield
    handle.remove()


@torch.inference_mode()
def test_a_batch_is_as_long_as_its_prompts(model: Any) -> None:
    inputs = prompts(model, 3, 50)
    assert inputs["input_ids"].shape == (3, 576 + 50)
    assert ((inputs["input_ids"] == model.config.image_token_id).sum(1) == 576).all()
    vanilla = sizes(Subject(model, None, inputs, new_tokens=2))
    assert vanilla["cache_bytes"] == 3 * 626 * 32 * 2 * 64 * 4
    fastv = sizes(Subject(model, ae.get_method("fastv")(budget=64), inputs, new_tokens=2))
    assert fastv["decode_operations"] <= vanilla["decode_operations"]
    assert fastv["prefill_operations"] < 1.2 * vanilla["prefill_operations"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU with a C++ compiler")
@pytest.mark.parametrize("name", ["vanilla", "adaptinfer", "pdrop"])
@torch.inference_mode()
def test_compiled_parts_change_no_result(name: str) -> None:
    """Greedy answers of a short decoder; compiled once per length, and as before after the block."""
    model = ready(build("tiny", torch.float32, torch.device("cpu")))
    decoder(model).layers, decoder(model).config.num_hidden_layers = decoder(model).layers[:6], 6
    method = None if name == "vanilla" else ae.get_method(name)(schedule="1:133,3:27")
    subject = Subject(model, method, prompts(model, 1, 66), new_tokens=3)
    want = subject.generate(3)
    with compiled(decoder(model)):
        assert torch.equal(subject.generate(3), want)
        graphs = counters["stats"]["unique_graphs"]
        assert torch.equal(subject.generate(3), want)
        assert counters["stats"]["unique_graphs"] == graphs > 0
    assert torch.equal(subject.generate(3), want)


@pytest.mark.parametrize("name", sorted(set(ae.available_methods()) - {"vtw", "prumerge", "evs", "vidcom2"}))
def test_a_twin_has_its_methods_tokens_in_every_layer(name: str) -> None:
    method = ae.get_method(name)(**({} if name == "vanilla" else {"budget": 64}))
    twin = chosen(method, 32, 576)
    assert (twin is None) == (name == "vanilla")
    assert twin is None or twin.entering(32, 576) == method.entering(32, 576)


@torch.inference_mode()
def test_other_families_are_measured_alike() -> None:
    model = ready(internvl())
    subject = Subject(model, ae.get_method("fastv")(schedule="1:9"), prompts(model, 2, 40), new_tokens=3)
    assert min(sample(subject).values()) > 0
    # Two layers with 64 + 40 tokens and six with 9 + 40; keys and values of 2 heads of 8, float32.
    assert sizes(subject)["cache_bytes"] == 2 * (2 * 104 + 6 * 49) * 2 * 16 * 4


def test_ratios_are_paired_by_round() -> None:
    vanilla = [{"prefill": 1.0}, {"prefill": 2.0}, {"prefill": 4.0}]
    pruned = [{"prefill": 0.5}, {"prefill": 1.0}, {"prefill": 1.0}]
    twin = [{"prefill": 0.4}, {"prefill": 0.8}, {"prefill": 0.5}]
    found = summary(pruned, vanilla=vanilla, chosen=twin)["prefill"]
    assert found["median"] == 1.0
    assert found["quartiles"] == [0.75, 1.0]
    assert found["to_vanilla"] == 0.5
    assert found["to_chosen"] == 1.25
    assert "to_vanilla" not in summary([{"prefill": 0.5}], vanilla=None)["prefill"]


def test_an_attention_that_is_not_there(tmp_path: Path) -> None:
    config = bench_config(None, "tiny", [*SMALL, "attention=sdpaa", f"output={tmp_path}"])
    with pytest.raises(SweepError, match="did you mean 'sdpa'"):
        run_bench(config, lambda _: None)


def test_records_of_another_schema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="no benchmark records"):
        read_bench(tmp_path)
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "old.json").write_text(json.dumps({"schema_version": 0, "id": "old", "status": "done"}))
    with pytest.raises(SweepError, match="schema version 0, not 1"):
        read_bench(tmp_path)
