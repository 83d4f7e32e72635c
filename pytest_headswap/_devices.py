"""Types of devices, by the names that torch or a backend package gives them. Torch itself is not needed."""

from __future__ import annotations

BACKEND_PACKAGES = {
    "hpu": "habana_frameworks.torch",
    "mlu": "torch_mlu",
    "musa": "torch_musa",
    "npu": "torch_npu",
    "vulkan": "torchvulkan",
    "xla": "torch_xla",
}
"""Types that torch has only after the import of a package, and the module to import. Other packages may define more."""

DEVICE_TYPES = ("cuda", "mps", "xpu", "mtia", *BACKEND_PACKAGES)
"""Known types of accelerators."""

WORKER = "HEADSWAP_WORKER"
"""Environment variable with the number of a process that checks models beside others: they take devices in turn."""

SIMULATED = "simulated"
"""Evidence from a device that is not there, and the device of the option: `simulated` for CUDA, or `simulated:TYPE`."""


def is_real(device: str) -> bool:
    """Return whether the device of the option can be one other than the CPU that is there."""
    return device.partition(":")[0] not in ("cpu", SIMULATED)
