"""Run models in this process, where a debugger can inspect them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_headswap.harness.build_result import anatomy_of
from pytest_headswap.harness.ended import by_pytest
from pytest_headswap.harness.failure_text import bearable, describe
from pytest_headswap.harness.garbage import forget_last_failure, give_back_freed_memory
from pytest_headswap.harness.memory_budget import Meter, gib
from pytest_headswap.isolation.executor import Built, Checked

if TYPE_CHECKING:
    from pytest_headswap.case.case import Case
    from pytest_headswap.checks import Check
    from pytest_headswap.harness.memory_budget import Budget
    from pytest_headswap.harness.options import CaseOptions
    from pytest_headswap.isolation.executor import TooLarge
    from pytest_headswap.zoo import Zoo


_THAW_EVERY = 100


class LocalBench:
    """An executor that runs models in this process.

    Attributes:
        zoos, checks: zoos and checks by name.
        options: how cases are built.
        budget: the memory that a model may take.
        large: models known to exceed the budget; they are checked by structure.
        on_case: called with each case.
        ignore_refusals: whether to build models that their zoo refuses.
        format_failure: formats an exception of a model for the process that receives it.
    """

    elsewhere = False

    def __init__(
        self,
        zoos: Iterable[Zoo],
        checks: Iterable[Check],
        options: CaseOptions,
        budget: Budget,
        large: TooLarge,
        *,
        on_case: Callable[[Case], object],
        ignore_refusals: bool = False,
        format_failure: Callable[[BaseException], str] = describe,
    ) -> None:
        self.zoos = {zoo.name: zoo for zoo in zoos}
        self.checks = {check.name: check for check in checks}
        self.options = options
        self.budget = budget
        self.large = large
        self.on_case = on_case
        self.ignore_refusals = ignore_refusals
        self.format_failure = format_failure
        self.case: Case | None = None
        self._meter: Meter | None = None
        self._released = 0

    def build(self, zoo: Zoo, model: str) -> Built:
        """Build a model and swap its head. Raises whatever the model raises."""
        from pytest_headswap.case.build import build_case
        from pytest_headswap.case.finding import STRUCTURE
        from pytest_headswap.engine import NoHeadError

        options = self.options
        spec = zoo[model]
        if self.ignore_refusals:
            spec = replace(spec, refusal="")
        taken = self.large.get((zoo.name, model))
        evidence = options.evidence if taken is None else STRUCTURE
        self._meter = Meter()
        try:
            case = build_case(zoo.name, spec, options.num_classes, evidence, options.device, memory=self.budget.values)
        except NoHeadError as error:
            return Built(reason=error.reason, message=error.message)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if (borne := bearable(error)) is error:
                raise
            raise borne from None
        if taken is not None:
            taken_before = gib(int(taken * 2**20))
            case.why_structure = f"it took {taken_before} before, more than the {gib(self.budget.model)} that it may"
        self.case = case
        self.on_case(case)
        return Built(anatomy_of(case))

    def check(self, check: Check) -> Checked:
        """Run a check on the model."""
        from pytest_headswap.checks import run_check

        assert self.case is not None, "a model is built before it is checked"
        assert self._meter is not None
        return Checked(by_pytest(run_check(check, self.case)), self._meter.taken_mb())

    def release(self) -> None:
        """Release the model before the next one is built; modules with hooks form cycles, so this needs the gc.

        Freeze surviving objects after each model so that the next `gc.collect()` skips them (it would otherwise take
        180 ms, and grow with the op cache). Unfreeze every 100 models, in case a library kept a model alive.
        """
        self.case = None
        forget_last_failure()
        self._released += 1
        if self._released % _THAW_EVERY == 0:
            gc.unfreeze()
        gc.collect()
        give_back_freed_memory()
        gc.freeze()

    def close(self) -> None:
        """Unfreeze the objects that were exempt from garbage collection."""
        if self._released:
            gc.unfreeze()
