"""The configurations shipped in configs/: each loads, and has exactly the cells that it should."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import NamedTuple

import lmms_eval
import pytest

from adaptinfer_eval.report.layouts import layout
from adaptinfer_eval.sweep.cells import plan, settings
from adaptinfer_eval.sweep.config import SweepConfig, load_config, shipped

NAMES = sorted(path.stem for path in (Path(__file__).parent.parent / "configs").glob("*.yaml"))
PAPER = ("mme", "gqa", "mmbench_en_dev", "scienceqa_img", "textvqa")
MINI = ("mme", "gqa", "mmbench", "scienceqa", "textvqa")
MODERN = ("ai2d", "mmbench_en_dev", "mme", "scienceqa_img", "textvqa_val")
UPSTREAM = (
    "ai2d",
    "chartqa",
    "docvqa_val",
    "mmbench_cn_dev",
    "mmbench_en_dev",
    "mme",
    "mmstar",
    "ocrbench",
    "pope",
    "scienceqa_img",
    "textvqa_val",
)
DIVPRUNE = (
    "coco2017_cap_val",
    "flickr30k_test",
    "gqa",
    "mmbench_en_dev_static",
    "mme",
    "mmmu_val",
    "nocaps_val",
    "ok_vqa_val2014",
    "pope",
    "scienceqa_img",
)
WIDE = (
    "adaptinfer_gqa",
    "adaptinfer_mmbench_en_dev",
    "adaptinfer_mmbench_cn_dev",
    "adaptinfer_mme",
    "adaptinfer_pope",
    "adaptinfer_scienceqa_img",
    "vqav2_val",
    "adaptinfer_textvqa",
    "adaptinfer_vizwiz_val",
    "adaptinfer_seedbench",
)
ASKED_OF_IMAGES = tuple(task for task in MODERN if task != "mmbench_en_dev")
VIDEO = ("videomme",)
THEIRS = (MODERN, ASKED_OF_IMAGES, VIDEO, UPSTREAM, DIVPRUNE, WIDE)
"""Tasks of lmms-eval, as they are."""
CONTROLS = "random downsample foreground other_question"
BEFORE = "fastervlm vispruner holov prumerge mmtok hiprune"
PLUS = "sparsevlm.variant=plus"
LOCATIONS = ["adaptinfer.layers=" + layers for layers in ("0,9,18,27", "2,12,22", "1", "3", "2,15", "2,8,16", "3,6,23")]
THIRTY_TWO = "sparsevlm.schedule=1:25,6:11,15:6"


class Sweep(NamedTuple):
    """`labels` of settings, of which `refused` cannot run on the model, and tasks without their prefix."""

    labels: set[str]
    tasks: tuple[str, ...]
    refused: frozenset[str] = frozenset()


def each(methods: str, budgets: str) -> set[str]:
    return {f"{method}-{budget}" for method, budget in product(methods.split(), budgets.split())}


EXPECTED = {
    "table1": Sweep({"vanilla", *each("tome fastv pdrop sparsevlm adaptinfer", "128 64")}, PAPER),
    "table2": Sweep({"vanilla", *each("adaptinfer", "128 64 32")}, ("mme", "scienceqa_img", "textvqa")),
    "internvl3": Sweep(
        {"vanilla", "adaptinfer.schedule=1:176,9:121,18:83", *each("adaptinfer", "128 64 32")},
        ("mme", "scienceqa_img", "textvqa"),
        refused=frozenset({"adaptinfer-128"}),
    ),
    **dict.fromkeys(
        ("qwen3_vl", "glm4v"),
        Sweep({"vanilla", *each(f"fastv pdrop {PLUS} adaptinfer random", "0.25 0.1")}, MODERN),
    ),
    **dict.fromkeys(
        ("qwen2_5_vl", "qwen2_5_vl_3b"),
        Sweep(
            {
                "vanilla",
                *each(f"fastv pdrop {PLUS} adaptinfer divprune vispruner scope hiprune dart random", "0.25 0.1"),
            },
            UPSTREAM,
        ),
    ),
    "idpruner": Sweep(
        {
            "vanilla",
            *each("fastv pdrop sparsevlm dart adaptinfer random downsample", "128 64"),
            *each("visionzip vispruner divprune scope cdpruner hiprune", "128 64"),
        },
        UPSTREAM,
    ),
    "divprune": Sweep(
        {"vanilla", *each("fastv pdrop dart adaptinfer fastervlm divprune random downsample", "0.098")}, DIVPRUNE
    ),
    "wide": Sweep(
        {
            "vanilla",
            *each("fastv pdrop sparsevlm dart fitprune v2drop adaptinfer", "192 128 64"),
            *each(
                "tome visionzip fastervlm vispruner divprune scope holov prumerge cdpruner mmtok hiprune", "192 128 64"
            ),
            *each("trim vscan.count=entering random downsample foreground other_question", "192 128 64"),
        },
        WIDE,
    ),
    **dict.fromkeys(
        ("llava_onevision", "smolvlm", "mistral3"),
        Sweep({"vanilla", *each("fastv pdrop sparsevlm adaptinfer random", "0.25 0.1")}, MODERN),
    ),
    "video": Sweep({"vanilla", *each(f"fastv pdrop {PLUS} adaptinfer random", "0.25 0.1")}, VIDEO),
    "qwen2_vl": Sweep(
        {
            "vanilla",
            *(f"adaptinfer.variant=qwen2_vl.schedule={share}%" for share in (50, 30, 10)),
            "adaptinfer.variant=qwen2_vl_min1.schedule=10%",
        },
        ("mme", "scienceqa_img", "textvqa"),
    ),
    "llava_next": Sweep(
        {"vanilla", *each("fastv pdrop sparsevlm adaptinfer random", "640 320 160")},
        PAPER,
        refused=frozenset({"sparsevlm-160"}),
    ),
    "qwen3_5": Sweep(
        {
            "vanilla",
            *(f"{method}-0.25" for method in ("fastv.k=4", "pdrop.layers=6,14,22", f"{PLUS}.layers=3,7,15")),
            *(f"{method}.layers=3,11,19-0.25" for method in ("adaptinfer", "random")),
        },
        MODERN,
    ),
    "paligemma": Sweep({"vanilla", *each(f"fastv pdrop {PLUS} adaptinfer random", "256 128")}, ASKED_OF_IMAGES),
    "gemma3": Sweep({"vanilla", *each(f"fastv pdrop {PLUS} adaptinfer random", "64 32")}, MODERN),
    "table3": Sweep(
        {
            f"{setting}{r}"
            for setting in ("vanilla", *each("pdrop sparsevlm adaptinfer", "64"))
            for r in ("", "-r1", "-r2")
        },
        ("mme", "gqa", "mmbench_en_dev", "textvqa"),
    ),
    "table4": Sweep(
        {"vanilla", THIRTY_TWO, *each("sparsevlm adaptinfer", "48 32")},
        ("mme", "textvqa"),
        refused=frozenset({"sparsevlm-32"}),
    ),
    "table5": Sweep(
        {"vanilla", "adaptinfer-128", "adaptinfer.schedule=2:368,4:184,8:92,16:46", *each(" ".join(LOCATIONS), "128")},
        ("mme", "gqa", "textvqa"),
    ),
    "table_a6": Sweep({"vanilla", *each("adaptinfer", "128 64")}, ("mme", "mmbench_en_dev", "textvqa")),
    "fair": Sweep(
        {
            "vanilla",
            *each(f"fastv pdrop sparsevlm dart fitprune v2drop adaptinfer {CONTROLS}", "192 128 96 64"),
            *each(f"tome vscan cdpruner trim visionzip divprune scope {BEFORE}", "192 128 96 64"),
        },
        PAPER,
    ),
    "published": Sweep(
        {
            "vanilla",
            "fastv.schedule=1:288",
            "pdrop.schedule=7:0.5,15:0.25,23:0.125",
            *(f"dart.schedule={name}" for name in (192, 128, 64)),
            "vtw.schedule=original",
            *(f"fitprune.reduction={percent}" for percent in (70, 80, 90)),
            "v2drop.schedule=original",
            "vscan.schedule=before:96,15:32",
        },
        PAPER,
    ),
    "ci": Sweep({"vanilla", *each("fastv sparsevlm adaptinfer visionzip dart vscan random", "64")}, MINI),
    "mini": Sweep(
        {
            "vanilla",
            THIRTY_TWO,
            *each(
                f"tome fastv pdrop sparsevlm adaptinfer visionzip divprune scope dart vscan {CONTROLS}", "128 64 48 32"
            ),
        },
        MINI,
        refused=frozenset({"sparsevlm-32", "tome-32"}),
    ),
    "mini_more": Sweep(
        {"vanilla", "vtw.schedule=original", *each(f"{BEFORE} fitprune v2drop", "128 64")},
        MINI,
    ),
}


@pytest.fixture(params=NAMES)
def config(request: pytest.FixtureRequest) -> SweepConfig:
    return load_config(request.param)


def test_cells_are_the_tables(config: SweepConfig) -> None:
    expected = EXPECTED[config.name]
    prefix = (
        "" if expected.tasks in THEIRS else "mini_" if config.name in {"ci", "mini", "mini_more"} else "adaptinfer_"
    )
    assert {setting.label for setting in settings(config)} == expected.labels
    assert config.tasks == tuple(prefix + task for task in expected.tasks)
    assert {planned.setting.label for planned in plan(config) if planned.audit is None} == expected.refused


def test_table_1_has_eleven_settings_in_five_tasks() -> None:
    config = load_config("table1")
    assert (len(settings(config)), len(config.tasks)) == (11, 5)


def test_tasks_are_among_those_shipped_or_lmms_eval_s_own(config: SweepConfig) -> None:
    ours, theirs = shipped("tasks"), Path(lmms_eval.__file__).parent / "tasks"
    assert ours is not None
    wanted = {ours: {task for task in config.tasks if task.startswith(("adaptinfer_", "mini_"))}}
    wanted[theirs] = set(config.tasks) - wanted[ours]
    for folder, tasks in wanted.items():
        found = [re.findall(r"^task *: *\"?(\w+)", path.read_text(), re.MULTILINE) for path in folder.glob("*/*.yaml")]
        assert tasks <= {name for names in found for name in names}


def test_table_3_costs_what_the_paper_prints() -> None:
    """TFLOPs on MME, by Eq. 5 with 66 text tokens. The paper's PDrop has a schedule of its own, not published."""
    printed = {"vanilla": 4.268, "sparsevlm-64": 0.974, "adaptinfer-64": 0.975}
    costs = {planned.setting.label: planned.audit for planned in plan(load_config("table3"))}
    for label, tflops in printed.items():
        cost = costs[label]
        assert cost is not None
        assert cost.macs / 1e12 == pytest.approx(tflops, rel=2e-3)


@pytest.mark.parametrize("number", ["4", "5"])
def test_schedules_that_stand_for_a_papers_line_are_measured(number: str) -> None:
    columns = layout(number)
    planned = {(entry.name, entry.options.get("schedule")) for entry in load_config(columns.config).methods}
    assert columns.schedules
    assert set(columns.schedules) <= planned


def test_timing_shares_nothing() -> None:
    config = load_config("table3")
    assert (config.batch_size, config.sharing) == (1, False)
    assert config.repeats > 1


def test_fair_is_equal_compute() -> None:
    """Every method reaches every budget in entering tokens, and FLOPs differ by no more than 1 %."""
    config = load_config("fair")
    for budget in config.budgets:
        costs = [planned.audit for planned in plan(config) if planned.setting.budget == budget]
        assert len(costs) == len(config.methods) - 1
        entering = [cost.entering for cost in costs if cost]
        macs = [cost.macs for cost in costs if cost]
        assert entering == pytest.approx([budget] * len(costs), abs=0.5)
        assert max(macs) / min(macs) < 1.01
