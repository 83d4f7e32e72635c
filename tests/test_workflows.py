"""Validate the GitHub workflows, and run their commands on a small zoo."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import pytest_headswap
from conformance.sampled_models import sample
from pytest_headswap.results import read_journal

ROOT = Path(__file__).parent.parent
OURS = ROOT / ".github" / "workflows"
EXAMPLE = ROOT / "examples" / "zoo_library" / ".github" / "workflows" / "conformance.yml"
WORKFLOWS = {path.name: YAML(typ="safe").load(path) for path in (*sorted(OURS.glob("*.yml")), EXAMPLE)}
HEADSWAP = WORKFLOWS["headswap.yml"]
INPUTS = HEADSWAP["on"]["workflow_call"]["inputs"]
EXPRESSION = re.compile(r"\$\{\{\s*(.+?)\s*\}\}")


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the file, name and contents of each job."""
    for file, workflow in WORKFLOWS.items():
        for name, job in workflow["jobs"].items():
            yield file, name, job


def steps() -> Iterator[dict[str, Any]]:
    """Yield the steps of all workflows."""
    for _, _, job in jobs():
        yield from job.get("steps", ())


def step(workflow: str, job: str, name: str) -> dict[str, Any]:
    """Return a step by its name."""
    (found,) = (each for each in WORKFLOWS[workflow]["jobs"][job]["steps"] if each.get("name") == name)
    return dict(found)


