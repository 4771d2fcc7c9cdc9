"""How many questions a task asks about how many pictures, from the metadata of its file: no data set is loaded.

    metadata: {questions: 2374, pictures: 1187, questions_in_a_row: 2}

`questions_in_a_row`: about one picture, one behind the other, which tells how many pictures a limit leaves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, gcd

from adaptinfer_eval.sweep.config import shipped
from adaptinfer_eval.sweep.task_files import description, tasks_in


@dataclass(frozen=True)
class TaskSize:
    """`questions` and `pictures` of a task; pictures are None where nobody knows them."""

    questions: int
    pictures: int | None = None
    questions_in_a_row: int = 1

    def limited(self, limit: int | None) -> TaskSize:
        """The first `limit` questions; about one picture there are as many as are known to stand in a row."""
        if limit is None or limit >= self.questions:
            return self
        pictures = self.pictures and min(self.pictures, ceil(limit / self.questions_in_a_row))
        return TaskSize(limit, pictures, self.questions_in_a_row)

    @property
    def of_a_picture(self) -> float:
        """Questions about a picture, mean; where that is not known 1, as a bound."""
        return self.questions / (self.pictures or self.questions)

    def pictures_begun(self, batch_size: int) -> float:
        """How often, for each question, a batch begins a picture.

        Questions about one picture come together. A batch that ends between them begins it again: of n about each
        picture, min(n, batch_size) share it where one divides the other.
        """
        n = self.of_a_picture
        if 1 in (n, batch_size):
            return 1.0
        ends_with_a_picture = gcd(int(n), batch_size) / n if n == int(n) else 1 / n
        return 1 / n + (1 - ends_with_a_picture) / batch_size


def task_sizes(names: Iterable[str]) -> dict[str, TaskSize]:
    """Of those of `names` whose task is shipped here and says its questions."""
    folder = shipped("tasks")
    files = tasks_in(folder) if folder else {}
    told = {name: description(files[name]).get("metadata") or {} for name in names if name in files}
    keys = ("questions", "pictures", "questions_in_a_row")
    return {
        name: TaskSize(**{key: metadata[key] for key in keys if key in metadata})
        for name, metadata in told.items()
        if "questions" in metadata
    }
