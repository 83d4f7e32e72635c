"""Measure merging and reporting at the scale of a model hub: `python benchmarks/at_scale.py`.

Runs all checks on a sample of timm, and writes journals of many architectures with results like these (see
`synthetic_shards.py`). Then merges the journals, writes the report and searches its page in Chromium, each in a process
of its own.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from synthetic_shards import FAULTS, write_shards
from zoo_vs_bare_loop import EVERY, FIXED, Cost, measure

from pytest_headswap._text import format_duration

FIGURES = Path(__file__).with_name("AT_SCALE.md")
ARCHITECTURES = 100_000
HUB, CORES = 1_000_000, 1_000
CHECKS = 8
MERGE = """
import sys
from pathlib import Path
from pytest_headswap.results.merge import merge
out, *folders = map(Path, sys.argv[1:])
merge(folders).write(out)
"""
REPORT = "import sys; from pytest_headswap.cli.main import main; sys.exit(main(['report', sys.argv[1]]))"
SEARCHES = ("vit", "resnet 12", "running_mean", "SIGSEGV", "0012", "no such model")
SEARCH = """async (text) => {
  const shown = document.querySelector('#shown'), field = document.querySelector('#search');
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  let took;
  for (const value of ['', text]) {
    const before = shown.textContent, start = performance.now();
    if (field.value === value) continue;
    field.value = value;
    field.dispatchEvent(new Event('input'));
    do await frame(); while (shown.textContent === before && performance.now() - start < 10000);
    took = performance.now() - start;
  }
  return took;
}"""


def run_sample(folder: Path) -> tuple[int, Cost, Cost]:
    """Run all checks on a sample of timm; return the number of models, the cost, and the cost of one small model."""
    import timm

    names = timm.list_models()[::EVERY]
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--headswap-zoo=timm"]
    small = measure([[*pytest, f"--headswap-models={FIXED}", "--headswap-report=small"]], folder)
    command = [*pytest, "-n", "2", f"--headswap-models={','.join(names)}", "--headswap-report=sample"]
    return len(names), measure([command], folder), small


def merge_figures(sample: Path, folder: Path, architectures: int) -> Iterator[list[str]]:
    """Yield rows with the cost of merges; keep the last merged journal in the folder `out`."""
    for count, shards in (
        (architectures // 10, 1),
        (architectures // 10, 10),
        (architectures, 10),
        (architectures, 100),
    ):
        written = folder / f"{count}-{shards}"
        folders = write_shards(written, sample, count, shards)
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        cost = measure([[sys.executable, "-c", MERGE, str(out), *map(str, folders)]], folder)
        size = (out / "results.jsonl").stat().st_size
        yield [f"{count:,}", f"{shards}", megabytes(size), *cost_cells(cost)]
        shutil.rmtree(written)


def page_figures(index: Path) -> tuple[float, list[float]] | None:
    """Return the seconds until the page is usable, and the milliseconds of each search; None without Chromium."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        start = time.perf_counter()
        page.goto(index.as_uri(), timeout=300_000)
        page.wait_for_function("document.documentElement.dataset.ready", timeout=300_000)
        ready = time.perf_counter() - start
        searches = [float(page.evaluate(SEARCH, text)) for text in SEARCHES]
        browser.close()
    return ready, searches


def megabytes(size: int) -> str:
    """Return a number of bytes in megabytes."""
    return f"{size / 1e6:,.1f} MB" if size < 1e7 else f"{size / 1e6:,.0f} MB"


def cost_cells(cost: Cost) -> list[str]:
    """Return the cells of a cost."""
    return [f"{cost.wall:.0f} s", f"{cost.cpu:.0f} s", f"{cost.peak_mb:,.0f} MB"]


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table of numbers."""
    return [f"| {' | '.join(row)} |" for row in (titles, ["---:"] * len(titles), *rows)]


def hub_lines(models: int, run: Cost, small: Cost, journal: int) -> list[str]:
    """Return the cost of a hub, from the cost of the sample."""
    each = (run.cpu - small.cpu) / (models - 1)
    days = each * HUB / 86400
    on_cores = format_duration(each * HUB / CORES + small.wall)
    sample = (
        f"All checks of {models} timm models (every {EVERY}th) took {run.cpu:.0f} s of CPU time with `-n 2`. One small "
        f"model takes {small.cpu:.0f} s, mostly for imports. That leaves {each:.2f} s for each further model."
    )
    return [
        sample,
        "",
        f"| {HUB:,} such models | |",
        "|---|---:|",
        f"| CPU time | {days:.1f} days |",
        f"| on {CORES:,} cores, evenly split, with the start of each | {on_cores} |",
        f"| journal | {journal * HUB / 1e9:.1f} GB |",
    ]


def main() -> None:
    """Measure everything and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, default=ARCHITECTURES, help="number (default: 100,000)")
    parser.add_argument("--folder", type=Path, help="folder for 1 GB of journals and pages (default: a temporary one)")
    parser.add_argument("--output", type=Path, default=FIGURES, help="file to write (default: benchmarks/AT_SCALE.md)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        models, run, small = run_sample(folder)
        merges = list(merge_figures(folder / "sample", folder, arguments.architectures))
        out = folder / "out"
        journal = (out / "results.jsonl").stat().st_size
        report = measure([[sys.executable, "-c", REPORT, str(out)]], folder)
        files = [path for path in out.rglob("*") if path.is_file() and path.name != "results.jsonl"]
        pages = page_figures(out / "index.html")
        all_files = f"{megabytes(sum(path.stat().st_size for path in files))} in {len(files):,}"
        sizes = [megabytes((out / "index.html").stat().st_size), all_files]
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "pytest"))
    machine = f"{os.cpu_count()} CPUs, {platform.system()}, Python {platform.python_version()}, {libraries}"
    load, cpus = os.getloadavg()[1], os.cpu_count() or 1
    if load > cpus + 1:
        machine += f". Other programs ran at the same time (load average {load:.0f}), so it took longer than it has to"
    about = (
        f"The journals are synthetic: the results of the sample below under many names, {CHECKS} checks each, with "
        f"failures of all kinds in {sum(share for share, _ in FAULTS.values())} of 1,000 architectures."
    )
    lines = [
        "# Figures at scale",
        "",
        f"Written by `python benchmarks/at_scale.py` on {time.strftime('%Y-%m-%d')}: {machine}.",
        "",
        about,
        "",
        "### Merge",
        "",
        *table(("architectures", "shards", "journal", "wall", "CPU", "memory"), merges),
        "",
        "### Report",
        "",
        *table(
            ("architectures", "wall", "CPU", "memory", "matrix", "all files"),
            [[f"{arguments.architectures:,}", *cost_cells(report), *sizes]],
        ),
        "",
    ]
    if pages is None:
        lines += ["The page was not opened: there is no Chromium on this machine.", ""]
    else:
        ready, searches = pages
        found = f"Each of {len(searches)} searches shows its rows within {math.ceil(max(searches))} ms."
        lines += [f"Chromium shows the page after {ready:.1f} s. {found}", ""]
    lines += ["### A million models", "", *hub_lines(models, run, small, journal // arguments.architectures)]
    text = "\n".join(lines) + "\n"
    print(text)
    arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