def run(step: dict[str, Any], folder: Path, values: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command of a step as GitHub does, with expressions replaced by `values`."""

    def filled(text: Any) -> str:
        return EXPRESSION.sub(lambda found: values[found[1]], str(text))

    shell = (
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]
        if step["shell"] == "bash"
        else [sys.executable, "-c"]
    )
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    env |= {"GITHUB_OUTPUT": str(folder / "output"), "GITHUB_STEP_SUMMARY": str(folder / "step_summary")}
    env |= {name: filled(value) for name, value in step.get("env", {}).items()}
    done = subprocess.run(
        [*shell, filled(step["run"])], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr)
    return done


def output(folder: Path, name: str) -> Any:
    """Return the output that a step has set."""
    (line,) = (folder / "output").read_text(encoding="utf-8").splitlines()
    key, _, value = line.partition("=")
    assert key == name
    return json.loads(value)


def test_workflows_follow_the_github_schema() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    files = [str(path) for path in (*OURS.glob("*.yml"), EXAMPLE)]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_workflows_have_minimal_permissions_and_timeouts() -> None:
    for file, workflow in WORKFLOWS.items():
        assert workflow.get("permissions") == (None if file == "headswap.yml" else {"contents": "read"})
    granted = {(file, name): job["permissions"] for file, name, job in jobs() if "permissions" in job}
    comments = {"contents": "read", "actions": "read", "pull-requests": "write"}
    assert granted == {
        ("release.yml", "publish"): {"id-token": "write"},
        ("release.yml", "ci"): comments,  # a called workflow cannot have more
        ("ci.yml", "timm"): comments,
        ("conformance.yml", "zoo"): comments,
        ("headswap.yml", "shard"): {"contents": "read"},
        ("headswap.yml", "merge"): {"contents": "read"},
    }
    for name in HEADSWAP["jobs"].keys() - {"shard", "merge"}:  # they have the permissions of the calling job
        text = str(HEADSWAP["jobs"][name])
        assert not re.search(r"checkout|inputs\.install|pip|headswap (merge|compare)", text), (
            "it runs no code of a project"
        )
    assert all("uses" in job or job["timeout-minutes"] <= 180 for _, _, job in jobs())


def test_actions_are_pinned_to_a_major_version() -> None:
    used = {each["uses"] for each in steps() if "uses" in each}
    assert used
    assert {name for name in used if not re.search(r"@(v\d+|release/v\d+)$", name)} == set()


def test_expressions_refer_to_existing_values() -> None:
    for file, name, job in jobs():
        known = {f"inputs.{key}" for key in INPUTS} if file == "headswap.yml" else set()
        matrix = job.get("strategy", {}).get("matrix", {})
        known |= {f"matrix.{key}" for key in (("tox", "python") if "include" in matrix else matrix)}
        known |= {f"steps.{each['id']}.outputs" for each in job.get("steps", ()) if "id" in each}
        others = WORKFLOWS[file]["jobs"]
        known |= {f"needs.{other}.result" for other in others}
        known |= {f"needs.{other}.outputs.{key}" for other in others for key in others[other].get("outputs", {})}
        used = re.findall(r"\b(?:inputs|matrix|steps|needs)\.[\w.-]+", " ".join(EXPRESSION.findall(str(job))))
        for each in used:
            assert each in known or each.rpartition(".")[0] in known, f"{each} in job {name} of {file}"
            if each.startswith("needs."):
                assert each.split(".")[1] in job["needs"]


def test_commands_are_valid_bash() -> None:
    for each in steps():
        if "run" in each and each.get("shell") != "python":
            script = EXPRESSION.sub("x", each["run"])
            assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0, script


@pytest.mark.parametrize(("file", "name"), [("ci.yml", "timm"), ("conformance.yml", "zoo")])
def test_calls_of_the_reusable_workflow_use_its_inputs(file: str, name: str) -> None:
    given = WORKFLOWS[file]["jobs"][name]["with"]
    types = {"string": str, "number": int}
    assert {key for key, value in INPUTS.items() if value.get("required")} <= given.keys() <= INPUTS.keys()
    assert all(isinstance(value, types[INPUTS[key]["type"]]) for key, value in given.items())


def test_example_uses_the_reusable_workflow_of_this_version() -> None:
    reference = f"pytest-headswap/pytest-headswap/.github/workflows/headswap.yml@v{pytest_headswap.__version__}"
    assert WORKFLOWS["conformance.yml"]["jobs"]["zoo"]["uses"] == reference
    assert f"uses: {reference}\n" in (OURS / "headswap.yml").read_text(encoding="utf-8")


def test_tox_environments_named_in_workflows_exist() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "tox", "list", "--no-desc", "-q"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    named = re.findall(r"tox run -e (\w+)", " ".join(str(each.get("run")) for each in steps()))
    assert named == ["matrix", "release"]
    assert set(named) <= set(listed.stdout.split())


def test_version_jobs_run_tox_environments_with_zoos() -> None:
    listed = (ROOT / "tox.ini").read_text(encoding="utf-8")
    versions = WORKFLOWS["ci.yml"]["jobs"]["versions"]["strategy"]["matrix"]["include"]
    assert len(versions) >= 4
    for version in versions:
        python, torch, pytest_, zoo = version["tox"].split("-")
        assert python == f"py{version['python'].replace('.', '')}"
        assert zoo == "zoo"
        for factor in (torch, pytest_):
            assert f"    {factor}: {'torch' if factor == torch else 'pytest'}==" in listed


def test_device_jobs_run_samples_in_tox_environments_with_devices() -> None:
    listed = (ROOT / "tox.ini").read_text(encoding="utf-8")
    device_jobs = WORKFLOWS["ci.yml"]["jobs"]["devices"]
    assert [job["tox"] for job in device_jobs["strategy"]["matrix"]["include"]] == ["xla", "vulkan"]
    assert all(f"[testenv:{name}]" in listed and f"conformance.devices {name}" in listed for name in ("xla", "vulkan"))
    *_, zoo, sampled = step("ci.yml", "devices", "Run a sample on the device")["run"].split()
    assert sample(zoo).step > 1
    assert re.fullmatch(r"timm:\d+", sampled)


def test_ci_runs_each_tox_environment_on_its_python(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tox.ini", tmp_path)
    assert (
        run(
            step("ci.yml", "environments", "List the tox environments and their Python versions"), tmp_path, {}
        ).returncode
        == 0
    )
    found = {job["tox"]: job["python"] for job in output(tmp_path, "list")}
    assert found["lint"] == "3.12"
    pythons = {name: python for name, python in found.items() if name.startswith("py")}
    assert set(pythons.values()) == {"3.10", "3.11", "3.12", "3.13"}
    assert all(name.startswith(f"py{python.replace('.', '')}") for name, python in pythons.items())


def test_reusable_workflow_runs_and_merges_shards(tmp_path: Path) -> None:
    values = {
        "inputs.zoo": "builtin",
        "inputs.models": "conv*,headless*,encoder_without_head",
        "inputs.shards": "3",
        "inputs.expectations": str(ROOT / "conformance"),
        "inputs.options": "-q --headswap-evidence=abstract",
        "needs.plan.outputs.flags": "",
    }
    assert run(step("headswap.yml", "plan", "Number the shards"), tmp_path, values).returncode == 0
    shards = output(tmp_path, "shards")
    assert shards == [1, 2, 3]
    kept = step("headswap.yml", "shard", "Upload the journal")["with"]
    for shard in shards:
        of_shard = {**values, "matrix.shard": str(shard)}
        done = run(step("headswap.yml", "shard", "Test the shard"), tmp_path, of_shard)
        assert done.returncode == 0
        assert kept["name"] == "${{ inputs.name }}-shard-${{ matrix.shard }}"
        uploaded = tmp_path / "shards" / f"headswap-shard-{shard}"
        uploaded.mkdir(parents=True)
        shutil.move(tmp_path / kept["path"], uploaded)
        shutil.rmtree(tmp_path / "headswap-report")

    merge = step("headswap.yml", "merge", "Merge the shards; if some are missing, merge the others and fail")
    assert run(merge, tmp_path, values).returncode == 0
    _, results = read_journal(tmp_path / "headswap-report")
    assert len(results) == 7 * 8
    assert (tmp_path / "headswap-report" / "index.html").exists()
    summary = step("headswap.yml", "merge", "Show the summary")
    assert run(summary, tmp_path, values).returncode == 0
    assert "7 architectures" in (tmp_path / "step_summary").read_text(encoding="utf-8")

    shutil.rmtree(tmp_path / "shards" / "headswap-shard-2")
    shutil.rmtree(tmp_path / "headswap-report")
    done = run(merge, tmp_path, values)
    assert done.returncode == 1
    assert "shard 2" in done.stderr
    assert 0 < len(read_journal(tmp_path / "headswap-report")[1]) < 7 * 8
