"""Test the wheel and the sdist: their contents, their metadata, and an installation into an empty environment."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import ROOT, Dists, Environment, make_environment

SOURCE = "pytest_headswap/"


def tracked() -> set[str]:
    """Return the tracked files of the repository."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout, so the files of the project are unknown")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}


def in_wheel(path: Path) -> dict[str, bytes]:
    """Return the contents of a wheel by file name."""
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


def test_wheel_contains_exactly_the_package(dists: Dists) -> None:
    info = f"pytest_headswap-{dists.version}.dist-info"
    of_wheel = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    package = {name for name in tracked() if name.startswith(SOURCE)}
    assert set(in_wheel(dists.wheel)) == package | of_wheel


def test_sdist_contains_exactly_the_repository(dists: Dists) -> None:
    with tarfile.open(dists.sdist) as sdist:
        names = {member.name for member in sdist.getmembers() if not member.isdir()}
    assert names == {f"pytest_headswap-{dists.version}/{name}" for name in tracked() | {"PKG-INFO"}}


def test_wheels_built_from_sdist_and_checkout_are_equal(dists: Dists, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, capture_output=True, check=True)
    (built,) = tmp_path.glob("*.whl")
    assert in_wheel(built) == in_wheel(dists.wheel)


def test_twine_accepts_the_distributions(dists: Dists) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", str(dists.wheel), str(dists.sdist)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def test_metadata_link_to_the_project(dists: Dists) -> None:
    wheel = in_wheel(dists.wheel)
    metadata = email.message_from_bytes(wheel[f"pytest_headswap-{dists.version}.dist-info/METADATA"])
    urls = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL", []))
    assert {"Source", "Changelog", "Issues"} <= urls.keys()
    assert all(address.startswith("https://") for address in urls.values())
    assert metadata["Description-Content-Type"] == "text/markdown"


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Environment]:
    """Create an empty environment, and delete it afterwards: torch and its requirements take gigabytes."""
    environment = make_environment(tmp_path / "venv")
    yield environment
    shutil.rmtree(environment.folder)


@pytest.mark.release
def test_wheel_works_in_an_empty_environment(dists: Dists, empty: Environment, tmp_path: Path) -> None:
    empty.install(str(dists.wheel))
    assert empty.run("headswap --version", tmp_path).stdout == f"headswap {dists.version}\n"
    run = empty.run("pytest --headswap-zoo=builtin", tmp_path)
    assert run.returncode == 0
    counts = re.search(r" (\d+) passed, 8 skipped in ", run.stdout)  # the engine refuses one model of this zoo
    assert counts is not None
    assert int(counts[1]) >= 34 * 8
    explained = empty.run("headswap explain builtin:distilled", tmp_path)
    assert explained.returncode == 0
    assert "2 heads" in explained.stdout
