"""The mini world's pictures: 96x96 pixels, coloured shapes, coloured signs with short strings, coloured tiles.

Tiles are clutter: two-tone stripes and checks in the colours of the shapes, which no question asks about.

Everything is a function of the numpy generator passed in; nothing here knows questions or models.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE, PATCH = 96, 4
GRID = SIDE // PATCH
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "green": (35, 165, 60),
    "blue": (45, 75, 225),
    "yellow": (240, 220, 50),
    "purple": (150, 50, 190),
    "orange": (240, 135, 25),
    "cyan": (60, 215, 220),
    "white": (248, 248, 248),
}
COLOR_NAMES = tuple(COLORS)
SHAPE_NAMES = ("circle", "square", "triangle", "diamond", "cross", "ring", "star", "bar")
KINDS = ("", *SHAPE_NAMES, "sign", "tile")  # what a patch can show; "": nothing
FONT = {  # 5x7, chosen so that no two differ by a pixel or two
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "11110 00001 00001 01110 00001 00001 11110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "6": "00110 01000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "E": "11111 10000 10000 11110 10000 10000 11111",
    "H": "10001 10001 10001 11111 10001 10001 10001",
    "K": "10001 10010 10100 11000 10100 10010 10001",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "N": "10001 11001 10101 10011 10001 10001 10001",
    "P": "11110 10001 10001 11110 10000 10000 10000",
    "T": "11111 00100 00100 00100 00100 00100 00100",
    "X": "10001 10001 01010 00100 01010 10001 10001",
    "Z": "11111 00001 00010 00100 01000 10000 11111",
}
GLYPHS = "".join(FONT)
SHAPES, SIGNS, TILES = (6, 8), 3, (10, 12)  # of each are tried; what finds no place is left out
SHAPE_SIZES = (10, 11, 12, 13)

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Thing:
    """Something in the picture, in pixels. `shape` is empty for all but shapes, `text` for all but signs."""

    kind: Literal["shape", "sign", "tile"]
    x: int
    y: int
    w: int
    h: int
    color: str
    shape: str = ""
    text: str = ""

    @property
    def center(self) -> tuple[float, float]:
        return self.x + self.w / 2, self.y + self.h / 2


def _glyph(char: str) -> Floats:
    return np.array([[int(bit) for bit in row] for row in FONT[char].split()], np.float32)


def _shape_mask(shape: str, size: int) -> Floats:
    """(size, size) coverage in 0..1, drawn eight times larger and averaged down."""
    n = size * 8
    image = Image.new("L", (n, n), 0)
    draw, last = ImageDraw.Draw(image), n - 1
    if shape in ("circle", "ring"):
        draw.ellipse([0, 0, last, last], fill=255)
        if shape == "ring":
            draw.ellipse([n * 0.27, n * 0.27, last - n * 0.27, last - n * 0.27], fill=0)
    elif shape == "square":
        draw.rectangle([n * 0.06, n * 0.06, last - n * 0.06, last - n * 0.06], fill=255)
    elif shape == "triangle":
        draw.polygon([(last / 2, 0), (last, last), (0, last)], fill=255)
    elif shape == "diamond":
        draw.polygon([(last / 2, 0), (last, last / 2), (last / 2, last), (0, last / 2)], fill=255)
    elif shape == "cross":
        draw.rectangle([n * 0.34, 0, last - n * 0.34, last], fill=255)
        draw.rectangle([0, n * 0.34, last, last - n * 0.34], fill=255)
    elif shape == "star":
        radius = [n / 2 if i % 2 == 0 else n * 0.19 for i in range(10)]
        angle = [-np.pi / 2 + i * np.pi / 5 for i in range(10)]
        points = [(n / 2 + r * np.cos(a), n / 2 + r * np.sin(a)) for r, a in zip(radius, angle, strict=True)]
        draw.polygon(points, fill=255)
    elif shape == "bar":
        draw.rectangle([0, n * 0.32, last, last - n * 0.32], fill=255)
    else:
        raise ValueError(f"unknown shape {shape!r}; one of {', '.join(SHAPE_NAMES)}")
    small = image.resize((size, size), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / np.float32(255)


MASKS = {(shape, size): _shape_mask(shape, size) for shape in SHAPE_NAMES for size in SHAPE_SIZES}
GLYPH_MASKS = {char: _glyph(char) for char in FONT}


def draw_text(rng: np.random.Generator) -> str:
    """A random string of two or three glyphs, as signs carry them."""
    return "".join(GLYPHS[i] for i in rng.integers(0, len(GLYPHS), int(rng.integers(2, 4))))


def draw_scene(rng: np.random.Generator) -> list[Thing]:
    """Things at random places, at least two pixels apart; what finds no place after 200 tries is left out."""
    taken: list[tuple[int, int, int, int]] = []

    def place(w: int, h: int) -> tuple[int, int] | None:
        for _ in range(200):
            x, y = int(rng.integers(0, SIDE - w + 1)), int(rng.integers(0, SIDE - h + 1))
            if all(x + w + 2 <= a or a + c + 2 <= x or y + h + 2 <= b or b + d + 2 <= y for a, b, c, d in taken):
                taken.append((x, y, w, h))
                return x, y
        return None

    things = []
    for color in rng.permutation(len(COLORS))[:SIGNS]:
        text = draw_text(rng)
        w, h = 6 * len(text) + 3, 11
        if spot := place(w, h):
            things.append(Thing("sign", *spot, w, h, color=COLOR_NAMES[color], text=text))
    for _ in range(int(rng.integers(SHAPES[0], SHAPES[1] + 1))):
        size = int(rng.choice(SHAPE_SIZES))
        color, shape = COLOR_NAMES[rng.integers(len(COLORS))], SHAPE_NAMES[rng.integers(len(SHAPE_NAMES))]
        if spot := place(size, size):
            things.append(Thing("shape", *spot, size, size, color=color, shape=shape))
    for _ in range(int(rng.integers(TILES[0], TILES[1] + 1))):
        w, h, color = int(rng.integers(9, 17)), int(rng.integers(9, 17)), COLOR_NAMES[rng.integers(len(COLORS))]
        if spot := place(w, h):
            things.append(Thing("tile", *spot, w, h, color=color))
    return things


def _texture(rng: np.random.Generator, color: Floats, w: int, h: int) -> Floats:
    """(h, w, 3): stripes or checks of a colour and its shade."""
    y, x = np.mgrid[0:h, 0:w] // int(rng.integers(1, 4))
    pattern = (x, y, x + y)[int(rng.integers(3))] % 2
    texture: Floats = np.where(pattern[..., None] == 0, color, 0.6 * color).astype(np.float32)
    return texture


def render(rng: np.random.Generator, things: list[Thing]) -> NDArray[np.uint8]:
    """(96, 96, 3) picture on a noisy gradient; values are multiples of 8 so that PNG stays small."""
    base = rng.uniform(70, 125, 3).astype(np.float32)
    base = base.mean() + 0.4 * (base - base.mean())
    axis = np.linspace(-1, 1, SIDE, dtype=np.float32)
    slope_x, slope_y = rng.uniform(-14, 14, 2)
    image = base + (slope_x * axis[None, :, None] + slope_y * axis[:, None, None])
    image = (image + rng.normal(0, 4, (SIDE, SIDE, 1))).astype(np.float32)
    for thing in things:
        view = image[thing.y : thing.y + thing.h, thing.x : thing.x + thing.w]
        color = np.array(COLORS[thing.color], np.float32) + rng.uniform(-14, 14, 3).astype(np.float32)
        if thing.kind == "tile":
            view[:] = _texture(rng, color, thing.w, thing.h)
            continue
        if thing.kind == "shape":
            mask = MASKS[thing.shape, thing.w][..., None]
            view[:] = view * (1 - mask) + color * mask
            continue
        view[:] = color
        ink = 15.0 if color.mean() > 105 else 245.0
        for i, char in enumerate(thing.text):
            cell, mask = view[2:9, 2 + 6 * i : 7 + 6 * i], GLYPH_MASKS[char][..., None]
            cell[:] = cell * (1 - mask) + ink * mask
    picture: NDArray[np.uint8] = (np.clip(image, 0, 255) // 8 * 8).astype(np.uint8)
    return picture


def _cover(thing: Thing) -> Floats:
    """(24, 24): how many pixels of each patch the thing covers."""
    canvas = np.zeros((SIDE, SIDE), np.float32)
    mask = MASKS[thing.shape, thing.w] if thing.kind == "shape" else 1
    canvas[thing.y : thing.y + thing.h, thing.x : thing.x + thing.w] = mask
    cover: Floats = canvas.reshape(GRID, PATCH, GRID, PATCH).sum((1, 3))
    return cover


def thing_parts(thing: Thing) -> list[tuple[int, int]]:
    """Pixel (x, y) at the centre of each part that a question can ask for: the shape, or every glyph of a sign."""
    if thing.kind == "sign":
        return [(thing.x + 4 + 6 * i, thing.y + 5) for i in range(len(thing.text))]
    return [(thing.x + (thing.w - 1) // 2, thing.y + (thing.h - 1) // 2)] if thing.kind == "shape" else []


def covered(things: list[Thing]) -> NDArray[np.bool_]:
    """(576,): patches that a thing lies on, with at least 3 of their 16 pixels."""
    return sum((_cover(thing) for thing in things), np.zeros((GRID, GRID), np.float32)).ravel() >= 3


@dataclass(frozen=True)
class PatchLabels:
    """What each of the 576 patches shows; -100 where undefined.

    `color` (0 none) and `kind` (of KINDS) of the thing that covers most of it (at least 3 px); `part`:
    1 where a shape or a glyph has its centre, else 0; `glyph`, and `slot` in the sign, there alone."""

    kind: Ints
    color: Ints
    part: Ints
    glyph: Ints
    slot: Ints
    center: Floats  # (576, 2), of the thing, in 0..1


def patch_labels(things: list[Thing]) -> PatchLabels:
    """Labels (576,) for the vision pretext."""
    kind, color, part = (np.zeros((GRID, GRID), np.int64) for _ in range(3))
    glyph, slot = (np.full((GRID, GRID), -100, np.int64) for _ in range(2))
    center, most = np.zeros((GRID, GRID, 2), np.float32), np.zeros((GRID, GRID), np.float32)
    for thing in things:
        cover, middle = _cover(thing), np.array(thing.center, np.float32) / SIDE
        of_thing = KINDS.index(thing.shape or thing.kind), 1 + COLOR_NAMES.index(thing.color)
        hit, grazed = (cover >= 3) & (cover > most), (cover > 0) & (cover < 3) & (most == 0)
        kind[grazed] = color[grazed] = -100
        kind[hit], color[hit] = of_thing
        most[hit], center[hit] = cover[hit], middle
        for i, (x, y) in enumerate(thing_parts(thing)):
            spot = y // PATCH, x // PATCH
            part[spot] = 1
            kind[spot], color[spot] = of_thing
            center[spot] = middle
            if thing.text:
                glyph[spot], slot[spot] = GLYPHS.index(thing.text[i]), i
    return PatchLabels(kind.ravel(), color.ravel(), part.ravel(), glyph.ravel(), slot.ravel(), center.reshape(-1, 2))
