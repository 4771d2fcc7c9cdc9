"""What the mini world's drills teach is what the picture shows."""

from collections.abc import Callable

import numpy as np
import pytest

from tasks.mini.make.drills import ALL_DRILLS, DRILLS, FIRST_DRILLS
from tasks.mini.make.questions import Scene, relation, shapes, side, signs
from tasks.mini.make.scene import draw_scene
from tasks.mini.make.text import build_tokenizer

SCENES = 60


def _sides(scene: Scene, axis: int) -> set[str]:
    return {f"{thing.shape} {side(thing, axis)}" for thing in shapes(scene)}


def _relations(scene: Scene) -> set[str]:
    pairs = [(first, second) for first in shapes(scene) for second in shapes(scene)]
    return {f"{one.shape} {other.shape} {relation(one, other, axis)}" for one, other in pairs for axis in (0, 1)}


FACTS: dict[str, Callable[[Scene], set[str]]] = {
    "color": lambda scene: {f"{thing.shape} {thing.color}" for thing in shapes(scene)},
    "shape": lambda scene: {f"{thing.color} {thing.shape}" for thing in shapes(scene)},
    "read": lambda scene: {f"{sign.color} {sign.text}" for sign in signs(scene)},
    "whose": lambda scene: {f"{sign.text} {sign.color}" for sign in signs(scene)},
    "left": lambda scene: _sides(scene, 0),
    "top": lambda scene: _sides(scene, 1),
    "relation": _relations,
    "placed": lambda scene: _sides(scene, 0) | _sides(scene, 1),
    "there": lambda scene: {f"{thing.color} {thing.shape}" for thing in shapes(scene)},
    "says": lambda scene: {f"{sign.color} {sign.text[:cut]}" for sign in signs(scene) for cut in (1, 3)},
}


@pytest.mark.parametrize("form", list(FACTS))
def test_a_drill_says_what_the_picture_shows(form: str) -> None:
    rng, answers = np.random.default_rng(8), []
    for _ in range(SCENES):
        scene = draw_scene(rng)
        text = str(build_tokenizer().decode(DRILLS[form](rng, scene)[0]))
        for said in filter(None, map(str.strip, text.partition(":")[2].split("."))):
            phrase, _, answer = said.rpartition(" ")
            claimed = answer in ("Yes", "No")
            assert ((phrase if claimed else said) in FACTS[form](scene)) == (answer != "No"), f"{said} of {scene}"
            answers.append(answer)
    assert len(answers) > SCENES
    assert form not in ("placed", "there", "says") or {"Yes", "No"} == set(answers)


def test_every_drill_asks_something() -> None:
    assert set(FIRST_DRILLS) < set(ALL_DRILLS) == set(DRILLS)
    for form, drill in DRILLS.items():
        rng = np.random.default_rng(9)
        asked = [sum(drill(rng, draw_scene(rng))[1]) for _ in range(SCENES)]
        assert np.mean(np.array(asked) > 0) > 0.5, form
