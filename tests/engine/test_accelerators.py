"""The functions that know devices. Fake backends stand in for devices that this machine does not have."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pytest_headswap.engine.abstract.trial_limits import max_trial_bytes
from pytest_headswap.engine.pytorch import RandomState, accelerators, seed_all

CPU = torch.device("cpu")


class Backend:
    """The module of a backend, such as `torch.xpu`, which takes note of its calls."""

    def __init__(self, kind: str, count: int = 1, *, up: bool = True) -> None:
        self.kind, self.count, self.up = kind, count, up
        self.calls: list[tuple[Any, ...]] = []
        self.state = torch.zeros(1)

    def device_count(self) -> int:
        return self.count

    def is_available(self) -> bool:
        return self.count > 0

    def is_initialized(self) -> bool:
        return self.up

    def synchronize(self, *device: torch.device) -> None:
        self.calls.append(("synchronize", *device))

    def manual_seed_all(self, value: int) -> None:
        self.calls.append(("seed", value))

    def get_rng_state(self, *device: torch.device) -> torch.Tensor:
        return self.state.clone() + (device[0].index if device else 0)

    def set_rng_state(self, state: torch.Tensor, *device: torch.device) -> None:
        self.calls.append(("state", state.item(), *device))

    def mem_get_info(self, *_: torch.device) -> tuple[int, int]:
        return 2**20, 2**30

    def get_device_name(self, *device: torch.device) -> str:
        return f"Fake {self.kind} {device[0].index if device else 'alone'}"


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Backend]:
    """Return a function that makes torch have the module of a backend, and no other device."""
    if hasattr(torch, "accelerator"):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)

    def make(kind: str, count: int = 1, *, up: bool = True) -> Backend:
        made = Backend(kind, count, up=up)
        monkeypatch.setattr(torch, kind, made, raising=False)
        return made

    return make


def test_the_cpu_is_no_accelerator() -> None:
    assert accelerators.devices("cpu") == []
    assert accelerators.count("cpu") == accelerators.count("") == 0
    assert accelerators.current_type() == "", "the tests hide GPUs"
    assert accelerators.devices("auto") == []


@pytest.mark.parametrize("kind", ["meta", "xla", "privateuseone", "opencl", "nonsense"])
def test_a_type_without_values_has_no_device(kind: str) -> None:
    assert accelerators.count(kind) == 0


def test_the_accelerator_that_torch_names_comes_first(
    monkeypatch: pytest.MonkeyPatch, backend: Callable[..., Backend]
) -> None:
    backend("cuda"), backend("xpu")
    named = SimpleNamespace(current_accelerator=lambda: torch.device("xpu"))
    monkeypatch.setattr(torch, "accelerator", named, raising=False)
    assert accelerators.current_type() == "xpu"


def test_an_accelerator_without_devices_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, backend: Callable[..., Backend]
) -> None:
    """Torch names what it was compiled for, whether the machine has it or not."""
    backend("cuda", 0), backend("mtia")
    named = SimpleNamespace(current_accelerator=lambda: torch.device("cuda"))
    monkeypatch.setattr(torch, "accelerator", named, raising=False)
    assert accelerators.current_type() == "mtia"


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu", "mtia", "hpu"])
def test_before_torch_2_6_the_modules_of_the_backends_are_asked(
    monkeypatch: pytest.MonkeyPatch, backend: Callable[..., Backend], kind: str
) -> None:
    monkeypatch.delattr(torch, "accelerator", raising=False)
    assert accelerators.current_type() == ""
    backend(kind, 2)
    assert accelerators.current_type() == kind
    assert accelerators.devices("auto") == [torch.device(kind, 0), torch.device(kind, 1)]


def test_a_private_backend_is_known_by_its_own_name(
    monkeypatch: pytest.MonkeyPatch, backend: Callable[..., Backend]
) -> None:
    monkeypatch.setattr(torch._C, "_get_privateuse1_backend_name", lambda: "npu")
    backend("npu")
    assert accelerators.current_type() == "npu"
    assert accelerators.started() == ["npu"]


def test_an_option_names_all_devices_of_a_type_or_one(backend: Callable[..., Backend]) -> None:
    backend("xpu", 3)
    assert accelerators.devices("xpu") == [torch.device("xpu", number) for number in range(3)]
    assert accelerators.devices("xpu:2") == [torch.device("xpu", 2)]


@pytest.mark.parametrize(
    ("worker", "count", "expected"),
    [
        ("", 1, [0]),
        ("", 3, [0, 1]),
        ("gw0", 2, [0, 1]),
        ("gw1", 2, [1, 0]),
        ("gw3", 8, [3, 4]),
        ("gw7", 8, [7, 0]),
        ("gw10", 8, [2, 3]),
        ("gw5", 1, [0]),
        ("master", 4, [0, 1]),
        ("gw", 4, [0, 1]),
        ("gw1x", 4, [0, 1]),
        ("gw٣", 4, [0, 1]),
    ],
)
def test_workers_take_devices_in_turn(worker: str, count: int, expected: list[int]) -> None:
    found = [torch.device("cuda", number) for number in range(count)]
    assert [device.index for device in accelerators.devices_of_worker(found, worker)] == expected


def test_no_runtime_is_started_by_asking(backend: Callable[..., Backend]) -> None:
    made = backend("xpu", up=False)
    before = accelerators.random_states()
    seed_all(3)
    RandomState().restore()
    assert (before, accelerators.started(), made.calls) == ({}, [], [])


def test_all_devices_whose_runtime_is_up_are_seeded_and_restored(backend: Callable[..., Backend]) -> None:
    made = backend("xpu", 2)
    numbers = RandomState()
    made.state += 5
    seed_all(3)
    first = random.random()
    numbers.restore()
    seed_all(3)
    assert random.random() == first
    one, two = torch.device("xpu", 0), torch.device("xpu", 1)
    assert made.calls == [("seed", 3), ("state", 0, one), ("state", 1, two), ("seed", 3)]


def test_a_backend_with_one_device_need_not_take_it(backend: Callable[..., Backend]) -> None:
    made = backend("mps", 1)
    device = torch.device("mps", 0)
    accelerators.synchronize(device)
    accelerators.set_random_state(device, accelerators.random_states()[device])
    assert made.calls == [("synchronize",), ("state", 0)]
    assert accelerators.name(device) == "Fake mps alone"


def test_a_backend_without_a_function_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "xpu", SimpleNamespace(device_count=lambda: 1, is_initialized=lambda: True))
    device = torch.device("xpu", 0)
    accelerators.synchronize(device)
    accelerators.empty_cache(device)
    accelerators.seed(1)
    assert accelerators.random_states() == {}
    assert (accelerators.name(device), accelerators.free_memory(device)) == ("", None)
    assert accelerators.identity(device) == "xpu-0"


def test_the_free_memory_of_a_device_limits_trials(backend: Callable[..., Backend]) -> None:
    backend("xpu", 2)
    assert max_trial_bytes(torch.device("xpu", 1)) == 2**18
    assert max_trial_bytes(CPU) > 2**18


def test_processes_know_a_device_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    def properties(device: torch.device) -> Any:
        return SimpleNamespace(uuid=f"GPU-{device.index}", name="H200")

    monkeypatch.setattr(torch, "cuda", SimpleNamespace(device_count=lambda: 2, get_device_properties=properties))
    assert accelerators.identity(torch.device("cuda", 1)) == "GPU-1"


@pytest.mark.parametrize(
    ("option", "kind", "up", "expected"),
    [
        ("auto", "", False, False),
        ("auto", "cuda", False, False),
        ("auto", "cuda", True, True),
        ("cuda:0", "cuda", False, False),
        ("cpu", "cuda", False, False),
        ("cpu", "cuda", True, True),
        ("auto", "xpu", False, True),
        ("xla", "", False, True),
        ("cpu", "xpu", True, True),
    ],
)
def test_a_fork_is_avoided_where_a_runtime_is_up_or_may_be(
    backend: Callable[..., Backend], option: str, kind: str, up: bool, expected: bool
) -> None:
    if kind:
        backend(kind, up=up)
    assert accelerators.breaks_fork(option) is expected


def test_a_fork_that_cannot_use_the_device_is_recognised(
    monkeypatch: pytest.MonkeyPatch, backend: Callable[..., Backend]
) -> None:
    assert accelerators.unusable_type() == ""
    made = backend("xpu")
    assert accelerators.unusable_type() == ""
    monkeypatch.setattr(made, "_is_in_bad_fork", lambda: True, raising=False)
    assert accelerators.unusable_type() == "xpu"
    monkeypatch.setattr(made, "_is_in_bad_fork", lambda: False)
    assert accelerators.unusable_type() == ""
    monkeypatch.setattr(backend("cuda"), "is_available", lambda: False)
    assert accelerators.unusable_type() == "cuda"


def test_a_backend_that_was_not_compiled_has_no_device(backend: Callable[..., Backend]) -> None:
    """`torch.mtia.device_count()` of torch 2.4 is -1 or the number of GPUs."""
    backend("xpu", -1)
    assert accelerators.count("xpu") == 0
    made = backend("mtia", 2)
    assert accelerators.count("mtia") == 2
    made.is_available = lambda: False  # type: ignore[method-assign]
    assert (accelerators.count("mtia"), accelerators.devices("mtia")) == (0, [])


OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("MPS backend out of memory (MPS allocated: 18.00 GB)"),
    RuntimeError("XPU out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("Bad StatusOr access: RESOURCE_EXHAUSTED: Error allocating device buffer"),
    RuntimeError("vkAllocateMemory: VK_ERROR_OUT_OF_DEVICE_MEMORY"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_backends_run_out_of_memory_each_in_its_own_words(error: Exception) -> None:
    assert accelerators.is_out_of_memory(error)
    assert accelerators.shortcoming(error) == "does not have enough memory for this model"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        ValueError("out of memory"),
        RuntimeError("index out of bounds"),
        NotImplementedError("no kernel"),
    ],
    ids=str,
)
def test_other_errors_are_not_a_shortcoming_of_the_device(error: Exception) -> None:
    assert not accelerators.is_out_of_memory(error)
    assert accelerators.shortcoming(error) == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.float8_e4m3fn], ids=str)
def test_a_device_is_asked_for_a_dtype(dtype: torch.dtype) -> None:
    assert accelerators.supports(CPU, dtype)
    assert not accelerators.supports(torch.device("meta"), dtype), "it gives no values back"


def test_a_device_that_lacks_a_dtype_of_the_model_is_refused_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "supports", lambda _, dtype: dtype not in (torch.float64, torch.complex128))
    accelerators.require_dtypes(CPU, [torch.ones(1), torch.ones(1, dtype=torch.int64)])
    tensors = [torch.ones(1), torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.complex128)]
    with pytest.raises(accelerators.UnsupportedDtypeError) as refused:
        accelerators.require_dtypes(CPU, tensors)
    message = "does not support torch.complex128, torch.float64, which this model has"
    assert accelerators.shortcoming(refused.value) == message


def test_running_out_of_memory_says_nothing_of_a_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.Tensor, "cpu", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        accelerators.supports(CPU, torch.float16)


def test_results_are_read_so_that_a_lazy_device_computes_them() -> None:
    read: list[torch.Tensor] = []

    class Lazy(torch.Tensor):
        def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
            read.append(self)
            return self

    lazy, elsewhere = torch.ones(1).as_subclass(Lazy), torch.ones(1, device="meta")
    accelerators.synchronize(CPU, [lazy, elsewhere])
    assert read == [lazy]
