"""Draws the clips of mini_video, lossless, and what is asked about them: writes the same frames each time.

`python -m tasks.mini.make.clips`, from the repository's root.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image, ImageDraw

DATA = Path(__file__).parents[1] / "data"
CLIPS, FRAMES, SIDE, RATE = 48, 12, 64, 4
COLORS = {"red": (220, 40, 40), "green": (40, 180, 70), "blue": (50, 80, 220), "yellow": (230, 210, 50)}
SHAPES = ("circle", "square")
WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
Frames = NDArray[np.uint8]


def draw_clip(number: int) -> tuple[Frames, str, str]:
    """Frames (T, H, W, 3), a question and its answer: by turns where a shape moves, and which comes first."""
    rng = np.random.default_rng(1000 + number)
    colors = [str(name) for name in rng.permutation(list(COLORS))[:2]]
    shapes = [SHAPES[i] for i in rng.integers(len(SHAPES), size=2)]
    way = list(WAYS)[number // 2 % len(WAYS)]
    first = number // 2 % 2
    moves = number % 2 == 0
    spots = rng.integers(16, 48, size=(2, 2))
    frames = []
    for time in range(FRAMES):
        canvas = Image.new("RGB", (SIDE, SIDE), (24, 24, 28))
        for thing in (0, 1):
            x, y = (int(value) for value in spots[thing])
            if moves and thing == 0:
                x, y = (32 + (time - FRAMES // 2) * 4 * step for step in WAYS[way])
            elif not moves and time < (2 if thing == first else 7):
                continue
            box = (x - 6, y - 6, x + 6, y + 6)
            pen = ImageDraw.Draw(canvas)
            (pen.ellipse if shapes[thing] == "circle" else pen.rectangle)(box, fill=COLORS[colors[thing]])
        frames.append(np.asarray(canvas))
    if moves:
        asked = f"In which direction does the {colors[0]} {shapes[0]} move: left, right, up or down?"
        return np.stack(frames), asked, way
    asked = f"Which appears first, the {colors[0]} {shapes[0]} or the {colors[1]} {shapes[1]}? Answer with its colour."
    return np.stack(frames), asked, colors[first]


def write_clip(path: Path, frames: Frames) -> None:
    """As FFV1 in Matroska, which loses nothing."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def rows() -> list[dict[str, str]]:
    drawn = [draw_clip(number)[1:] for number in range(CLIPS)]
    return [
        {"clip": f"{number:02d}.mkv", "question": asked, "answer": answer}
        for number, (asked, answer) in enumerate(drawn)
    ]


def main() -> None:
    (DATA / "clips").mkdir(parents=True, exist_ok=True)
    for number in range(CLIPS):
        write_clip(DATA / "clips" / f"{number:02d}.mkv", draw_clip(number)[0])
    pq.write_table(pa.Table.from_pylist(rows()), DATA / "video.parquet")
    size = sum(path.stat().st_size for path in (DATA / "clips").iterdir())
    print(f"video.parquet: {CLIPS} rows; clips: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
