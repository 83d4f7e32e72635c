"""`check_headswap` gives the results of a pytest run, without pytest, and leaves the model as it was."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
import unittest
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pytest_headswap import Case, Check, CheckFailed, CheckSkipped, ModelSpec, Zoo, ZooError, check_headswap
from pytest_headswap.checks import CHECKS
from pytest_headswap.results import Result, read_journal
from pytest_headswap.zoo import registry


class Net(nn.Module):
    """Batch norm and dropout, so that a run in train mode would leave traces."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.backbone(x).relu())  # type: ignore[no-any-return]


class Doubled(nn.Module):
    """No head."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Raising(Net):
    """Cannot be run."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("the forward of this model raises")


def _unbuildable() -> nn.Module:
    raise ValueError("no such depth")


def _inputs(model: nn.Module) -> Tensor:
    return torch.zeros(2, 8)


@pytest.fixture(scope="session", autouse=True)
def _warm() -> None:
    """Import what torch imports late: pytester forgets modules first imported inside it, which torch does not bear."""
    import torch._dynamo  # noqa: F401


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> Zoo:
    """A zoo with a model for each outcome, registered for the length of a test."""
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    monkeypatch.setattr(registry, "_LOADED", dict(registry._LOADED))
    specs = {
        "doubled": ModelSpec("doubled", Doubled, _inputs),
        "lonely": ModelSpec("lonely", Net, _inputs),
        "mismatched": ModelSpec("mismatched", Net, _inputs, lambda num_classes: nn.Linear(num_classes, 1)),
        "raising": ModelSpec("raising", Raising, _inputs, Raising),
        "refused": ModelSpec("refused", Net, _inputs, skip_reason="it has no classes"),
        "sound": ModelSpec("sound", Net, _inputs, Net, family="nets"),
        "unbuildable": ModelSpec("unbuildable", _unbuildable, _inputs),
    }
    zoo = Zoo("apizoo", tuple(specs), lambda name: specs[name])
    registry.register("apizoo", lambda: zoo)
    return zoo


def _by_check(results: list[Result]) -> dict[str, Result]:
    return {result.check: result for result in results}


def _without_measurements(results: list[Result]) -> list[Result]:
    return [replace(result, seconds=0, peak_memory_mb=None, key="") for result in results]


@pytest.mark.parametrize("num_classes", [7, 3])
def test_results_equal_those_of_a_pytest_run(pytester: pytest.Pytester, zoo: Zoo, num_classes: int) -> None:
    own = [result for name in zoo.names for result in check_headswap(f"apizoo:{name}", num_classes)]
    pytester.runpytest_inprocess("--headswap-zoo=apizoo", f"--headswap-num-classes={num_classes}")
    _, of_pytest = read_journal(Path("headswap-report"))
    assert len(own) == len(zoo) * len(CHECKS)
    assert {result.outcome for result in own} == {"passed", "failed", "skipped", "error"}
    assert _without_measurements(own) == _without_measurements(of_pytest)


def test_results_of_the_builtin_zoo_equal_those_of_a_pytest_run(pytester: pytest.Pytester) -> None:
    names = ["distilled", "encoder_without_head", "headless", "root_linear", "seed_two_heads"]
    own = [result for name in names for result in check_headswap(f"builtin:{name}", evidence="abstract")]
    pytester.runpytest_inprocess(
        "--headswap-zoo=builtin", f"--headswap-models={','.join(names)}", "--headswap-evidence=abstract"
    )
    _, of_pytest = read_journal(Path("headswap-report"))
    assert _without_measurements(own) == _without_measurements(of_pytest)


def test_a_module_is_checked_under_the_name_of_its_class() -> None:
    results = check_headswap(Net(), example_inputs=torch.zeros(2, 8), build_native=Net)
    assert [result.check for result in results] == list(CHECKS)
    assert {result.outcome for result in results} == {"passed"}
    first = results[0]
    assert (first.zoo, first.model, first.nodeid) == ("models", "Net", f"models::Net::{first.check}")
    assert (first.repro, first.heads) == ("", ("fc",))
    assert first.evidence
    assert all(0 < result.seconds < 60 for result in results)


