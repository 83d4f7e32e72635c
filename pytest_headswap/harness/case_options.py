"""Make the options of a case from the arguments of `check_headswap`."""

from __future__ import annotations

from pytest_headswap.case.options import CaseOptions
from pytest_headswap.harness.device_option import parse_device
from pytest_headswap.harness.options import parse_evidence, parse_memory_limit, parse_num_classes


def make_case_options(
    num_classes: int, evidence: str, device: str, device_import: str, memory_limit: str
) -> CaseOptions:
    """Return the options of a case from the arguments of `check_headswap`.

    Raises:
        OptionError: an argument is invalid.
    """
    return CaseOptions(
        parse_num_classes(num_classes, "num_classes"),
        parse_evidence(evidence, "evidence"),
        memory_limit=parse_memory_limit(memory_limit, "memory_limit"),
        device=parse_device(str(device), "device", device_import, "device_import"),
        device_import=device_import,
    )
