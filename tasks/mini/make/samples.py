"""Draws docs/mini_samples.png, two questions of every family: python -m tasks.mini.make.samples"""

import io
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from PIL import Image

from tasks.mini.make.draw import DATA
from tasks.mini.make.questions import FAMILIES, Document, answer_text
from tasks.mini.make.text import question_text

SAMPLES = Path(__file__).resolve().parents[3] / "docs" / "mini_samples.png"
EACH = 2


def caption(family: str, document: Document) -> str:
    """The question as the model reads it, without the instruction that closes every prompt, and the answer."""
    asked = question_text(family, document).removesuffix(" ASSISTANT:").rsplit("\n", 1)[0].strip()
    lines = [wrapped for line in asked.split("\n") for wrapped in textwrap.wrap(line, 34)]
    return "\n".join([*lines, f"→ {answer_text(family, document)}"])


def main() -> None:
    figure, axes = plt.subplots(EACH, len(FAMILIES), figsize=(14, 8.4), layout="constrained")
    for column, family in enumerate(FAMILIES):
        rows = pq.read_table(DATA / f"{family}.parquet").to_pylist()
        for line in range(EACH):
            document = rows[line * len(rows) // 5 + 1]
            axis = axes[line, column]
            axis.imshow(Image.open(io.BytesIO(document["image"]["bytes"])), interpolation="nearest")
            axis.set_title(f"mini_{family}" if line == 0 else "", fontsize=12, fontweight="bold")
            axis.text(0, -0.03, caption(family, document), transform=axis.transAxes, va="top", fontsize=9)
            axis.axis("off")
    figure.savefig(SAMPLES, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()
