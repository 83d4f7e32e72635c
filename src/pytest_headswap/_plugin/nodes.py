"""The collection tree: a zoo, its models, and the checks of each. Nothing is built before a model's first test.

    <ZooNode timm>
      <ModelNode resnet18>
        <CheckItem output_shape>
        <CheckItem native_parity>

A tree and not parametrization: pytest sets a model up once for all its checks, and tears it down before the next.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap._plugin.facts import anatomy_of, told
from pytest_headswap._plugin.failure import describe, headline, tells_in_words
from pytest_headswap._plugin.ids import CheckId, escape, repro_command
from pytest_headswap._plugin.memory import forget_last_failure
from pytest_headswap._plugin.options import Settings

if TYPE_CHECKING:
    from pytest_headswap.checks import Case, Check, Finding
    from pytest_headswap.zoo import Zoo


class ZooNode(pytest.Collector):
    """A zoo, with the models that were selected."""

    def __init__(self, zoo: Zoo, models: tuple[str, ...], settings: Settings, **kwargs: Any) -> None:
        # the id of a child of the session would begin with `::`
        super().__init__(name=escape(zoo.name), nodeid=escape(zoo.name), **kwargs)
        self.zoo = zoo
        self.models = models
        self.settings = settings
        self._frozen = False

    def collect(self) -> Iterable[pytest.Collector]:
        """One node a model."""
        return [ModelNode.from_parent(self, model=name) for name in self.models]

    def collect_garbage(self) -> None:
        """Free what a model left behind. Objects that outlive the first model are then left out: 1 ms and not 180."""
        gc.collect()
        if not self._frozen:
            gc.freeze()
            self._frozen = True

    def teardown(self) -> None:
        """Give back to the garbage collection what was left out of it."""
        gc.unfreeze()


class ModelNode(pytest.Collector):
    """A model, built and swapped when its first check is set up, and released after its last."""

    parent: ZooNode

    def __init__(self, model: str, **kwargs: Any) -> None:
        super().__init__(name=escape(model), **kwargs)
        self.model = model
        self.case: Case | None = None
        self.skip_reason = ""
        self.anatomy: dict[str, Any] | None = None
        if self.name != model:
            self.extra_keyword_matches.add(model)

    def collect(self) -> Iterable[pytest.Item]:
        """One item a check."""
        return [CheckItem.from_parent(self, check=check) for check in self.parent.settings.checks]

    def setup(self) -> None:
        """Build the case. Pytest remembers what is raised here, so a model that fails is not tried again."""
        from pytest_headswap.checks import build_case
        from pytest_headswap.engine import NoHeadError

        zoo, options = self.parent.zoo, self.parent.settings.options
        try:
            self.case = build_case(zoo.name, zoo[self.model], options.num_classes, options.evidence, options.device)
        except NoHeadError as error:
            self.skip_reason = error.reason
            pytest.skip(str(error))
        self.anatomy = anatomy_of(self.case)
        self.config.hook.pytest_headswap_case(config=self.config, case=self.case)

    def teardown(self) -> None:
        """Let go of the model before the next one is built; modules with hooks are cycles, so this needs the gc."""
        self.case = None
        forget_last_failure()
        self.parent.collect_garbage()


class CheckItem(pytest.Item):
    """One check of one model."""

    parent: ModelNode

    def __init__(self, check: Check, **kwargs: Any) -> None:
        super().__init__(name=check.name, **kwargs)
        self.check = check
        self.finding: Finding | None = None

    @property
    def check_id(self) -> CheckId:
        """The names of zoo, model and check."""
        return CheckId(self.parent.parent.zoo.name, self.parent.model, self.name)

    @property
    def repro(self) -> str:
        """The command that repeats this test."""
        return repro_command(self.check_id, self.parent.parent.settings.options)

    def runtest(self) -> None:
        """Make the check, and raise what it found."""
        from pytest_headswap.checks import run_check

        assert self.parent.case is not None, "pytest calls a test only after its setup"
        finding = run_check(self.check, self.parent.case)
        # the traceback holds the model, and the item lives as long as the session
        self.finding = replace(finding, exception=None)
        if finding.exception is not None:
            raise finding.exception
        if finding.outcome == "skipped":
            pytest.skip(told(finding))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A few lines, unless the user asks for a certain style of traceback."""
        return describe(excinfo.value, self.repro) if self.tells_in_words else super().repr_failure(excinfo, style)

    def _traceback_filter(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
        """Spare pytest the frames of an error in setup, whose text we replace: 0.4 s each, in torch's large files."""
        return excinfo.traceback[:1] if self.tells_in_words else super()._traceback_filter(excinfo)

    @property
    def tells_in_words(self) -> bool:
        """Whether failures are told in our words; not when the user asks for a style of traceback."""
        return tells_in_words(self.config)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        """A place of its own for each zoo: the models of a zoo lie in no file of the project.

        The line is 0 and not None, since pytest insists on a line where a mark skips a test.
        """
        return Path(self.config.rootpath, self.parent.parent.name), 0, headline(self.check_id)
