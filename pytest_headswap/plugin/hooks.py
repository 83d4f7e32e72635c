"""The pytest plugin: declares options, hooks, the marker and fixtures, and joins the run if a zoo is requested.

Every pytest run on a machine with this plugin imports this module, so it imports as little as possible: no torch, and
only those parts of the package that hold declarations.
"""

from __future__ import annotations

import pytest

from pytest_headswap.plugin import hookspecs
from pytest_headswap.plugin.contributions import add_zoos, known_checks
from pytest_headswap.plugin.options import add_options, asked_scope, read_settings
from pytest_headswap.plugin.user_tests import fixtures, parametrize
from pytest_headswap.plugin.user_tests.marker import MARKER


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
    add_zoos(config)
    scope = asked_scope(config)
    if scope is None:
        return

    from pytest_headswap.harness.garbage import without_looking_for_garbage

    with without_looking_for_garbage():
        settings = read_settings(config, scope, known_checks(config))

    from pytest_headswap.plugin.collection.session import ZooRun, share_cores
    from pytest_headswap.plugin.planning.cost_cache import Learner
    from pytest_headswap.plugin.planning.progress import Progress
    from pytest_headswap.plugin.recording.expectations_summary import Ending
    from pytest_headswap.plugin.recording.owner import own_folder
    from pytest_headswap.plugin.recording.recorder import Recorder
    from pytest_headswap.plugin.recording.resume import Resume
    from pytest_headswap.plugin.settings import TAKEN

    config.pluginmanager.register(ZooRun(config, settings), "headswap-run")
    workerinput = getattr(config, "workerinput", None)
    if workerinput is None:
        lock = own_folder(config, settings)
        resume = Resume(config, settings) if config.getoption("headswap_resume") else None
        if resume is not None:
            config.pluginmanager.register(resume, "headswap-resume")
        config.pluginmanager.register(Ending(settings), "headswap-ending")
        config.pluginmanager.register(Recorder(config, settings, lock, resume), "headswap-recorder")
        config.pluginmanager.register(Learner(config, settings), "headswap-learner")
        config.pluginmanager.register(Progress(config, settings), "headswap-progress")
    else:
        config.stash[TAKEN] = frozenset(workerinput.get("headswap_taken", ()))
        share_cores(workerinput["workercount"])
