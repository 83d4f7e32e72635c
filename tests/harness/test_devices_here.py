"""Questions about devices are asked in a short-lived fork, so that no runtime starts in this process."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from pytest_headswap.engine.pytorch import accelerators
from pytest_headswap.harness import devices_here
from pytest_headswap.harness.devices_here import ask_elsewhere, describe_devices

forks = pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="the system cannot fork")


def _raise() -> None:
    raise RuntimeError("the driver\nis too old")


def _exit() -> None:
    os._exit(3)


@forks
def test_another_process_answers_and_ends() -> None:
    answer, why = ask_elsewhere("xpu", os.getpid)
    assert isinstance(answer, int)
    assert (why, answer == os.getpid()) == ("", False)
    assert not psutil.pid_exists(answer)


@forks
@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (_raise, "RuntimeError: the driver is too old"),
        (_exit, "the process that asked ended with exit code 3"),
        (sys.exit, "the process that asked ended with exit code 0"),
    ],
)
def test_a_failure_is_the_reason_for_no_answer(ask: Callable[[], Any], why: str) -> None:
    assert ask_elsewhere("xpu", ask) == (None, why)


@forks
def test_a_runtime_that_never_starts_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices_here, "_SECONDS", 0.2)
    before = psutil.Process().children()
    assert ask_elsewhere("xpu", lambda: time.sleep(60)) == (None, "no answer within 0.2 s")
    assert psutil.Process().children() == before


@pytest.mark.parametrize("why", ["no fork", "macOS", "the runtime is up"])
def test_this_process_answers_where_a_fork_has_no_use(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    if why == "no fork":
        monkeypatch.delattr("os.fork", raising=False)
    elif why == "macOS":
        monkeypatch.setattr(sys, "platform", "darwin")
    else:
        monkeypatch.setattr(accelerators, "started", lambda: ["xpu"])
    assert ask_elsewhere("xpu", os.getpid) == (os.getpid(), "")
    assert ask_elsewhere("xpu", _raise) == (None, "RuntimeError: the driver is too old")


def _fake(count: int, name: Callable[..., Any]) -> Any:
    return SimpleNamespace(device_count=lambda: count, is_initialized=lambda: False, get_device_name=name)


def _numbered(device: torch.device) -> str:
    return f"Maker X{device.index}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu", []),
        ("xpu", ["xpu:0 (Maker X0)", "xpu:1 (Maker X1)"]),
        ("auto", ["xpu:0 (Maker X0)", "xpu:1 (Maker X1)"]),
        ("xpu:1", ["xpu:1 (Maker X1)"]),
    ],
)
def test_devices_are_described_by_index_and_name(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: list[str]
) -> None:
    monkeypatch.setattr(torch, "xpu", _fake(2, _numbered))
    assert describe_devices(text) == expected


def test_without_a_device_there_is_nothing_to_describe() -> None:
    assert describe_devices("auto") == []


@pytest.mark.parametrize(("text", "expected"), [("auto", "xpu"), ("xpu:0", "xpu:0")])
def test_a_device_whose_name_cannot_be_read_keeps_its_index(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.setattr(torch, "xpu", _fake(1, lambda: ""))
    assert describe_devices(text) == ["xpu:0"]
    monkeypatch.setattr(torch, "xpu", _fake(1, _raise))
    assert describe_devices(text) == ["xpu:0"]
    if hasattr(os, "fork") and sys.platform != "darwin":
        monkeypatch.setattr(torch, "xpu", _fake(1, _exit))
        assert describe_devices(text) == [expected]
