"""A sweep's configuration: layers, types, and errors that name the nearest."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from adaptinfer_eval.sweep.config import SweepError, load_config, shipped

BASE = {"pretrained": "some/model", "methods": ["vanilla", "fastv"], "budgets": [64], "tasks": ["mini_mme"]}


def write(folder: Path, **changes: object) -> str:
    path = folder / "trial.yaml"
    path.write_text(yaml.safe_dump(BASE | changes), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["mini", "table1", "table4"])
def test_shipped_configurations_are_valid(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    assert config.methods[0].name == "vanilla"


def test_command_line_beats_yaml_beats_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, batch_size=4, seeds=[1])
    config = load_config(path, ["seeds=2,3", "budgets=128,64", "methods=tome", "model_args.conv=hf", "limit=null"])
    assert (config.count, config.batch_size, config.seeds) == ("leaving", 4, (2, 3))
    assert config.budgets == (128, 64)
    assert [method.name for method in config.methods] == ["tome"]
    assert config.model_args == {"conv": "hf"}


def test_methods_take_options(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, methods=["adaptinfer", {"name": "adaptinfer", "variant": "paper"}]))
    assert [method.label for method in config.methods] == ["adaptinfer", "adaptinfer.variant=paper"]
    assert config.methods[1].options == {"variant": "paper"}


def test_one_method_with_options_is_a_list_of_one() -> None:
    config = load_config("mini", ["methods={name: adaptinfer, variant: paper}"])
    assert [method.label for method in config.methods] == ["adaptinfer.variant=paper"]


@pytest.mark.parametrize("content", [b"methods: [vanilla\ntasks: x", b"name: \xff"])
def test_a_file_that_is_not_yaml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trial.yaml"
    path.write_bytes(content)
    with pytest.raises(SweepError, match=r"trial\.yaml is not YAML: "):
        load_config(str(path))


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = Path(write(tmp_path))
    path.write_text(path.read_text(encoding="utf-8") + "limit: 4\nbudgets: [32]\n", encoding="utf-8")
    with pytest.raises(SweepError, match=r"trial\.yaml is not YAML: the key 'budgets' stands twice in .*line \d"):
        load_config(str(path))


def test_a_key_laid_over_an_anchors_is_none_that_stands_twice(tmp_path: Path) -> None:
    path = Path(write(tmp_path))
    anchored = "shape: &small {num_layers: 4, hidden_size: 8, intermediate_size: 8, vision_tokens: 36}\n"
    path.write_text(path.read_text(encoding="utf-8") + anchored, encoding="utf-8")
    small = load_config(str(path)).shape
    path.write_text(path.read_text(encoding="utf-8").replace("{num", "{<<: {num_layers: 9}, num"), encoding="utf-8")
    assert load_config(str(path)).shape == small


def test_a_name_may_be_anything_where_the_folder_is_given(tmp_path: Path) -> None:
    config = load_config(write(tmp_path), ["name=../../x", f"output={tmp_path}"])
    assert (config.name, config.output) == ("../../x", str(tmp_path))
    assert load_config(write(tmp_path), ['name="[/x]"']).output == "results/runs/[/x]"


def test_a_limited_sweep_has_a_folder_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert load_config(path).output == "results/runs/trial"
    assert load_config(path, ["limit=20"]).output == "results/runs/trial-limit20"
    assert load_config(path, ["limit=20", "output=elsewhere"]).output == "elsewhere"


def test_the_saved_configuration_reads_back_as_itself(tmp_path: Path) -> None:
    config = load_config("mini", ["methods=[vanilla, {name: adaptinfer, variant: paper}]"])
    saved = tmp_path / "config.yaml"
    saved.write_text(config.dump(), encoding="utf-8")
    assert load_config(str(saved)) == config


def test_configurations_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config("mini").limit = 3


def test_shipped_checkpoints_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("mini", ["pretrained=tasks/mini"]).checkpoint == str(shipped("tasks/mini"))
    assert load_config("mini", ["pretrained=llava-hf/llava"]).checkpoint == "llava-hf/llava"


@pytest.mark.parametrize(
    ("source", "overrides", "message"),
    [
        ("tabel1", [], "did you mean 'table1'"),
        ("nowhere/mine.yaml", [], "no configuration file nowhere/mine.yaml"),
        ("mini", ["backbone=lava"], "no backbone 'lava': did you mean 'llava'"),
        ("mini", ["model_args.conv=vicuna"], "conv='vicuna': known are vicuna_v1, hf"),
        ("mini", ["budgts=64"], "unknown key 'budgts': did you mean 'budgets'"),
        ("mini", ["shape.layers=3"], "did you mean 'num_layers'"),
        ("mini", ["limit"], "not of the form key=value"),
        ("mini", ["limit=0"], "limit: .*greater than 0"),
        ("mini", ["count=both"], "count: .*'leaving' or 'entering'"),
        ("mini", ["dtype=float8"], "dtype: "),
        ("mini", ["budgets=many"], "budgets.0: "),
        ("mini", ["budgets=64,nan"], "budgets.1: .*valid number, not 'nan'"),
        ("mini", ["budgets=.nan"], "budgets.0: .*finite number"),
        ("mini", ["budgets=.inf"], "budgets.0: .*finite number"),
        ("mini", ["budgets=inf"], "budgets.0: .*valid number, not 'inf'"),
        ("mini", ["budgets=true"], "budgets.0: .*valid number, not True"),
        ("mini", ["limit=true"], "limit: .*valid integer, not True"),
        ("mini", ["limit='8'"], "limit: .*valid integer, not '8'"),
        ("mini", ["batch_size=8.5"], "batch_size: .*valid integer, not 8.5"),
        ("mini", ["repeats=yes"], "repeats: .*valid integer, not True"),
        ("mini", ["text_tokens=true"], "text_tokens: .*valid integer"),
        ("mini", ["shape={num_layers: true}"], "shape.num_layers: .*valid integer"),
        ("mini", ["worker_timeout=true"], "worker_timeout: .*valid number, not True"),
        ("mini", ["worker_timeout='5'"], "worker_timeout: .*valid number, not '5'"),
        ("mini", ["worker_timeout=.inf"], "worker_timeout: .*finite number"),
        ("mini", ["worker_timeout=0"], "worker_timeout: .*greater than 0"),
        ("mini", ["sharing=1"], "sharing: .*valid boolean, not 1"),
        ("mini", ["seeds=-1"], "^mini.yaml: seeds.0: [^;]*greater than or equal to 0, not -1$"),
        ("mini", ["seeds=0,true"], "seeds.1: .*valid integer"),
        ("mini", ["seeds=4294967296"], "seeds.0: .*less than 4294967296"),
        ("mini", ["pretrained=''"], "pretrained is empty: name a checkpoint on the hub, or its folder"),
        ("mini", ["budgets=0"], "budgets.0: .*greater than 0"),
        ("mini", ["budgets=64,-1"], "budgets.1: .*greater than 0"),
        ("mini", ["methods="], "'methods=' has no value: list what you want, as in methods=a,b"),
        ("mini", ["methods=[vanilla"], r"^methods=\[vanilla is not YAML: .*expected ',' or '\]'"),
        ("mini", ["methods=vanilla,{name: adaptinfer, variant: paper}"], "is not YAML"),
        ("mini", ["name=2024-13-45"], "name=2024-13-45 is not YAML: month must be"),
        ("mini", ["methods=vanilla,vanilla"], "names an entry twice"),
        ("mini", ["name.first=x"], "name has no entries"),
        ("mini", ["seeds=1,1"], "seeds names an entry twice"),
        ("mini", ["pool=inline"], "pool=inline is one worker, not 2"),
        ("mini", ["model_args.device_map=auto"], "give gpus_per_worker instead"),
        ("mini", ["name=../../x"], "name=../../x: its results would not be in results/runs; give another, or output"),
        ("mini", ["name=x/../..", "limit=null"], "would not be in results/runs"),
        ("mini", ["name=.", "limit=null"], "would not be in results/runs"),
        ("mini", ["model_args={conv: hf, conv: vicuna_v1}"], "is not YAML: the key 'conv' stands twice in .*line 1"),
        ("mini", ["methods=[{name: fastv, name: pdrop}]"], "the key 'name' stands twice"),
        (
            "mini",
            ["model_args.device=cuda:1"],
            "model_args.device is what a sweep sets by itself: give gpus_per_worker",
        ),
        ("mini", ["model_args.dtype=float16"], "model_args.dtype is what a sweep sets by itself: give dtype instead"),
        ("mini", ["model_args.max_batch_size=2"], "give batch_size instead"),
        ("mini", ["model_args.pretrained=x"], "give pretrained instead"),
        ("mini", ["model_args.revision=1234567"], "model_args.revision=1234567: a text is wanted, put it in quotes"),
    ],
)
def test_mistakes_are_named(source: str, overrides: list[str], message: str) -> None:
    with pytest.raises(SweepError, match=message):
        load_config(source, overrides)
