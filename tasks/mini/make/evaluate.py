"""Accuracy of an exported model with plain transformers: python -m tasks.mini.make.evaluate [--seed N] [--blind]

Independent of the package's own wrappers: the same prompts through AutoProcessor and generate, answers compared whole.
--blind shows another question's picture, which measures what the text alone gives away.
"""

import argparse
import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from tasks.mini.make.draw import DATA
from tasks.mini.make.export import folder
from tasks.mini.make.questions import FAMILIES, Document, answer_text
from tasks.mini.make.text import whole_prompt

KIND = {"mme": "category", "gqa": "types", "mmbench": "category", "scienceqa": "topic"}


def read_rows(path: Path, limit: int | None) -> list[Document]:
    """Rows with PIL images."""
    rows: list[Document] = pq.read_table(path).to_pylist()[:limit]
    return [row | {"image": Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")} for row in rows]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the model")
    parser.add_argument("--limit", type=int, help="first rows of each family only")
    parser.add_argument("--blind", action="store_true", help="another question's picture")
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    model: Any = LlavaForConditionalGeneration.from_pretrained(folder(arguments.seed), dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder(arguments.seed), backend="pil")  # type: ignore[no-untyped-call]
    for family in FAMILIES:
        rows = read_rows(DATA / f"{family}.parquet", arguments.limit)
        tally: dict[str, list[bool]] = {}
        for start in range(0, len(rows), arguments.batch_size):
            some = rows[start : start + arguments.batch_size]
            # MMBench's copies come back every quarter, and questions about a picture stand together.
            shift = len(rows) // 2 + 7 if arguments.blind else 0
            images = [rows[(start + i + shift) % len(rows)]["image"] for i in range(len(some))]
            prompts = [whole_prompt(family, row) for row in some]
            inputs = processor(images=images, text=prompts, padding=True, return_tensors="pt")
            output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
            texts = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            for row, text in zip(some, texts, strict=True):
                right = text.strip().lower() == answer_text(family, row).lower()
                for name in (family, f"  {row[KIND[family]]}") if family in KIND else (family,):
                    tally.setdefault(name, []).append(right)
        for name, hits in tally.items():
            print(f"{name:40s} {sum(hits) / len(hits):.3f}", flush=True)


if __name__ == "__main__":
    main()
