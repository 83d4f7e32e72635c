"""What strangers get: the distributions as they are uploaded, and environments that hold nothing of this checkout.

No test of this folder imports the package: it is looked at from outside.
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
# what would lead a process of another environment back into this one, or change what pytest does there
_OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "CI", "BUILD_NUMBER")


@dataclass(frozen=True)
class Dists:
    """A wheel and an sdist."""

    wheel: Path
    sdist: Path

    @property
    def version(self) -> str:
        """What the file names say: pytest_headswap-VERSION-py3-none-any.whl."""
        return self.wheel.name.split("-")[1]

    @classmethod
    def in_folder(cls, folder: Path) -> Dists:
        """Those in a folder, which holds one of each."""
        (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        return cls(wheel, sdist)


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own."""

    folder: Path

    @property
    def scripts(self) -> Path:
        """Where its commands are."""
        return self.folder / "bin"

    def lend(self, libraries: Path) -> None:
        """Make packages that are elsewhere importable, and pytest a command."""
        (self.packages / "libraries.pth").write_text(f"{libraries}\n", encoding="utf-8")
        script = self.scripts / "pytest"
        script.write_text(f"#!{self.scripts / 'python'}\nimport pytest\nraise SystemExit(pytest.main())\n")
        script.chmod(0o755)

    @property
    def packages(self) -> Path:
        """Where its packages are."""
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        return Path(self.run(f'python -c "{code}"', self.folder).stdout.strip())

    def run(self, command: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a line of a shell in which this environment is active; stderr is part of stdout."""
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
        """Install with the pip of the running environment."""
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(self.folder), "install"]
        done = subprocess.run([*command, *what], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def strangers_environment() -> dict[str, str]:
    """Return the environment variables of a process that knows nothing of this one."""
    kept = {name: value for name, value in os.environ.items() if name not in _OURS}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def make_environment(folder: Path) -> Environment:
    """An empty environment."""
    venv.create(folder, symlinks=True)
    return Environment(folder)


@pytest.fixture(scope="session")
def dists(tmp_path_factory: pytest.TempPathFactory) -> Dists:
    """The distributions of this checkout: those in `HEADSWAP_DIST` where it is set, or else built now.

    The wheel is built out of the sdist, as `python -m build` does it.
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
    """The packages of the running environment, in links, without this project: torch alone is gigabytes.

    An editable install is left out with its metadata, so that the wheel is the only pytest-headswap there is.
    """
    folder = tmp_path_factory.mktemp("libraries")
    for packages in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(packages).iterdir():
            if "pytest_headswap" not in path.name and path.suffix != ".pth":
                (folder / path.name).symlink_to(path)
    return folder
