"""What a table of the paper takes on many GPUs: arithmetic, nothing is run.

    python benchmarks/scaling.py --gpus 8 64 [--config table1] [--sustained 150e12 …]

Every assumption is an option. Nothing of a GPU was measured: those defaults are round numbers. What the main process
takes per batch and per answer was measured on mini sweeps (benchmarks/sweep_parts.py, docs/scaling.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from adaptinfer_eval.methods.image import works_in_tower
from adaptinfer_eval.sweep.cells import Planned, plan
from adaptinfer_eval.sweep.config import SweepConfig, load_config
from adaptinfer_eval.sweep.task_size import task_sizes
from adaptinfer_eval.sweep.whole_cost import shares_pictures, work_of_sweep

TEXT_TOKENS = {
    "adaptinfer_mme": 66,
    "adaptinfer_gqa": 64,
    "adaptinfer_mmbench_en_dev": 118,
    "adaptinfer_scienceqa_img": 118,  # not in Table 3: taken to be like MMBench's, options and all
    "adaptinfer_textvqa": 117,
}
"""Of a prompt: those at which Eq. 5 gives the FLOPs of the paper's Table 3."""


@dataclass(frozen=True)
class Assumed:
    """Rates and times, the last two measured on other hardware, the others not at all."""

    sustained: float = 150e12
    """FLOP/s of a GPU in prefill and vision tower: half of an A100's peak in float16."""
    step: float = 0.03
    """Seconds that a batch's pass through the decoder takes at least, and in decoding: its kernels must be launched."""
    answer_tokens: float = 3
    """Of a batch's longest answer; the first of them is the prefill's."""
    loading: float = 90
    """Seconds until a worker is ready: imports, weights, data sets."""
    journal: float = 0.004
    """Seconds of the main process to keep a batch's answers."""
    scoring: float = 0.001
    """Seconds of the main process's scoring thread for one answer."""


@dataclass(frozen=True)
class Work:
    """What a sweep has to do: GPU seconds, and what its main process does one after the other."""

    requests: int
    last_requests: int
    """Of the last task: they are scored when nothing is left to answer."""
    batches: int
    """Of questions; each is answered for all settings."""
    lines: int
    """Batches of answers, one per setting."""
    prefill: float
    tower: float
    decode: float

    @property
    def gpu(self) -> float:
        return self.prefill + self.tower + self.decode


def work_of(config: SweepConfig, assumed: Assumed) -> Work:
    """All questions of a configuration for LLaVA-1.5 that has a `shape`; what cells and questions share, once."""
    settings = [planned for planned in plan(config) if planned.audit]
    sizes = task_sizes(config.tasks)
    questions = {name: sizes[name].questions for name in config.tasks}
    batches = {name: math.ceil(count / config.batch_size) for name, count in questions.items()}
    lines = len(settings) * sum(batches.values())
    # Together they compute what they share once; where one by itself would wait for its launches, it still does.
    prefill = sum(computing(config, settings, name, assumed) for name in questions) + sum(
        max(0.0, count * assumed.step - computing(config, [setting], name, assumed))
        for name, count in batches.items()
        for setting in settings
    )
    own_towers = sum(works_in_tower(planned.setting.build()) for planned in settings)
    encodings = 1 + own_towers if config.sharing else len(settings)
    pictures = sum(
        count * (sizes[name].pictures_begun(config.batch_size) if shares_pictures(config) else 1)
        for name, count in questions.items()
    )
    tower = encodings * pictures * tower_flops(config)
    return Work(
        requests=len(settings) * sum(questions.values()),
        last_requests=len(settings) * questions[config.tasks[-1]],
        batches=sum(batches.values()),
        lines=lines,
        prefill=prefill,
        tower=tower / assumed.sustained,
        decode=lines * (assumed.answer_tokens - 1) * assumed.step,
    )


def computing(config: SweepConfig, settings: Sequence[Planned], name: str, assumed: Assumed) -> float:
    """Seconds of all prefills of a task, by its multiply-adds."""
    size = task_sizes([name])[name]
    work = work_of_sweep(config, settings, size, TEXT_TOKENS[name])
    return 2 * size.questions * work.shared / assumed.sustained


def tower_flops(config: SweepConfig) -> float:
    """Of one image in CLIP-L/14 at 336 pixels (24 layers of width 1024, 577 tokens) and LLaVA-1.5's projector.

    Methods that merge in the tower are counted with all of it: an upper bound.
    """
    assert config.shape is not None
    d, m, n, out = 1024, 4096, 577, config.shape.hidden_size
    layers = 24 * (4 * n * d * d + 2 * n * n * d + 2 * n * d * m)
    return 2.0 * (layers + (n - 1) * (3 * 14 * 14 * d + d * out + out * out))


def row(work: Work, gpus: int, assumed: Assumed) -> tuple[str, ...]:
    """The main process keeps and scores answers while the GPUs work; the last task is scored when they are done."""
    answering, keeping, scoring = work.gpu / gpus, work.lines * assumed.journal, work.requests * assumed.scoring
    last = work.last_requests * assumed.scoring
    wall = assumed.loading + max(answering, keeping, scoring - last) + last
    times = (f"{seconds:.0f}" for seconds in (assumed.loading, answering, keeping, scoring))
    return (str(gpus), f"{work.batches / gpus:.0f}", *times, f"{wall / 60:.1f}", f"{100 * answering / wall:.0f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--config", default="table1")
    for field in dataclasses.fields(Assumed):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default)
    given = vars(parser.parse_args())
    assumed = Assumed(**{field.name: given[field.name] for field in dataclasses.fields(Assumed)})
    config = load_config(given["config"])
    work = work_of(config, assumed)
    print(f"{config.name}: {work.requests} requests; {work.batches} batches of {config.batch_size} questions.")
    print(f"{work.gpu / 3600:.2f} GPU hours: prefill {work.prefill:.0f} s, ", end="")
    print(f"vision tower {work.tower:.0f} s, decode {work.decode:.0f} s.")
    print("Assumed: " + ", ".join(f"{name} {value:g}" for name, value in vars(assumed).items()) + "\n")
    headers = ("GPUs", "batches each", "load s", "answer s", "journal s", "score s", "wall min", "GPUs busy")
    rows = [row(work, count, assumed) for count in given["gpus"]]
    print(tabulate(rows, headers, "github", disable_numparse=True, colalign=["right"] * len(headers)))


if __name__ == "__main__":
    main()
