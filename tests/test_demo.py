"""The page to play with, as its command serves it, in a browser: upload, ask, see."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import chromium, opened
from checkpoints.internvl import save_internvl
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from shell import call, default_interrupt

from adaptinfer_eval.analysis.kept.asking import Asker, ask, own_config
from adaptinfer_eval.demo.answers import Answers, Refused, Row, answers
from adaptinfer_eval.demo.samples import samples
from adaptinfer_eval.demo.show import as_html

METHODS = ("vanilla", "adaptinfer", "sparsevlm", "tome")
TITLES = ["Vanilla", "AdaptInfer", "SparseVLM", "ToMe"]
COMMAND = """
import sys
def told(event, arguments):
    if event == "socket.getaddrinfo":
        print("looks up", arguments[0], file=sys.stderr, flush=True)
sys.addaudithook(told)
from adaptinfer_eval.cli import main
main()
"""
"""`adaptinfer-eval`, which says what other machines it asks for."""
SECONDS = 60_000
"""In milliseconds: a busy machine's most."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Demo(NamedTuple):
    """The command as a process, the address that it prints, and what it says on the way."""

    process: psutil.Popen
    address: str
    log: Path


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    command = [sys.executable, "-c", COMMAND, "demo", "--port", str(free_port())]
    online = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    path = tmp_path_factory.mktemp("demo") / "log"
    with path.open("w") as log:
        process = psutil.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=online, preexec_fn=default_interrupt
        )
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), path.read_text()
        yield Demo(process, line.split()[0], path)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser, demo: Demo) -> Iterator[Page]:
    with opened(browser, demo.address) as tab:
        expect(tab.page.get_by_role("button", name="Ask")).to_be_visible(timeout=SECONDS)
        yield tab.page


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A picture of the small model's world, and what its task asks about it."""
    (picture, text) = samples(tmp_path_factory.mktemp("samples"))[-1]
    return Path(picture), text


def upload(page: Page, picture: Path) -> None:
    page.locator("input[type=file]").first.set_input_files(picture)


def choose(page: Page, *titles: str) -> None:
    boxes = page.get_by_role("checkbox")
    for box in boxes.all():
        box.set_checked(box.locator("xpath=..").inner_text().strip() in titles)


def press_and_wait(page: Page) -> None:
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#answers table")).to_be_visible(timeout=SECONDS)
    expect(page.locator("#answers [role=status]")).to_have_count(0, timeout=SECONDS)


def cells(page: Page) -> list[list[str]]:
    rows = page.locator("#answers tbody tr").all()
    return [row.locator("th, td").all_inner_texts() for row in rows]


def test_what_is_uploaded_and_asked_is_answered_as_by_the_engine(page: Page, sample: tuple[Path, str]) -> None:
    picture, text = sample
    upload(page, picture)
    expect(page.get_by_role("button", name="Remove Image")).to_be_visible()
    page.get_by_label("Question").fill(text)
    choose(page, *TITLES)
    press_and_wait(page)
    expected = ask(picture, text, "tasks/mini/model", METHODS, 64)
    shown = {row[0].split("\n")[0]: row for row in cells(page)}
    assert sorted(shown) == sorted(TITLES)
    for title, answer in zip(TITLES, expected.answers, strict=True):
        assert shown[title][1] == (answer.text or "(no answer)")
        captions = page.get_by_role("region", name=f"{title}: vision tokens kept").locator("figcaption")
        assert captions.all_inner_texts() == [stage.title for stage in answer.stages]
    assert re.split(r"\s+", shown["AdaptInfer"][0]) == ["AdaptInfer", "1:133", "10:27", "20:3"]
    assert shown["AdaptInfer"][2:4] == ["82.9", "65.0"]
    assert shown["Vanilla"][2:4] == ["576.0", "576.0"]
    assert shown["Vanilla"][5] == "100.0 %"
    assert all(float(row[6]) > 0 for row in shown.values())
    pictures = page.locator("#answers img")
    assert pictures.count() == 1 + sum(len(answer.stages) for answer in expected.answers)
    assert all(pictures.evaluate_all("all => all.map(image => image.complete && image.naturalWidth >= 384)"))


def test_a_sample_fills_picture_and_question(page: Page) -> None:
    page.get_by_text("Context:").first.click()
    expect(page.get_by_label("Question")).to_have_value(re.compile(r"Context: .*\n.*\nA\. "))
    expect(page.get_by_role("button", name="Remove Image")).to_be_visible()


