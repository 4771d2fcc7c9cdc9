"""The report of a real, small sweep of the shipped model, read by a program and looked at in a browser."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import chromium, contrast, opened
from PIL import Image
from playwright.sync_api import Browser, Page
from rich.console import Console
from shell import call

from adaptinfer_eval.report.page.build import report
from adaptinfer_eval.sweep.config import SweepError, load_config
from adaptinfer_eval.sweep.run import run_sweep

SWEEP = (
    "methods=vanilla,adaptinfer,random,tome",
    "budgets=64,32",  # ToMe cannot run with 32 on this model
    "tasks=mini_mme,mini_textvqa",
    "limit=6",
    "workers=1",
)
TABLES = ("results-table", "cost-table", "categories-mme")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    assert run_sweep(load_config("mini", [*SWEEP, f"output={folder}"]), Console(file=io.StringIO())) == []
    return folder


@pytest.fixture(scope="module")
def path(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(report(sweep), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser, path: Path) -> Iterator[Page]:
    with opened(browser, path) as tab:
        yield tab.page


def changed(sweep: Path, folder: Path) -> Path:
    """A copy of the sweep, to be damaged."""
    return shutil.copytree(sweep, folder / "changed")


def test_where_the_page_cannot_be_written_is_named(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    wrong = {
        full: "No space left on device: free some space",
        tmp_path: "Is a directory: that is a folder; name a file",
    }
    for output, message in wrong.items():
        assert call(monkeypatch, "report", "--results", sweep, "--output", output) == 1
        assert capsys.readouterr().err == f"adaptinfer-eval: {output}: {message}\n"
    assert full.is_symlink()


def test_damaged_samples_are_named(sweep: Path, tmp_path: Path) -> None:
    folder = changed(sweep, tmp_path)
    (path, *_) = folder.glob("lmms_eval/llava-vanilla-mini_mme/*/*_samples_*.jsonl")
    whole = path.read_text(encoding="utf-8")
    for damage in (whole[:-20], "[]\n" + whole, whole.split("\n", 1)[1]):
        path.write_text(damage, encoding="utf-8")
        with pytest.raises(SweepError, match=rf"{path.name} .*: delete .*/llava-vanilla-mini_mme.json and start"):
            report(folder)


@pytest.mark.parametrize("dark", [False, True])
def test_it_loads_from_a_file_alone_and_without_complaint(browser: Browser, path: Path, dark: bool) -> None:
    with opened(browser, path, dark=dark) as tab:
        assert tab.complaints == []
        assert {url.partition(":")[0] for url in tab.requests} <= {"file", "data"}
        assert [url for url in tab.requests if url.startswith("file:")] == [path.as_uri()]
        assert tab.page.title() == "mini: vision-token pruning compared"
    assert path.stat().st_size < 1_000_000


def column(page: Page, table: str, index: int) -> list[str]:
    return page.locator(f"#{table} tbody tr:visible > :nth-child({index + 1})").all_inner_texts()


@pytest.mark.parametrize("table", TABLES)
def test_every_column_sorts_both_ways_by_mouse_and_keyboard(page: Page, table: str) -> None:
    headings = page.locator(f"#{table} thead th")
    assert page.locator(f"#{table} [aria-sort]").count() == 0
    for index in range(headings.count()):
        heading = headings.nth(index)
        button = heading.get_by_role("button")
        seen = {}
        for direction in ("ascending", "descending"):
            if direction == "ascending":
                button.click()
            else:
                button.press("Enter")
            assert heading.get_attribute("aria-sort") == direction
            assert page.locator(f"#{table} [aria-sort]").count() == 1
            seen[direction] = column(page, table, index)
        if "number" not in (heading.get_attribute("class") or ""):
            alphabetic = "texts => texts.sort(new Intl.Collator('en', {numeric: true}).compare)"
            assert seen["ascending"] == page.evaluate(alphabetic, seen["ascending"])
            assert seen["descending"] == seen["ascending"][::-1]
            continue
        up, down = (
            [float(text.split()[0].rstrip("*")) for text in texts if text[0].isdigit()] for texts in seen.values()
        )
        assert up == sorted(up)
        assert down == sorted(up, reverse=True)
        for texts in seen.values():  # what has no number stays at the end
            assert not any(text[0].isdigit() for text in texts[len(up) :])


def test_filters_hide_rows_and_say_how_many_are_left(page: Page) -> None:
    filters = page.locator("form[data-for=results-table]")
    assert filters.locator("output").inner_text() == "7 of 7"
    filters.get_by_label("Tokens").select_option("64")
    assert column(page, "results-table", 0) == ["Vanilla", "ToMe", "AdaptInfer", "random"]
    filters.get_by_label("Method").select_option("AdaptInfer")
    assert column(page, "results-table", 0) == ["AdaptInfer"]
    assert filters.locator("output").inner_text() == "1 of 7"
    filters.get_by_label("Method").select_option("all")
    filters.get_by_label("Tokens").select_option("all")
    filters.get_by_label("Text").fill("cannot")
    assert column(page, "results-table", 0) == ["ToMe"]
    assert len(column(page, "cost-table", 0)) == 7


def test_categories_have_the_methods_as_columns(page: Page) -> None:
    headings = page.locator("#categories-mme thead th").all_inner_texts()
    assert headings == ["Category", "Questions", "Avg. tokens", "Vanilla", "ToMe", "AdaptInfer", "random"]
    page.locator("form[data-for=categories-mme]").get_by_label("Tokens").select_option("32")
    assert set(column(page, "categories-mme", 2)) == {"32"}
    assert set(column(page, "categories-mme", 4)) == {"–"}  # ToMe cannot run with 32
    total = sum(float(value.split()[0]) for value in column(page, "categories-mme", 3))
    assert total == float(column(page, "results-table", 2)[0].rstrip("\n*"))  # the score is their sum


def test_questions_are_filtered_by_task_and_budget(page: Page) -> None:
    everything = page.locator("article:visible").count()
    page.locator("form[data-for=question-list]").get_by_label("Task").select_option("TextVQA")
    shown = page.locator("article:visible")
    assert 0 < shown.count() < everything
    assert all(text.startswith("TextVQA") for text in shown.locator("h3").all_inner_texts())


def test_the_keyboard_reaches_everything_in_order(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('section').id") == "results"
    assert page.evaluate("document.activeElement.labels[0].textContent").split()[0] == "Method"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_it_is_whole_without_its_script(browser: Browser, path: Path) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto(path.as_uri())
    assert len(column(page, "results-table", 0)) == 7
    assert page.locator("form:visible, button:visible").count() == 0
    assert page.locator("article:visible").count() > 0
    page.close()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_that_axe_knows_is_in_a_readers_way(browser: Browser, path: Path, dark: bool, width: int) -> None:
    with opened(browser, path, dark=dark, width=width) as tab:
        tab.page.locator("details").first.locator("summary").click()
        found = Axe().run(tab.page)
        assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("dark", [False, True])
def test_text_of_plots_and_verdicts_stands_out(browser: Browser, path: Path, dark: bool) -> None:
    with opened(browser, path, dark=dark) as tab:
        ground = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") is not dark
        for selector in ("body", ".notes", "svg .name", "svg .tick"):
            colours = tab.page.locator(selector).evaluate_all(
                "all => all.map(e => getComputedStyle(e)[e.ownerSVGElement ? 'fill' : 'color'])"
            )
            assert colours
            assert min(contrast(colour, ground) for colour in colours) >= 4.5
        tab.page.locator("#theme").click()
        assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
        tab.page.emulate_media(media="print")
        assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_every_picture_has_a_name(page: Page) -> None:
    named = page.locator("svg[role=img], img").evaluate_all(
        "all => all.map(e => e.getAttribute('aria-label') ?? e.alt)"
    )
    assert len(named) > 10
    assert all(named)
    assert page.locator("svg:not([role=img]):not([aria-hidden=true])").count() == 0
    assert page.locator("article svg[role=img]").first.get_attribute("aria-label") == (
        "The picture as Vanilla has it: all of 576 patches"
    )


def test_narrow_screens_scroll_tables_and_not_the_page(browser: Browser, path: Path) -> None:
    with opened(browser, path, width=360) as tab:
        assert tab.page.evaluate("document.documentElement.scrollWidth") == 360
        assert tab.page.locator("#results .scroll").evaluate("e => e.scrollWidth > e.clientWidth")


def test_pictures_are_shown_with_what_each_method_kept(page: Page) -> None:
    article = page.locator("article").first
    assert article.locator("li").count() >= 3
    for answer in article.locator("li").all():
        name, drawn = answer.locator("h4").inner_text(), answer.locator("svg")
        assert drawn.locator("use[href^='#picture']").count() == 1
        kind = {"Vanilla": (0, 0), "ToMe": (0, 2)}.get(name, (4, 0))
        assert (drawn.locator(".veil, .kept").count(), drawn.locator(".merged").count()) == kind
    used = page.locator("use[href^='#picture']").evaluate_all(
        "all => new Set(all.map(e => e.getAttribute('href'))).size"
    )
    assert page.locator("image").count() == used  # each picture is in the page once


def test_lines_between_merged_patches_leave_the_picture_to_be_seen(page: Page) -> None:
    article = page.locator("article").filter(has_text="ToMe").first
    seen = {}
    for name in ("Vanilla", "ToMe"):
        drawn = article.locator("li").filter(has_text=name).locator("svg")
        seen[name] = np.asarray(Image.open(io.BytesIO(drawn.screenshot())).convert("RGB"), int)
    same = (np.abs(seen["Vanilla"] - seen["ToMe"]) < 8).all(2).mean()
    assert 0.6 < same < 0.98


def test_it_says_what_it_is_made_of(page: Page) -> None:
    head = page.locator("header").inner_text()
    assert "Complete. 12 of 14 cells are measured. 2 cannot run" in head
    assert "Not real weights." in head
    assert "MME 6 of 500, TextVQA 6 of 501" in head
    assert "4 layers that merge half of their tokens leave 36" in page.locator("#results .notes").inner_text()
    assert "limit: 6" in page.locator("#provenance pre").first.evaluate("e => e.textContent")


def test_texts_of_models_and_data_are_no_markup(sweep: Path, tmp_path: Path, browser: Browser) -> None:
    folder = changed(sweep, tmp_path)
    evil = "</script><script>document.title = 'taken'</script><img src=x onerror='document.title = 1'>"
    for samples in folder.glob("lmms_eval/*/*/*samples*.jsonl"):
        lines = [
            json.loads(line) | {"filtered_resps": evil, "input": evil} for line in samples.read_text().splitlines()
        ]
        samples.write_text("\n".join(map(json.dumps, lines)))
    file = tmp_path / "report.html"
    file.write_text(report(folder), encoding="utf-8")
    with opened(browser, file) as tab:
        assert tab.complaints == []
        assert tab.page.title() == "mini: vision-token pruning compared"
        assert tab.page.locator("article .answer").first.inner_text().endswith(evil)


def test_lost_and_failed_cells_are_named_first(sweep: Path, tmp_path: Path) -> None:
    folder = changed(sweep, tmp_path)
    (folder / "cells" / "llava-adaptinfer-64-mini_mme.json").unlink()
    failed = folder / "cells" / "llava-random-64-mini_mme.json"
    record = json.loads(failed.read_text()) | {"status": "failed", "reason": "MemoryError: full"}
    failed.write_text(json.dumps(record))
    html = report(folder)
    head = html[: html.index("<main>")]
    assert "Not complete." in head
    assert "llava-adaptinfer-64-mini_mme: missing" in head
    assert "llava-random-64-mini_mme: failed: MemoryError: full" in head


def test_other_data_than_those_measured_are_not_shown(sweep: Path, tmp_path: Path) -> None:
    folder = changed(sweep, tmp_path)
    for cell in folder.glob("cells/*mini_textvqa.json"):
        cell.write_text(json.dumps(json.loads(cell.read_text()) | {"data": "other"}))
    html = report(folder)
    assert "TextVQA is without pictures" in html
    assert "they are not the data that were measured" in html
    assert 'id="question-TextVQA-' in html
    assert 'id="picture-TextVQA-' not in html
    assert 'id="picture-MME-' in html


def test_the_command_writes_into_the_sweeps_folder(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(sweep, tmp_path)
    assert call(monkeypatch, "report", "--results", folder) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    assert (folder / "report.html").read_text(encoding="utf-8") == report(folder)  # and is the same each time


def test_a_folder_without_a_sweep_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="run a sweep"):
        report(tmp_path)


def test_without_journals_the_page_says_why_pictures_are_missing(sweep: Path, tmp_path: Path) -> None:
    folder = changed(sweep, tmp_path)
    shutil.rmtree(folder / "journal")
    html = report(folder)
    assert "its journal is missing" in html
    assert '<path class="veil"' not in html


def test_lost_answers_are_an_error_that_names_the_remedy(sweep: Path, tmp_path: Path) -> None:
    folder = changed(sweep, tmp_path)
    shutil.rmtree(folder / "lmms_eval" / "llava-random-64-mini_mme")
    with pytest.raises(SweepError, match=r"delete .*llava-random-64-mini_mme.json and start the sweep again"):
        report(folder)


def test_a_line_of_several_seeds_is_shown_with_its_spread(sweep: Path, tmp_path: Path) -> None:
    folder = changed(sweep, tmp_path)
    for cell in list(folder.glob("cells/llava-random-64-*.json")):
        record = json.loads(cell.read_text())
        other = record | {"id": record["id"].replace("-mini", "-s1-mini"), "seed": 1}
        (cell.parent / f"{other['id']}.json").write_text(json.dumps(other))
    html = report(folder)
    assert html.count(" ± 0.0") == 2  # TextVQA and the ratio
    assert "2 more are here from an earlier configuration" in html  # one seed was asked for


def test_long_names_of_settings_may_break_behind_commas(sweep: Path, tmp_path: Path) -> None:
    folder = changed(sweep, tmp_path)
    for cell in folder.glob("cells/llava-random-64-*.json"):
        cell.write_text(json.dumps(json.loads(cell.read_text()) | {"options": {"schedule": "<1:2,3:4>"}}))
    assert "random (schedule=&lt;1:2,<wbr>3:4&gt;)" in report(folder)
