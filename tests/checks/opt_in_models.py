"""Models and heads for the opt-in checks: sound ones, and heads that only break once another tool runs them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.faulty_net import NEW, WIDTH


class Head(nn.Linear):
    """A linear layer that takes the place of a new head. Subclasses plant a fault."""

    def __init__(self, replaced: Any = None) -> None:
        super().__init__(WIDTH, NEW)
        if replaced is not None:
            self.load_state_dict(replaced.state_dict())


# --- under autocast


class CutUnderAutocast(Head):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        return logits.detach() if torch.is_autocast_enabled("cpu") else logits


class AddsToFloat32(Head):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), NEW).index_add(0, torch.arange(len(x)), super().forward(x))


class Cancels(Head):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x + 1000, self.weight, self.bias) - F.linear(torch.full_like(x, 1000), self.weight)


class CastsItself(Head):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            self.weight.data = self.weight.data.bfloat16()
        return super().forward(x)


class OverflowsUnderAutocast(Head):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        return logits / 0 if torch.is_autocast_enabled("cpu") else logits


class NarrowUnderAutocast(Head):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        return logits[:, :2] if torch.is_autocast_enabled("cpu") else logits


# --- with gradient checkpointing


class Switched(nn.Linear):
    """A head that the model checkpoints once it is switched."""

    checkpointing = False

    def switch(self) -> None:
        self.checkpointing = True


class Checkpointed(nn.Module):
    """A model that checkpoints its body, its head or both."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.body, self.norm, self.drop = nn.Linear(8, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(0.5)
        self.fc = Switched(WIDTH, num_classes)
        self.parts = ""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self._called(self._features, x, "body" in self.parts)
        return self._called(self.fc, features, "head" in self.parts or getattr(self.fc, "checkpointing", False))

    def _called(self, part: Any, x: torch.Tensor, checkpointing: bool) -> torch.Tensor:
        return checkpoint(part, x, use_reentrant=False) if checkpointing else part(x)  # type: ignore[no-any-return]

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(self.body(x))).relu()  # type: ignore[no-any-return]


class ScaledByCalls(Head):
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x * self.calls)


class DeeperByCalls(Head):
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        for _ in range(self.calls):
            x = x.sin()
        return super().forward(x)


class WritesToItsInput(Head):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x.data.add_(1)
        return super().forward(x)


class RandomOnRequest(Head):
    """A head that another switch than the old one's turns on."""

    noisy = False

    def switch(self) -> None:
        self.noisy = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + int(self.noisy)


# --- captured by export, compile or ONNX


class DecidesByValue(Head):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class TakesAnItem(Head):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * [1.0, 2.0, 3.0][int(x[0, 0].abs().item()) % 3]


class UsesNumPy(Head):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.from_numpy(x.detach().numpy() * 2))


class ZeroIfCaptured(Head):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        return logits * 0 if torch.compiler.is_compiling() else logits


class HalfIfCaptured(Head):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        return logits.half() if torch.compiler.is_compiling() else logits


class CutIfCaptured(Head):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.detach() if torch.compiler.is_compiling() else self.weight
        return F.linear(x, weight, self.bias)


class RaisesIfCaptured(Head):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(_only_eager(x))


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator, unused-ignore]
def _only_eager(x: torch.Tensor) -> torch.Tensor:
    if type(x).__name__ == "FakeTensor":
        raise RuntimeError("no shapes known")
    return x * 1


class HasNoForm(Head):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.special.bessel_j0(x))


# --- loaded by a library


class ScaledByAttribute(Head):
    scale = 3.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.scale


class WithTemperature(Head):
    def __init__(self, replaced: Any = None) -> None:
        super().__init__(replaced)
        self.temperature = nn.Parameter(torch.ones(()))


# --- sound models


class TwoHeads(nn.Module):
    """Two heads in a tuple, with outputs that are not tensors."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Linear(8, 16), nn.Linear(16, num_classes), nn.Linear(16, num_classes)

    def forward(self, x: torch.Tensor) -> tuple[Any, ...]:
        features = self.body(x).relu()
        return self.one(features), self.two(features), None, 3, "text"


class TiedBody(nn.Module):
    """Two layers with one weight, and a buffer that forward writes to."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.one, self.two, self.fc = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, num_classes)
        self.two.weight = self.one.weight
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.get_buffer("steps").add_(1)
        return self.fc(self.two(self.one(x).relu()).relu())  # type: ignore[no-any-return]


class Masked(nn.Module):
    """Attention over a sequence with a mask, and dropout."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.embed, self.score, self.drop = nn.Embedding(50, 8), nn.Linear(8, 1), nn.Dropout(0.1)
        self.classifier = nn.Linear(8, num_classes)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        hidden = self.drop(self.embed(ids))
        scores = self.score(hidden)[..., 0]
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return {"logits": self.classifier((scores.softmax(-1)[..., None] * hidden).sum(1)), "hidden": hidden}


class Recurrent(nn.Module):
    """A recurrent model that returns an object torch cannot take apart."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.body, self.head = nn.GRU(8, 16, batch_first=True), nn.Linear(16, num_classes)

    def forward(self, x: torch.Tensor) -> Any:
        hidden, last = self.body(x)
        return Output(self.head(hidden[:, -1]), last)


class Output:
    """Logits and a state, as a plain object."""

    def __init__(self, logits: torch.Tensor, state: torch.Tensor) -> None:
        self.logits, self.state = logits, state


def half_precision(dtype: torch.dtype) -> nn.Module:
    """Return a model in a dtype with two bytes."""
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 10)).to(dtype)


class BranchesOnValues(nn.Module):
    """A model that no tool can capture as a whole, before and after a swap."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.body(x)
        if bool(features.sum() > 0):
            features = features.relu()
        return self.fc(features)  # type: ignore[no-any-return]
