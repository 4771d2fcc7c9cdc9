"""Training batches: many questions packed behind one picture, and drills that teach lookup and letters quickly.

A packed row holds T text positions; each question sees the prompt's beginning, the picture and itself, exactly as if
it stood alone, because its positions restart and the mask hides its neighbours.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.mini.make.loop import DEVICE
from tasks.mini.make.questions import (
    ANIMALS,
    COLOR_OF,
    FAMILIES,
    Document,
    Scene,
    absent,
    alone,
    answer_text,
    choose,
    misread,
    options,
    relation,
    shapes,
    side,
    signs,
)
from tasks.mini.make.scene import COLOR_NAMES, GRID, PATCH, SHAPE_NAMES, Floats, Thing, thing_parts
from tasks.mini.make.text import SPECIAL, question_text, tokens

# What drills ask, in the order in which it is learnt. The first must all be there from the first step: an attribute
# that nobody looks up, or looks things up by, is lost to the model. Places have but two values, so they come oftener.
FIRST_DRILLS = (*("left", "top") * 3, *("color", "shape", "read", "whose") * 2, "there")
ALL_DRILLS = (
    *("left", "top", "color", "shape", "read", "whose", "there"),
    *(*("placed", "says", "relation", "text") * 2, "letter of color", "letter of shape", "liking"),
)
SIDES = (("Is on the left or right side:", ("left", "right")), ("Is on the top or bottom side:", ("top", "bottom")))
SIGN_HEAD = "What does the sign say:"
END = SPECIAL.index("</s>")
Example = tuple[list[int], list[bool]]  # token ids and which of them are to be predicted
Rng = np.random.Generator


@dataclass(frozen=True)
class Packed:
    """All (B, T). `labels` is -100 where nothing is predicted, `question` -1 on padding, `family` likewise."""

    ids: Tensor
    labels: Tensor
    positions: Tensor
    question: Tensor
    family: Tensor


def harness_examples(rng: Rng, scene: Scene, family: str) -> list[Example]:
    """Questions of one family as the harness asks them, with the answer and </s> to predict."""
    return [_asked(family, document) for document in FAMILIES[family](rng, scene)]


def _asked(family: str, document: Document) -> Example:
    prompt = tokens("\n" + question_text(family, document))
    answer = [*tokens(" " + answer_text(family, document)), END]
    return prompt + answer, [False] * len(prompt) + [True] * len(answer)


def _spell(*parts: tuple[str, bool]) -> Example:
    """Words and strings one after another; the second of each pair says whether it is to be predicted."""
    ids: list[int] = []
    asked: list[bool] = []
    for text, predict in parts:
        piece = tokens(" " + text) if text else []
        ids += piece
        asked += [predict] * len(piece)
    return ids, asked


def _pairs(rng: Rng, head: str, pairs: list[tuple[str, str]]) -> Example:
    """`head`, then every pair in random order with its second member to predict."""
    parts = [(head, False)]
    for i in rng.permutation(len(pairs)):
        parts += [(pairs[i][0], False), (pairs[i][1], True), (".", False)]
    return _spell(*parts[:-1])


def _lettered(rng: Rng, pairs: list[tuple[str, str]], pool: tuple[str, ...], count: int) -> Example:
    """Options A-D as the harness writes them, then `first member -> letter of the second` for up to three pairs."""
    pairs = [pairs[i] for i in rng.permutation(len(pairs))[:3]]
    wanted = list(dict.fromkeys(value for _, value in pairs))
    spare = [item for item in pool if item not in wanted]
    mixed = wanted + [spare[i] for i in rng.permutation(len(spare))[: count - len(wanted)]]
    mixed = [mixed[i] for i in rng.permutation(len(mixed))]
    head = "\n".join(f"{letter}. {item}" for letter, item in zip("ABCD", mixed, strict=False)) + " letter:"
    return _pairs(rng, head, [(key, "ABCD"[mixed.index(value)]) for key, value in pairs])


def _claims(rng: Rng, head: str, claims: list[tuple[str, str, str]], settled: bool = True) -> Example | None:
    """`head`, then of every (subject, truth, falsehood) the subject with one of the two, and Yes or No to predict.

    `settled`: the picture knows but one truth about the subject, so it is predicted as well. To compare, the model
    must have read: these drills have the heads of those that read."""
    parts = [(head, False)]
    for i in rng.permutation(len(claims)):
        subject, *said = claims[i]
        true = bool(rng.integers(2))
        parts += [(subject, False), (said[not true], true and settled), (("No", "Yes")[true], True), (".", False)]
    return _spell(*parts[:-1]) if claims else None


def _relations(rng: Rng, candidates: list[Thing]) -> Example | None:
    """Several relations between pairs of shapes, along one axis."""
    axis, head = choose(rng, ((0, "Is left or right:"), (1, "Is above or below:")))
    parts = [(head, False)]
    for _ in range(4 if len(candidates) > 1 else 0):
        first, second = (candidates[i] for i in rng.permutation(len(candidates))[:2])
        if where := relation(first, second, axis):
            parts += [(first.shape, False), (second.shape, False), (where, True), (".", False)]
    return _spell(*parts[:-1]) if len(parts) > 1 else None


def _places(rng: Rng, scene: Scene, axis: int, claimed: bool) -> Example | None:
    """The side of every shape; or, if `claimed`, whether it is the one that is said."""
    head, both = SIDES[axis]
    places = [(thing.shape, where) for thing in alone(scene, "shape") if (where := side(thing, axis))]
    if claimed:
        return _claims(rng, head, [(shape, where, both[1 - both.index(where)]) for shape, where in places])
    return _pairs(rng, head, places) if places else None


def picture_drill(rng: Rng, scene: Scene, form: str) -> Example | None:
    """A list of one-step lookups in the picture: colour of each shape, string of each sign, place, letter, liking."""
    by_shape = [(thing.shape, thing.color) for thing in alone(scene, "shape")]
    by_color = [(thing.color, thing.shape) for thing in alone(scene, "color")]
    if form == "color" and by_shape:
        return _pairs(rng, "What color:", by_shape)
    if form == "shape" and by_color:
        return _pairs(rng, "What shape:", by_color)
    if form == "read" and signs(scene):
        return _pairs(rng, SIGN_HEAD, [(sign.color, sign.text) for sign in signs(scene)])
    if form == "whose" and signs(scene):
        return _pairs(rng, "What color is the sign:", [(sign.text, sign.color) for sign in signs(scene)])
    if form in ("left", "top"):
        return _places(rng, scene, int(form == "top"), claimed=False)
    if form == "placed":
        return _places(rng, scene, int(rng.integers(2)), claimed=True)
    if form == "there" and shapes(scene):
        both = [((thing.color, thing.shape), absent(rng, scene, thing)) for thing in shapes(scene)]
        return _claims(
            rng, "Is there:", [("", " ".join(there), " ".join(not_there)) for there, not_there in both], False
        )
    if form == "says" and signs(scene):
        cut = choose(rng, (1, 3))  # the first glyph or the whole string
        texts = [(sign.color, sign.text[:cut], misread(rng, scene, sign)[:cut]) for sign in signs(scene)]
        return _claims(rng, SIGN_HEAD, [text for text in texts if text[1] != text[2]])
    if form == "relation":
        return _relations(rng, alone(scene, "shape"))
    if form == "letter of color" and by_shape:
        return _lettered(rng, by_shape, COLOR_NAMES, 4)
    if form == "letter of shape" and by_color:
        return _lettered(rng, by_color, SHAPE_NAMES, 4)
    if form == "liking" and len(by_shape) > 1:
        pairs = [by_shape[i] for i in rng.permutation(len(by_shape))[:2]]
        animals = [ANIMALS[i] for i in rng.permutation(len(ANIMALS))[:2]]
        hint = " ".join(f"The {a} likes the {s}." for a, (s, _) in zip(animals, pairs, strict=True))
        return _pairs(rng, f"{hint} color:", [(a, c) for a, (_, c) in zip(animals, pairs, strict=True)])
    return None


def text_drill(rng: Rng) -> Example:
    """Lookups that need no picture: what follows what, letters of options, hints, and hint questions as asked."""
    pool = (*COLOR_NAMES, *SHAPE_NAMES, *ANIMALS)
    form = rng.random()
    if form < 0.1:
        return _pairs(rng, "color of:", [(COLOR_OF[color], color) for color in COLOR_NAMES])
    if form < 0.35:
        drawn = [pool[i] for i in rng.permutation(len(pool))[: 2 * int(rng.integers(2, 6))]]
        pairs = list(zip(drawn[::2], drawn[1::2], strict=True))
        return _pairs(rng, " ".join(f"{key} {value}." for key, value in pairs), pairs)
    if form < 0.6:
        group = choose(rng, (COLOR_NAMES, SHAPE_NAMES))
        mixed, _ = options(rng, choose(rng, group), group, int(rng.integers(3, 5)))
        return _lettered(rng, [(item, item) for item in mixed], group, len(mixed))
    if form < 0.75:
        animals = [ANIMALS[i] for i in rng.permutation(len(ANIMALS))[:2]]
        colors = [COLOR_NAMES[i] for i in rng.permutation(len(COLOR_NAMES))[:2]]
        pairs = list(zip(animals, colors, strict=True))
        hint = " ".join(f"The {animal} {choose(rng, ('is', 'likes'))} {color}." for animal, color in pairs)
        if rng.random() < 0.5:
            return _pairs(rng, f"{hint} color:", pairs)
        ids, asked = _spell((hint, False))
        more, wanted = _lettered(rng, pairs, COLOR_NAMES, 3)
        return ids + more, asked + wanted
    blank = [Thing("shape", 0, 0, 9, 9, color, shape) for color, shape in zip(COLOR_NAMES, SHAPE_NAMES, strict=True)]
    while True:  # the half of ScienceQA that needs no picture
        document = FAMILIES["scienceqa"](rng, blank)[0]
        if document["topic"] == "text":
            return _asked("scienceqa", document)


def pack(rows: list[list[tuple[Example, int]]], length: int) -> Packed:
    """Rows of (example, family number) that fit into `length` positions each."""
    shape = (len(rows), length)
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    labels, question, family = (np.full(shape, fill, np.int64) for fill in (-100, -1, -1))
    for b, row in enumerate(rows):
        start = 0
        for number, ((sequence, asked), group) in enumerate(row):
            end = start + len(sequence) - 1  # the last token is only predicted
            ids[b, start:end] = sequence[:-1]
            labels[b, start:end] = np.where(asked[1:], sequence[1:], -100)
            positions[b, start:end] = np.arange(end - start)
            question[b, start:end], family[b, start:end] = number, group
            start = end
    return Packed(*(torch.from_numpy(array).to(DEVICE) for array in (ids, labels, positions, question, family)))


def packed_row(
    rng: Rng, scene: Scene, weights: Floats, drills: float, forms: tuple[str, ...], length: int
) -> list[tuple[Example, int]]:
    """Questions about one scene until `length` is full; `drills`: share of drills (family number 5), of `forms`."""
    row: list[tuple[Example, int]] = []
    used = 0
    while True:
        if rng.random() < drills:
            form = choose(rng, forms)
            drill = text_drill(rng) if form == "text" else picture_drill(rng, scene, form)
            drawn = [(drill, len(FAMILIES))] if drill else []
        else:
            group = int(rng.choice(len(FAMILIES), p=weights))
            drawn = [(example, group) for example in harness_examples(rng, scene, list(FAMILIES)[group])]
        for example, group in drawn:
            used += len(example[0]) - 1
            if used > length:
                return row
            row.append((example, group))


def best_patches(rng: Rng, scene: Scene, count: int) -> Tensor:
    """For the first language stage alone: the patch of every part, topped up at random.

    Returns (count,) patch numbers in order."""
    score = rng.random(GRID * GRID)
    for thing in scene:
        for x, y in thing_parts(thing):
            score[y // PATCH * GRID + x // PATCH] += 1
    return torch.from_numpy(np.sort(np.argsort(-score)[:count]))
