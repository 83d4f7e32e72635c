"""Heads of planted models, the modules around them, and the modules that follow them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

# --- heads: modules from (..., width) to (..., classes) --------------------------------------------------------


class Kernel(nn.Module):
    """A parameter in place of a layer."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel


class Cosine(nn.Module):
    """The cosine between features and one vector per class."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, width))
        self.scale = nn.Parameter(torch.tensor(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * functional.linear(
            functional.normalize(x, dim=-1), functional.normalize(self.weight, dim=-1)
        )


class Convolution(nn.Module):
    """A convolution over one pixel."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x[..., None, None]).mean((2, 3))  # type: ignore[no-any-return]


def _weight_norm(width: int, classes: int) -> nn.Module:
    layer: nn.Module = nn.utils.parametrizations.weight_norm(nn.Linear(width, classes))
    return layer


HEADS: dict[str, tuple[Callable[[int, int], nn.Module], str]] = {
    # constructor, and path of the weight's module within it
    "linear": (nn.Linear, ""),
    "without bias": (lambda width, classes: nn.Linear(width, classes, bias=False), ""),
    "kernel": (Kernel, ""),
    "cosine": (Cosine, ""),
    "convolution": (Convolution, "conv"),
    "weight norm": (_weight_norm, ""),
    "two layers": (lambda width, classes: nn.Sequential(nn.Linear(width, 9), nn.Tanh(), nn.Linear(9, classes)), "2"),
}
ONE_ROW_HEADS = {"convolution"}
"""Heads that need features (B, width)."""


class Wrapped(nn.Module):
    """A module around another one."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)  # type: ignore[no-any-return]


NESTINGS: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "sequential": (lambda module: nn.Sequential(nn.Dropout(0.1), module), "1"),
    "module": (Wrapped, "inner"),
    "identity": (lambda module: nn.Sequential(nn.Identity(), module, nn.Identity()), "1"),
}

# --- tails: modules from (..., classes) to (..., classes) ------------------------------------------------------


class Scaled(nn.Module):
    """Vector scaling, as for calibration: a factor and an offset per class."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.factor, self.offset = nn.Parameter(torch.ones(classes)), nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.offset


class WithBuffer(nn.Module):
    """A fixed value per class."""

    def __init__(self, values: Tensor, operation: Callable[[Tensor, Tensor], Tensor], *, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("values", values, persistent=persistent)
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(x, self.get_buffer("values"))


class Refined(nn.Module):
    """A correction of the logits by layers from classes to classes."""

    def __init__(self, layers: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.layers, self.times = layers, times

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for _ in range(self.times):
            y = x + self.layers(y)
        return y


def _mask(classes: int) -> nn.Module:
    values = torch.ones(classes)
    values[0] = 0
    return WithBuffer(values, torch.mul, persistent=True)


def _prior(classes: int) -> nn.Module:
    return WithBuffer(torch.rand(classes).log_softmax(0), torch.add, persistent=False)


def _deviation(classes: int) -> nn.Module:
    return WithBuffer(torch.rand(classes) + 0.5, torch.div, persistent=True)


TAILS: dict[str, Callable[[int], nn.Module]] = {
    "nothing": lambda _: nn.Identity(),
    "softmax": lambda _: nn.Softmax(dim=-1),
    "log softmax": lambda _: nn.LogSoftmax(dim=-1),
    "sigmoid": lambda _: nn.Sigmoid(),
    "dropout": lambda _: nn.Sequential(nn.Dropout(0.1), nn.Identity()),
    "norm of classes": nn.BatchNorm1d,
    "fixed norm of classes": lambda classes: nn.BatchNorm1d(classes, affine=False),
    "scaling": Scaled,
    "mask": _mask,
    "prior": _prior,
    "deviation": _deviation,
    "refined": lambda classes: Refined(nn.Linear(classes, classes)),
    "refined by two layers": lambda classes: Refined(
        nn.Sequential(nn.Linear(classes, 13), nn.ReLU(), nn.Linear(13, classes))
    ),
    "recurrence": lambda classes: Refined(nn.Linear(classes, classes, bias=False), times=3),
}
ONE_ROW_TAILS = {"norm of classes", "fixed norm of classes"}
"""Tails that need logits (B, classes)."""
TAILS_LIKE_A_BACKBONE = {"refined", "refined by two layers", "recurrence"}
"""Tails that only a stated class count tells from blocks of a backbone."""
