"""SparseVLM: the text tokens that match the image best rate the vision tokens; dropped ones are merged and recycled.

Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference", ICML 2025,
arXiv 2410.04417. `v1` is the authors' main branch; `plus` their later version (USE_VERSION=2_0): no merging, original
positions, attention corrected for the rotary decay with distance, and only the heads that look at the image most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adaptinfer_eval.methods.layer import LayerMethod

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.seen import Attention, Embeddings

VARIANTS = ("v1", "plus")
_SCHEDULES = {
    "v1": {
        192: "2:300,6:200,15:110",
        128: "2:303,6:110,15:36",
        96: "2:238,6:48,15:26",
        64: "2:66,6:30,15:17",
    },
    "plus": {
        192: "2:300,6:200,15:118",
        128: "2:238,6:108,15:60",
        96: "2:246,6:54,15:28",
        64: "2:66,6:34,15:20",
    },
}


@dataclass(frozen=True, kw_only=True)
class SparseVLM(LayerMethod):
    """SparseVLM (arXiv 2410.04417): stages after layers 2, 6, 15, rated by the text that matches the image.

    `variant`: "v1" (merging) or "plus". `priority_heads` (plus): heads that vote, clipped to the heads there are.
    `noise` (v1): height of the uniform noise that breaks ties between cluster densities; the authors' code has 1e-6,
    which makes runs differ; 0 leaves ties to the order of tokens.
    """

    source: ClassVar = "ICML 2025, arXiv 2410.04417"
    licence: ClassVar = "Apache-2.0"

    variant: Literal["v1", "plus"] = "v1"
    priority_heads: int = 14
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in VARIANTS:
            raise ValueError(f"variant={self.variant!r}: SparseVLM has {' and '.join(VARIANTS)}")
        if self.priority_heads < 1:
            raise ValueError(f"priority_heads={self.priority_heads}: at least one head has to vote")

    # The two variants differ in class-level facts of the base: schedules and positions.
    @property
    def official(self) -> Any:  # type: ignore[override]
        return {32: _SCHEDULES[self.variant]}

    @property
    def positions(self) -> Any:  # type: ignore[override]
        return "renumber" if self.variant == "v1" else "keep"

    def keep_count(self, keep: int | float, vision_tokens: int, current: int) -> int:
        return min(super().keep_count(keep, vision_tokens, current), max(current - 1, 0))

    def prepare(self, embeddings: Embeddings) -> Tensor:
        """Raters: text tokens whose share of the image's matches is above the mean. (B, T), their weights sum to 1."""
        import torch

        match = embeddings.vision.float() @ embeddings.text.float().transpose(1, 2)
        match = match.masked_fill(~embeddings.text_mask[:, None], torch.finfo(torch.float32).min).softmax(2)
        vision = embeddings.vision_mask[..., None]
        relevance = (match * vision).sum(1) / vision.sum(1).clamp(min=1)
        texts = embeddings.text_mask.sum(1, keepdim=True).clamp(min=1)
        raters = (relevance > relevance.sum(1, keepdim=True) / texts) & embeddings.text_mask
        return raters / raters.sum(1, keepdim=True).clamp(min=1)

    def text_weights(self, attention: Attention) -> Tensor:
        """The raters' shares, the same at every stage."""
        assert attention.prepared is not None
        return attention.prepared

    def score(self, attention: Attention) -> Tensor:
        """Mean over heads and raters of the raters' attention."""
        import torch

        from adaptinfer_eval.methods.seen import highest

        weights = attention.to_vision
        if self.variant == "plus":
            weights = weights / _rotary_decay(attention)[:, None]
        rated = torch.einsum("bhtv,bt->bhv", weights, self.text_weights(attention))
        if self.variant == "v1":
            return rated.mean(1)
        heads = min(self.priority_heads, rated.shape[1])
        looking = highest((rated * attention.vision_mask[:, None]).sum(2), heads)
        return rated.gather(1, looking[..., None].expand(-1, -1, rated.shape[2])).mean(1)

    # Recycling (v1) ----------------------------------------------------------------------------------------------

    def merged_count(self, dropped: int) -> int:
        return _clusters(_candidates(dropped)) if self.variant == "v1" and dropped else 0

    def merge(self, hidden: Tensor, score: Tensor, dropped: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Cluster the best dropped tokens by density peaks; each cluster becomes the mean of its tokens."""
        import torch

        from adaptinfer_eval.methods.seen import highest

        candidates = [_candidates(count) if count else 0 for count in dropped]
        clusters = [_clusters(count) if count else 0 for count in candidates]
        best = highest(score, max(candidates))
        tokens = hidden.gather(1, best[..., None].expand(-1, -1, hidden.shape[2])).float()
        labels = _density_peaks(tokens, candidates, clusters, self.noise)
        member = (labels[..., None] == torch.arange(max(clusters), device=labels.device)).to(tokens.dtype)
        into = torch.full(score.shape, -1, device=labels.device)
        into.scatter_(1, best, labels.masked_fill(labels == max(clusters), -1))
        return member.transpose(1, 2) @ tokens / (member.sum(1)[..., None] + 1e-6), into


def _candidates(dropped: int) -> int:
    return int(0.3 * dropped) + 1


def _clusters(candidates: int) -> int:
    return candidates // 10 + 1


def _rotary_decay(attention: Attention) -> Tensor:
    """G (B, T, V): what rotary positions alone make of the product of all-ones query and key, divided by √size."""
    import torch

    (row_cos, row_sin), (vision_cos, vision_sin) = attention.rotary()

    def rotate_ones(cos: Tensor, sin: Tensor) -> Tensor:
        half = cos.shape[-1] // 2
        sign = torch.cat([-torch.ones_like(cos[0, 0, :half]), torch.ones_like(cos[0, 0, :half])])
        return cos + sign * sin

    rows, vision = rotate_ones(row_cos, row_sin), rotate_ones(vision_cos, vision_sin)
    return rows @ vision.transpose(1, 2) / float(rows.shape[-1] ** 0.5)


def _density_peaks(tokens: Tensor, candidates: Sequence[int], clusters: Sequence[int], noise: float) -> Tensor:
    """Cluster of each token, (B, C) int64, in the order of the cluster centres; padding gets max(clusters).

    `tokens` (B, C, D), of which `candidates[b]` are real and form `clusters[b]` clusters.
    """
    import torch

    from adaptinfer_eval.methods.seen import per_sample

    device, slots = tokens.device, torch.arange(tokens.shape[1], device=tokens.device)
    count, wanted = per_sample(candidates, device), per_sample(clusters, device)
    real = slots < count
    pairs = real[:, :, None] & real[:, None, :]
    # Differences first: d(i, j) and d(j, i) must be equal to the last bit, or ties between densities break by chance.
    distance = torch.cdist(tokens, tokens, compute_mode="donot_use_mm_for_euclid_dist") / float(tokens.shape[2] ** 0.5)
    nearest = distance.masked_fill(~pairs, inf).sort(dim=2).values[..., : max(clusters)]
    neighbour = (slots[: max(clusters)] < wanted)[:, None, :]
    density = (-(nearest.where(neighbour & real[:, :, None], 0) ** 2).sum(2) / wanted).exp()
    density = density + noise * torch.rand_like(density)
    denser = (density[:, None, :] > density[:, :, None]) & pairs
    farthest = distance.where(pairs, 0).flatten(1).amax(1)[:, None]
    delta = distance.masked_fill(~denser, inf).amin(2)
    delta = torch.where(delta.isinf(), farthest, delta)
    peak = (delta * density).masked_fill(~real, -inf)
    centres = _centres(peak, candidates, clusters)
    to_centre = distance.gather(2, centres[:, None, :].expand(-1, len(slots), -1))
    centre_is_real = (slots[: max(clusters)] < wanted)[:, None, :]
    labels = to_centre.masked_fill(~centre_is_real, inf).argmin(2)
    own = torch.arange(max(clusters), device=device).expand_as(centres)
    labels = labels.scatter(1, centres, torch.where(centre_is_real[:, 0], own, labels.gather(1, centres)))
    return labels.masked_fill(~real, max(clusters))


def _centres(peak: Tensor, candidates: Sequence[int], clusters: Sequence[int]) -> Tensor:
    """The tokens with the highest `peak` (B, C), (B, max(clusters)); 0 where a sample has fewer clusters.

    Of two clusters the centres often tie: each the other's nearest neighbour, and nothing denser. The authors' code
    leaves their order to `topk`, which looks at all that it is given: so each sample gives it its own tokens alone.
    """
    import torch

    from adaptinfer_eval.methods.seen import from_host

    if len(set(candidates)) == 1:
        return peak[:, : candidates[0]].topk(max(clusters), dim=1).indices
    centres = torch.zeros(len(peak), max(clusters), dtype=torch.long, device=peak.device)
    for count in set(candidates) - {0}:
        alike = [sample for sample, own in enumerate(candidates) if own == count]
        rows, wanted = from_host(torch.tensor(alike), peak.device), clusters[alike[0]]
        centres[rows, :wanted] = peak[rows, :count].topk(wanted, dim=1).indices
    return centres
