"""Run models in this process, where a debugger can inspect them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pytest_headswap._text import format_bytes
from pytest_headswap.harness.build_result import swapped_heads
from pytest_headswap.harness.failure_text import format_failure, printable_exception
from pytest_headswap.harness.garbage import clear_last_exception, trim_heap
from pytest_headswap.harness.memory_budget import MemoryMeter
from pytest_headswap.harness.pytest_outcomes import apply_pytest_outcome
from pytest_headswap.isolation.executor import BuildReply, CheckReply

if TYPE_CHECKING:
    from pytest_headswap.case.case import Case
    from pytest_headswap.case.options import CaseOptions
    from pytest_headswap.checks import Check
    from pytest_headswap.harness.memory_budget import MemoryBudget
    from pytest_headswap.isolation.executor import OversizedModels
    from pytest_headswap.zoo import Zoo


_UNFREEZE_EVERY = 100


class InProcessExecutor:
    """An executor that runs models in this process.

    Attributes:
        zoos, checks: zoos and checks by name.
        options: how cases are built.
        budget: the memory that a model may take.
        oversized: models known to exceed the budget; they are checked with abstract evidence.
        on_case: called with each case.
        ignore_refusals: whether to build models that their zoo refuses.
        format_failure: formats an exception of a model for the process that receives it.
    """

    runs_in_subprocess = False

    def __init__(
        self,
        zoos: Iterable[Zoo],
        checks: Iterable[Check],
        options: CaseOptions,
        budget: MemoryBudget,
        oversized: OversizedModels,
        *,
        on_case: Callable[[Case], object],
        ignore_refusals: bool = False,
        format_failure: Callable[[BaseException], str] = format_failure,
    ) -> None:
        self.zoos = {zoo.name: zoo for zoo in zoos}
        self.checks = {check.name: check for check in checks}
        self.options = options
        self.budget = budget
        self.oversized = oversized
        self.on_case = on_case
        self.ignore_refusals = ignore_refusals
        self.format_failure = format_failure
        self.case: Case | None = None
        self._build_without_head: Callable[[], Case] | None = None
        self._meter: MemoryMeter | None = None
        self._released = 0

    def build(self, zoo: Zoo, model: str) -> BuildReply:
        """Build a model and swap its head. Raises whatever the model raises."""
        from pytest_headswap.case.build import build_case, build_case_without_head
        from pytest_headswap.case.finding import ABSTRACT
        from pytest_headswap.engine import ZOO_REFUSED, NoHeadError

        spec = zoo[model]
        if self.ignore_refusals:
            spec = replace(spec, skip_reason="")
        known_peak = self.oversized.get((zoo.name, model))
        options = self.options if known_peak is None else replace(self.options, evidence=ABSTRACT)
        self._meter = MemoryMeter()
        try:
            case = build_case(zoo.name, spec, options, tensor_bytes=self.budget.tensor_bytes)
            if known_peak is not None:
                peak_text = format_bytes(int(known_peak * 2**20))
                case.abstract_reason = (
                    f"it took {peak_text} before, more than the {format_bytes(self.budget.process_bytes)} that it may"
                )
            self.on_case(case)
            case.refuse_if_forward_keeps_old_count()
        except NoHeadError as error:
            if error.reason != ZOO_REFUSED:
                no_head = NoHeadError(error.reason, error.message)
                build = partial(build_case_without_head, tensor_bytes=self.budget.tensor_bytes)
                self._build_without_head = partial(build, zoo.name, spec, options, no_head)
            return BuildReply(reason=error.reason, message=error.message, without_head=error.reason != ZOO_REFUSED)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if (printable := printable_exception(error)) is error:
                raise
            raise printable from None
        self.case = case
        return BuildReply(swapped_heads(case))

    def check(self, check: Check) -> CheckReply:
        """Run a check on the model."""
        from pytest_headswap.checks import run_check
        from pytest_headswap.checks.registry import finding_of_error

        assert self._meter is not None
        if self.case is None:
            assert self._build_without_head is not None, "a model is built before it is checked"
            try:
                self.case = self._build_without_head()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - a model's own code may raise anything, SystemExit too
                return CheckReply(apply_pytest_outcome(finding_of_error(error)), self._meter.peak_mb())
        return CheckReply(apply_pytest_outcome(run_check(check, self.case)), self._meter.peak_mb())

    def release(self) -> None:
        """Release the model before the next one is built; modules with hooks form cycles, so this needs the gc.

        Freeze surviving objects after each model so that the next `gc.collect()` skips them (it would otherwise take
        180 ms, and grow with the op cache). Unfreeze every 100 models, in case a library kept a model alive.
        """
        self.case = self._build_without_head = None
        clear_last_exception()
        self._released += 1
        if self._released % _UNFREEZE_EVERY == 0:
            gc.unfreeze()
        gc.collect()
        trim_heap()
        gc.freeze()

    def close(self) -> None:
        """Unfreeze the objects that were exempt from garbage collection."""
        if self._released:
            gc.unfreeze()
