"""Videos as models are shown them: some of their frames, evenly spaced, and the times of those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".gif")
"""Files that lmms-eval's tasks hand over where they have a video."""


@dataclass(frozen=True)
class Clip:
    """`frames` (T, H, W, 3) uint8; `metadata`: transformers' `VideoMetadata`, with the frames' places in the video."""

    frames: NDArray[np.uint8]
    metadata: Any


def is_video(source: Any) -> bool:
    """Whether something shown is a video's file."""
    return isinstance(source, str) and source.lower().endswith(SUFFIXES)


def read_video(source: Any, frames: int, repeats: bool = False) -> Clip:
    """`frames` of a video's file; where it has fewer, all, or some `repeats`. ValueError where it is none.

    Not by transformers' own reader, which believes what a file says of its number of frames: Matroska says nothing.
    """
    import av

    try:
        with av.open(str(source)) as container:
            stream = container.streams.video[0]
            total, rate = stream.frames, float(stream.average_rate or 24)
        places = _spread(frames, total, repeats) if total else []
        found, seen = _frames(str(source), places)
        if len(found) < len(places) or not places:  # the file says too much, or nothing
            total, places = seen, _spread(frames, seen, repeats)
            found, _ = _frames(str(source), places)
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise ValueError(f"{source} cannot be read as a video ({error}): restore it, or leave it out") from error
    return _clip(np.stack(found).astype(np.uint8), total, rate, places)


def _spread(frames: int, total: int, repeats: bool) -> list[int]:
    if not total:
        raise ValueError("it has no frames")
    return [round(place) for place in np.linspace(0, total - 1, frames if repeats else min(frames, total)).tolist()]


def _frames(source: str, places: list[int]) -> tuple[list[Any], int]:
    """Those at `places`, increasing, up to the end of the file, and how many were looked at."""
    import av

    found: list[Any] = []
    seen = 0
    with av.open(source) as container:
        for frame in container.decode(video=0):
            if seen in places:
                found += [frame.to_ndarray(format="rgb24")] * places.count(seen)
            seen += 1
            if places and seen > places[-1]:
                break
    return found, seen


def _clip(frames: NDArray[np.uint8], total: int, rate: float, places: list[int]) -> Clip:
    from transformers.video_utils import VideoMetadata

    metadata = VideoMetadata(
        total_num_frames=total,
        fps=rate,
        height=frames.shape[1],
        width=frames.shape[2],
        duration=total / rate,
        video_backend="pyav",
        frames_indices=places,
    )
    return Clip(frames, metadata)


def arguments(clips: list[Clip]) -> Mapping[str, Any]:
    """What a processor is given for videos whose frames have been chosen."""
    if not clips:
        return {}
    return {
        "videos": [clip.frames for clip in clips],
        "video_metadata": [clip.metadata for clip in clips],
        "do_sample_frames": False,
    }
