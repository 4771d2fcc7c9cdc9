"""What methods before the decoder choose of one image, by their rules alone: in float64, in plain loops."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from adaptinfer_eval.methods.tower import Images

WORDS = {
    "What colour is the red car?\nAnswer the question using a single word or phrase.": "colour red car",
    "Is it a dog or a very small cat that sits there?": "dog very small cat that sits there",
    "Who are you?": "Who are you?",
}
"""What MMTok reads of a question."""


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other) / math.sqrt(float(one @ one) * float(other @ other))


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def mmtok(images: Images, count: int) -> list[int]:
    assert images.embed is not None
    texts = images.embed(WORDS[images.questions[0]].split()).double()
    tokens, patches = images.projected[0].double(), images.hidden[0].double()
    covers = [
        [share / len(texts) for share in softmax([cosine(text, token) / 0.02 for token in tokens])] for text in texts
    ]
    for patch in patches:
        shares = softmax([cosine(patch, other) / 0.2 for other in patches])
        covers.append([0.5 * share / len(patches) for share in shares])
    best, kept = [0.0] * len(covers), list[int]()
    for _ in range(count):
        gains = {
            token: sum(max(0.0, row[token] - best[number]) for number, row in enumerate(covers))
            for token in range(len(tokens))
            if token not in kept
        }
        kept.append(max(gains, key=lambda token: gains[token]))
        best = [max(had, row[kept[-1]]) for had, row in zip(best, covers, strict=True)]
    return sorted(kept)


def hiprune(images: Images, count: int) -> list[int]:
    middle, deep = (images.received[layer][0].double().mean(0).tolist() for layer in (8, 22))
    tokens, columns = images.tokens, (images.grid or ())[-1]
    kept: set[int] = set()
    for anchor in sorted(range(tokens), key=lambda token: -middle[token])[: round(count / 50)]:
        near = (anchor, anchor - 1, anchor + 1, anchor - columns, anchor + columns)
        kept |= {min(max(token, 0), tokens - 1) for token in near}
    for token in sorted(range(tokens), key=lambda token: -deep[token]):
        if len(kept) < count:
            kept.add(token)
    return sorted(kept)


def evs(images: Images, count: int) -> list[int]:
    frames, rows, columns = images.grid or ()
    video = images.projected[0].double().view(frames, rows * columns, -1)
    change = {place: 255.0 for place in range(rows * columns)}
    for frame in range(1, frames):
        for place in range(rows * columns):
            same = cosine(video[frame, place], video[frame - 1, place])
            change[frame * rows * columns + place] = 1 - same
    return sorted(sorted(change, key=lambda token: -change[token])[:count])


def vidcom2(images: Images, count: int) -> list[int]:
    frames, rows, columns = images.grid or ()
    tokens, features = rows * columns, images.projected[0].double()
    variance = ((features - features.mean(0)) ** 2).mean(0).tolist()
    still = sorted(range(len(variance)), key=lambda channel: variance[channel])[: len(variance) // 2]
    unit = torch.stack([row[still] / row[still].norm() for row in features])

    def like(token: Tensor, centre: Tensor) -> float:
        square = float(((token - centre) ** 2).sum())
        return sum(math.exp(-square / (2 * 2.0**power)) for power in range(-3, 2))

    of_video = [like(token, unit.mean(0)) for token in unit]
    of_frame = [
        like(unit[i], unit[i // tokens * tokens : (i // tokens + 1) * tokens].mean(0)) for i in range(len(unit))
    ]
    outstanding = [-sum(of_video[frame * tokens : (frame + 1) * tokens]) / tokens for frame in range(frames)]
    shares = softmax([value / 0.01 for value in outstanding])
    kept: list[int] = []
    for frame, share in enumerate(shares):
        number = max(round(min(count / len(unit) * (1 + share - 1 / frames), 1.0) * tokens), 1)
        own = range(frame * tokens, (frame + 1) * tokens)
        kept += sorted(own, key=lambda token: of_video[token] + of_frame[token])[:number]
    return sorted(kept)


def vscan(images: Images, count: int) -> tuple[list[int], Tensor]:
    """What goes in, and its rows (count, D); of grids of whole windows."""
    rows, columns = images.grid or ()
    shallow, deep = (images.attention[layer][0].double().mean(0).tolist() for layer in (5, 22))
    kept: list[int] = []
    windows = [(down, across) for down in range(0, rows, 6) for across in range(0, columns, 6)]
    for down, across in windows:
        own = [row * columns + column for row in range(down, down + 6) for column in range(across, across + 6)]
        kept += sorted(own, key=lambda token: -shallow[token])[: count // 2 // len(windows)]
    others = [token for token in range(images.tokens) if token not in kept]
    kept = sorted(kept + sorted(others, key=lambda token: -deep[token])[: count - len(kept)])
    tokens = images.projected[0].double()
    merged = {token: [tokens[token]] for token in kept}
    for token in set(range(images.tokens)) - set(kept):
        merged[max(kept, key=lambda other: cosine(tokens[token], tokens[other]))].append(tokens[token])
    return kept, torch.stack([torch.stack(merged[token]).mean(0) for token in kept])
