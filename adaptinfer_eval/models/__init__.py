"""What lmms-eval learns from this package: one model per method and backbone family, and our tasks.

Both come through the entry point `lmms_eval.models`, which lmms-eval calls while it imports `lmms_eval.models`. This
module is therefore light: it imports no torch, no method and no wrapper; those are loaded when a model is asked for.
"""

from __future__ import annotations

import functools
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptinfer_eval.backbones import FAMILIES

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

METHODS = "adaptinfer_eval.methods"


def manifests() -> list[ModelManifest]:
    """`<method>_<family>` for every installed method and every family, as a chat and as a simple model.

    A name that lmms-eval itself uses is left to lmms-eval. Also lets `lmms-eval models` list the names and
    `lmms-eval --tasks` find our tasks.
    """
    # Not above: whoever imports this package first would import lmms-eval, which asks for `manifests` at once.
    from lmms_eval.models.registry_v2 import ModelManifest

    found = [
        ModelManifest(
            model_id=f"{method}_{name}",
            simple_class_path=f"{__name__}.wrappers.{family.title}Simple_{method}",
            chat_class_path=f"{__name__}.wrappers.{family.title}Chat_{method}",
        )
        for method in sorted({entry.name for entry in entry_points(group=METHODS)})
        for name, family in FAMILIES.items()
    ]
    # Its own module is still being imported when it calls us, so it is reached through sys.modules.
    upstream = sys.modules.get("lmms_eval.models")
    simple: dict[str, str] = getattr(upstream, "AVAILABLE_SIMPLE_MODELS", {})
    chat: dict[str, str] = getattr(upstream, "AVAILABLE_CHAT_TEMPLATE_MODELS", {})
    ours = []
    for manifest in found:
        taken = simple.get(manifest.model_id) or chat.get(manifest.model_id)
        if taken not in (None, manifest.simple_class_path):
            from loguru import logger

            logger.warning(f"{manifest.model_id} is a model of lmms-eval: rename the method to run it")
            continue
        ours.append(manifest)
        simple[manifest.model_id] = str(manifest.simple_class_path)
        chat[manifest.model_id] = str(manifest.chat_class_path)
    add_tasks()
    return ours


def tasks_folder() -> Path:
    """The folder of our task YAMLs: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "tasks"
    return inside if inside.is_dir() else package.parent / "tasks"


def add_tasks() -> None:
    """Make every `TaskManager` that indexes lmms-eval's own tasks index ours too; names of lmms-eval win.

    lmms-eval has an entry point for models but none for tasks. Safe to call more than once.
    """
    try:
        from lmms_eval.tasks import TaskManager

        index_upstream = TaskManager.initialize_tasks
    except (ImportError, AttributeError) as error:
        from loguru import logger

        logger.warning(f"tasks of adaptinfer_eval need --include_path {tasks_folder()} here: {error}")
        return
    if getattr(index_upstream, "adds_adaptinfer_eval", False):
        return

    @functools.wraps(index_upstream)
    def initialize_tasks(self: Any, include_path: Any = None, include_defaults: bool = True, **options: Any) -> Any:
        index = index_upstream(self, include_path=include_path, include_defaults=include_defaults, **options)
        return {**self._get_task_and_group(str(tasks_folder())), **index} if include_defaults else index

    initialize_tasks.adds_adaptinfer_eval = True  # type: ignore[attr-defined]
    TaskManager.initialize_tasks = initialize_tasks
