"""Use the page of the atlas in a real Chromium: search, links, programs, hostile files."""

from __future__ import annotations

import contextlib
import io
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.atlas import FOLDER, Atlas, Line
from tests.docs.conftest import DOCS, blocks_of

pytest.importorskip("material", reason="building the site needs mkdocs-material: pip install 'pytest-headswap[docs]'")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: install it to test the atlas in it")

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
HARM = "<img src=x onerror=document.title='harmed'>"

Open = Callable[..., Any]


class Quiet(SimpleHTTPRequestHandler):
    """Serve files without a log."""

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Yield the address of the page, served from the built site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/atlas/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Yield one Chromium for all tests of this file."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Open]:
    """Yield a function that opens the page and fails on errors and on requests to other sites.

    `files` are served in place of the files of the zoos.
    """
    wrong: list[str] = []
    contexts = []

    def opened(fragment: str = "", files: dict[str, str] | None = None, **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda asked: None if asked.url.startswith(address[:-6]) else wrong.append(asked.url))
        for name, text in (files or {}).items():
            page.route(f"**/{name}.tsv", partial(_fulfill, text))
        page.goto(address + fragment)
        page.wait_for_selector("#atlas-list:has(li), #atlas-count:text('None'), #atlas-count:text('could not')")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong


def _fulfill(text: str, route: Any) -> None:
    route.fulfill(body=text)


def _rows(page: Any) -> list[list[str]]:
    """Return name, zoo and head of each row that is drawn."""
    script = "rows => rows.map(row => ['.atlas-name', '.atlas-head'].map(part => row.querySelector(part).innerText))"
    return [[*name.split(), head] for name, head in page.eval_on_selector_all("#atlas summary", script)]


def _count(page: Any) -> str:
    return str(page.inner_text("#atlas-count"))


def test_site_has_the_files_that_the_tests_compare_with_the_engine(site: Path) -> None:
    files = sorted(FOLDER.glob("*.tsv"))
    assert len(files) == 3
    for path in files:
        assert (site / "atlas" / path.name).read_bytes() == path.read_bytes()


def test_program_for_transformers_compiles() -> None:
    (block,) = [block for block in blocks_of(DOCS / "atlas.md") if block.title]  # the tests run all others
    compile(block.text, block.title, "exec")


@in_chromium
def test_the_head_of_an_architecture_is_in_the_first_row(open_page: Open) -> None:
    page = open_page()
    architectures = sum(len(Atlas.read(path).lines) for path in FOLDER.glob("*.tsv"))
    assert _count(page).startswith(f"{architectures:,} architectures of timm ")
    page.fill("#atlas-search", "convnext_tiny")
    assert _rows(page)[:2] == [["convnext_tiny", "timm", "head.fc"], ["convnext_tiny", "torchvision", "classifier.2"]]
    assert page.url.endswith("#q=convnext_tiny")


SEARCHES = {
    "ConvNeXt-Tiny torchvision": "convnext_tiny",
    "timm/convnext_tiny.fb_in22k_ft_in1k": "convnext_tiny",
    "timm:levit_128": "levit_128",
    "resnet 18 timm": "resnet18",
    "heads=8": "efficientvim_m1_dist",
    "declared_headless qwen3": "qwen3_vit_306m_enc",
    "sequence roberta classifier.out_proj": "RobertaForSequenceClassification",
}


@in_chromium
def test_search_takes_words_in_any_order_and_names_with_tags(open_page: Open) -> None:
    page = open_page()
    for typed, first in SEARCHES.items():
        page.fill("#atlas-search", typed)
        assert _rows(page)[0][0] == first, typed


@in_chromium
def test_search_without_a_result_says_what_to_do(open_page: Open) -> None:
    page = open_page()
    page.fill("#atlas-search", "no such network")
    assert _count(page).endswith("architectures matches: type a part of the name, or fewer words")
    assert _rows(page) == []
    page.fill("#atlas-search", "")
    assert len(_rows(page)) > 5
    page.click("#atlas-more")
    assert page.evaluate("document.activeElement === document.querySelectorAll('#atlas summary')[20]")


