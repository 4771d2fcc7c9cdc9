"""Pages made of templates: all texts are escaped, and a name that a template asks for in vain is an error."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from adaptinfer_eval.methods.schedule import budget_text, budgets_text


@cache
def template(package: str, name: str) -> Template:
    """`name`.html.jinja, which lies beside the modules of `package`.

    Its filter `budget` spells a budget, and with a noun what it counts: `25 %`, `25 % of the tokens`.
    """
    environment = Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["budget"] = _budget
    return environment.get_template(f"{name}.html.jinja")


def _budget(budget: float | str, noun: str = "") -> str:
    return budgets_text([float(budget)], noun) if noun else budget_text(float(budget))
