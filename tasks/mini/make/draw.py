"""Draws the mini tasks' data: python -m tasks.mini.make.draw  (from the repository's root; the same bytes each time)

Writes tasks/mini/data/{mme,gqa,mmbench,scienceqa,textvqa}.parquet in the column schemas that lmms-eval's own prompt
and metric functions read. Training never sees these scenes: it draws from other seeds.
"""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from datasets import Features, Image, List, Value
from PIL import Image as Pictures

from tasks.mini.make.questions import FAMILIES, Document
from tasks.mini.make.scene import draw_scene, render

DATA = Path(__file__).resolve().parents[1] / "data"
SEED = 20_000_000  # training draws from tuples that begin otherwise
TRIES = 60  # questions drawn per scene before it is given up
SCENES = {"mme": 125, "gqa": 125, "mmbench": 250, "scienceqa": 125, "textvqa": 167}
PER_SCENE = {"mme": 2, "gqa": 4, "mmbench": 2, "scienceqa": 4, "textvqa": 3}  # MME: pairs
TEXT, NUMBER, PICTURE = Value("string"), Value("int64"), Image()
COLUMNS = {
    "mme": Features(question_id=TEXT, image=PICTURE, question=TEXT, answer=TEXT, category=TEXT),
    "gqa": Features(id=TEXT, imageId=TEXT, image=PICTURE, question=TEXT, answer=TEXT, types=TEXT),
    "mmbench": Features(
        {"index": NUMBER, "image": PICTURE, "L2-category": TEXT}
        | {name: TEXT for name in ("question", "hint", "answer", "A", "B", "C", "D", "category", "source", "split")}
    ),
    "scienceqa": Features(image=PICTURE, question=TEXT, choices=List(TEXT), answer=NUMBER, hint=TEXT, topic=TEXT),
    "textvqa": Features(
        image_id=TEXT,
        question_id=NUMBER,
        image=PICTURE,
        question=TEXT,
        answers=List(TEXT),
        ocr_tokens=List(TEXT),
    ),
}


def _identify(family: str, scene: int, number: int, documents: list[Document]) -> list[Document]:
    """Adds the columns that tell documents apart; `number` counts the family's questions (MME: pairs)."""
    if family == "mme":
        return [row | {"question_id": f"{row['category']}/{number:04d}.png"} for row in documents]
    identity: Document = {}
    if family == "gqa":
        identity = {"id": f"{number:06d}", "imageId": f"m{scene:05d}"}
    elif family == "mmbench":
        identity = {"index": number}
    elif family == "textvqa":
        identity = {"image_id": f"m{scene:05d}", "question_id": number}
    return [row | identity for row in documents]


def _rotate(row: Document, turn: int) -> Document:
    """MMBench's circular copy: options moved on by `turn`, index + turn * 10^6."""
    letters = "ABCD"
    moved = {letters[(i + turn) % 4]: row[letters[i]] for i in range(4)}
    answer = letters[(letters.index(row["answer"]) + turn) % 4]
    return row | moved | {"answer": answer, "index": row["index"] + turn * 1_000_000}


def draw_family(family: str) -> list[Document]:
    """All rows of one family. Circular copies come last, so that the first N rows are N different questions."""
    rng = np.random.default_rng((SEED, list(FAMILIES).index(family)))
    rows: list[Document] = []
    scene_number = 0
    while scene_number < SCENES[family]:
        scene = draw_scene(rng)
        picture_rng = rng.spawn(1)[0]
        questions: dict[str, list[Document]] = {}
        for _ in range(TRIES):
            documents = FAMILIES[family](rng, scene)
            if documents and len(questions) < PER_SCENE[family]:
                questions.setdefault(str(documents[0]["question"]), documents)
        if len(questions) < PER_SCENE[family]:
            continue  # too few things that a question can single out
        png = io.BytesIO()
        Pictures.fromarray(render(picture_rng, scene)).save(png, "PNG", optimize=True)
        picture = {"bytes": png.getvalue(), "path": None}
        for number, documents in enumerate(questions.values(), scene_number * PER_SCENE[family]):
            rows += [row | {"image": picture} for row in _identify(family, scene_number, number, documents)]
        scene_number += 1
    if family == "mmbench":
        rows += [_rotate(row, turn) for turn in (1, 2, 3) for row in rows]
    return rows


def main() -> None:
    DATA.mkdir(exist_ok=True)
    for family, columns in COLUMNS.items():
        rows = draw_family(family)
        path = DATA / f"{family}.parquet"
        # The dictionary must hold every picture once: questions share them.
        pq.write_table(
            pa.Table.from_pylist(rows, schema=columns.arrow_schema),
            path,
            compression="zstd",
            dictionary_pagesize_limit=1 << 24,
        )
        print(f"{path.name}: {len(rows)} rows, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
