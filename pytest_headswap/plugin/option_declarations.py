"""Declare the options of the plugin. Every pytest run imports this module, so it imports no torch."""

from __future__ import annotations

import pytest

from pytest_headswap.case.options import CaseOptions
from pytest_headswap.harness.device_option import DEVICE_CHOICES
from pytest_headswap.harness.options import ANNOTATIONS, EVIDENCE, ISOLATION

DEFAULT_REPORT = "headswap-report"


def add_options(parser: pytest.Parser) -> None:
    """Declare each option as a flag and as an ini key."""
    group = parser.getgroup("headswap", "swap the heads of the models of a zoo")

    def add(name: str, metavar: str, text: str) -> None:
        group.addoption(f"--headswap-{name}", metavar=metavar, default=None, help=text)
        parser.addini(f"headswap_{name.replace('-', '_')}", text, default="")

    text = "zoos of models to test, comma-separated, such as builtin or timm"
    group.addoption("--headswap-zoo", metavar="ZOO", action="append", default=None, help=text)
    parser.addini("headswap_zoo", text, "args", [])
    add("models", "GLOBS", "comma-separated globs of models to test; !glob excludes (default: all)")
    text = "comma-separated checks to run; +name adds one, !name excludes one (default: all but opt-in checks)"
    add("checks", "NAMES", text)
    add("num-classes", "N", f"class count of the new heads (default: {CaseOptions.num_classes})")
    add("evidence", "KIND", f"kind of evidence: {', '.join(EVIDENCE)} (default: auto, numeric if memory allows)")
    add("device", "DEVICE", f"device for device_placement: {DEVICE_CHOICES} (default: auto, whatever is available)")
    text = "module that defines a type of device, such as torch_npu or torch_xla, to import first (default: none)"
    add("device-import", "MODULE", text)
    add("timeout", "SECONDS", f"time limit per model in seconds, for all its checks (default: {CaseOptions.timeout})")
    add("memory-limit", "SIZE", "memory limit per model, such as 2.5GiB (default: the worker's share of free memory)")
    add("isolation", "KIND", f"how child processes start: {', '.join(ISOLATION)} (default: auto, fork on Linux)")
    text = "where models run: local, local:N processes, ray, or ray:ADDRESS of a Ray cluster (default: local)"
    add("executor", "KIND", text)
    text = "shard of the models for this machine, such as 2/8; auto asks the CI system or scheduler (default: all)"
    add("shard", "I/N", text)
    text = "TOML file (or a folder with one per zoo) that lists expected failures and their reasons (default: none)"
    add("expectations", "FILE_OR_FOLDER", text)
    group.addoption(
        "--headswap-update-expectations",
        action="store_true",
        default=False,
        help="merge the outcomes of this run into the expectations file, and print the diff",
    )
    group.addoption(
        "--headswap-run-skipped",
        action="store_true",
        default=False,
        help="also run what the expectations file or the zoo would skip, and report the outcome",
    )
    add("report", "FOLDER", f"folder for the report (default: {DEFAULT_REPORT})")
    add("ctrf", "FILE", "file for the results as CTRF JSON (default: none)")
    text = f"annotations of failures: {', '.join(ANNOTATIONS)}; auto prints them only in GitHub Actions (default: none)"
    add("annotations", "KIND", text)
    group.addoption(
        "--headswap-resume",
        action="store_true",
        default=False,
        help="resume from the journal in the report folder: keep its results, rerun crashes and timeouts; versions and "
        "options must match",
    )
    text = "journal or report folder of an earlier run: take its results over where nothing they rest on has changed"
    add("since", "JOURNAL", text)
    add("sample", "SAMPLE", "models to run: family for one of each family, a percentage, or a number (default: all)")
    add("since-verify", "N%", "part of the models to run although their results could be taken over; they must agree")
