"""What a method chooses of the images of a prompt batch: images alike in size and budget are shown to it together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.seen import from_host
from adaptinfer_eval.methods.tower import Images, Look, Selection
from adaptinfer_eval.pruning.given import Given
from adaptinfer_eval.pruning.prompt import Prompt
from adaptinfer_eval.pruning.proof import Doubts
from adaptinfer_eval.pruning.sequence import Segment
from adaptinfer_eval.pruning.shown import Shown
from adaptinfer_eval.pruning.tower_watch import TowerWatch


@dataclass(frozen=True)
class Choice:
    """What goes into the decoder of prompts (B, L), in the first places of each image.

    `keep`: of each prompt. `entering` (B, V): those places among the vision tokens. `numbers` (B, L): which token
    stands in each place; those that were made are numbered on from L. `sources` (B, L): where its row is, in the
    embeddings (B, L, D) or, from L on, in `made` (B, M, D).
    """

    keep: list[int]
    entering: Tensor
    numbers: Tensor
    sources: Tensor
    made: Tensor | None


@dataclass(frozen=True)
class _Image:
    """Image `number` of prompt `prompt`: where its tokens begin among the prompt's, how many, and what is to go in."""

    prompt: int
    number: int
    first: int
    tokens: int
    budget: int
    shown: Shown | None

    @property
    def grid(self) -> tuple[int, ...] | None:
        if self.shown is not None and math.prod(self.shown.grid) == self.tokens:
            return self.shown.grid
        side = math.isqrt(self.tokens)
        return (side, side) if self.shown is None and side**2 == self.tokens else None


@dataclass(frozen=True)
class _Group:
    """Images alike, and what was chosen of them. `prompts`, `images` (I,): theirs; `columns` (I, N): their tokens."""

    members: list[_Image]
    prompts: Tensor
    images: Tensor
    columns: Tensor
    selection: Selection

    @property
    def rows(self) -> Tensor | None:
        """Rows of its own that go in, (I, m, D)."""
        return self.selection.made if self.selection.rows is None else self.selection.rows


