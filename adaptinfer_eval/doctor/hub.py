"""What the Hugging Face hub says about a repository, within seconds and without a download."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

SECONDS = 5.0


@dataclass(frozen=True)
class Reply:
    """`bytes` to download; or, where the repository cannot be had, the `reason` and the `remedy`."""

    bytes: int = 0
    reason: str = ""
    remedy: str = ""


def ask_hub(kind: str, repository: str, revision: str | None, files: tuple[str, ...] = ("*",)) -> Reply:
    """Whether a "model" or "dataset" can be downloaded from here, and how large those of its `files` are."""
    from huggingface_hub import HfApi, constants, errors

    api = HfApi()
    look_up: Callable[..., Any] = api.model_info if kind == "model" else api.dataset_info
    elsewhere = (
        f"download it on a machine that can, and copy it to {constants.HF_HOME} here (or set HF_HOME to where it is)"
    )
    try:
        info = look_up(repository, revision=revision, timeout=SECONDS, files_metadata=True)
    except errors.OfflineModeIsEnabled:
        return Reply(
            reason="not here, and HF_HUB_OFFLINE forbids to ask the hub", remedy=f"unset HF_HUB_OFFLINE, or {elsewhere}"
        )
    except errors.GatedRepoError:
        return Reply(
            reason=f"not here, and the hub gives {repository} only to those who were granted access",
            remedy=f"ask for access on its page, then `hf auth login`; {_command(kind, repository, revision)}",
        )
    except errors.RevisionNotFoundError:
        return Reply(reason=f"the hub has no revision {revision} of {repository}", remedy="give another revision")
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        return Reply(
            reason=f"neither here nor on the hub (or private): {repository}",
            remedy="look at the spelling; for a private one `hf auth login`",
        )
    except Exception as error:  # whatever the HTTP client of the day raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        return Reply(
            reason=f"not here, and the hub cannot be reached ({reason})",
            remedy=f"look after the network (HF_ENDPOINT names a mirror), or {elsewhere}",
        )
    wanted = [file for file in info.siblings or [] if any(fnmatch(file.rfilename, pattern) for pattern in files)]
    return Reply(bytes=sum(file.size or 0 for file in wanted), remedy=_command(kind, repository, revision))


def _command(kind: str, repository: str, revision: str | None) -> str:
    kind_option = " --repo-type dataset" if kind == "dataset" else ""
    return f"hf download {repository}{kind_option}{f' --revision {revision}' if revision else ''}"


@contextmanager
def without_hub() -> Iterator[None]:
    """As with HF_HUB_OFFLINE=1: what is not on this machine is not found."""
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
