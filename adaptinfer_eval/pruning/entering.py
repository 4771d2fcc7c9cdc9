"""What was chosen of images, put together for the decoder: which token of which prompt stands where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptinfer_eval.methods.seen import from_host
from adaptinfer_eval.methods.tower import Selection
from adaptinfer_eval.pruning.pieces import Piece
from adaptinfer_eval.pruning.sequence import Segment


@dataclass(frozen=True)
class Choice:
    """What goes into the decoder of prompts (B, L), in places of its images.

    `keep`: of each prompt. `entering` (B, V): those places among the vision tokens. `numbers` (B, L): which token
    stands in each place; those that were made are numbered on from L. `sources` (B, L): where its row is, in the
    embeddings (B, L, D) or, from L on, in `made` (B, M, D).
    """

    keep: list[int]
    entering: Tensor
    numbers: Tensor
    sources: Tensor
    made: Tensor | None

    def of_rows(self, rows: Tensor) -> Choice:
        """For every prompt what was chosen for that of `rows` (B,), which begins alike."""
        made = None if self.made is None else self.made[rows]
        return Choice(self.keep, self.entering[rows], self.numbers[rows], self.sources[rows], made)


@dataclass(frozen=True)
class Group:
    """Images alike, and what was chosen of them. `prompts`, `images` (I,): theirs; `columns` (I, N): where
    their tokens stand in the prompts, `places` (I, N): and among a prompt's vision tokens."""

    members: list[Piece]
    prompts: Tensor
    images: Tensor
    columns: Tensor
    places: Tensor
    selection: Selection

    @property
    def rows(self) -> Tensor | None:
        """Rows of its own that go in, (I, m, D)."""
        return self.selection.made if self.selection.rows is None else self.selection.rows


def put_together(groups: Sequence[Group], before: Segment, embeds: Tensor) -> Choice:
    """What was chosen of all images, prompt by prompt."""
    device, length = embeds.device, before.length
    most = 1 + max(piece.number for group in groups for piece in group.members)
    counts = [[0] * most for _ in before.real]
    extra = [[0] * most for _ in before.real]  # rows that an image brings
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
    entering = torch.zeros_like(before.vision_mask)
    for group in groups:
        index, columns, prompts = group.selection.index, group.columns, group.prompts[:, None]
        tokens, chosen = columns.shape[1], index.shape[1]
        own = columns.gather(1, index.clamp(max=tokens - 1))
        beyond, taken = index - tokens, _places(index, tokens)
        places = columns.gather(1, taken)
        entering[prompts, group.places.gather(1, taken)] = True
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
        entering=entering,
        numbers=numbers,
        sources=sources,
        made=made,
    )


def _places(index: Tensor, tokens: int) -> Tensor:
    """Where in its image what is chosen, (I, n), takes its places: those of the tokens chosen, and others if need be.

    There may be text between an image's rows of tokens, which then stays where it is.
    """
    own = torch.zeros(len(index), tokens + 1, dtype=torch.uint8, device=index.device)
    own.scatter_(1, index.clamp(max=tokens), 1)
    places = own[:, :-1].argsort(dim=1, descending=True, stable=True)[:, : index.shape[1]]
    return places.sort(1).values
