"""A probe neither compiles a model nor runs its compiled code, and does not load the compiler."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from pytest_headswap.engine import find_heads, freeze_backbone, swap_head

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
compiled: list[GraphModule] = []


def noting(graph: GraphModule, inputs: list[Tensor]) -> Any:
    compiled.append(graph)
    return graph.forward


class CompilesItsBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.compile(nn.Linear(8, 16), backend=noting)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.body(x).relu())


class CompilesAMethod(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)

    @torch.compile(backend=noting)
    def features(self, x: Tensor) -> Any:
        return self.body(x).relu()

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.features(x))


class CompilesInForward(CompilesAMethod):
    def features(self, x: Tensor) -> Any:
        if "compiled" not in self.__dict__:
            self.compiled = torch.compile(self.body, backend=noting)
        return self.compiled(x).relu()


@pytest.mark.parametrize("build", [CompilesItsBackbone, CompilesAMethod, CompilesInForward])
@pytest.mark.parametrize("warm", [True, False])
def test_compiled_code_in_a_model_is_not_compiled_for_a_probe(build: Any, warm: bool) -> None:
    if build is CompilesAMethod and not hasattr(torch.compiler, "set_stance"):
        pytest.skip("before torch 2.6, nothing keeps a method that was compiled with its class from being compiled")
    torch._dynamo.reset()
    model = build()
    if warm:
        model(X)
    compiled.clear()
    assert [head.path for head in find_heads(model, X)] == ["fc"]
    swap = swap_head(model, 5, X)
    freeze_backbone(swap)
    assert compiled == []
    assert model(X).shape == (4, 5)
    assert compiled or warm


def test_a_swap_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from pytest_headswap import freeze_backbone, swap_head\n"
        "model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 10))\n"
        "freeze_backbone(swap_head(model, 5))\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
