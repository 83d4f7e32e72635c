"""Build the first line of a run's journal: versions, options and the shard."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version

from pytest_headswap.plugin.recording.keys import Keys
from pytest_headswap.plugin.settings import Settings
from pytest_headswap.results import JournalHeader
from pytest_headswap.results.merge import shard_options


def journal_header(settings: Settings, keys: Keys) -> JournalHeader:
    """Return the first line of the journal."""
    options = {
        "zoo": [zoo.name for zoo, _ in settings.this_shard],
        "models": settings.models,
        "checks": [check.name for check in settings.checks],
        **asdict(settings.options),
    }
    if settings.sample is not None:
        options["sample"] = settings.sample.text
    if settings.shard is not None:
        part = {zoo.name: names for zoo, names in settings.this_shard}
        options |= shard_options(str(settings.shard), part, {zoo.name: names for zoo, names in settings.selected})
    zoos = {zoo.name: {"architectures": len(zoo), "commits": keys.commits(zoo.name)} for zoo, _ in settings.this_shard}
    return JournalHeader(_versions(settings), options, devices=settings.devices, code=keys.code, zoos=zoos)


def _versions(settings: Settings) -> dict[str, str]:
    versions = {}
    for distribution in ("pytest-headswap", "pytest", "torch"):
        try:
            versions[distribution] = version(distribution)
        except PackageNotFoundError:  # such as torch from a system package
            versions[distribution] = "unknown"
    for zoo, _ in settings.this_shard:
        versions.update(zoo.versions)
    return versions
