"""The mini tasks through lmms-eval: answered the same in batches, and no half of a group of questions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager
from lmms_tiny import load_wrapper, save_tiny_llava
from test_lmms_models import METHODS, MINI_MODEL


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    return functools.partial(load_wrapper, save_tiny_llava(tmp_path_factory.mktemp("tiny")), "llava")


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    return TaskManager("WARNING")


@pytest.mark.parametrize("method", METHODS)
def test_batches_answer_every_mini_task_alike(manager: TaskManager, method: str) -> None:
    """The shipped model, whose answers depend on what it sees; float32."""
    tasks = ["mini_mme", "mini_gqa", "mini_mmbench", "mini_scienceqa", "mini_textvqa"]
    budget = "" if method == "vanilla" else ",budget=64"

    def answers(batch_size: int) -> Mapping[tuple[str, int], str]:
        results = simple_evaluate(
            model=get_model(f"{method}_llava").create_from_arg_string(
                f"pretrained={MINI_MODEL},dtype=float32,device=cpu{budget}", {"batch_size": str(batch_size)}
            ),
            tasks=list(tasks),
            task_manager=manager,
            limit=4,
            datetime_str=f"batch {batch_size}",
            bootstrap_iters=0,
        )
        return {(t, s["doc_id"]): s["filtered_resps"][0] for t in tasks for s in results["samples"][t]}

    single = answers(1)
    assert len(single) == 4 * len(tasks)
    assert answers(4) == single


@pytest.mark.parametrize("simple", [False, True])
def test_half_a_group_of_questions_is_refused_before_any_is_answered(
    load: Callable[..., Any], manager: TaskManager, simple: bool
) -> None:
    model = load(simple=simple)

    def evaluate(**which: Any) -> Any:
        options: dict[str, Any] = {"task_manager": manager, "datetime_str": "groups", "bootstrap_iters": 0}
        return simple_evaluate(model=model, tasks=["mini_gqa", "mini_mme"], **which, **options)

    for which, message in [
        (
            {"limit": 7},
            r"mini_mme is scored over whole groups .*document 7 of one would be left out: use another --limit",
        ),
        ({"limit": 4, "offset": 1}, "document 0 of one would be left out"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluate(**which)
        assert model.tally.requests == 0
    assert evaluate(limit=4)["results"]["mini_mme"]["mme_total_score,none"] >= 0
