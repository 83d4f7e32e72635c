"""Write the table of a mutation run."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomlkit

from conformance.mutation.campaign import CAUGHT

TABLE = Path(__file__).parents[1] / "MUTATION.md"
SURVIVORS = Path(__file__).with_name("survivors.toml")
REASONS = {
    "equivalent": "nothing tells the mutant from the original",
    "cost": "only time or memory differs",
    "wording": "only the text of a message differs",
    "accepted": "a user would hardly notice",
}


@dataclass(frozen=True)
class Survivor:
    """An explained survivor: the mutant, a key of `REASONS`, and the explanation."""

    key: str
    why: str
    reason: str


def explained(path: Path = SURVIVORS) -> dict[str, Survivor]:
    """Read the explained survivors. A mutant keeps its key while its function and its code stay the same."""
    entries = [Survivor(**entry) for entry in tomlkit.parse(path.read_text("utf-8")).unwrap().get("survivor", [])]
    wrong = [entry.key for entry in entries if entry.why not in REASONS or not entry.reason]
    if wrong:
        raise ValueError(
            f"{path.name}: `why` of {', '.join(wrong)} has to be one of {', '.join(REASONS)}, with a reason"
        )
    return {entry.key: entry for entry in entries}


def write_table(lines: list[dict[str, Any]], total: int, path: Path = TABLE, survivors: Path = SURVIVORS) -> int:
    """Write the counts of each folder and all survivors. Return 1 if one is not explained, or mutants are missing."""
    known = explained(survivors)
    lines = sorted(lines, key=lambda line: (line["file"], line["line"], line["key"]))
    alive = [line for line in lines if line["outcome"] not in CAUGHT]
    unexplained = [line for line in alive if line["key"] not in known]
    folders = sorted({_folder(line) for line in lines})
    text = [
        "# Mutation run",
        "",
        f"Written by `python -m conformance.mutation FOLDER` on {datetime.now(timezone.utc):%Y-%m-%d}, with Python",
        f"{platform.python_version()}, torch {version('torch').partition('+')[0]}, pytest {version('pytest')}.",
        "",
        "Each mutant is one small mistake in the package. It is killed if a test that reaches it fails. The rate",
        "counts timed out mutants as killed, and leaves out those that change no result.",
        "",
        *([f"**Unfinished: {total - len(lines)} of {total} mutants have not run.**", ""] if len(lines) < total else []),
        "| folder | mutants | killed | timed out | explained | unexplained | killed of those that change a result |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(_row(name, [line for line in lines if _folder(line) == name], known) for name in folders),
        _row("all", lines, known),
        "",
        "## Unexplained survivors",
        "",
        *([f"- {_shown(line)}" for line in unexplained] or ["None."]),
    ]
    for why, meaning in REASONS.items():
        items = [(line, known[line["key"]]) for line in alive if line["key"] in known and known[line["key"]].why == why]
        text += ["", f"## Explained survivors: {why} ({meaning})", ""]
        text += [f"- {_shown(line)}: {entry.reason}" for line, entry in items] or ["None."]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    print(path)
    return int(bool(unexplained) or len(lines) < total)


def _folder(line: dict[str, Any]) -> str:
    return str(line["file"].split("/")[1])


def _row(name: str, lines: list[dict[str, Any]], known: dict[str, Survivor]) -> str:
    outcomes = Counter(line["outcome"] for line in lines)
    alive = [known.get(line["key"]) for line in lines if line["outcome"] not in CAUGHT]
    unseen = sum(entry is not None and entry.why in ("equivalent", "cost") for entry in alive)
    caught = sum(outcomes[outcome] for outcome in CAUGHT)
    rate = caught / max(1, len(lines) - unseen)
    unexplained = alive.count(None)
    return (
        f"| {name} | {len(lines)} | {outcomes['killed']} | {outcomes['timed out']} | {len(alive) - unexplained} | "
        f"{unexplained} | {rate:.1%} |"
    )


def _shown(line: dict[str, Any]) -> str:
    before, _, after = (part.replace("`", "'") for part in line["change"].partition(" -> "))
    covered = " (no test reaches it)" if line["outcome"] == "not covered" else ""
    return f"`{line['file'].removeprefix('pytest_headswap/')}:{line['line']}` `{before}` becomes `{after}`{covered}"
