"""From a configuration to cells, and what each method will cost, before anything is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from adaptinfer_eval.backbones import FAMILIES
from adaptinfer_eval.cost import Audit, audit, prefill_macs
from adaptinfer_eval.methods.image import works_in_tower
from adaptinfer_eval.methods.method import CostUnknown, Method, get_method
from adaptinfer_eval.methods.schedule import Count, Per, is_share
from adaptinfer_eval.models.options import make_method
from adaptinfer_eval.sweep.config import MethodEntry, Scalar, Shape, SweepConfig, SweepError, nearest
from adaptinfer_eval.sweep.files import file_name
from adaptinfer_eval.sweep.shape import model_shape

COUNTING = {"count", "per"}
"""Options that say what a budget means."""


@dataclass(frozen=True)
class Setting:
    """A method as a sweep runs it: with its options and, where it takes one, a budget and a seed.

    `budget`, `count`, `per`, `seed`: those in force; what an entry's options say themselves comes before the sweep's
    keys. `repeat` tells apart measurements of the same, for latency.
    """

    entry: MethodEntry
    budget: float | None = None
    count: Count | None = None
    per: Per | None = None
    seed: int | None = None
    repeat: int = 0

    @property
    def label(self) -> str:
        """Unique in a sweep; the first repeat and seed 0 are not mentioned, so that more can be added later."""
        budget = "" if self.budget is None or "budget" in self.entry.options else f"-{self.budget:g}"
        seed = f"-s{self.seed}" if self.seed and "seed" not in self.entry.options else ""
        repeat = f"-r{self.repeat}" if self.repeat else ""
        return f"{self.entry.label}{budget}{seed}{repeat}"

    def arguments(self) -> dict[str, Scalar]:
        given: dict[str, Scalar] = {"budget": self.budget, "count": self.count, "per": self.per, "seed": self.seed}
        if self.budget is not None and self.budget == int(self.budget):
            given["budget"] = int(self.budget)
        return {name: value for name, value in given.items() if value is not None} | self.entry.options

    def build(self) -> Method:
        """The method itself; SweepError where its name, an option or an option's value is wrong."""
        try:
            cls = get_method(self.entry.name)
            fields = [field.name for field in dataclasses.fields(cls)]
            unknown = [key for key in self.arguments() if key not in fields]
            if unknown:
                raise ValueError(f"{self.entry.title} has no option {unknown[0]!r}{nearest(unknown[0], fields)}")
            if "schedule" in self.entry.options and (idle := COUNTING & self.entry.options.keys()):
                raise ValueError(f"{self.entry.label}: {min(idle)} goes with a budget; leave it out beside a schedule")
            return make_method(cls, self.arguments(), ())
        except ValueError as error:
            raise SweepError(f"methods: {error}") from error


@dataclass(frozen=True)
class Cell:
    """One (backbone, method, budget, task) of a sweep."""

    backbone: str
    setting: Setting
    task: str

    @property
    def id(self) -> str:
        """Unique in a sweep, and a file name."""
        return file_name(f"{self.backbone}-{self.setting.label}-{self.task}")


def in_order_of_stages(cells: Sequence[Cell], shape: Shape, images: int) -> list[Cell]:
    """`cells` as a batch is answered for them: by the layer behind which they first prune, vanilla last.

    So each goes on where the one before it left the layers that they have in common. Planned for prompts of `images`
    images; others are answered as well in that order.
    """
    settings = {cell.setting.label: cell.setting for cell in cells}
    first: dict[str, int] = {}
    for label, setting in settings.items():
        try:
            first[label] = first_stage(setting.build(), shape.num_layers, images * shape.vision_tokens, images)
        except ValueError:  # it cannot run, and whoever runs it says so
            first[label] = shape.num_layers
    return sorted(cells, key=lambda cell: first[cell.setting.label])


def first_stage(method: Method, num_layers: int, vision_tokens: int, images: int) -> int:
    """The layer behind which a method first prunes such a prompt; `num_layers` where nothing is pruned in the decoder.

    ValueError where it cannot be planned.
    """
    inside = method.inside(num_layers)
    stages = inside.plan(num_layers, vision_tokens, images) if inside else ()
    return min((stage.layer for stage in stages), default=num_layers)


@dataclass(frozen=True)
class Planned:
    """A setting with its cost on paper, or the reason why that is not known, or why the model cannot run it."""

    setting: Setting
    audit: Audit | None
    relative_cost: float | None
    """Multiply-adds over those of the same prompt with all vision tokens."""
    reason: str = ""
    runs: bool = True


class Swept(Protocol):
    """What settings are made from: methods, and the keys that hold for all of them."""

    @property
    def methods(self) -> Sequence[MethodEntry]: ...
    @property
    def budgets(self) -> Sequence[float]: ...
    @property
    def count(self) -> Count: ...
    @property
    def per(self) -> Per: ...
    @property
    def seeds(self) -> Sequence[int]: ...
    @property
    def repeats(self) -> int: ...


