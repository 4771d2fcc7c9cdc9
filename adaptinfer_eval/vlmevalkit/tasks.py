"""VLMEvalKit's data sets as a sweep asks them: they stand where lmms-eval's tasks do."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import PIL.Image

from adaptinfer_eval.models.pictures import read_picture
from adaptinfer_eval.sweep.config import SweepConfig, SweepError
from adaptinfer_eval.sweep.scores import MME, check_limit
from adaptinfer_eval.vlmevalkit import DATA
from adaptinfer_eval.vlmevalkit.kit import check_data, load_kit
from adaptinfer_eval.vlmevalkit.papers import generation_of, message_of

SPLIT = "data"


class Rows(Sequence[dict[str, Any]]):
    """A data set's rows as documents, by their place in it."""

    def __init__(self, frame: Any) -> None:
        self.frame = frame

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        return {**dict(self.frame.iloc[place]), "place": int(place)}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[place] for place in range(len(self)))

    def picture(self, place: int) -> int:
        """Equal for rows with equal pictures: stored as text."""
        return hash(str(self.frame.iloc[place].get("image")))


class KitTask:
    """One data set of VLMEvalKit's, with what a sweep wants of a task of lmms-eval's.

    `kit`: VLMEvalKit's own data set. Questions are stored pictures and text, `prompts` says whose.
    """

    def __init__(self, name: str, kit: Any, prompts: str) -> None:
        self.name, self.kit, self.prompts = name, kit, prompts
        self.eval_docs = self.eval_docs_no_media = Rows(kit.data)
        self.dataset = {SPLIT: self.eval_docs}
        self.config = SimpleNamespace(task=name, repeats=1, metric_list=[])
        self.instances: list[Any] = []

    @property
    def pairs(self) -> bool:
        """Whether it is scored by pairs of questions about a picture, as MME is."""
        return self.kit.TYPE == "Y/N" and "MME" in self.kit.dataset_name

    @property
    def circular(self) -> bool:
        """Whether a question counts as right with all its circular copies alone, as VLMEvalKit decides by the name."""
        lower = self.kit.dataset_name.lower()
        return self.kit.TYPE == "MCQ" and any(word in lower for word in ("mmbench", "ccbench", "circular", "mmcr"))

    def build_all_requests(self, limit: int | None = None) -> None:
        """`instances`: one for each of the first `limit` rows, their pictures stored."""
        from lmms_eval.api.instance import Instance

        generation = generation_of(self.kit.dataset_name)
        self.instances = []
        for place in range(len(self.eval_docs))[:limit]:
            text = self.doc_to_text(self.eval_docs[place])
            self.instances.append(
                Instance(
                    request_type="generate_until",
                    arguments=(text, self.doc_to_messages, generation, place, self.name, SPLIT),
                    idx=0,
                    metadata={"task": self.name, "doc_id": place, "repeats": 1},
                )
            )

    def doc_to_messages(self, document: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One message of the user's, as lmms-eval's chat models are given it."""
        content = [
            {"type": "text", "text": part["value"]}
            if part["type"] == "text"
            else {"type": "image", "url": PIL.Image.open(part["value"])}
            for part in self._message(document)
        ]
        return [{"role": "user", "content": content}]

    def doc_to_text(self, document: Mapping[str, Any]) -> str:
        return "".join(part["value"] for part in self._message(document) if part["type"] == "text")

    def doc_to_visual(self, document: Mapping[str, Any]) -> list[Any]:
        return [read_picture(part["value"]) for part in self._message(document) if part["type"] == "image"]

    def doc_to_target(self, document: Mapping[str, Any]) -> Any:
        answer = document["answer"]
        several = self.kit.TYPE == "VQA" and isinstance(answer, str) and answer.startswith("[")
        return ast.literal_eval(answer) if several else answer

    def process_results(self, document: Mapping[str, Any], results: Sequence[str]) -> None:
        """Rows are not scored one by one, but all at once (`score`)."""

    def _message(self, document: Mapping[str, Any]) -> list[dict[str, str]]:
        return message_of(self.kit, self.kit.data.iloc[document["place"]], self.prompts)


def load_tasks(config: SweepConfig) -> dict[str, KitTask]:
    """The data sets of a sweep by name: tasks of ours by theirs, VLMEvalKit's by its own.

    SweepError for what VLMEvalKit does not have, and for what it does not score by rules that are known here.
    """
    datasets = load_kit("vlmeval.dataset")
    tasks = {}
    for name in config.tasks:
        called = DATA.get(name, name)
        check_data(called)
        try:
            found = datasets.build_dataset(called)
        except Exception as error:  # whatever a download, or a reader, raises
            raise SweepError(f"tasks: VLMEvalKit cannot load {called} ({type(error).__name__}: {error})") from error
        by_rules = type(found) in (datasets.ImageMCQDataset, datasets.CustomMCQDataset, datasets.ImageVQADataset)
        task = KitTask(name, found, config.prompts)
        if not (by_rules or task.pairs):
            raise SweepError(
                f"tasks: how VLMEvalKit scores {called} is not known here: run it with adaptinfer-eval vlmevalkit"
            )
        if task.pairs:
            check_limit(name, MME, config.limit)
        tasks[name] = task
    return tasks
