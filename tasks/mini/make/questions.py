"""Questions about a scene, as documents with the columns that lmms-eval's own tasks read (all but the image).

Each function draws one question (MME: one pair) or returns nothing where the scene has no thing to ask about.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tasks.mini.make.scene import COLOR_NAMES, SHAPE_NAMES, SIDE, Thing, draw_text

Document = dict[str, Any]
Scene = list[Thing]
Rng = np.random.Generator
ANIMALS = ("fox", "owl", "cat", "dog", "pig", "hen")
COLOR_OF = {
    "red": "a tomato",
    "green": "grass",
    "blue": "a sapphire",
    "yellow": "a lemon",
    "purple": "a plum",
    "orange": "a carrot",
    "cyan": "a turquoise",
    "white": "snow",
}
SIDES = (("left", "right"), ("top", "bottom"))
OFF_CENTER, APART = 5, 16  # pixels by which a thing must lie to one side, of the picture or of another, to be asked for


def choose(rng: Rng, items: Any) -> Any:
    """One of `items`, as a Python object."""
    return items[int(rng.integers(len(items)))]


def alone(scene: Scene, attribute: str) -> list[Thing]:
    """Shapes that no other shape of the scene equals in `attribute`: those a question can single out by it."""
    values = [getattr(thing, attribute) for thing in shapes(scene)]
    return [thing for thing, value in zip(shapes(scene), values, strict=True) if values.count(value) == 1]


def signs(scene: Scene) -> list[Thing]:
    return [thing for thing in scene if thing.kind == "sign"]


def side(thing: Thing, axis: int) -> str | None:
    """left/right (axis 0) or top/bottom (axis 1); nothing near the middle."""
    offset = thing.center[axis] - SIDE / 2
    return None if abs(offset) < OFF_CENTER else SIDES[axis][int(offset > 0)]


def relation(first: Thing, second: Thing, axis: int) -> str | None:
    """left/right (axis 0) or above/below (axis 1) of `first` seen from `second`; nothing when nearly level."""
    offset = first.center[axis] - second.center[axis]
    return None if abs(offset) < APART else (("left", "right"), ("above", "below"))[axis][int(offset > 0)]


def options(rng: Rng, right: str, pool: tuple[str, ...], count: int) -> tuple[list[str], int]:
    """`count` different options in random order and the place of the right one."""
    wrong = [item for item in pool if item != right]
    drawn = [right] + [wrong[i] for i in rng.permutation(len(wrong))[: count - 1]]
    mixed = [drawn[i] for i in rng.permutation(count)]
    return mixed, mixed.index(right)


def shapes(scene: Scene) -> list[Thing]:
    return [thing for thing in scene if thing.kind == "shape"]


def absent(rng: Rng, scene: Scene, thing: Thing) -> tuple[str, str]:
    """Colour and shape of something that is not there, and differs from the shape `thing` in one of the two."""
    there = {(other.color, other.shape) for other in shapes(scene)}
    near = [(color, thing.shape) for color in COLOR_NAMES] + [(thing.color, shape) for shape in SHAPE_NAMES]
    pair: tuple[str, str] = choose(rng, [pair for pair in near if pair not in there])
    return pair


def misread(rng: Rng, scene: Scene, sign: Thing) -> str:
    """What `sign` does not say: another sign's string, or a made-up one."""
    while True:
        text = str(choose(rng, [*(other.text for other in signs(scene)), draw_text(rng)]))
        if text != sign.text:
            return text


def mme_pair(rng: Rng, scene: Scene) -> list[Document]:
    """A question whose answer is yes and its twin whose answer is no, in one of MME's own categories."""
    category = choose(rng, ("existence", "existence", "color", "position", "OCR", "commonsense_reasoning"))
    if category == "existence":
        thing = choose(rng, shapes(scene))
        pairs = (thing.color, thing.shape), absent(rng, scene, thing)
        texts = [f"Is there a {color} {shape} in the image?" for color, shape in pairs]
    elif category == "OCR":
        thing = choose(rng, signs(scene))
        texts = [f'Does the {thing.color} sign say "{text}"?' for text in (thing.text, misread(rng, scene, thing))]
    else:
        candidates = alone(scene, "shape")
        if not candidates:
            return []
        thing = choose(rng, candidates)
        wrong = choose(rng, [color for color in COLOR_NAMES if color != thing.color])
        if category == "color":
            texts = [f"Is the {thing.shape} {color}?" for color in (thing.color, wrong)]
        elif category == "position":
            axis = int(rng.integers(2))
            right = side(thing, axis)
            if right is None:
                return []
            wrong = SIDES[axis][1 - SIDES[axis].index(right)]
            texts = [f"Is the {thing.shape} on the {place} side of the image?" for place in (right, wrong)]
        else:
            texts = [f"Does the {thing.shape} have the color of {COLOR_OF[color]}?" for color in (thing.color, wrong)]
    pair = [
        {"category": category, "question": f"{text} Please answer yes or no.", "answer": answer}
        for text, answer in zip(texts, ("Yes", "No"), strict=True)
    ]
    return [pair[i] for i in rng.permutation(2)]