def _traces(module: nn.Module) -> list[Any]:
    """All that could be left changed."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return [
        [(name, id(tensor), tensor.requires_grad, tensor.grad) for name, tensor in tensors.items()],
        [(name, id(child), child.training, sorted(vars(child))) for name, child in module.named_modules()],
        [
            len(hooks)
            for child in module.modules()
            for hooks in (child._forward_hooks, child._forward_pre_hooks, child._backward_hooks)
        ],
    ]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("evidence", ["auto", "abstract", "numeric"])
def test_a_module_is_restored_exactly(training: bool, evidence: str) -> None:
    def drawing(case: Case) -> str:
        return f"{random.random()} {torch.rand(1)} {np.random.rand()}"

    model = Net().train(training)
    model.backbone[0].requires_grad_(False)
    model.backbone[2].train(not training)
    before, values = _traces(model), copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    checks: list[str | Check] = [*CHECKS, Check("drawing", drawing)]
    results = check_headswap(model, example_inputs=torch.zeros(2, 8), checks=checks, evidence=evidence)
    drawn = (torch.rand(1).item(), random.random(), np.random.rand())
    assert "passed" in {result.outcome for result in results}
    assert _traces(model) == before
    assert all(torch.equal(values[name], tensor) for name, tensor in model.state_dict().items())
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    assert drawn == (torch.rand(1).item(), random.random(), np.random.rand()), "not a number was drawn"


def test_a_module_is_restored_after_an_unforeseen_exception() -> None:
    def interrupted(case: Case) -> None:
        raise KeyboardInterrupt

    model = Net()
    before = _traces(model)
    with pytest.raises(KeyboardInterrupt):
        check_headswap(model, example_inputs=torch.zeros(2, 8), checks=[Check("interrupted", interrupted)])
    assert _traces(model) == before


def test_the_head_and_the_model_can_be_named() -> None:
    class TwoHeads(Net):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Any:
            features = self.backbone(x)
            return self.fc(features), self.other(features)

    results = check_headswap(
        TwoHeads(), 4, torch.zeros(2, 8), checks="output_shape", head="other", name="two", evidence="abstract"
    )
    assert [(result.model, result.heads, result.outcome) for result in results] == [("two", ("other",), "passed")]


def test_other_arguments_override_those_of_a_spec() -> None:
    spec = ModelSpec("net", Net, lambda _: torch.zeros(2, 9), family="nets")
    (result,) = check_headswap(spec, checks="output_shape")
    assert (result.outcome, result.reason, result.family) == ("error", "forward_failed", "nets")
    (result,) = check_headswap(spec, example_inputs=torch.zeros(2, 8), checks="output_shape")
    assert result.outcome == "passed"
    assert result.repro == ""


def test_a_modified_zoo_model_has_no_repro_command(zoo: Zoo) -> None:
    (result,) = check_headswap("apizoo:sound", checks="output_shape", evidence="abstract")
    assert result.repro.endswith(" --headswap-report=headswap-repeat --headswap-evidence=abstract")
    (result,) = check_headswap("apizoo:sound", checks="output_shape", name="changed")
    assert (result.model, result.repro) == ("changed", "")


def test_custom_checks_run_along_with_named_ones() -> None:
    def refusing(case: Case) -> None:
        raise CheckFailed(f"{case.num_classes} is not my number")

    def skipping(case: Case) -> None:
        raise CheckSkipped("my_reason", "not today")

    own = [Check("refusing", refusing, evidence=lambda case: "opinion"), Check("skipping", skipping)]
    results = check_headswap(Net(), example_inputs=torch.zeros(2, 8), checks=[*own, "output_shape"])
    assert [result.check for result in results] == ["output_shape", "refusing", "skipping"], "ours come first"
    _, refused, skipped = results
    assert (refused.outcome, refused.message, refused.evidence) == ("failed", "7 is not my number", "opinion")
    assert (skipped.outcome, skipped.reason, skipped.message) == ("skipped", "my_reason", "[my_reason] not today")


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "zoo": ({"model": "apizo:sound"}, ZooError, "unknown zoo 'apizo'.*did you mean apizoo"),
    "model": ({"model": "apizoo:soun"}, ZooError, "unknown model 'soun'.*did you mean sound"),
    "form": ({"model": "sound"}, ZooError, "'sound' is not ZOO:MODEL"),
    "class": ({"model": Net}, TypeError, r"pass Net\(\) and not the class"),
    "object": ({"model": 3}, TypeError, "3 is not a torch.nn.Module"),
    "class count": ({"num_classes": 0}, ValueError, "num_classes must be a positive whole number, not 0"),
    "truth for a class count": ({"num_classes": True}, ValueError, "not True"),
    "check": (
        {"checks": "output_shap"},
        ValueError,
        "unknown check 'output_shap' in checks: did you mean output_shape",
    ),
    "checks of one name": (
        {"checks": [Check("a", lambda _: None), Check("a", lambda _: None)]},
        ValueError,
        "two checks in checks are called 'a'",
    ),
    "evidence": (
        {"evidence": "numbers"},
        ValueError,
        "evidence must be one of auto, abstract, numeric, not 'numbers'",
    ),
    "device": ({"device": "gpu"}, ValueError, "device must be auto, cpu, or TYPE or TYPE:N .*: did you mean cuda"),
    "no text for a device": ({"device": None}, ValueError, "device must be auto, .*, not 'None'"),
    "device that is not there": ({"device": "xpu:0"}, ValueError, "device=xpu:0: torch .* finds no device of type xpu"),
    "device of a package": ({"device": "npu"}, ValueError, "install torch_npu and add device_import=torch_npu"),
    "module for a backend": (
        {"device_import": pytest},
        ValueError,
        "device_import must be the name of a Python module such as torch_npu, not <module 'pytest'",
    ),
    "nothing for a backend": ({"device_import": None}, ValueError, "device_import must be the name .*, not None"),
    "backend": ({"device_import": "torch_nowhere"}, ValueError, "device_import=torch_nowhere: there is no module"),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), WRONG.values(), ids=WRONG.keys())
def test_an_invalid_argument_raises_an_error_that_names_the_fix(
    zoo: Zoo, arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        check_headswap(**{"model": "apizoo:sound", **arguments})


def test_neither_the_import_nor_a_check_imports_pytest() -> None:
    code = (
        "import sys\n"
        "from pytest_headswap import check_headswap\n"
        "assert 'torch' not in sys.modules\n"
        "results = check_headswap('builtin:root_linear', checks='output_shape')\n"
        "assert [result.outcome for result in results] == ['passed'], results\n"
        "assert not {'pytest', '_pytest'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _ending(error: BaseException) -> Callable[[Any], str]:
    def check(case: Any) -> str:
        raise error

    return check


@pytest.mark.parametrize(
    ("check", "outcome", "message"),
    [
        (_ending(SystemExit(0)), "error", "SystemExit: 0"),
        (_ending(GeneratorExit()), "error", "GeneratorExit"),
        (_ending(unittest.SkipTest("not now")), "skipped", "not now"),
        (lambda case: pytest.skip("not here"), "skipped", "not here"),
        (lambda case: pytest.importorskip("no_such_module"), "skipped", "could not import 'no_such_module'"),
        (lambda case: pytest.fail("not good enough"), "failed", "Failed: not good enough"),
        (lambda case: pytest.xfail("known"), "xfailed", "XFailed: known"),
        (lambda case: {"a": 1}, "error", "TypeError: the check planted returned dict. "),
    ],
)
def test_every_ending_of_a_check_is_a_result_and_restores_the_model(
    check: Callable[[Any], Any], outcome: str, message: str
) -> None:
    model = Net()
    before = model.fc
    planted, after = check_headswap(
        model, example_inputs=torch.zeros(2, 8), checks=[Check("planted", check), Check("after", lambda case: None)]
    )
    assert planted.outcome == outcome
    assert planted.message.startswith(message)
    assert after.outcome == "passed"
    assert model.fc is before


@pytest.mark.parametrize(
    ("build", "outcome", "message"),
    [
        (_ending(SystemExit(0)), "error", "SystemExit: 0"),
        (_ending(GeneratorExit()), "error", "GeneratorExit"),
        (lambda _: pytest.skip("not here"), "skipped", "not here"),
        (lambda _: pytest.fail("no"), "error", "Failed: no"),
        (lambda _: pytest.xfail("known"), "xfailed", "XFailed: known"),
    ],
)
def test_every_ending_of_a_build_gives_each_check_a_result(
    build: Callable[[Any], Any], outcome: str, message: str
) -> None:
    results = check_headswap(ModelSpec("planted", lambda: build(None)), checks="output_shape,metadata")
    assert [(item.outcome, item.message) for item in results] == [(outcome, message)] * 2


def test_ctrl_c_ends_the_checks_and_restores_the_model() -> None:
    model = Net()
    before = model.fc
    with pytest.raises(KeyboardInterrupt):
        check_headswap(model, example_inputs=torch.zeros(2, 8), checks=[Check("planted", _ending(KeyboardInterrupt()))])
    assert model.fc is before