class Chooser:
    """Asks `method` about images that go into the decoder `text`.

    `watch`: what it looks at in the tower, `given`: what the caller says of prompts.
    """

    def __init__(
        self, text: Any, method: ImageMethod, look: Look, watch: TowerWatch | None, given: Given, doubts: Doubts
    ) -> None:
        self.text, self.method, self.look, self.watch = text, method, look, watch
        self.given, self.doubts = given, doubts

    def choose(self, prompt: Prompt, before: Segment, embeds: Tensor) -> Choice:
        """`before`: the whole prompts; `embeds` (B, L, D): what would go into the decoder of them."""
        alike: dict[Any, list[_Image]] = {}
        for image in self._images(prompt):
            own = (image.prompt, image.number) if self.method.counts_itself else ()
            alike.setdefault((image.tokens, image.budget, image.grid, own), []).append(image)
        questions = self.given.questions_of(len(prompt.real)) if self.look.question else None
        groups = [self._group(members, prompt, before, embeds, questions) for members in alike.values()]
        return _together(groups, prompt, before, embeds)

    def _images(self, prompt: Prompt) -> list[_Image]:
        shown = self._shown(prompt)
        images = []
        for row, sizes in enumerate(prompt.sizes):
            first = 0
            for number, (tokens, budget) in enumerate(zip(sizes, self.method.image_budgets(sizes), strict=True)):
                if budget > tokens:
                    raise ValueError(
                        f"budget={self.method.budget}: an image has only {tokens} vision tokens: give a share of them "
                        "(0.25), or use vanilla"
                    )
                of_image = shown[row][number] if shown else None
                images.append(_Image(row, number, first, tokens, budget, of_image))
                first += tokens
        return images

    def _shown(self, prompt: Prompt) -> Sequence[Sequence[Shown]]:
        """What the tower showed of the images of each prompt; nothing where the method looks at nothing there."""
        noted = self.watch.take() if self.watch is not None else []
        found = self.given.shown_of(prompt.images, noted)
        if found and all(shown.holds(self.look) for own in found for shown in own):
            return found
        if self.look.tower:
            raise ValueError(
                f"{self.method.name} chooses by what the vision tower computes, and the images were not encoded inside "
                "the block: pass pixel_values, not features computed before"
            )
        return []

    def _group(
        self, members: list[_Image], prompt: Prompt, before: Segment, embeds: Tensor, questions: Sequence[str] | None
    ) -> _Group:
        device, tokens = embeds.device, members[0].tokens
        rows, numbers, firsts = from_host(
            torch.tensor([[image.prompt, image.number, image.first] for image in members]).T.contiguous(), device
        )
        places = firsts[:, None] + torch.arange(tokens, device=device)
        columns = before.vision_index[rows[:, None], places]
        if self.method.in_tower:  # whose tokens the tower gave first
            index = torch.arange(members[0].budget, device=device).expand(len(members), -1)
            return _Group(members, rows, numbers, columns, Selection(index))
        images = self._show(members, prompt, rows, embeds, embeds[rows[:, None], columns].float(), questions)
        with torch.autocast(device.type, enabled=False):
            selection = self.method.select(images, 0 if self.method.counts_itself else members[0].budget)
        self._check(selection, images, members[0].budget)
        return _Group(members, rows, numbers, columns, selection)

    def _show(
        self,
        members: Sequence[_Image],
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

        def no_projector(_: Tensor) -> Tensor:
            raise ValueError(f"{self.method.name} projects rows of its own: use it on a whole model")

        self.doubts.note(projected, "of vision tokens")
        tower = None if self.watch is None else self.watch.tower
        has_class = look.hidden and shown[0].cls is not None
        length = prompt.text_mask.shape[1]
        return Images(
            projected=projected,
            hidden=stacked([own.hidden for own in shown]) if look.hidden else projected[..., :0],
            cls=stacked([own.cls for own in shown]) if has_class else None,
            grid=members[0].grid,
            project=no_projector if tower is None or tower.projector is None else tower.project,
            attention=layers("attention"),
            received=layers("received"),
            keys=layers("keys"),
            queries=layers("queries"),
            text=embeds[:, embeds.shape[1] - length :][rows].float() if look.text else None,
            text_mask=prompt.text_mask.to(embeds.device)[rows] if look.text else None,
            questions=() if questions is None else [questions[image.prompt] for image in members],
            embed=self.given.embed(self.text, embeds.device),
        )

    def _check(self, selection: Selection, images: Images, budget: int) -> None:
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


def _together(groups: Sequence[_Group], prompt: Prompt, before: Segment, embeds: Tensor) -> Choice:
    """What was chosen of all images, prompt by prompt."""
    device, length, most = embeds.device, before.length, max(prompt.images)
    counts = [[0] * images for images in prompt.images]
    extra = [[0] * most for _ in prompt.images]  # rows that an image brings
    new = torch.zeros(len(counts), most, dtype=torch.long, device=device)  # tokens of it with numbers of their own
    for group in groups:
        index, tokens = group.selection.index, group.members[0].tokens
        new[group.prompts, group.images] = (index - (tokens - 1)).clamp(min=0).amax(1)
        for image in group.members:
            counts[image.prompt][image.number] = index.shape[1]
            extra[image.prompt][image.number] = 0 if group.rows is None else group.rows.shape[1]
    new_before = new.cumsum(1) - new
    extra_before = torch.tensor(extra).cumsum(1) - torch.tensor(extra)
    own_rows = max(map(sum, extra))
    made = embeds.new_zeros(len(counts), own_rows, embeds.shape[2], dtype=torch.float32) if own_rows else None
    numbers, first_rows = before.ids.clone(), from_host(extra_before, device)
    sources = before.ids.clone()
    for group in groups:
        index, columns, prompts = group.selection.index, group.columns, group.prompts[:, None]
        tokens, chosen = columns.shape[1], index.shape[1]
        own = columns.gather(1, index.clamp(max=tokens - 1))
        beyond, places = index - tokens, columns[:, :chosen]
        first_new, first_row = new_before[prompts, group.images[:, None]], first_rows[prompts, group.images[:, None]]
        numbers[prompts, places] = torch.where(beyond < 0, own, length + first_new + beyond)
        slots = torch.arange(chosen, device=device)
        row = torch.where(beyond < 0, own, length + first_row + beyond)
        sources[prompts, places] = row if group.selection.rows is None else length + first_row + slots
        if made is not None and group.rows is not None:
            into = first_row + torch.arange(group.rows.shape[1], device=device)
            made[prompts, into] = group.rows.float()
    return Choice(
        keep=[sum(own) for own in counts],
        entering=_first_places(prompt.sizes, counts, before),
        numbers=numbers,
        sources=sources,
        made=made,
    )


def _first_places(sizes: Sequence[Sequence[int]], counts: Sequence[Sequence[int]], before: Segment) -> Tensor:
    """The first places of each image that hold a token, (B, V) bool."""
    entering = torch.zeros(before.vision_index.shape, dtype=torch.bool)
    for row, images in zip(entering, map(zip, sizes, counts), strict=True):
        first = 0
        for tokens, count in images:
            row[first : first + count] = True
            first += tokens
    return from_host(entering, before.ids.device)