def test_what_cannot_be_asked_is_one_sentence(page: Page, sample: tuple[Path, str], tmp_path: Path) -> None:
    said, button = page.locator("#answers [role=alert]"), page.get_by_role("button", name="Ask")
    button.click()
    expect(said).to_have_text("there is no picture: choose one, or one of the samples")
    (tmp_path / "broken.png").write_text("no picture")
    upload(page, tmp_path / "broken.png")
    expect(said).to_contain_text("broken.png cannot be read as a picture")
    expect(said).to_contain_text("give a PNG, JPEG or the like")
    expect(page.get_by_role("button", name="Remove Image")).to_have_count(0)
    upload(page, sample[0])
    expect(page.get_by_role("button", name="Remove Image")).to_be_visible()
    button.click()
    expect(said).to_have_text("the text is empty: ask something about the picture")
    page.get_by_label("Question").fill("Is <image> red?")
    button.click()
    expect(said).to_contain_text("this cannot be asked: the prompt has 1 images and 2 times '<image>'")


def test_a_budget_that_a_method_cannot_reach_is_its_row_and_no_others(page: Page, sample: tuple[Path, str]) -> None:
    upload(page, sample[0])
    expect(page.get_by_role("button", name="Remove Image")).to_be_visible()
    page.get_by_label("Question").fill(sample[1])
    choose(page, "AdaptInfer", "ToMe")
    budget = page.get_by_role("spinbutton")
    budget.fill("32")
    budget.press("Tab")
    press_and_wait(page)
    assert [row[0].split("\n")[0] for row in cells(page)] == ["Vanilla", "AdaptInfer"]
    (refusal,) = page.locator("#answers .problem").all_inner_texts()
    assert refusal.startswith("ToMe cannot run here: ")


@pytest.mark.parametrize("width", [390, 1280])
def test_it_asks_this_machine_alone_and_is_in_no_readers_way(browser: Browser, demo: Demo, width: int) -> None:
    with opened(browser, demo.address, width=width) as tab:
        tab.page.get_by_text("Context:").first.click()
        expect(tab.page.get_by_label("Question")).not_to_have_value("")
        choose(tab.page, "FastV")
        press_and_wait(tab.page)
        assert tab.complaints == []
        assert [url for url in tab.requests if not url.startswith((demo.address, "data:", "blob:"))] == []
        assert tab.page.evaluate("document.documentElement.scrollWidth") == width
        found = Axe().run(tab.page)
        assert found.violations_count == 0, found.generate_report()
    assert {each.laddr.ip for each in demo.process.net_connections("inet")} == {"127.0.0.1"}
    asked_for = re.findall("looks up (.*)", demo.log.read_text())
    assert set(asked_for) == {"127.0.0.1"}


def test_texts_are_texts_on_the_page(sample: tuple[Path, str]) -> None:
    shown = as_html(Answers(Image.open(sample[0]), "<b>Is</b> it?", 64, (Refused("<i>", "<u>"),), ("<s>",)))
    assert not re.search("<[bius]>", shown)


def test_internvl_is_asked_too_and_says_what_it_cannot(tmp_path: Path, sample: tuple[Path, str]) -> None:
    model = str(save_internvl(tmp_path, layers=8))
    asker = Asker(own_config(model, ("vanilla",), 12, "demo"))
    *first, last = answers(asker, str(sample[0]), "What is it?", ["adaptinfer", "tome"], 12)
    assert [len(shown.rows) for shown in (*first, last)] == [1, 2, 3]  # as they are made
    vanilla, adaptinfer, tome = last.rows
    assert isinstance(vanilla, Row)
    assert isinstance(adaptinfer, Row)
    assert isinstance(tome, Refused)
    assert adaptinfer.macs < vanilla.macs
    assert abs(adaptinfer.leaving - 12) < 1
    assert "CLIP" in tome.problem
    assert as_html(last).count("<figure>") == len(adaptinfer.stages)


def test_a_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert call(monkeypatch, "demo", "--port", port) == 1
    said = f"adaptinfer-eval: port {port} cannot be had (Address already in use): give another with --port\n"
    assert capsys.readouterr().err == said


def test_what_is_no_checkpoint_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "demo", "--pretrained", "tasks/mini", "--port", free_port()) == 1
    assert "tasks/mini has no config.json: give the folder of a checkpoint" in capsys.readouterr().err


def test_without_gradio_the_command_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)  # what Python has of a package that cannot be found
    assert call(monkeypatch, "demo") == 1
    assert capsys.readouterr().err == ("adaptinfer-eval: the page needs Gradio: pip install 'adaptinfer-eval[demo]'\n")
