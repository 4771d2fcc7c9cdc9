"""Pictures and right answers of a sweep's questions: as the sweep has kept them, else from the data sets."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from adaptinfer_eval.analysis.kept.picture import as_seen, data_uri, is_small
from adaptinfer_eval.backbones import make_family
from adaptinfer_eval.sweep.config import SweepConfig, SweepError
from adaptinfer_eval.sweep.files import write_text


class Document(NamedTuple):
    """What a data set has for a question.

    `picture`: as the model saw it, as a `data:` address; empty where there is not exactly one, or where it is not known
    where a vision token lies in it. `small`: drawn with hard pixels.
    """

    target: str
    picture: str = ""
    small: bool = False


def read_documents(
    config: SweepConfig, record: Mapping[str, Any], docs: Sequence[int], folder: Path
) -> dict[int, Document]:
    """Of one task, by document; `record`: of any of its cells, `folder`: the sweep's.

    From the data set, with lmms-eval, where the sweep has not kept them all. Raises whatever the loader of the data set
    raises; SweepError where the data are not those that were measured.
    """
    kept = _kept(folder, record)
    return {doc: kept[doc] for doc in docs} if set(docs) <= kept.keys() else _loaded(config, record, docs)


def documents_of(config: SweepConfig, task: Any, docs: Iterable[int]) -> dict[int, Document]:
    """`task`: lmms-eval's, its data set loaded."""
    return {doc: _document(config, task, task.eval_docs[doc]) for doc in docs}


def write_documents(folder: Path, record: Mapping[str, Any], documents: Mapping[int, Document]) -> None:
    """Keep them in the sweep's folder, with the fingerprint of the data that they are of."""
    write_text(_path(folder, record), json.dumps({"data": record["data"], "documents": documents}))


def _kept(folder: Path, record: Mapping[str, Any]) -> dict[int, Document]:
    path = _path(folder, record)
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        same = found["data"] == record["data"]
        return {int(doc): Document(*values) for doc, values in found["documents"].items()} if same else {}
    except (ValueError, KeyError, TypeError) as error:
        raise SweepError(f"{path} cannot be read ({error!r}): delete it") from error


def _path(folder: Path, record: Mapping[str, Any]) -> Path:
    return folder / "documents" / f"{record['task']}.json".replace("/", "_")


def _loaded(config: SweepConfig, record: Mapping[str, Any], docs: Sequence[int]) -> dict[int, Document]:
    from adaptinfer_eval.sweep.identity import data_digest
    from adaptinfer_eval.sweep.logs import logged_to
    from adaptinfer_eval.sweep.tasks import load_tasks, questions

    name = record["task"]
    with logged_to(Path(os.devnull)):
        _, tasks = load_tasks(config.model_copy(update={"tasks": (name,)}))
        if data_digest(tasks[name], questions(name, tasks[name], config.limit)) != record["data"]:
            raise SweepError("they are not the data that were measured")
        return documents_of(config, tasks[name], docs)


def _document(config: SweepConfig, task: Any, document: Mapping[str, Any]) -> Document:
    answers = document.get("answers")  # TextVQA: of ten people; its doc_to_target names a column that is not there
    target = Counter(answers).most_common(1)[0][0] if isinstance(answers, list) else task.doc_to_target(document)
    pictures, square = task.doc_to_visual(document), make_family(config.backbone, config.model_args).square
    if len(pictures) != 1 or square is None:
        return Document(str(target))
    seen = as_seen(pictures[0], square)
    return Document(str(target), data_uri(seen), is_small(seen))
