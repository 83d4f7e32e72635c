"""Read the options, and validate them once a zoo is requested. `option_declarations.py` declares them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_headswap._links import page
from pytest_headswap._text import split_commas
from pytest_headswap.case.options import AUTO, CaseOptions
from pytest_headswap.harness.device_option import parse_device
from pytest_headswap.harness.options import (
    OptionError,
    default_checks,
    parse_annotations,
    parse_evidence,
    parse_executor,
    parse_isolation,
    parse_memory_limit,
    parse_num_classes,
    parse_percentage,
    parse_shard,
    parse_timeout,
    reject_unknown_checks,
    select_checks,
)
from pytest_headswap.plugin.contributions import available_checks, check_names
from pytest_headswap.plugin.controller_data import controller_data
from pytest_headswap.plugin.given_ids import given_ids, select_ids, zoos_of_ids
from pytest_headswap.plugin.option_declarations import DEFAULT_REPORT
from pytest_headswap.plugin.settings import Settings

if TYPE_CHECKING:
    from pytest_headswap.checks import Check
    from pytest_headswap.expectations.expectations import Expectations
    from pytest_headswap.plugin.settings import ZooScope
    from pytest_headswap.zoo.selection import Selection

_CASE_OPTIONS = pytest.StashKey[CaseOptions]()


def zoo_scope(config: pytest.Config) -> ZooScope | None:
    """Return the scope of the zoos, or None without a zoo. Must be cheap, since every pytest run calls it."""
    workerinput = controller_data(config)
    if workerinput is not None:  # xdist always passes paths to workers; the controller knows what was typed
        scope: ZooScope | None = workerinput.get("headswap_scope")
        return scope
    given = bool(config.getoption("headswap_zoo") or given_ids(config))
    if not given and not config.getini("headswap_zoo"):
        return None
    paths = bool(config.args) and config.args_source is pytest.Config.ArgsSource.ARGS
    if given:
        return "alongside" if paths else "exclusive"
    return None if paths else "alongside"


def requested_zoos(config: pytest.Config) -> tuple[str, ...]:
    """Return the zoos of the command line or, without any, those of the ini file."""
    texts = config.getoption("headswap_zoo") or config.getini("headswap_zoo")
    return tuple(dict.fromkeys(name for text in texts for name in split_commas(text)))


def reject_models_without_zoo(session: pytest.Session) -> None:
    """Raise `UsageError` if `--headswap-models` is typed, but neither an option nor a marker names a zoo.

    With pytest-xdist, no process can tell: the controller has no tests, and an error in a worker looks like a crash.
    """
    config = session.config
    if config.getoption("headswap_models") is None or config.getoption("dist", "no") != "no":
        return
    if hasattr(config, "workerinput") or requested_zoos(config) or given_ids(config):
        return
    if not any(item.get_closest_marker("headswap") for item in session.items):
        raise pytest.UsageError("--headswap-models has no effect without a zoo: add --headswap-zoo, such as timm")


def option_text(config: pytest.Config, name: str) -> str:
    """Return an option as typed on the command line or, failing that, in the ini file."""
    given = config.getoption(f"headswap_{name}")
    return str(config.getini(f"headswap_{name}") if given is None else given).strip()


def resolve_path(config: pytest.Config, name: str, path: str) -> Path:
    """Return the path that an option names: an ini key is relative to the root folder, an option to the current one."""
    return (config.rootpath if config.getoption(f"headswap_{name}") is None else config.invocation_params.dir) / path


def read_case_options(config: pytest.Config) -> CaseOptions:
    """Return the options that determine how cases are built.

    Raises:
        OptionError: an option is invalid; the message says what to type instead.
    """
    if _CASE_OPTIONS in config.stash:  # asked for each test that a marker gives a model
        return config.stash[_CASE_OPTIONS]
    default = CaseOptions()
    backend = option_text(config, "device_import")
    config.stash[_CASE_OPTIONS] = CaseOptions(
        parse_num_classes(option_text(config, "num_classes") or default.num_classes, "--headswap-num-classes"),
        parse_evidence(option_text(config, "evidence") or default.evidence, "--headswap-evidence"),
        timeout=parse_timeout(option_text(config, "timeout") or default.timeout, "--headswap-timeout"),
        memory_limit=parse_memory_limit(
            option_text(config, "memory_limit") or default.memory_limit, "--headswap-memory-limit"
        ),
        device=parse_device(
            *(option_text(config, "device") or default.device, "--headswap-device"),
            *(backend, "--headswap-device-import"),
        ),
        device_import=backend,
    )
    return config.stash[_CASE_OPTIONS]


def read_settings(config: pytest.Config, scope: ZooScope) -> Settings:
    """Load the requested zoos and validate all options. What does not need torch is validated before torch is imported.

    Raises:
        pytest.UsageError: an option is invalid; the message says what to type instead.
    """
    from pytest_headswap.harness.sample import parse_sample
    from pytest_headswap.plugin.planning.sample import sample_of_selection
    from pytest_headswap.plugin.planning.shards import shard_of_selection
    from pytest_headswap.plugin.read_expectations import validate_path

    try:
        _reject_dist_each(config)
        options = read_case_options(config)
        patterns = option_text(config, "models")
        since = _since(config)
        ctrf = _ctrf(config)
        annotations = parse_annotations(option_text(config, "annotations") or "none", "--headswap-annotations")
        isolation = parse_isolation(option_text(config, "isolation") or AUTO, "--headswap-isolation")
        executor = parse_executor(option_text(config, "executor") or "local", "--headswap-executor")
        _reject_workers_with_pool(config, executor)
        shard = parse_shard(_shard_text(config), "--headswap-shard")
        sample = parse_sample(option_text(config, "sample"), "--headswap-sample")
        requested = split_commas(option_text(config, "checks"))
        reject_unknown_checks(requested, check_names(config), "--headswap-checks")
        validate_path(config, *_expectations_path(config))
        ids = given_ids(config)
        _reject_unknown_zoos(zoos_of_ids(ids) or requested_zoos(config))
        available = available_checks(config)
        checks = select_checks(requested or default_checks(available), available, "--headswap-checks")
        checks_by_model: Mapping[tuple[str, str], frozenset[str]] = {}
        if ids:
            chosen = select_ids(ids, checks, available)
            selected, checks, checks_by_model = chosen.selected, chosen.checks, chosen.by_model
            patterns = ",".join(ids)
        else:
            selected = _select(config, patterns)
            selected = selected if sample is None else sample_of_selection(selected, sample)
        expectations = _expectations(config, selected, available, options)
    except OptionError as error:
        raise pytest.UsageError(f"{error}\nSee {page(error.page)}") from error
    zoos = selected if shard is None else shard_of_selection(selected, shard)
    report = _report_folder(config)
    return Settings(
        *(zoos, selected, shard, checks, options, report, scope, patterns, expectations, isolation, executor),
        checks_by_model=checks_by_model,
        since=since,
        sample=None if ids else sample,
        ctrf=ctrf,
        annotations=annotations,
    )


def _reject_dist_each(config: pytest.Config) -> None:
    if config.getoption("dist", "no") == "each" and not hasattr(config, "workerinput"):
        raise OptionError(
            "--dist=each runs every test on each worker, but a report has one result for each test: use "
            "--dist=load, or start one run for each environment, with its own --headswap-report, and compare them",
            page="scale",
        )


def _reject_workers_with_pool(config: pytest.Config, executor: str) -> None:
    if executor == "local" or controller_data(config) is not None:
        return
    if config.getoption("dist", "no") != "no":
        raise OptionError(f"--headswap-executor={executor} distributes the models itself: leave out -n", page="scale")
    if config.option.usepdb or config.option.trace:
        raise OptionError(f"--pdb and --trace need the models here: leave out --headswap-executor={executor}")


def _reject_unknown_zoos(names: Iterable[str]) -> None:
    from pytest_headswap.zoo import ZooError
    from pytest_headswap.zoo.registry import reject_unknown_zoo

    try:
        for name in names:
            reject_unknown_zoo(name)
    except ZooError as error:
        raise OptionError(f"--headswap-zoo: {error}", page="zoo") from error


def _select(config: pytest.Config, patterns: str) -> Selection:
    from pytest_headswap.zoo import ZooError
    from pytest_headswap.zoo.selection import load_zoos, select_from_zoos

    try:
        zoos = load_zoos(requested_zoos(config), "--headswap-zoo")
    except ZooError as error:
        raise OptionError(str(error), page="zoo") from error
    try:
        return select_from_zoos(zoos, patterns, "--headswap-models")
    except ZooError as error:
        raise OptionError(str(error)) from error


def _expectations(
    config: pytest.Config, selected: Selection, available_checks: Mapping[str, Check], options: CaseOptions
) -> Expectations:
    from pytest_headswap.plugin.read_expectations import read_expectations

    given_path, path = _expectations_path(config)
    return read_expectations(config, selected, tuple(available_checks), options, given_path, path)


def _expectations_path(config: pytest.Config) -> tuple[str, Path]:
    """Return the path of the expectations as typed, empty if there is none, and the same path, absolute."""
    payload = getattr(config, "workerinput", {}).get("headswap_expectations")
    given_path = option_text(config, "expectations") if payload is None else payload["typed"]
    return given_path, resolve_path(config, "expectations", given_path) if payload is None else Path(payload["path"])


def _shard_text(config: pytest.Config) -> str:
    """Return the shard as typed. A worker of xdist gets it from the controller, whose environment may name it."""
    sent: str | None = (controller_data(config) or {}).get("headswap_shard")
    return option_text(config, "shard") if sent is None else sent


def _since(config: pytest.Config) -> tuple[Path, float] | None:
    """Return the earlier journal whose results are taken over, and the percentage of models to verify."""
    path, verify = option_text(config, "since"), option_text(config, "since_verify")
    percentage = parse_percentage(verify, "--headswap-since-verify") if verify else 0
    if not path:
        if verify:
            raise OptionError("--headswap-since-verify has no effect without --headswap-since: add it", page="scale")
        return None
    return resolve_path(config, "since", path), percentage


def _ctrf(config: pytest.Config) -> Path | None:
    text = option_text(config, "ctrf")
    path = resolve_path(config, "ctrf", text) if text else None
    if path is not None and path.is_dir():
        example = Path(text) / "ctrf.json"
        raise OptionError(f"--headswap-ctrf={text} is a folder: name a file, such as {example}", page="reports")
    return path


def _report_folder(config: pytest.Config) -> Path:
    path = option_text(config, "report")
    return resolve_path(config, "report", path) if path else config.invocation_params.dir / DEFAULT_REPORT
