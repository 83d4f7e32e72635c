"""Build the distributions as they are uploaded, and environments that contain nothing from this checkout.

The tests of this folder never import the package: they test it from outside.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# variables that would lead another environment's processes back to this one, or change how pytest behaves there
_OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "CI", "BUILD_NUMBER")


@dataclass(frozen=True)
class Dists:
    """The paths of a wheel and an sdist."""

    wheel: Path
    sdist: Path

    @property
    def version(self) -> str:
        """Return the version in the file name: pytest_headswap-VERSION-py3-none-any.whl."""
        return self.wheel.name.split("-")[1]

    @classmethod
    def in_folder(cls, folder: Path) -> Dists:
        """Return the distributions in a folder, which contains one of each."""
        (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        return cls(wheel, sdist)


@dataclass(frozen=True)
class Environment:
    """A separate virtual environment."""

    folder: Path

    @property
    def scripts(self) -> Path:
        """Return the folder of the commands."""
        return self.folder / "bin"

    def lend(self, libraries: Path) -> None:
        """Make the packages in another folder importable, and add the command `pytest`."""
        (self.packages / "libraries.pth").write_text(f"{libraries}\n", encoding="utf-8")
        script = self.scripts / "pytest"
        script.write_text(f"#!{self.scripts / 'python'}\nimport pytest\nraise SystemExit(pytest.main())\n")
        script.chmod(0o755)

    @property
    def packages(self) -> Path:
        """Return the folder of the packages."""
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        return Path(self.run(f'python -c "{code}"', self.folder).stdout.strip())

    def run(self, command: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a shell command with this environment active, and stderr redirected to stdout."""
        env = strangers_environment()
        env["PATH"] = f"{self.scripts}{os.pathsep}{env['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(f"+ {command}\n{done.stdout[-5000:]}")
        return done

    def install(self, *what: str) -> None:
        """Install packages with the pip of the running environment."""
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(self.folder), "install"]
        done = subprocess.run([*command, *what], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def strangers_environment() -> dict[str, str]:
    """Return the environment variables without those that refer to this environment."""
    kept = {name: value for name, value in os.environ.items() if name not in _OURS}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def make_environment(folder: Path) -> Environment:
    """Create an empty environment."""
    venv.create(folder, symlinks=True)
    return Environment(folder)


@pytest.fixture(scope="session")
def dists(tmp_path_factory: pytest.TempPathFactory) -> Dists:
    """Return the distributions in `HEADSWAP_DIST` or, if it is not set, build them from this checkout.

    The wheel is built from the sdist, as `python -m build` does by default.
    """
    if given := os.environ.get("HEADSWAP_DIST"):
        return Dists.in_folder(ROOT / given)
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Dists.in_folder(folder)


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Link to the packages of the running environment, because a copy would take gigabytes.

    pytest-headswap itself is left out, with the metadata of an editable install, so that the wheel is the only one.
    """
    folder = tmp_path_factory.mktemp("libraries")
    for packages in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(packages).iterdir():
            if "pytest_headswap" not in path.name and path.suffix != ".pth":
                (folder / path.name).symlink_to(path)
    return folder
