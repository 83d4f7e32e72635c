"""The collection tree: a zoo, its models, and the checks of each. Nothing is built before a model's first test.

    <ZooNode timm>
      <ModelNode resnet18>
        <CheckItem output_shape>
        <CheckItem native_parity>

The tests form a tree and are not parametrized. pytest thus sets a model up once for all its checks, and tears it down
before the next model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap.harness.build_result import finding_message
from pytest_headswap.harness.failure_text import (
    UnprintableError,
    docs_url,
    failure_title,
    format_failure,
    has_own_text,
    is_printable,
)
from pytest_headswap.plugin.failure_style import use_short_failures
from pytest_headswap.plugin.settings import Settings
from pytest_headswap.results.ids import CheckId, escape, reproduce_command

if TYPE_CHECKING:
    from pytest_headswap.case.finding import Finding
    from pytest_headswap.checks import Check
    from pytest_headswap.isolation.executor import BuildReply, CheckReply, Executor
    from pytest_headswap.zoo import Zoo


class ZooNode(pytest.Collector):
    """A zoo with its selected models."""

    def __init__(
        self, zoo: Zoo, models: tuple[str, ...], settings: Settings, executor: Callable[[], Executor], **kwargs: Any
    ) -> None:
        # as a child of the session, its id would start with `::`
        super().__init__(name=escape(zoo.name), nodeid=escape(zoo.name), **kwargs)
        self.zoo = zoo
        self.models = models
        self.settings = settings
        self.executor = executor

    def collect(self) -> Iterable[pytest.Collector]:
        """Return one node per model."""
        return [ModelNode.from_parent(self, model=name) for name in self.models]


class ModelNode(pytest.Collector):
    """A model, built and swapped when its first check is set up, and released after its last."""

    parent: ZooNode

    def __init__(self, model: str, **kwargs: Any) -> None:
        super().__init__(name=escape(model), **kwargs)
        self.model = model
        self.built: BuildReply | None = None
        if self.name != model:
            self.extra_keyword_matches.add(model)

    @cached_property
    def family(self) -> str:
        """Return the architecture family that the zoo states."""
        return self.parent.zoo[self.model].family

    def collect(self) -> Iterable[pytest.Item]:
        """Return one item per check."""
        checks = self.parent.settings.checks_of(self.parent.zoo.name, self.model)
        return [CheckItem.from_parent(self, check=check) for check in checks]

    def setup(self) -> None:
        """Build the model. pytest remembers an exception raised here, so a failing model is built only once."""
        self.built = self.parent.executor().build(self.parent.zoo, self.model)

    def teardown(self) -> None:
        """Release the model before the next one is built."""
        self.parent.executor().release()


class CheckItem(pytest.Item):
    """One check of one model."""

    parent: ModelNode

    def __init__(self, check: Check, **kwargs: Any) -> None:
        super().__init__(name=check.name, **kwargs)
        self.check = check
        self.reply: CheckReply | None = None

    @property
    def check_id(self) -> CheckId:
        """Return the id: the names of zoo, model and check."""
        return CheckId(self.parent.parent.zoo.name, self.parent.model, self.name)

    @property
    def repro(self) -> str:
        """Return the command that repeats this test."""
        settings = self.parent.parent.settings
        return reproduce_command(self.check_id, settings.options.flags(), settings.repeat_report)

    @property
    def finding(self) -> Finding | None:
        """Return the finding of the check; None if the check did not run."""
        return self.reply.finding if self.reply is not None else None

    def setup(self) -> None:
        """Skip the check if the model has no head, unless it needs none."""
        built = self.parent.built
        if built is not None and built.reason and (self.check.needs_head or not built.without_head):
            pytest.skip(built.message)

    def runtest(self) -> None:
        """Run the check, and raise if it finds a fault."""
        self.reply = None  # discard the finding of an earlier attempt
        checked = self.parent.parent.executor().check(self.check)
        finding = checked.finding
        # the traceback holds the model, and the item lives as long as the session
        self.reply = replace(checked, finding=replace(finding, exception=None))
        if finding.exception is not None:
            raise finding.exception if is_printable(finding.exception) else UnprintableError(finding.exception)
        if finding.outcome == "skipped":
            pytest.skip(finding_message(finding))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the short text, unless the user requested a style of traceback and there is a traceback."""
        if self.use_short_failures(excinfo.value):
            return format_failure(excinfo.value, self.repro, docs_url(excinfo.value, self.check.name))
        return super().repr_failure(excinfo, style)

    def _traceback_filter(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
        """Skip pytest's traceback filter if our text replaces its result: 0.4 s per setup error in torch's files."""
        return excinfo.traceback[:1] if self.use_short_failures(excinfo.value) else super()._traceback_filter(excinfo)

    def use_short_failures(self, error: BaseException) -> bool:
        """Return whether an exception gets our short text, instead of a traceback in the user's style."""
        return use_short_failures(self.config) or has_own_text(error)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        """Return the location of the test: a pseudo-path per zoo, since models are not in the project's files.

        The line is 0 and not None, since pytest requires a line if a mark skips a test.
        """
        return Path(self.config.rootpath, self.parent.parent.name), 0, failure_title(self.check_id)
