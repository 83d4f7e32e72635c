"""The pytest plugin: declares the options, and registers the rest once a zoo is asked for.

Every pytest run on a machine where this is installed imports this module, so it imports as little as it can:
no torch, and nothing of the package but the options.
"""

from __future__ import annotations

import pytest

from pytest_headswap._plugin.options import add_options, asked_scope, read_settings


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    add_options(parser)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Validate what was asked for and join the run. Last, so that a conftest can add its zoos before."""
    if config.option.help or config.option.version or config.option.markers:
        return  # these end here, and should do so whatever stands in the ini file
    scope = asked_scope(config)
    if scope is None:
        return
    settings = read_settings(config, scope)

    from pytest_headswap._plugin.recorder import Recorder
    from pytest_headswap._plugin.run import ZooRun, share_cores

    config.pluginmanager.register(ZooRun(settings), "headswap-run")
    workerinput = getattr(config, "workerinput", None)
    if workerinput is None:
        config.pluginmanager.register(Recorder(settings), "headswap-recorder")
    else:
        share_cores(workerinput["workercount"])
