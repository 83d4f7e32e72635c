"""The engine runs where only torch is installed beside the package, as after `pip install --no-deps`."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pytest_headswap
from pytest_headswap._packages import distributions_by_package

SETUP = """
import warnings
warnings.filterwarnings("ignore", "Failed to initialize NumPy")
import torch
from torch import nn

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.gru, self.out = nn.Embedding(30, 8), nn.GRU(8, 16, batch_first=True), nn.Linear(16, 10)
    def forward(self, x):
        return self.out(self.gru(self.embed(x))[0][:, -1])

class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1)
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(16, 10))
    def forward(self, x):
        return {"logits": self.head(self.encoder(x).mean(1))}

MODELS = {
    "convolutional": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1),
                                            nn.Flatten(), nn.Linear(8, 10)), torch.randn(2, 3, 8, 8)),
    "recurrent": (Recurrent, torch.zeros(2, 5, dtype=torch.long)),
    "transformer": (Transformer, torch.randn(2, 5, 16)),
}
"""


def with_requirements(package: str) -> set[str]:
    """Return the distributions that `pip install PACKAGE` installs."""
    found: set[str] = set()
    waiting = [package]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found.add(name)
            requirements = [Requirement(text) for text in distribution(name).requires or ()]
            waiting += [
                each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})
            ]
    return found


def linked(folder: Path, package: str) -> Path:
    """Fill a folder with links to a package, its requirements and this package: `pip install --no-deps` gives this."""
    allowed = with_requirements(package)
    distributions = distributions_by_package()
    (folder / "pytest_headswap").symlink_to(Path(pytest_headswap.__file__).parent)
    for name in ("purelib", "platlib"):
        for path in Path(sysconfig.get_path(name)).iterdir():
            owners = {canonicalize_name(each) for each in distributions.get(path.name.partition(".")[0], ())}
            if owners & allowed and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with torch, its requirements and this package."""
    return linked(tmp_path_factory.mktemp("packages"), "torch")


def run(code: str, packages: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a Python that has the standard library and these packages only."""
    file = folder / "program.py"
    file.write_text(f"import sys\nsys.path.append({str(packages)!r})\n{code}", encoding="utf-8")
    command = [sys.executable, "-I", "-S", str(file)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_models_are_swapped_frozen_trained_saved_and_undone_with_torch_alone(packages: Path, tmp_path: Path) -> None:
    code = """
from pytest_headswap import HeadSwapError, find_heads, freeze_backbone, swap_head

for name, (build, x) in MODELS.items():
    model = build()
    old = find_heads(model, x)[0]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    swap = swap_head(model, 5)
    frozen = freeze_backbone(swap)
    out = model.train()(x)
    out = out["logits"] if isinstance(out, dict) else out
    out.square().sum().backward()
    with torch.no_grad():
        for parameter in swap.parameters():
            parameter -= 0.1 * parameter.grad
    torch.save(swap.state_dict(), "head.pt")
    swap.load_state_dict(torch.load("head.pt", weights_only=True))
    frozen.unfreeze()
    swap.restore()
    kept = all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    print(name, old.path, tuple(out.shape), kept)

try:
    find_heads(nn.Flatten(), torch.zeros(2, 3, 4))
except HeadSwapError as error:
    print(error.reason)

import pkgutil
import pytest_headswap.engine
for module in pkgutil.walk_packages(pytest_headswap.engine.__path__, "pytest_headswap.engine."):
    __import__(module.name)

try:
    pytest_headswap.check_headswap
except ModuleNotFoundError as error:
    print(error)
"""
    done = run(SETUP + code, packages, tmp_path)
    assert done.returncode == 0, done.stderr
    *lines, harness = done.stdout.splitlines()
    assert lines == [
        "convolutional 4 (2, 5) True",
        "recurrent out (2, 5) True",
        "transformer head (2, 5) True",
        "output_from_input",
    ]
    assert harness.startswith("No module named "), "the harness needs more packages, and says which"


@pytest.mark.parametrize("module", ["pytest", "msgspec", "rich", "hypothesis", "numpy"])
def test_no_other_package_can_be_imported_there(module: str, packages: Path, tmp_path: Path) -> None:
    assert f"No module named '{module}'" in run(f"import {module}", packages, tmp_path).stderr


def test_tests_that_do_not_use_this_package_run_with_pytest_alone(tmp_path: Path) -> None:
    packages = linked(tmp_path, "pytest")
    (tmp_path / "test_mine.py").write_text("def test_mine():\n    assert True\n", encoding="utf-8")
    code = "import pytest\nsys.exit(pytest.main(['-q', '-p', 'pytest_headswap.plugin.hooks', 'test_mine.py']))"
    done = run(code, packages, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_a_run_over_a_zoo_names_the_package_that_is_missing(tmp_path: Path) -> None:
    packages = linked(tmp_path, "pytest")
    flags = ["-p", "pytest_headswap.plugin.hooks", "--headswap-zoo=builtin"]
    done = run(f"import pytest\nsys.exit(pytest.main({flags}))", packages, tmp_path)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "INTERNALERROR" not in done.stdout + done.stderr
    assert re.search(r"headswap needs \w+, which is not installed: run pip install pytest-headswap", done.stderr)