@in_chromium
def test_link_opens_an_architecture_and_the_keyboard_does(open_page: Open) -> None:
    page = open_page("#timm/levit_128")
    assert page.locator("details[open] .atlas-this").all_inner_texts() == ["head.linear", "head_dist.linear"]
    page.focus("#atlas-search")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("timm mobilenetv5_300m_enc")
    page.keyboard.press("Enter")
    page.wait_for_url("**/#timm/mobilenetv5_300m_enc", timeout=5_000)
    link = page.locator("details[open] a").first
    assert link.get_attribute("href") == "../errors/#declared_headless"
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    page.evaluate("location.hash = '#timm/resnet18'")
    page.wait_for_selector("details[open][id='timm/resnet18'] .atlas-this")


@in_chromium
def test_other_addresses_never_fail(open_page: Open) -> None:
    page = open_page("#timm/no_such_net")
    for fragment in ("#q=%3Cb%3E", "#timm/", "#%E0%A4%A", "#swap-the-head", ""):
        page.evaluate("fragment => { location.hash = fragment }", fragment)
        assert "architectures" in _count(page)


@in_chromium
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1400, "light")])
def test_page_fits_its_window(width: int, scheme: str, open_page: Open) -> None:
    page = open_page(
        "#torchvision/maskrcnn_resnet50_fpn", viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    page.wait_for_selector(".atlas-body")
    assert page.evaluate("document.documentElement.scrollWidth") == width


# The program of each kind, as somebody copies it.
PROGRAMS = (
    *("timm/edgenext_xx_small", "timm/vit_tiny_patch16_dinov3_qkvb", "torchvision/squeezenet1_1"),
    *("torchvision/fcn_resnet50", "torchvision/ssdlite320_mobilenet_v3_large", "timm/deit_tiny_distilled_patch16_224"),
    "transformers/DeiTForImageClassificationWithTeacher",
)


@in_chromium
@pytest.mark.slow
@pytest.mark.parametrize("architecture", PROGRAMS)
def test_program_of_an_architecture_prints_what_the_page_says(
    architecture: str, open_page: Open, tmp_path: Path
) -> None:
    zoo, _, name = architecture.partition("/")
    pytest.importorskip(zoo)
    page = open_page(f"#{architecture}")
    program = str(page.get_attribute(".atlas-copy", "data-clipboard-text"))
    assert name in program
    assert program == page.inner_text(".atlas-body pre")
    if zoo == "transformers":
        from pytest_headswap import load_zoo

        model: Any = load_zoo(zoo)[name].build()
        model.save_pretrained(tmp_path)
        program = program.replace("NAME_OR_FOLDER", str(tmp_path))
    out = io.StringIO()
    with contextlib.redirect_stdout(out), torch.device("cpu" if zoo == "transformers" else "meta"):
        exec(program, {})
    assert page.inner_text(".atlas-body .atlas-note").startswith(f"It prints {out.getvalue().strip()}")


def _file(*names: str, **columns: str) -> str:
    line = Line("", "", head="fc", type="Linear", kind="linear", features="8", classes="2", dim="1", **columns)
    rows = ["\t".join(line._replace(architecture=name, family="nets")) for name in names]
    return "\n".join(["# timm 9", "\t".join(Line._fields), *rows, ""])


@in_chromium
def test_hostile_names_are_shown_as_text(open_page: Open) -> None:
    hostile = _file(HARM, "$&", "net", notes=HARM, evidence=HARM, outputs=HARM, tensors=HARM, before=HARM, after=HARM)
    page = open_page("#q=img", files={"timm": hostile})
    page.locator("#atlas summary").first.click()
    assert HARM in page.inner_text("#atlas-list")
    page.fill("#atlas-search", "$&")
    assert 'create_model("$&")' in page.inner_text(".atlas-body pre")
    assert page.evaluate("document.title") != "harmed"


@in_chromium
@pytest.mark.slow
def test_hundred_thousand_architectures_are_searched(open_page: Open) -> None:
    page = open_page(files={"timm": _file(*(f"net_{number}" for number in range(100_000)))})
    page.fill("#atlas-search", "net_99999")
    assert _rows(page) == [["net_99999", "timm", "fc"]]


@in_chromium
def test_list_that_cannot_be_loaded_is_said(open_page: Open) -> None:
    page = open_page(files={"torchvision": ""})
    assert _count(page).startswith("The list could not be loaded")
