"""The collection tree: a zoo, its models, and the checks of each. Nothing is built before a model's first test.

    <ZooNode timm>
      <ModelNode resnet18>
        <CheckItem output_shape>
        <CheckItem native_parity>

A tree and not parametrization: pytest sets a model up once for all its checks, and tears it down before the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap.harness.build_result import told
from pytest_headswap.harness.failure_text import EndedError, can_be_printed, describe, explained_at, headline, is_told
from pytest_headswap.plugin.failure_style import tells_in_words
from pytest_headswap.plugin.settings import Settings
from pytest_headswap.results.ids import CheckId, escape, repro_command

if TYPE_CHECKING:
    from pytest_headswap.case.finding import Finding
    from pytest_headswap.checks import Check
    from pytest_headswap.isolation.executor import Bench, Built, Checked
    from pytest_headswap.zoo import Zoo


class ZooNode(pytest.Collector):
    """A zoo, with the models that were selected."""

    def __init__(
        self, zoo: Zoo, models: tuple[str, ...], settings: Settings, bench: Callable[[], Bench], **kwargs: Any
    ) -> None:
        # the id of a child of the session would begin with `::`
        super().__init__(name=escape(zoo.name), nodeid=escape(zoo.name), **kwargs)
        self.zoo = zoo
        self.models = models
        self.settings = settings
        self.bench = bench

    def collect(self) -> Iterable[pytest.Collector]:
        """One node a model."""
        return [ModelNode.from_parent(self, model=name) for name in self.models]


class ModelNode(pytest.Collector):
    """A model, built and swapped when its first check is set up, and released after its last."""

    parent: ZooNode

    def __init__(self, model: str, **kwargs: Any) -> None:
        super().__init__(name=escape(model), **kwargs)
        self.model = model
        self.built: Built | None = None
        if self.name != model:
            self.extra_keyword_matches.add(model)

    @cached_property
    def family(self) -> str:
        """The architecture family that the zoo names."""
        return self.parent.zoo[self.model].family

    def collect(self) -> Iterable[pytest.Item]:
        """One item a check."""
        return [CheckItem.from_parent(self, check=check) for check in self.parent.settings.checks]

    def setup(self) -> None:
        """Build the model. Pytest remembers what is raised here, so a model that fails is not tried again."""
        self.built = self.parent.bench().build(self.parent.zoo, self.model)
        if self.built.reason:
            pytest.skip(self.built.message)

    def teardown(self) -> None:
        """Let go of the model before the next one is built."""
        self.parent.bench().release()


class CheckItem(pytest.Item):
    """One check of one model."""

    parent: ModelNode

    def __init__(self, check: Check, **kwargs: Any) -> None:
        super().__init__(name=check.name, **kwargs)
        self.check = check
        self.checked: Checked | None = None

    @property
    def check_id(self) -> CheckId:
        """The names of zoo, model and check."""
        return CheckId(self.parent.parent.zoo.name, self.parent.model, self.name)

    @property
    def repro(self) -> str:
        """The command that repeats this test."""
        settings = self.parent.parent.settings
        return repro_command(self.check_id, settings.options.flags(), settings.repeat_report)

    @property
    def finding(self) -> Finding | None:
        """What the check found; None where it was not made."""
        return self.checked.finding if self.checked is not None else None

    def runtest(self) -> None:
        """Make the check, and raise what it found."""
        self.checked = None  # an earlier attempt says nothing about this one
        checked = self.parent.parent.bench().check(self.check)
        finding = checked.finding
        # the traceback holds the model, and the item lives as long as the session
        self.checked = replace(checked, finding=replace(finding, exception=None))
        if finding.exception is not None:
            raise finding.exception if can_be_printed(finding.exception) else EndedError(finding.exception)
        if finding.outcome == "skipped":
            pytest.skip(told(finding))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A few lines, unless the user asks for a certain style of traceback, and has a traceback here."""
        if self.tells(excinfo.value):
            return describe(excinfo.value, self.repro, explained_at(excinfo.value, self.check.name))
        return super().repr_failure(excinfo, style)

    def _traceback_filter(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
        """Spare pytest the frames of an error in setup, whose text we replace: 0.4 s each, in torch's large files."""
        return excinfo.traceback[:1] if self.tells(excinfo.value) else super()._traceback_filter(excinfo)

    def tells(self, error: BaseException) -> bool:
        """Whether an exception is told in our words; not where it has a traceback, and the user asks for its style."""
        return tells_in_words(self.config) or is_told(error)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        """A place of its own for each zoo: the models of a zoo lie in no file of the project.

        The line is 0 and not None, since pytest insists on a line where a mark skips a test.
        """
        return Path(self.config.rootpath, self.parent.parent.name), 0, headline(self.check_id)
