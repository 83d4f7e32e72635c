"""Declare the options without torch, and read and validate them once a zoo is requested."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_headswap._links import page
from pytest_headswap._text import listed
from pytest_headswap.harness.options import (
    DEFAULT_NUM_CLASSES,
    DEFAULT_TIMEOUT,
    DEVICES,
    EVIDENCE,
    AskedError,
    CaseOptions,
    class_count,
    device_name,
    evidence_kind,
    memory_budget,
    select_checks,
    shard_of,
    timeout_seconds,
)
from pytest_headswap.plugin.settings import Settings

if TYPE_CHECKING:
    from pytest_headswap.checks import Check
    from pytest_headswap.expectations.expectations import Expectations
    from pytest_headswap.plugin.settings import Scope
    from pytest_headswap.zoo.selection import Selected

DEFAULT_REPORT = "headswap-report"


def add_options(parser: pytest.Parser) -> None:
    """Declare each option as a flag and as an ini key."""
    group = parser.getgroup("headswap", "swap the heads of the models of a zoo")

    def add(name: str, metavar: str, text: str) -> None:
        group.addoption(f"--headswap-{name}", metavar=metavar, default=None, help=text)
        parser.addini(f"headswap_{name.replace('-', '_')}", text, default="")

    text = "zoo of models to test, such as builtin or timm; may be repeated"
    group.addoption("--headswap-zoo", metavar="ZOO", action="append", default=None, help=text)
    parser.addini("headswap_zoo", text.replace("; may be repeated", "; separate several by spaces"), "args", [])
    add("models", "GLOBS", "comma-separated globs of models to test; !glob excludes (default: all)")
    add("checks", "NAMES", "comma-separated checks to run (default: all)")
    add("num-classes", "N", f"class count of the new heads (default: {DEFAULT_NUM_CLASSES})")
    add("evidence", "KIND", f"kind of evidence: {', '.join(EVIDENCE)} (default: auto, numeric if memory allows)")
    add("device", "DEVICE", f"device for device_placement: {DEVICES} (default: auto, whatever is available)")
    add("timeout", "SECONDS", f"time limit per model in seconds, for all its checks (default: {DEFAULT_TIMEOUT})")
    add("memory", "SIZE", "memory limit per model, such as 2.5GiB (default: the worker's share of free memory)")
    add("shard", "I/N", "shard of the models to run on this machine, such as 2/8 on the second of eight (default: all)")
    text = "TOML file (or a folder with one per zoo) that lists expected failures and their reasons (default: none)"
    add("expectations", "FILE_OR_FOLDER", text)
    group.addoption(
        "--headswap-update-expectations",
        action="store_true",
        default=False,
        help="merge the outcomes of this run into the expectations file, and print the diff",
    )
    group.addoption(
        "--headswap-audit",
        action="store_true",
        default=False,
        help="also run what the expectations file or the zoo would skip, and report the outcome",
    )
    add("report", "FOLDER", f"folder for the report (default: {DEFAULT_REPORT})")
    group.addoption(
        "--headswap-resume",
        action="store_true",
        default=False,
        help="resume from the journal in the report folder: keep its results, rerun crashes and timeouts; versions and "
        "options must match",
    )


def asked_scope(config: pytest.Config) -> Scope | None:
    """Return the scope of the zoos, or None without a zoo. Must be cheap, since every pytest run calls it."""
    given = bool(config.getoption("headswap_zoo"))
    if not given and not config.getini("headswap_zoo"):
        return None
    workerinput = getattr(config, "workerinput", None)
    if workerinput is not None:  # xdist always passes paths to workers; the controller knows what was typed
        scope: Scope | None = workerinput.get("headswap_scope")
        return scope
    paths = config.args_source is pytest.Config.ArgsSource.ARGS
    if given:
        return "beside" if paths else "only"
    return None if paths else "beside"


def asked_zoos(config: pytest.Config) -> tuple[str, ...]:
    """Return the zoos of the command line or, without any, those of the ini file."""
    return tuple(dict.fromkeys(config.getoption("headswap_zoo") or config.getini("headswap_zoo")))


def text_of(config: pytest.Config, name: str) -> str:
    """Return an option as typed on the command line or, failing that, in the ini file."""
    given = config.getoption(f"headswap_{name}")
    return str(config.getini(f"headswap_{name}") if given is None else given).strip()


def read_case_options(config: pytest.Config) -> CaseOptions:
    """Return the options that determine how cases are built.

    Raises:
        AskedError: an option is invalid; the message says what to type instead.
    """
    usual = CaseOptions()
    return CaseOptions(
        class_count(text_of(config, "num_classes") or usual.num_classes, "--headswap-num-classes"),
        evidence_kind(text_of(config, "evidence") or usual.evidence, "--headswap-evidence"),
        device_name(text_of(config, "device") or usual.device, "--headswap-device"),
        timeout_seconds(text_of(config, "timeout") or usual.timeout, "--headswap-timeout"),
        memory_budget(text_of(config, "memory") or usual.memory, "--headswap-memory"),
    )


def read_settings(config: pytest.Config, scope: Scope, known_checks: Mapping[str, Check]) -> Settings:
    """Load the requested zoos and validate all options.

    Raises:
        pytest.UsageError: an option is invalid; the message says what to type instead.
    """
    from pytest_headswap.plugin.planning.shards import part_of_each

    try:
        options = read_case_options(config)
        patterns = text_of(config, "models")
        shard = shard_of(text_of(config, "shard"), "--headswap-shard")
        whole = _selected(config, patterns)
        asked = listed(text_of(config, "checks")) or known_checks
        checks = select_checks(asked, known_checks, "--headswap-checks")
        expectations = _expectations(config, whole, known_checks, options)
    except AskedError as error:
        raise pytest.UsageError(f"{error}\nSee {page(error.page)}") from error
    zoos = whole if shard is None else part_of_each(whole, shard)
    return Settings(zoos, whole, shard, checks, options, _report(config), scope, patterns, expectations)


def _selected(config: pytest.Config, patterns: str) -> Selected:
    from pytest_headswap.zoo import ZooError
    from pytest_headswap.zoo.selection import load_zoos, select

    try:
        zoos = load_zoos(asked_zoos(config), "--headswap-zoo")
    except ZooError as error:
        raise AskedError(str(error), page="zoo") from error
    try:
        return select(zoos, patterns, "--headswap-models")
    except ZooError as error:
        raise AskedError(str(error)) from error


def _expectations(
    config: pytest.Config, whole: Selected, known_checks: Mapping[str, Check], options: CaseOptions
) -> Expectations:
    from pytest_headswap.plugin.read_expectations import read_expectations

    sent = getattr(config, "workerinput", {}).get("headswap_expectations")
    typed = text_of(config, "expectations") if sent is None else sent["typed"]
    base = config.rootpath if config.getoption("headswap_expectations") is None else config.invocation_params.dir
    path = base / typed if sent is None else Path(sent["path"])
    return read_expectations(config, whole, tuple(known_checks), options, typed, path)


def _report(config: pytest.Config) -> Path:
    given: str | None = config.getoption("headswap_report")
    ini: str = config.getini("headswap_report")
    if given is None and ini:
        return config.rootpath / ini
    return config.invocation_params.dir / (given or DEFAULT_REPORT)
