"""What a method chooses of the images of a prompt batch: images alike in size and budget are shown to it together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from adaptinfer_eval.backbones.anatomy import Anatomy
from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.seen import from_host
from adaptinfer_eval.methods.tower import Images, Look, Selection
from adaptinfer_eval.pruning.entering import Choice, Group, put_together
from adaptinfer_eval.pruning.given import Given
from adaptinfer_eval.pruning.pieces import Piece, pieces_of
from adaptinfer_eval.pruning.prompt import Prompt
from adaptinfer_eval.pruning.proof import Doubts
from adaptinfer_eval.pruning.sequence import Segment
from adaptinfer_eval.pruning.tower_watch import TowerWatch


def no_place(method: ImageMethod, why: str) -> ValueError:
    """The error of a method whose tokens have no place."""
    return ValueError(f"{method.name} puts in tokens of its own, and {why}: use a method that only drops tokens")


@dataclass(frozen=True)
class Chooser:
    """Asks `method` about images that go into the decoder.

    `watch`: what it looks at in the tower, `given`: what the caller says of prompts.
    """

    anatomy: Anatomy
    method: ImageMethod
    look: Look
    watch: TowerWatch | None
    given: Given
    doubts: Doubts

    def choose(self, prompt: Prompt, before: Segment, embeds: Tensor) -> Choice:
        """`before`: the whole prompts; `embeds` (B, L, D): what would go into the decoder of them."""
        noted = self.watch.take() if self.watch is not None else []
        pieces = pieces_of(prompt, self.method, self.look, self.anatomy, self.given, noted)
        alike: dict[Any, list[Piece]] = {}
        for piece in pieces:
            own = (piece.prompt, piece.number) if self.method.counts_itself else ()
            alike.setdefault((piece.tokens, piece.budget, piece.grid, own), []).append(piece)
        questions = self.given.questions_of(len(prompt.real)) if self.look.question else None
        groups = [self._group(members, prompt, before, embeds, questions) for members in alike.values()]
        return put_together(groups, before, embeds)

    def _group(
        self, members: list[Piece], prompt: Prompt, before: Segment, embeds: Tensor, questions: Sequence[str] | None
    ) -> Group:
        device, tokens = embeds.device, members[0].tokens
        rows, numbers, firsts = from_host(
            torch.tensor([[image.prompt, image.number, image.first] for image in members]).T.contiguous(), device
        )
        places = firsts[:, None] + torch.arange(tokens, device=device)
        columns = before.vision_index[rows[:, None], places]
        if self.method.in_tower:  # whose tokens the tower gave first
            index = torch.arange(members[0].budget, device=device).expand(len(members), -1)
            return Group(members, rows, numbers, columns, places, Selection(index))
        images = self._show(members, prompt, rows, embeds, embeds[rows[:, None], columns].float(), questions)
        with torch.autocast(device.type, enabled=False):
            selection = self.method.select(images, 0 if self.method.counts_itself else members[0].budget)
        there = self._check(selection, images, members[0].budget)
        selection = replace(selection, index=selection.index.clamp(0, there - 1))
        return Group(members, rows, numbers, columns, places, selection)

    def _show(
        self,
        members: Sequence[Piece],
        prompt: Prompt,
        rows: Tensor,
        embeds: Tensor,
        projected: Tensor,
        questions: Sequence[str] | None,
    ) -> Images:
        look, shown = self.look, [image.shown for image in members if image.shown is not None]

        def stacked(parts: Sequence[Tensor | None]) -> Tensor:
            values = torch.stack([part for part in parts if part is not None]).to(embeds.device).float()
            self.doubts.note(values, "in the vision tower")
            return values

        def layers(name: str) -> dict[int, Tensor]:
            return {layer: stacked([getattr(own, name)[layer] for own in shown]) for layer in getattr(look, name)}

        self.doubts.note(projected, "of vision tokens")
        has_class = look.hidden and shown[0].cls is not None
        length = prompt.text_mask.shape[1]
        return Images(
            projected=projected,
            hidden=stacked([own.hidden for own in shown]) if look.hidden else projected[..., :0],
            cls=stacked([own.cls for own in shown]) if has_class else None,
            grid=members[0].grid,
            project=self._project,
            attention=layers("attention"),
            received=layers("received"),
            keys=layers("keys"),
            queries=layers("queries"),
            text=embeds[:, embeds.shape[1] - length :][rows].float() if look.text else None,
            text_mask=prompt.text_mask.to(embeds.device)[rows] if look.text else None,
            questions=() if questions is None else [questions[image.prompt] for image in members],
            embed=self.given.embed(self.anatomy.text, embeds.device),
        )

    def _project(self, rows: Tensor) -> Tensor:
        """Of what methods make, none where tokens of their own have no place."""
        if self.anatomy.no_place:
            raise no_place(self.method, self.anatomy.no_place)
        if self.anatomy.tower is None:
            raise ValueError(f"{self.method.name} projects rows of its own, and there is no projector here")
        return self.anatomy.tower.project(rows)

    def _check(self, selection: Selection, images: Images, budget: int) -> int:
        """How many there are to choose from. What is on the device is told when the block ends, at the latest."""
        name, index, count = f"{self.method.name}.select", selection.index, len(images.projected)
        most = images.tokens if self.method.counts_itself else budget
        fits = index.ndim == 2 and len(index) == count and 1 <= index.shape[-1] <= most
        if not fits or index.dtype != torch.long or (index.shape[1] != budget and not self.method.counts_itself):
            chosen = f"{index.dtype} {tuple(index.shape)}"
            wanted = f"at most {most}" if self.method.counts_itself else budget
            raise ValueError(f"{name} chooses {chosen}, not {wanted} tokens of each of {count} images")
        own = selection.made if selection.rows is None else selection.rows
        width = images.projected.shape[2]
        if own is not None and (own.ndim != 3 or own.shape[::2] != (count, width)):
            raise ValueError(f"{name} makes rows {tuple(own.shape)}, not of width {width} for {count} images")
        if selection.rows is not None and selection.rows.shape[:2] != index.shape:
            raise ValueError(f"{name} gives {tuple(selection.rows.shape)} rows for {tuple(index.shape)} tokens")
        there = images.tokens + (own.shape[1] if own is not None else 0)
        self.doubts.deny((index < 0) | (index >= there), f"{name} names tokens beyond the {there} that there are")
        if own is not None:
            self.doubts.note(own, "of rows that were made")
        return there
