"""Methods named by file, `path/to/mine.py:Mine`: nothing has to be installed to try one."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import sys
import traceback
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

KINDS = "ae.LayerMethod, ae.ImageMethod or ae.TwoPlaceMethod"
PREFIX = "adaptinfer_eval_file_"
"""Of modules that are made of such files; the rest of their names is what is in them."""


def title(name: str) -> str:
    """What a method is called in tables: its registered name, or its class where it is named by file."""
    return name.rpartition(":")[2]


def absolute(name: str) -> str:
    """`name` for another working directory."""
    path, separator, class_name = name.rpartition(":")
    return f"{Path(path).expanduser().resolve()}:{class_name}" if separator else name


def file_of(name: str) -> Path | None:
    """The file that a method is named by; None of a registered name. ValueError where it is not there."""
    path, separator, _ = name.rpartition(":")
    if not separator:
        return None
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"method {name!r}: there is no file {path}: name one as in path/to/mine.py:Mine")
    return file


def fingerprint(cls: type) -> str:
    """Of what was in the file that a class was loaded from; empty for all that is installed."""
    return cls.__module__.removeprefix(PREFIX) if cls.__module__.startswith(PREFIX) else ""


def load(name: str, base: type) -> type[Any]:
    """The subclass of `base` that `name` names, of the file as it is now; ValueError where there is none that works."""
    file, class_name = file_of(name), title(name)
    assert file is not None
    module = _module(file, name)
    found = {key: value for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, base)}
    own = [key for key, value in found.items() if value.__module__ == module.__name__]
    if class_name not in found:
        if hasattr(module, class_name):
            raise ValueError(f"method {name!r}: {class_name} is no method: derive it from {KINDS}")
        near = difflib.get_close_matches(class_name, own, n=1, cutoff=0)
        hint = f"did you mean {near[0]!r}?" if near else f"write one that is derived from {KINDS}"
        raise ValueError(f"method {name!r}: {file.name} has no class {class_name!r}: {hint}")
    if missing := sorted(getattr(found[class_name], "__abstractmethods__", ())):
        raise ValueError(f"method {name!r}: {class_name} has no {missing[0]}(), and every method of its kind has one")
    return found[class_name]


def _module(file: Path, name: str) -> ModuleType:
    """Made anew when the file has changed, so that no answer is made by what it was before."""
    written = file.read_bytes()
    known = PREFIX + hashlib.sha256(written).hexdigest()[:16]
    if known in sys.modules:
        return sys.modules[known]
    spec = spec_from_loader(known, SourceFileLoader(known, str(file)))
    assert spec is not None
    module = sys.modules[known] = module_from_spec(spec)  # dataclasses look for it there
    try:
        exec(compile(written, str(file), "exec"), vars(module))
    except Exception as error:
        del sys.modules[known]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else "?")
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"method {name!r}: line {line} of {file.name} cannot be run ({why})") from error
    return module