def settings(config: Swept) -> list[Setting]:
    """Every (method, budget, seed, repeat); methods without a swept budget (vanilla, explicit schedules) first.

    SweepError where an option is wrong, and where two entries are the same method in two spellings.
    """
    if isinstance(config, SweepConfig):
        _check_model_args(config)
    once: list[Setting] = []
    swept: list[Setting] = []
    for entry in config.methods:
        cls = _known(entry.name)
        fields = {field.name for field in dataclasses.fields(cls)}
        takes_budget = "budget" in fields and not entry.options.keys() & cls.instead_of_budget
        takes_budget = takes_budget and entry.options.get("budget", 0) is not None  # None: as many as it finds
        counted = Setting(
            entry,
            count=config.count if takes_budget and "count" in fields else None,
            per=config.per if takes_budget and "per" in fields else None,
        )
        seeds = config.seeds if "seed" in fields and "seed" not in entry.options else (None,)
        seeded = [dataclasses.replace(counted, seed=seed) for seed in seeds]
        if not takes_budget or "budget" in entry.options:
            once += map(_with_own, seeded)
        elif not config.budgets:
            raise SweepError(f"budgets is empty and {entry.label} needs one: give budgets, or a schedule for it")
        else:
            swept += [_with_own(dataclasses.replace(s, budget=b)) for b in config.budgets for s in seeded]
    _check_different(once + swept)
    return [dataclasses.replace(setting, repeat=n) for n in range(config.repeats) for setting in once + swept]


def _with_own(setting: Setting) -> Setting:
    """The setting with what its entry's options say themselves."""
    method, own = setting.build(), {*COUNTING, "budget", "seed"} & setting.entry.options.keys()
    return dataclasses.replace(setting, **{name: getattr(method, name) for name in own})


def _check_different(found: Sequence[Setting]) -> None:
    methods: dict[Method, str] = {}
    labels: dict[str, Setting] = {}
    for setting in found:
        label = setting.label
        if (other := methods.setdefault(setting.build(), label)) != label:
            raise SweepError(f"methods: {other} and {label} are the same method in two spellings: leave one out")
        if label in labels:
            budgets = [labels[label].budget, setting.budget]
            raise SweepError(f"budgets: {budgets[0]} and {budgets[1]} are both called {label}: leave one out")
        labels[label] = setting


def plan(config: SweepConfig) -> list[Planned]:
    """Every (method, budget) with its cost. Nothing of the model but its config.json is read."""
    shape = model_shape(config)
    if config.shift and config.shift.num_layers != shape.num_layers:
        raise SweepError(
            f"shift: {config.shift.path} is of a model with {config.shift.num_layers} layers, and {config.pretrained} "
            f"has {shape.num_layers}: find its own with `adaptinfer-eval shift --pretrained {config.pretrained}`"
        )
    vision_tokens = config.images * shape.vision_tokens
    tokens = [vision_tokens + config.text_tokens] * shape.num_layers
    everything = prefill_macs(tokens, shape.hidden_size, shape.intermediate_size)
    planned = []
    for setting in settings(config):
        try:
            cost = _audit(setting.build(), shape, config, vision_tokens)
        except CostUnknown as error:
            planned.append(Planned(setting, None, None, str(error)))
        except ValueError as error:
            planned.append(Planned(setting, None, None, str(error), runs=False))
        else:
            planned.append(Planned(setting, cost, cost.macs / everything))
    return planned


def prompts_planned_for(config: SweepConfig) -> str:
    """A sentence on the prompts that `plan` counts for, and what a budget is for others."""
    tokens = model_shape(config).vision_tokens
    images = "an image" if config.images == 1 else f"{config.images} images"
    of_each = " each" if config.images > 1 else ""
    of_any_size = ", as many as a usual one has" if FAMILIES[config.backbone].any_size else ""
    sharing = {"image": "a prompt of n images keeps n times what one keeps", "prompt": "its images share it"}
    meant = []
    if not all(map(is_share, config.budgets)):
        meant.append(f"A budget is per {config.per}: {sharing[config.per]} (per=image|prompt)")
    if any(map(is_share, config.budgets)):
        meant.append("In %, a budget is a share of all the vision tokens of a prompt, solved for each")
    return (
        f"Counted for prompts of {images} of {tokens} vision tokens{of_each}{of_any_size} (other prompts: images=N). "
        f"{'. '.join(meant or ['No budget'])}; an explicit schedule is per prompt."
    )


def _audit(method: Method, shape: Shape, config: SweepConfig, vision_tokens: int) -> Audit:
    """The cost on paper; ValueError for what the engine would refuse."""
    before, inside = method.before(shape.num_layers), method.inside(shape.num_layers)
    looks = before is not None and before.look(0, 1).tower
    merges = inside is not None and inside.merged_count(vision_tokens) > 0
    merges = merges or (before is not None and before.makes)
    if why := FAMILIES[config.backbone].refuses(looks, merges):
        raise ValueError(f"{method.name} {why}")
    if works_in_tower(method) and shape.merging_layers is not None:
        method.check_tower(shape.merging_layers, shape.vision_tokens, config.images)
    if before is None and inside is not None and (excess := inside.excess(vision_tokens)):
        raise ValueError(f"{excess}; or, if prompts have more images, say so with images=")
    return audit(
        method,
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        vision_tokens=vision_tokens,
        text_tokens=config.text_tokens,
        images=config.images,
    )


def _check_model_args(config: SweepConfig) -> None:
    """SweepError for an option of a method among the arguments of the model, which all methods share."""
    for entry in config.methods:
        for field in dataclasses.fields(_known(entry.name)):
            if field.name in config.model_args:
                value = config.model_args[field.name]
                remedy = f"methods=[{{name: {entry.name}, {field.name}: {value}}}]"
                remedy = {"budget": f"budgets={value}", "count": f"count={value}", "per": f"per={value}"}.get(
                    field.name, remedy
                )
                raise SweepError(f"model_args.{field.name} is an option of methods: give {remedy} instead")


def _known(name: str) -> type[Method]:
    try:
        return get_method(name)
    except ValueError as error:
        raise SweepError(f"methods: {error}") from error
