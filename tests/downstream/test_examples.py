"""Install each project of `examples/` with the wheel in a separate environment, and run its README commands."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import ROOT, Dists, Environment, make_environment

EXAMPLES = ROOT / "examples"
CHECKS = 8  # built-in checks


@dataclass(frozen=True)
class Example:
    """An installed copy of an example.

    Attributes:
        folder: the folder of the copy, outside this checkout.
        commands: the commands of the README, one per line, without comments.
    """

    folder: Path
    environment: Environment
    commands: tuple[str, ...]

    def run(self, command: str, *, status: int = 0) -> str:
        """Run a command of the README, require its exit status, and return its output."""
        assert command in self.commands
        done = self.environment.run(command, self.folder)
        assert done.returncode == status
        return done.stdout

    def break_it(self, file: str, old: str, new: str) -> None:
        """Plant a fault."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1
        path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def example(tmp_path: Path, libraries: Path, dists: Dists) -> Callable[[str], Example]:
    """Install a copy of an example as in its README, but offline and with the libraries of this environment."""

    def make(name: str) -> Example:
        folder = tmp_path / name
        shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("__pycache__", "headswap-report", "run"))
        first, *others = re.findall(
            r"^```bash\n(.*?)^```", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL
        )
        install = re.fullmatch(
            r"python3 -m venv \.venv && \. \.venv/bin/activate && pip install -e '?\.(\[test\])?'?\n", first
        )
        assert install is not None, "the README begins with how to install"
        environment = make_environment(tmp_path / "venv")
        environment.lend(libraries)
        # without an index, so that an undeclared requirement is an error
        offline = ("--no-index", "--no-build-isolation", "--find-links", str(dists.wheel.parent))
        environment.install(*offline, "--editable", f"{folder}{install[1] or ''}")
        commands = [line.partition(" #")[0].strip() for block in others for line in block.splitlines()]
        return Example(folder, environment, tuple(commands))

    return make


def outcomes(printed: str) -> Counter[str]:
    """Return the counts in the last line of a run."""
    (*_, last) = printed.strip().splitlines()
    return Counter({what: int(count) for count, what in re.findall(r"(\d+) ([a-z]+)", last.partition(" in ")[0])})


def test_every_example_is_tested() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        assert f'example("{path.name}")' in tests


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_examples_depend_on_the_released_package(path: Path) -> None:
    text = (path / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'(dependencies|test) = \[[^\]]*"pytest-headswap"', text)
    assert "file:" not in text
    assert ".." not in text


def _assert_it_is_the_wheel(example: Example, version: str) -> None:
    """Assert that the package comes from the example's environment, and that its plugin is registered once."""
    code = (
        "from importlib.metadata import distributions; import pytest_headswap; "
        "points = [point for dist in distributions() for point in dist.entry_points]; "
        "plugins = [point.name for point in points if point.group == 'pytest11']; "
        "print(pytest_headswap.__file__, pytest_headswap.__version__, plugins.count('headswap'))"
    )
    done = example.environment.run(f'python -c "{code}"', example.folder)
    place = example.environment.packages / "pytest_headswap" / "__init__.py"
    assert done.stdout.split() == [str(place), version, "1"]
    for command in ("pytest", "headswap"):
        where = example.environment.run(f"command -v {command}", example.folder).stdout.strip()
        assert Path(where).parent == example.environment.scripts


@pytest.mark.slow
def test_zoo_library_example_works(example: Callable[[str], Example], dists: Dists) -> None:
    library = example("zoo_library")
    _assert_it_is_the_wheel(library, dists.version)
    everything, tests, explain = library.commands
    own = 5
    assert outcomes(library.run(everything)) == {"passed": own + 4 * CHECKS - 1, "xfailed": 1}
    assert (library.folder / "headswap-report" / "index.html").exists()
    assert outcomes(library.run(tests)) == {"passed": own}
    assert "head_dist" in library.run(explain)

    library.break_it("src/tinynets/models.py", "self.fc(features)", "self.fc(features).detach()")
    broken = library.run(everything, status=1)
    assert "FAILED tinynets.registry:ARCHITECTURES::tiny_resnet::gradient_flow" in broken
    assert outcomes(broken)["failed"] < CHECKS


@pytest.mark.slow
def test_own_checks_example_works(example: Callable[[str], Example], dists: Dists) -> None:
    project = example("own_checks")
    _assert_it_is_the_wheel(project, dists.version)
    everything, one, elsewhere = project.commands
    # three models with two more checks, one of which skips the sound model; one test per model, and one more test
    assert outcomes(project.run(everything)) == {"passed": 3 * (CHECKS + 2) - 1 + 4, "skipped": 1}
    assert outcomes(project.run(one)) == {"passed": 3}
    assert outcomes(project.run(elsewhere)) == {"passed": 2}

    project.break_it("tests/conftest.py", "MAX_PARAMETERS = 4_000", "MAX_PARAMETERS = 130")
    assert "the head has 165 parameters, but the camera allows 130" in project.run(one, status=1)


@pytest.mark.slow
def test_fine_tune_example_works(example: Callable[[str], Example], dists: Dists) -> None:
    script = example("fine_tune")
    _assert_it_is_the_wheel(script, dists.version)
    first, again, tests = script.commands
    for command in (first, again):
        printed = script.run(command)
        assert "a new model with the saved head gives the same logits" in printed
        accuracies = [float(value) for value in re.findall(r"([\d.]+)%", printed)]
        assert accuracies[-1] >= 90
    assert outcomes(script.run(tests)) == {"passed": CHECKS + 3}