def gqa(rng: Rng, scene: Scene) -> list[Document]:
    """An attribute or a place in one word."""
    form = choose(rng, ("color", "color", "shape", "shape", "side", "relation"))
    if form in ("color", "shape"):
        candidates = alone(scene, "shape" if form == "color" else "color")
        if not candidates:
            return []
        thing = choose(rng, candidates)
        if form == "color":
            return [{"question": f"What color is the {thing.shape}?", "answer": thing.color, "types": form}]
        return [{"question": f"What shape is the plain {thing.color} figure?", "answer": thing.shape, "types": form}]
    candidates, axis = alone(scene, "shape"), int(rng.integers(2))
    if len(candidates) < 2:
        return []
    first, second = (candidates[i] for i in rng.permutation(len(candidates))[:2])
    if form == "side":
        answer = side(first, axis)
        text = ("on the left or on the right", "at the top or at the bottom")[axis]
        question = f"Is the {first.shape} {text} of the image?"
    else:
        answer = relation(first, second, axis)
        text = ("to the left or to the right of", "above or below")[axis]
        question = f"Is the {first.shape} {text} the {second.shape}?"
    return [{"question": question, "answer": answer, "types": form}] if answer else []


def mmbench(rng: Rng, scene: Scene) -> list[Document]:
    """An attribute with options A-D; hint and absent options are the string nan, as upstream has them."""
    form = choose(rng, ("color", "shape"))
    candidates = alone(scene, "shape" if form == "color" else "color")
    if not candidates:
        return []
    thing = choose(rng, candidates)
    if form == "color":
        question, right, pool = f"What color is the {thing.shape}?", thing.color, COLOR_NAMES
    else:
        question, right, pool = f"What shape is the plain {thing.color} figure?", thing.shape, SHAPE_NAMES
    mixed, place = options(rng, right, pool, 4)
    return [
        {
            "index": 0,
            "question": question,
            "hint": "nan",
            "answer": "ABCD"[place],
            **dict(zip("ABCD", mixed, strict=True)),
            "category": f"{form}_recognition",
            "L2-category": "finegrained_perception (instance-level)",
            "source": "mini",
            "split": "dev",
        }
    ]


def scienceqa(rng: Rng, scene: Scene) -> list[Document]:
    """A hint about two animals; half of the questions need the hint alone, half the hint and the picture."""
    candidates = alone(scene, "shape")
    if len(candidates) < 2:
        return []
    first, second = (ANIMALS[i] for i in rng.permutation(len(ANIMALS))[:2])
    asked = choose(rng, (0, 1))
    animal = (first, second)[asked]
    if rng.random() < 0.5:
        colors = [COLOR_NAMES[i] for i in rng.permutation(len(COLOR_NAMES))[:2]]
        hint = f"The {first} is {colors[0]}. The {second} is {colors[1]}."
        question, answer, topic = f"What color is the {animal}?", colors[asked], "text"
    else:
        liked = [candidates[i] for i in rng.permutation(len(candidates))[:2]]
        hint = f"The {first} likes the {liked[0].shape}. The {second} likes the {liked[1].shape}."
        question = f"What color is the figure that the {animal} likes?"
        answer, topic = liked[asked].color, "image"
    choices, place = options(rng, answer, COLOR_NAMES, 3)
    return [{"question": question, "choices": choices, "answer": place, "hint": hint, "topic": topic}]


def textvqa(rng: Rng, scene: Scene) -> list[Document]:
    """The string on the sign of a colour; the OCR tokens hold it among the other signs' and two made-up ones."""
    thing = choose(rng, signs(scene))
    tokens = [sign.text for sign in signs(scene)] + [draw_text(rng), draw_text(rng)]
    mixed = [tokens[i] for i in rng.permutation(len(tokens))]
    question = f"What does the {thing.color} sign say?"
    return [{"question": question, "answers": [thing.text] * 10, "ocr_tokens": mixed}]


FAMILIES: dict[str, Callable[[Rng, Scene], list[Document]]] = {
    "mme": mme_pair,
    "gqa": gqa,
    "mmbench": mmbench,
    "scienceqa": scienceqa,
    "textvqa": textvqa,
}


def answer_text(family: str, document: Document) -> str:
    """What a model should say: the answer column, as a letter or a string where upstream stores it otherwise."""
    if family == "scienceqa":
        return "ABCDE"[document["answer"]]
    return str(document["answers"][0] if family == "textvqa" else document["answer"])
