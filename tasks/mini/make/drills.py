"""Drills: lists of one-step lookups behind a short head, which teach quickly what the harness's questions need.

Of a question's dozens of tokens one or two are to be learnt from, of a drill's every second.
"""

from collections.abc import Callable
from functools import partial

from tasks.mini.make.questions import (
    ANIMALS,
    COLOR_OF,
    FAMILIES,
    SIDES,
    Document,
    Rng,
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
from tasks.mini.make.scene import COLOR_NAMES, SHAPE_NAMES, Thing
from tasks.mini.make.text import SPECIAL, question_text, tokens

Example = tuple[list[int], list[bool]]  # token ids and which of them are to be predicted
Drill = Callable[[Rng, Scene], Example]  # an empty one where the scene has nothing to ask about
END = SPECIAL.index("</s>")
SIGN_HEAD = "What does the sign say:"


def asked_by_harness(family: str, document: Document) -> Example:
    """A question as the harness asks it, with the answer and </s> to predict."""
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
    if not pairs:
        return [], []
    pairs = [pairs[i] for i in rng.permutation(len(pairs))[:3]]
    wanted = list(dict.fromkeys(value for _, value in pairs))
    spare = [item for item in pool if item not in wanted]
    mixed = wanted + [spare[i] for i in rng.permutation(len(spare))[: count - len(wanted)]]
    mixed = [mixed[i] for i in rng.permutation(len(mixed))]
    head = "\n".join(f"{letter}. {item}" for letter, item in zip("ABCD", mixed, strict=False)) + " letter:"
    return _pairs(rng, head, [(key, "ABCD"[mixed.index(value)]) for key, value in pairs])


def _claims(rng: Rng, head: str, claims: list[tuple[str, str, str]]) -> Example:
    """`head`, then of every (subject, truth, falsehood) the subject with one of the two, and Yes or No to predict.

    The picture knows one truth about a subject, so it is predicted too: to compare, the model must have read, and these
    drills begin like those that read. Without a subject ("") nothing but Yes or No is known beforehand."""
    parts = [(head, False)]
    for i in rng.permutation(len(claims)):
        subject, *said = claims[i]
        true = bool(rng.integers(2))
        parts += [(subject, False), (said[not true], true and subject != ""), (("No", "Yes")[true], True), (".", False)]
    return _spell(*parts[:-1])


def _by_shape(scene: Scene) -> list[tuple[str, str]]:
    return [(thing.shape, thing.color) for thing in alone(scene, "shape")]


def _by_color(scene: Scene) -> list[tuple[str, str]]:
    return [(thing.color, thing.shape) for thing in alone(scene, "color")]


def _color(rng: Rng, scene: Scene) -> Example:
    return _pairs(rng, "What color:", _by_shape(scene))


def _shape(rng: Rng, scene: Scene) -> Example:
    return _pairs(rng, "What shape:", _by_color(scene))


def _read(rng: Rng, scene: Scene) -> Example:
    return _pairs(rng, SIGN_HEAD, [(sign.color, sign.text) for sign in signs(scene)])


def _whose(rng: Rng, scene: Scene) -> Example:
    return _pairs(rng, "What color is the sign:", [(sign.text, sign.color) for sign in signs(scene)])


def _side(axis: int, rng: Rng, scene: Scene, claimed: bool = False) -> Example:
    """The side of every shape; or, if `claimed`, whether it is the one that is said."""
    both = SIDES[axis]
    head = f"Is on the {both[0]} or {both[1]} side:"
    places = [(thing.shape, where) for thing in alone(scene, "shape") if (where := side(thing, axis))]
    if claimed:
        return _claims(rng, head, [(shape, where, both[1 - both.index(where)]) for shape, where in places])
    return _pairs(rng, head, places)


def _placed(rng: Rng, scene: Scene) -> Example:
    return _side(int(rng.integers(2)), rng, scene, claimed=True)


def _there(rng: Rng, scene: Scene) -> Example:
    things = [("", f"{thing.color} {thing.shape}", " ".join(absent(rng, scene, thing))) for thing in shapes(scene)]
    return _claims(rng, "Is there:", things)


def _says(rng: Rng, scene: Scene) -> Example:
    cut = choose(rng, (1, 3))  # the first glyph or the whole string
    texts = [(sign.color, sign.text[:cut], misread(rng, scene, sign)[:cut]) for sign in signs(scene)]
    return _claims(rng, SIGN_HEAD, [text for text in texts if text[1] != text[2]])


def _relations(rng: Rng, scene: Scene) -> Example:
    """Several relations between pairs of shapes, along one axis."""
    candidates = alone(scene, "shape")
    axis, head = choose(rng, ((0, "Is left or right:"), (1, "Is above or below:")))
    parts = [(head, False)]
    for _ in range(4 if len(candidates) > 1 else 0):
        first, second = (candidates[i] for i in rng.permutation(len(candidates))[:2])
        if where := relation(first, second, axis):
            parts += [(first.shape, False), (second.shape, False), (where, True), (".", False)]
    return _spell(*parts[:-1])


def _letter_of_color(rng: Rng, scene: Scene) -> Example:
    return _lettered(rng, _by_shape(scene), COLOR_NAMES, 4)


def _letter_of_shape(rng: Rng, scene: Scene) -> Example:
    return _lettered(rng, _by_color(scene), SHAPE_NAMES, 4)


def _liking(rng: Rng, scene: Scene) -> Example:
    """The colour of what an animal likes: the shape from the hint, its colour from the picture."""
    by_shape = _by_shape(scene)
    if len(by_shape) < 2:
        return [], []
    pairs = [by_shape[i] for i in rng.permutation(len(by_shape))[:2]]
    animals = [ANIMALS[i] for i in rng.permutation(len(ANIMALS))[:2]]
    hint = " ".join(f"The {a} likes the {s}." for a, (s, _) in zip(animals, pairs, strict=True))
    return _pairs(rng, f"{hint} color:", [(a, c) for a, (_, c) in zip(animals, pairs, strict=True)])


def _text(rng: Rng, scene: Scene) -> Example:
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
    scene = [Thing("shape", 0, 0, 9, 9, color, shape) for color, shape in zip(COLOR_NAMES, SHAPE_NAMES, strict=True)]
    while True:  # the half of ScienceQA that needs no picture
        document = FAMILIES["scienceqa"](rng, scene)[0]
        if document["topic"] == "text":
            return asked_by_harness("scienceqa", document)


DRILLS: dict[str, Drill] = {
    "left": partial(_side, 0),
    "top": partial(_side, 1),
    "color": _color,
    "shape": _shape,
    "read": _read,
    "whose": _whose,
    "there": _there,
    "placed": _placed,
    "says": _says,
    "relation": _relations,
    "text": _text,
    "letter of color": _letter_of_color,
    "letter of shape": _letter_of_shape,
    "liking": _liking,
}
# These are asked from the first step: an attribute that is not looked up, or by which nothing is, is soon lost to the
# model. A place has but two values, from which little is learnt at a time, so at first places come oftener.
FIRST_DRILLS = (*("left", "top") * 3, *("color", "shape", "read", "whose") * 2, "there")
ALL_DRILLS = (
    *("left", "top", "color", "shape", "read", "whose", "there"),
    *("placed", "says", "relation", "text") * 2,
    *("letter of color", "letter of shape", "liking"),
)
