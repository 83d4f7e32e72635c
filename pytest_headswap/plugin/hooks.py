"""The pytest plugin: declares options, hooks, the marker and fixtures, and joins the run if a zoo is requested.

Every pytest run on a machine with this plugin imports this module, so it imports as little as possible: no torch, and
only those parts of the package that hold declarations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_headswap.plugin import hookspecs
from pytest_headswap.plugin.contributions import register_contributed_zoos
from pytest_headswap.plugin.controller_data import controller_data
from pytest_headswap.plugin.given_ids import take_ids
from pytest_headswap.plugin.option_declarations import add_options
from pytest_headswap.plugin.options import (
    read_settings,
    reject_models_without_zoo,
    requested_zoos,
    zoo_scope,
)
from pytest_headswap.plugin.user_tests import fixtures, parametrize
from pytest_headswap.plugin.user_tests.marker import MARKER

if TYPE_CHECKING:
    from pytest_headswap.plugin.settings import ZooScope


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks."""
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Validate the options and join the run. Runs last, so that a conftest can add its zoos first."""
    config.addinivalue_line("markers", MARKER)
    config.pluginmanager.register(fixtures, "headswap-fixtures")
    config.pluginmanager.register(parametrize, "headswap-parametrize")
    if config.option.help or config.option.version or config.option.markers:
        return  # these exit here, and must not fail on the ini file
    register_contributed_zoos(config)
    take_ids(config, requested_zoos(config))
    scope = zoo_scope(config)
    if scope is not None:
        try:
            _join_run(config, scope)
        except ModuleNotFoundError as error:  # such as after `pip install --no-deps`
            raise pytest.UsageError(
                f"headswap needs {error.name}, which is not installed: run pip install pytest-headswap"
            ) from error


def _join_run(config: pytest.Config, scope: ZooScope) -> None:
    from pytest_headswap.harness.garbage import gc_disabled_for_imports

    with gc_disabled_for_imports():
        settings = read_settings(config, scope)

    from pytest_headswap.plugin.collection.completion_order import CompletionOrder
    from pytest_headswap.plugin.collection.replay import TAKEN_OVER, Replay
    from pytest_headswap.plugin.collection.session import ZooSession, set_torch_threads
    from pytest_headswap.plugin.recording.expectations_summary import ExpectationsSummary
    from pytest_headswap.plugin.recording.exports import Exports
    from pytest_headswap.plugin.recording.keys import Keys
    from pytest_headswap.plugin.recording.recorder import Recorder
    from pytest_headswap.plugin.recording.report_folder import lock_report_folder
    from pytest_headswap.plugin.recording.resume import Resume
    from pytest_headswap.plugin.recording.since import Since
    from pytest_headswap.plugin.settings import CARRIED_OVER

    zoos = ZooSession(config, settings)
    config.pluginmanager.register(zoos, "headswap-run")
    workerinput = controller_data(config)
    if workerinput is None:
        if settings.executor != "local":
            config.pluginmanager.register(CompletionOrder(settings, zoos), "headswap-completion-order")
        lock = lock_report_folder(config, settings)
        keys = Keys(config, settings)
        is_resumed = config.getoption("headswap_resume")
        if settings.since is not None or is_resumed:
            keys.read_all()  # otherwise the recorder does this while other processes begin
        resume = Resume(config, settings, keys) if is_resumed else None
        since = None
        if settings.since is not None:
            since = Since(config, settings, keys, *settings.since, config.stash.get(CARRIED_OVER, frozenset()))
        for name, plugin in (("headswap-resume", resume), ("headswap-since", since)):
            if plugin is not None:
                config.pluginmanager.register(plugin, name)
        config.pluginmanager.register(ExpectationsSummary(settings), "headswap-ending")
        recorder = Recorder(config, settings, keys, lock, resume, since)
        config.pluginmanager.register(recorder, "headswap-recorder")
        config.pluginmanager.register(recorder.folded_errors, "headswap-folded-errors")
        if settings.ctrf is not None or settings.annotations:
            config.pluginmanager.register(Exports(recorder, settings), "headswap-exports")
    else:
        config.stash[CARRIED_OVER] = frozenset(workerinput.get("headswap_carried_over", ()))
        taken_over = workerinput.get("headswap_taken_over", {})
        config.stash[TAKEN_OVER] = {nodeid: Replay(*replay) for nodeid, replay in taken_over.items()}
        set_torch_threads(workerinput["workercount"])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Reject options that select nothing, now that the tests with markers are known."""
    reject_models_without_zoo(session)
