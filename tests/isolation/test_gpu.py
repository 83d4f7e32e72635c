"""Child processes share a real GPU."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from pytest_headswap.results import Result

pytestmark = pytest.mark.cuda

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]
PLACEMENT = ("--headswap-zoo=testzoo", "--headswap-checks=device_placement,output_shape")

MODELS = """
class OutOfRange(Net):
    def forward(self, x):
        features = self.backbone(x)
        if x.is_cuda:  # a kernel fails, and after it nothing goes in this process any more
            features = features[:, torch.arange(16, device=x.device) + 100]
        return self.fc(features)

class OnTheCpu(Net):
    def forward(self, x):
        return self.fc(self.backbone(x) + torch.ones(16))

class Large(Net):
    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.more = nn.Linear(2**15, 2**14)  # 2 GiB
"""


@pytest.mark.parametrize("workers", [0, 3])
def test_models_run_on_the_gpu_and_one_that_breaks_it_affects_no_other(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, workers: int
) -> None:
    extend_conftest(
        MODELS + "SOUND = {f'sound_{number:02}': dict(build=Net) for number in range(12)}\n"
        "SPECS = {'a_out_of_range': dict(build=OutOfRange), 'b_on_the_cpu': dict(build=OnTheCpu), **SOUND}"
    )
    done = project.runpytest_subprocess(*PLACEMENT, *(["-n", str(workers)] if workers else []))
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    results = {(item.model, item.check): item for item in journal().values()}
    placed = {model: item for (model, check), item in results.items() if check == "device_placement"}
    failed = {model: item for model, item in placed.items() if item.outcome != "passed"}
    assert {model: item.outcome for model, item in failed.items()} == {
        "a_out_of_range": "failed",
        "b_on_the_cpu": "failed",
    }
    assert "device-side assert" in failed["a_out_of_range"].message
    assert "cuda:" in failed["b_on_the_cpu"].message
    in_turn = {f"cuda:{worker % torch.cuda.device_count()}" for worker in range(max(1, workers))}
    assert {item.evidence.split(",")[0] for item in placed.values()} <= in_turn
    assert {item.outcome for (_, check), item in results.items() if check == "output_shape"} == {"passed"}
    assert "torch.cuda.synchronize() is" in failed["a_out_of_range"].message


def test_workers_share_a_gpu_with_memory_for_one_model_at_a_time(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes the rest of the GPU's memory."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0])
    extend_conftest(
        MODELS + "SPECS = {f'large_{number}': dict(build=Large, build_native=None) for number in range(6)}\n"
        "def pytest_sessionstart(session):\n"
        "    if not hasattr(session.config, 'workerinput'):\n"
        "        import subprocess, sys\n"
        "        code = 'import time, torch; free = torch.cuda.mem_get_info()[0]; '\n"
        "        code += 'taken = torch.empty(free - 9 * 2**30, dtype=torch.uint8, device=\"cuda\"); '\n"
        "        code += 'print(1, flush=True); time.sleep(600)'\n"
        "        session.config.taker = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)\n"
        "        session.config.taker.stdout.readline()\n"
        "def pytest_sessionfinish(session):\n"
        "    if not hasattr(session.config, 'workerinput'):\n"
        "        session.config.taker.kill()\n"
    )
    project.runpytest_subprocess(*PLACEMENT, "-n", "6", "--headswap-evidence=numeric")
    results = [item for item in journal().values() if item.check == "device_placement"]
    assert len(results) == 6
    assert {item.outcome for item in results} == {"passed"}
    assert {item.evidence for item in results} == {"cuda:0"}
