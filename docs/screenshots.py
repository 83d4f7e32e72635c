"""Make the pictures of reports and commands in the README and the documentation: `python docs/screenshots.py`.

They show a real run over all of timm. Its results are kept in the folder `headswap-screenshots`, so a second call only
draws the pages again, as after a change of the report. Names choose pictures: `python docs/screenshots.py report card`.
Needs Chromium (see CONTRIBUTING).
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, MONOKAI, TerminalTheme
from rich.text import Text

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parent.parent
FOLDER = Path(__file__).parent / "screens"
RESULTS = ROOT / "headswap-screenshots"
RUN = "pytest -q -n 2 --headswap-zoo=timm --headswap-evidence=abstract"
EXPLAIN = "headswap explain torchvision:googlenet"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
COLOURS = 96
"""Enough for text and flat colours. A picture then takes a third of its size."""
_WIDTH = 114  # characters in a line of a terminal
_THEMES = {"light": DEFAULT_TERMINAL_THEME, "dark": MONOKAI}


def terminal(command: str, printed: str, theme: TerminalTheme) -> str:
    """Return a picture (SVG) of a terminal with a command and what it printed, with its colours."""
    console = Console(record=True, width=_WIDTH, file=io.StringIO(), color_system="truecolor", force_terminal=True)
    console.print(Text.assemble(("$ ", "dim"), command))
    console.print(Text.from_ansi(printed.rstrip()))
    picture = console.export_svg(title="", theme=theme, code_format=_without_fonts(), unique_id="t")
    return picture.replace("rgba(255,255,255,0.35)", "#8888")  # a border that is seen on white too


def _without_fonts() -> str:
    """Return rich's template with fonts of the reader, since it would load one from another site."""
    before, _, rest = CONSOLE_SVG_FORMAT.partition("    @font-face")
    after = rest[rest.index("    .{unique_id}-matrix") :]
    return (before + after).replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")


def printed_by(command: str) -> str:
    """Return what a command prints in a terminal, with colours."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    env = {**os.environ, "PATH": path, "FORCE_COLOR": "1", "COLUMNS": str(_WIDTH)}
    done = subprocess.run(command.split(), cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return done.stdout


def run() -> None:
    """Run the models unless their results are there, and write the pages of the report."""
    if not (RESULTS / "results.jsonl").exists():
        subprocess.run([*RUN.split(), f"--headswap-report={RESULTS}"], cwd=ROOT, check=True)
    subprocess.run(["headswap", "report", str(RESULTS)], cwd=ROOT, check=True)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the Chromium of this machine."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        sys.exit("docs/screenshots.py needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def shoot(browser: Browser, page: str, name: str, size: tuple[int, int]) -> None:
    """Write `NAME-light.png` and `NAME-dark.png` of a page of the report."""
    for theme in _THEMES:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if theme == "dark" else "light",
            device_scale_factor=1.5,
        )
        tab = context.new_page()
        tab.goto((RESULTS / page).as_uri())
        tab.wait_for_timeout(300)
        _write_png(tab.screenshot(), FOLDER / f"{name}-{theme}.png")
        context.close()


def card(browser: Browser) -> None:
    """Write the picture that other sites show with a link to the documentation."""
    logo = (ROOT / "docs" / "logo.svg").read_text(encoding="utf-8")
    tab = browser.new_page(viewport={"width": 1200, "height": 630})
    tab.set_content(_CARD.replace("LOGO", logo))
    _write_png(tab.screenshot(), FOLDER / "card.png")
    tab.close()


def _write_png(data: bytes, path: Path) -> None:
    from PIL import Image

    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


_CARD = """\
<style>
body { margin: 0; background: #303f9f; color: #fff; font-family: system-ui, sans-serif }
main { padding: 80px 90px }
header { display: flex; align-items: center; gap: 36px; font-size: 84px; font-weight: 700 }
svg { width: 130px }
p { font-size: 44px; line-height: 1.35; margin: 48px 0 }
pre { font-size: 34px; background: #1a237e; border-radius: 14px; padding: 26px 34px; margin: 0 }
</style>
<main>
<header>LOGO pytest-headswap</header>
<p>Find, swap and test the classification head<br>of any PyTorch model</p>
<pre>swap_head(model, num_classes=5)</pre>
</main>
"""


def main(arguments: Sequence[str] = tuple(sys.argv[1:])) -> None:
    """Make all pictures, or those whose names are given: `explain`, `report`, `badge`, `card`."""
    wanted = set(arguments) or {"explain", "report", "badge", "card"}
    FOLDER.mkdir(exist_ok=True)
    if "explain" in wanted:
        printed = printed_by(EXPLAIN)
        for theme, colours in _THEMES.items():
            (FOLDER / f"explain-{theme}.svg").write_text(terminal(EXPLAIN, printed, colours), encoding="utf-8")
    if wanted & {"report", "badge"}:
        run()
    if "badge" in wanted:
        badge = ["headswap", "badge", str(RESULTS), "--label=timm", f"--output={FOLDER / 'badge.svg'}"]
        subprocess.run(badge, check=True)
    with chromium() as browser:
        if "report" in wanted:
            shoot(browser, "index.html", "report", (1180, 900))
            (page,) = RESULTS.glob("architectures/deit_tiny_distilled_patch16_224-*.html")
            shoot(browser, str(page.relative_to(RESULTS)), "architecture", (1180, 1340))
        if "card" in wanted:
            card(browser)


if __name__ == "__main__":
    main()
