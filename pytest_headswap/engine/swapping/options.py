"""The arguments of `swap_head` that describe the new head, validated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_headswap._numbers import as_count
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.swapping.class_map import ClassMap
from pytest_headswap.engine.swapping.initialization import INITS, Init
from pytest_headswap.engine.swapping.replace import NewHead


@dataclass(frozen=True)
class SwapOptions:
    """The new head. The attributes are the arguments of `swap_head`; `num_classes` becomes an `int`.

    Raises:
        HeadSwapError: `bad_num_classes` or `bad_argument`, for invalid values.
    """

    num_classes: int
    new_head: NewHead | None = None
    init: Init = "default"
    class_map: ClassMap | None = None
    class_names: Sequence[str] | None = None
    activation: str = "keep"

    def __post_init__(self) -> None:
        count = as_count(self.num_classes)
        if count is None or count < 0:
            raise HeadSwapError(
                "bad_num_classes",
                f"num_classes must be a whole number of at least 1, or 0 to remove the head, not {self.num_classes!r}",
            )
        object.__setattr__(self, "num_classes", count)
        if self.new_head is not None and count == 0:
            raise HeadSwapError("bad_argument", "num_classes=0 removes the head: do not pass new_head")
        if self.new_head is not None and not callable(self.new_head):
            raise HeadSwapError(
                "bad_argument",
                "new_head must be a module or a function of (in_features, num_classes), "
                f"not {type(self.new_head).__name__}",
            )
        if not callable(self.init) and self.init not in INITS:
            raise HeadSwapError(
                "bad_argument",
                f"init must be one of {', '.join(INITS)} or a function of (name, tensor), not {self.init!r}. For a "
                "normal distribution, pass init=lambda name, tensor: torch.nn.init.normal_(tensor, std=0.01)",
            )
        if self.activation not in ("keep", "drop"):
            raise HeadSwapError("bad_argument", f"activation must be 'keep' or 'drop', not {self.activation!r}")
        names = self.class_names
        if names is not None and (isinstance(names, str) or len(names) != count):
            raise HeadSwapError("bad_argument", f"class_names must contain {count} names, one for each new class")
