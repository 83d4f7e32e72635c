"""What is uploaded: the wheel and the sdist hold what they should and nothing else, and install from nothing."""

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
    """All files of the repository."""
    if not (ROOT / ".git").exists():
        pytest.skip("git says which files belong to the project, and this is no checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}


def in_wheel(path: Path) -> dict[str, bytes]:
    """The files of a wheel with what is in them."""
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(dists: Dists) -> None:
    info = f"pytest_headswap-{dists.version}.dist-info"
    of_wheel = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    package = {name for name in tracked() if name.startswith(SOURCE)}
    assert set(in_wheel(dists.wheel)) == package | of_wheel


def test_the_sdist_holds_every_file_of_the_repository_and_nothing_else(dists: Dists) -> None:
    with tarfile.open(dists.sdist) as sdist:
        names = {member.name for member in sdist.getmembers() if not member.isdir()}
    assert names == {f"pytest_headswap-{dists.version}/{name}" for name in tracked() | {"PKG-INFO"}}


def test_the_wheel_is_the_same_whether_the_sdist_or_the_checkout_is_built(dists: Dists, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, capture_output=True, check=True)
    (built,) = tmp_path.glob("*.whl")
    assert in_wheel(built) == in_wheel(dists.wheel)


def test_twine_finds_nothing_wrong(dists: Dists) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", str(dists.wheel), str(dists.sdist)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def test_the_metadata_lead_to_the_project(dists: Dists) -> None:
    wheel = in_wheel(dists.wheel)
    metadata = email.message_from_bytes(wheel[f"pytest_headswap-{dists.version}.dist-info/METADATA"])
    urls = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL", []))
    assert {"Source", "Changelog", "Issues"} <= urls.keys()
    assert all(address.startswith("https://") for address in urls.values())
    assert metadata["Description-Content-Type"] == "text/markdown"


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Environment]:
    """An environment with nothing in it, which is gone afterwards: torch and what it needs are gigabytes."""
    environment = make_environment(tmp_path / "venv")
    yield environment
    shutil.rmtree(environment.folder)


@pytest.mark.release
def test_the_wheel_installs_from_nothing_and_works(dists: Dists, empty: Environment, tmp_path: Path) -> None:
    empty.install(str(dists.wheel))
    assert empty.run("headswap --version", tmp_path).stdout == f"headswap {dists.version}\n"
    run = empty.run("pytest --headswap-zoo=builtin", tmp_path)
    assert run.returncode == 0
    counts = re.search(r" (\d+) passed, 8 skipped in ", run.stdout)  # one model is in that zoo to be refused
    assert counts is not None
    assert int(counts[1]) >= 34 * 8
    explained = empty.run("headswap explain builtin:distilled", tmp_path)
    assert explained.returncode == 0
    assert "2 heads" in explained.stdout
