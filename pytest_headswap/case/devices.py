"""The devices on which checks run a case for real, and the case on such a device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from pytest_headswap._devices import WORKER, is_real
from pytest_headswap.case.case import Case
from pytest_headswap.case.value_snapshot import ValueSnapshot
from pytest_headswap.engine import on_real_device
from pytest_headswap.engine.pytorch import accelerators, parameters


def devices_of(case: Case) -> list[torch.device]:
    """Return the device for real runs, and a second one to move the model to if there are several.

    There is none if the case holds no values, or if no device is available.
    """
    found = accelerators.devices(case.device) if case.numeric and is_real(case.device) else []
    worker = os.environ.get(WORKER) or os.environ.get("PYTEST_XDIST_WORKER", "")
    return accelerators.devices_of_worker(found, worker) if found else []


@contextmanager
def case_on_device(case: Case, device: torch.device) -> Iterator[Case]:
    """Move the model with its own `to` for the duration of the block, and yield the case there.

    Evaluation, freeze and training of that case run on the device. Its values are copies, so that the model is
    unchanged after the block.
    """
    accelerators.require_dtypes(device, (*parameters(case.model), *case.model.buffers(), *case.inputs.tensors()))
    with on_real_device(case.model, device):
        inputs = case.inputs.map_tensors(lambda tensor: tensor.to(device, copy=True))
        yield replace(case, inputs=inputs, original_values=ValueSnapshot(case.model), _frozen=None)
