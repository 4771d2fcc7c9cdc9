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


def read_video(source: Any, frames: int) -> Clip:
    """`frames` of a video's file, or all where it has fewer; ValueError where it is none.

    Not by transformers' own reader, which believes what a file says of its number of frames: Matroska says nothing.
    """
    import av

    try:
        with av.open(str(source)) as container:
            stream = container.streams.video[0]
            total = stream.frames or sum(packet.pts is not None for packet in container.demux(stream))
            rate = float(stream.average_rate or 24)
        if not total:
            raise ValueError("it has no frames")
        places = np.linspace(0, total - 1, min(frames, total)).round().astype(int).tolist()
        with av.open(str(source)) as container:
            wanted, found = set(places), []
            for place, frame in enumerate(container.decode(video=0)):
                if place in wanted:
                    found.append(frame.to_ndarray(format="rgb24"))
                if place == places[-1]:
                    break
        if len(found) < len(places):
            raise ValueError(f"it ends before frame {places[len(found)]}")
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise ValueError(f"{source} cannot be read as a video ({error}): restore it, or leave it out") from error
    return _clip(np.stack(found).astype(np.uint8), total, rate, places)


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
