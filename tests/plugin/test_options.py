"""An invalid option ends the run before it starts and names the fix; each option is a flag and an ini key."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pytest_headswap import Case, ModelSpec
from pytest_headswap._check_names import CHECK_NAMES, OPT_IN_CHECK_NAMES
from pytest_headswap.case import build as case_build
from pytest_headswap.case.options import CaseOptions
from pytest_headswap.checks.registry import CHECKS, OPT_IN_CHECKS
from pytest_headswap.results import Result, read_journal

USAGE_ERROR = pytest.ExitCode.USAGE_ERROR

BAD_FLAGS = {
    "unknown zoo": (["--headswap-zoo=testzo"], "*unknown zoo 'testzo'*did you mean testzoo*"),
    "library missing": (["--headswap-zoo=ghosts"], "*needs ghostlib*pip install 'pytest-headswap?ghostlib?'*"),
    "unknown model": (
        ["--headswap-zoo=testzoo", "--headswap-models=alpa"],
        "*unknown model 'alpa' in zoo 'testzoo'*did you mean alpha*",
    ),
    "glob without a match": (["--headswap-zoo=testzoo", "--headswap-models=resnet*"], "*no model*matches 'resnet?'*"),
    "everything left out": (
        ["--headswap-zoo=testzoo", "--headswap-models=alpha,!al*"],
        "*excludes every model*remove some of the ! patterns*",
    ),
    "unknown check": (
        ["--headswap-zoo=testzoo", "--headswap-checks=output_shapes"],
        "*unknown check 'output_shapes'*did you mean output_shape*The checks are output_shape, native_parity, *",
    ),
    "unknown check among known ones": (
        ["--headswap-zoo=testzoo", "--headswap-checks=output_shape,nonsense"],
        "*unknown check 'nonsense'*The checks are output_shape, native_parity, *",
    ),
    "unknown check to add": (
        ["--headswap-zoo=testzoo", "--headswap-checks=+metdata"],
        "*unknown check 'metdata'*did you mean metadata*",
    ),
    "unknown check to leave out": (
        ["--headswap-zoo=testzoo", "--headswap-checks=+metadata,!rond_trip"],
        "*unknown check 'rond_trip'*did you mean round_trip*",
    ),
    "unknown evidence": (
        ["--headswap-zoo=testzoo", "--headswap-evidence=numerical"],
        "*--headswap-evidence must be one of auto, abstract, numeric, not 'numerical': did you mean numeric*",
    ),
    "unknown device": (
        ["--headswap-zoo=testzoo", "--headswap-device=cuda:"],
        "*--headswap-device must be auto, cpu, or TYPE or TYPE:N such as cuda, *, not 'cuda:': did you mean cuda[?]",
    ),
    "device without a number": (["--headswap-zoo=testzoo", "--headswap-device=cuda:one"], "*not 'cuda:one'*"),
    "a GPU under another name": (
        ["--headswap-zoo=testzoo", "--headswap-device=gpu"],
        "*must be auto, cpu, or TYPE*not 'gpu': did you mean cuda[?]",
    ),
    "a numbered GPU under another name": (
        ["--headswap-zoo=testzoo", "--headswap-device=GPU:1"],
        "*not 'GPU:1': did you mean cuda[?]",
    ),
    "a file as a zoo": (
        ["--headswap-zoo=empty.py"],
        "*zoo 'empty.py' is a file without an attribute: use empty.py:ATTR, such as empty.py:ZOO",
    ),
    "a second zoo that is unknown": (
        ["--headswap-zoo=testzoo,buildin"],
        "*unknown zoo 'buildin'*did you mean builtin*",
    ),
    "an excluded check that is unknown": (
        ["--headswap-zoo=testzoo", "--headswap-checks=!metadat"],
        "*unknown check 'metadat' in --headswap-checks: did you mean metadata[?]*",
    ),
    "every check left out": (
        ["--headswap-zoo=testzoo", "--headswap-checks=metadata,!metadata"],
        "*--headswap-checks excludes every check: remove some of the ! names",
    ),
    "models without a zoo": (
        ["--headswap-models=alpha"],
        "*--headswap-models has no effect without a zoo: add --headswap-zoo, such as timm",
    ),
    "device without values": (["--headswap-zoo=testzoo", "--headswap-device=meta"], "*must be auto, cpu*, not 'meta'*"),
    "unknown device without a package": (
        ["--headswap-zoo=testzoo", "--headswap-device=quantum"],
        "*not 'quantum'. If a package defines the type quantum, name the package with --headswap-device-import",
    ),
    "index of the CPU": (["--headswap-zoo=testzoo", "--headswap-device=cpu:0"], "*not 'cpu:0': did you mean cpu[?]"),
    "negative index": (["--headswap-zoo=testzoo", "--headswap-device=cuda:-1"], "*not 'cuda:-1': did you mean cuda[?]"),
    "index with a leading zero": (["--headswap-zoo=testzoo", "--headswap-device=cuda:01"], "*not 'cuda:01'*"),
    "mistyped device": (["--headswap-zoo=testzoo", "--headswap-device=xpuu"], "*not 'xpuu': did you mean xpu[?]"),
    "simulated index": (["--headswap-zoo=testzoo", "--headswap-device=simulated:mps:0"], "*without an index, such as*"),
    "simulated CPU": (
        ["--headswap-zoo=testzoo", "--headswap-device=simulated:cpu"],
        "*is 'simulated:cpu', but simulated*",
    ),
    "mistyped simulation": (["--headswap-zoo=testzoo", "--headswap-device=simulate"], "*did you mean simulated[?]"),
    "mistyped simulated type": (["--headswap-zoo=testzoo", "--headswap-device=simulated:gpu"], "*did you mean cuda[?]"),
    "simulated type of a missing package": (
        ["--headswap-zoo=testzoo", "--headswap-device=simulated:npu"],
        "*simulated:npu: torch * knows no device of type npu. The package torch_npu defines it: install *",
    ),
    "several devices": (["--headswap-zoo=testzoo", "--headswap-device=cuda:0,cuda:1"], "*not 'cuda:0,cuda:1'*"),
    "type that needs a package": (
        ["--headswap-zoo=testzoo", "--headswap-device=npu:0"],
        "*npu:0: torch * knows no device of type npu. *: install torch_npu and add --headswap-device-import=torch_npu*",
    ),
    "type that torch names but a package defines": (
        ["--headswap-zoo=testzoo", "--headswap-device=xla"],
        "*=xla: torch * finds no device of type xla. The package torch_xla defines it: install torch_xla and add *",
    ),
    "backend that is not there": (
        ["--headswap-zoo=testzoo", "--headswap-device-import=torch_nowhere"],
        "*--headswap-device-import=torch_nowhere: there is no module torch_nowhere. Install the package *",
    ),
    "module of a backend that is not there": (
        ["--headswap-zoo=testzoo", "--headswap-device-import=json.nowhere"],
        "*--headswap-device-import=json.nowhere: there is no module json.nowhere. *",
    ),
    "backend that is no name": (
        ["--headswap-zoo=testzoo", "--headswap-device-import=torch-npu"],
        "*--headswap-device-import must be the name of a Python module such as torch_npu, not 'torch-npu'",
    ),
    "backend without a device": (
        ["--headswap-zoo=testzoo", "--headswap-device-import=json"],
        "*--headswap-device-import=json: torch names no accelerator after the import. Add --headswap-device=TYPE*",
    ),
    "type that the backend does not define": (
        ["--headswap-zoo=testzoo", "--headswap-device=quantum:0", "--headswap-device-import=json"],
        "*--headswap-device=quantum:0: torch * knows no device of type quantum. Expected one of cpu, cuda*",
    ),
}


@pytest.mark.parametrize(("flags", "message"), BAD_FLAGS.values(), ids=BAD_FLAGS.keys())
def test_an_invalid_flag_is_refused_with_a_fix(
    project: pytest.Pytester, builds: Callable[[], list[str]], flags: list[str], message: str
) -> None:
    result = project.runpytest_inprocess(*flags)
    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    assert "Traceback" not in result.stderr.str()
    assert builds() == []
    assert not (project.path / "headswap-report").exists()


@pytest.mark.parametrize("text", ["0", "-3", "True", "false", "seven", "7.0", "1e3", "٣", "0x7", "7 8"])
def test_a_class_count_that_is_not_a_positive_integer_is_refused(project: pytest.Pytester, text: str) -> None:
    result = project.runpytest_inprocess("--headswap-zoo=testzoo", f"--headswap-num-classes={text}")
    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--headswap-num-classes must be a positive whole number, not '{text}'*such as 7*"])


@pytest.mark.parametrize(
    ("gpus", "asked", "message"),
    [
        (0, "cuda", "*--headswap-device=cuda: torch * Use cpu, or auto to use whatever is available"),
        (0, "cuda:0", "*--headswap-device=cuda:0: torch * Use cpu, or auto*"),
        (1, "cuda:1", "*--headswap-device=cuda:1, but cuda:0 is the only one here with CUDA_VISIBLE_DEVICES=''"),
        (4, "cuda:4", "*--headswap-device=cuda:4, but the last one is cuda:3 here with *"),
        (4, f"cuda:{10**20}", "*--headswap-device=cuda:1000*, but the last one is cuda:3 here with *"),
    ],
)
def test_a_missing_gpu_is_refused_with_the_available_devices(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, gpus: int, asked: str, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    result = project.runpytest_inprocess("--headswap-zoo=testzoo", f"--headswap-device={asked}")
    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_evidence_and_device_reach_the_case_the_journal_and_the_repro_command(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, journal: Callable[..., dict[str, Result]]
) -> None:
    asked = project.path / "asked.txt"

    def build_case(zoo: str, spec: ModelSpec, options: CaseOptions, tensor_bytes: int = 0) -> Case:
        with asked.open("a", encoding="utf-8") as file:
            line = f"{zoo} {options.num_classes} {options.evidence} {options.device}\n"
            file.write(line if zoo == "testzoo" else "")
        return build(zoo, spec, CaseOptions(options.num_classes))

    build = case_build.build_case
    monkeypatch.setattr(case_build, "build_case", build_case)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    flags = ["--headswap-evidence=numeric", "--headswap-device=cuda:1"]
    project.makeini("[pytest]\nheadswap_evidence = abstract\nheadswap_device = cpu\n")
    only = ["--headswap-zoo=testzoo", "--headswap-models=alpha", "--headswap-checks=output_shape"]
    only.append("--headswap-isolation=fork")  # a spawned process would have the real function
    result = project.runpytest_inprocess(*only, *flags)
    result.stdout.fnmatch_lines(["headswap: *7 classes; numeric evidence; on cuda:1"])
    (item,) = journal().values()
    assert item.repro.endswith(" ".join(flags))
    options = read_journal(project.path / "headswap-report")[0].options
    assert (options["evidence"], options["device"]) == ("numeric", "cuda:1")

    project.runpytest_inprocess(*only)
    (item,) = journal().values()
    assert item.repro.endswith(" --headswap-evidence=abstract --headswap-device=cpu"), "those of the ini file"
    assert asked.read_text(encoding="utf-8") == "testzoo 7 numeric cuda:1\ntestzoo 7 abstract cpu\n"


@pytest.mark.parametrize(("device", "evidence"), [("simulated", "simulated"), ("simulated:mps", "simulated mps")])
def test_a_device_is_simulated_on_request_although_there_is_a_real_one(
    project: pytest.Pytester,
    journal: Callable[..., dict[str, Result]],
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    evidence: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    flags = ["--headswap-zoo=testzoo", "--headswap-models=alpha", "--headswap-checks=device_placement"]
    result = project.runpytest_inprocess(*flags, f"--headswap-device={device}")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"headswap: *; on {device}"])
    assert [item.evidence for item in journal().values()] == [evidence]
    assert read_journal(project.path / "headswap-report")[0].devices == ()


@pytest.mark.parametrize("kind", ["abstract", "numeric"])
def test_results_rest_on_the_requested_evidence(
    project: pytest.Pytester, journal: Callable[..., dict[str, Result]], kind: str
) -> None:
    flags = ["--headswap-zoo=testzoo", "--headswap-models=alpha", "--headswap-checks=frozen_backbone"]
    project.runpytest_inprocess(*flags, f"--headswap-evidence={kind}").assert_outcomes(passed=1)
    assert [item.evidence for item in journal().values()] == [kind]


@pytest.mark.parametrize("value", ["0", "true", "seven", "2.5"])
def test_a_class_count_in_the_ini_file_is_validated_too(project: pytest.Pytester, value: str) -> None:
    project.makeini(f"[pytest]\nheadswap_zoo = testzoo\nheadswap_num_classes = {value}\n")
    result = project.runpytest_inprocess()
    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines([f"*must be a positive whole number, not '{value}'*"])


def test_a_report_folder_that_cannot_be_created_is_refused(project: pytest.Pytester) -> None:
    project.makefile(".txt", taken="")
    result = project.runpytest_inprocess("--headswap-zoo=testzoo", "--headswap-report=taken.txt")
    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines(["*cannot write the report to *taken.txt*--headswap-report*"])


@pytest.mark.parametrize("flag", ["--help", "--version", "--markers"])
def test_help_works_with_an_invalid_ini_file(project: pytest.Pytester, flag: str) -> None:
    project.makeini("[pytest]\nheadswap_zoo = nowhere\n")
    assert project.runpytest_inprocess(flag).ret == 0


def test_help_lists_each_option_with_its_default(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess("--help")
    for name in ("zoo", "models", "checks", "num-classes", "evidence", "device", "shard", "report"):
        result.stdout.fnmatch_lines([f"*--headswap-{name}=*"])
        result.stdout.fnmatch_lines([f"*headswap_{name.replace('-', '_')} (*"])
    result.stdout.fnmatch_lines(["*default: 7*"])


def test_each_option_works_as_an_ini_key(project: pytest.Pytester, journal: Callable[..., dict[str, Result]]) -> None:
    project.makeini(
        "[pytest]\n"
        "headswap_zoo = testzoo\n"
        "headswap_models = alpha, lonely\n"
        "headswap_checks = output_shape\n"
        "headswap_num_classes = 3\n"
        "headswap_report = out/of/the/way\n"
        "headswap_timeout = 60\n"
        "headswap_memory_limit = 2GiB\n"
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(passed=3)  # the test of the project among them
    results = journal("out/of/the/way")
    assert list(results) == ["testzoo::alpha::output_shape", "testzoo::lonely::output_shape"]
    assert all(
        item.repro.endswith("--headswap-num-classes=3 --headswap-timeout=60 --headswap-memory-limit=2GiB")
        for item in results.values()
    )
    header, _ = read_journal(project.path / "out/of/the/way")
    assert header.options == {
        "zoo": ["testzoo"],
        "models": "alpha, lonely",
        "checks": ["output_shape"],
        "num_classes": 3,
        "evidence": "auto",
        "device": "auto",
        "timeout": 60,
        "memory_limit": "2GiB",
        "device_import": "",
    }


def test_the_command_line_wins_over_the_ini_file(
    project: pytest.Pytester, journal: Callable[..., dict[str, Result]]
) -> None:
    project.makeini("[pytest]\nheadswap_zoo = nowhere\nheadswap_models = nothing\nheadswap_num_classes = 0\n")
    result = project.runpytest_inprocess(
        "--headswap-zoo=testzoo",
        "--headswap-models=alpha",
        "--headswap-num-classes=4",
        "--headswap-checks=output_shape",
    )
    result.assert_outcomes(passed=1)
    assert list(journal()) == ["testzoo::alpha::output_shape"]


def test_checks_run_in_a_fixed_order(project: pytest.Pytester, journal: Callable[..., dict[str, Result]]) -> None:
    flags = ["--headswap-zoo=testzoo", "--headswap-models=alpha"]
    project.runpytest_inprocess(*flags, "--headswap-checks=gradient_flow, output_shape").assert_outcomes(passed=2)
    assert [result.check for result in journal().values()] == ["output_shape", "gradient_flow"]


def test_several_zoos_run_together_and_a_pattern_needs_to_match_one(
    project: pytest.Pytester, journal: Callable[..., dict[str, Result]]
) -> None:
    flags = ["--headswap-zoo=testzoo", "--headswap-zoo=builtin", "--headswap-zoo=testzoo"]
    result = project.runpytest_inprocess(
        *flags, "--headswap-models=alpha,batch_norm*,!beta*", "--headswap-checks=output_shape"
    )
    assert result.ret == 0
    zoos = {result.zoo for result in journal().values()}
    assert zoos == {"testzoo", "builtin"}
    assert "testzoo::alpha::output_shape" in journal()


def test_a_pattern_that_matches_none_of_several_zoos_is_refused(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(
        "--headswap-zoo=testzoo", "--headswap-zoo=builtin", "--headswap-models=alpha,nothing*"
    )
    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines(["*matches 'nothing?'*"])


def test_the_header_states_what_runs(project: pytest.Pytester) -> None:
    flags = ["--headswap-zoo=testzoo", "--headswap-models=alpha,beta*", "--headswap-checks=native_parity,output_shape"]
    result = project.runpytest_inprocess(*flags, "--collect-only")
    result.stdout.fnmatch_lines(["headswap: testzoo (2 of 8 models); output_shape, native_parity; 7 classes"])


@pytest.mark.parametrize(
    "flags",
    [
        ["--headswap-zoo=builtin", "--headswap-checks=output_shap"],
        ["--headswap-zoo=builtin", "--headswap-checks=!mine_to"],
        ["--headswap-zoo=builtin", "--headswap-num-classes=0"],
        ["--headswap-zoo=builtin", "--headswap-evidence=real"],
        ["--headswap-zoo=builtin", "--headswap-device=gpu"],
        ["--headswap-zoo=builtin", "--headswap-device=tpu:0"],
        ["--headswap-zoo=builtin", "--headswap-device-import=torch-xla"],
        ["--headswap-zoo=builtin", "--headswap-timeout=soon"],
        ["--headswap-zoo=builtin", "--headswap-memory-limit=much"],
        ["--headswap-zoo=builtin", "--headswap-shard=3/2"],
        ["--headswap-zoo=builtin", "--headswap-expectations=nowhere.toml"],
        ["--headswap-zoo=builtin", "--headswap-update-expectations"],
        ["--headswap-zoo=builtin", "--headswap-zoo=tim"],
        ["--headswap-zoo=builtin,nowhere.py:ZOO"],
        ["--headswap-zoo=builtin,zoo.py"],
        ["--headswap-models=residual"],
        ["buildin::residual"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_told_before_torch_is_imported(pytester: pytest.Pytester, flags: list[str]) -> None:
    pytester.makeconftest(
        """
        import atexit, pathlib, sys
        atexit.register(lambda: pathlib.Path("loaded.txt").write_text(str("torch" in sys.modules)))
        def pytest_headswap_checks(config):
            return {"mine_too": print}
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:hypothesispytest", *flags)
    assert result.ret == USAGE_ERROR
    assert (pytester.path / "loaded.txt").read_text() == "False"


def test_the_plan_counts_what_k_selects(project: pytest.Pytester) -> None:
    flags = ["--headswap-zoo=testzoo", "--headswap-checks=metadata,state_dict", "--collect-only"]
    result = project.runpytest_inprocess(*flags, "-k", "alpha or (beta and metadata)")
    result.stdout.fnmatch_lines(["headswap: -k, -m and --deselect leave 2 of 8 models, 3 checks"])
    project.runpytest_inprocess(*flags).stdout.no_fnmatch_line("*leave*")


def test_the_names_of_checks_are_known_without_the_checks() -> None:
    assert tuple(CHECKS) == CHECK_NAMES
    assert tuple(OPT_IN_CHECKS) == OPT_IN_CHECK_NAMES
    assert not any(check.opt_in for check in CHECKS.values())
    assert all(check.opt_in for check in OPT_IN_CHECKS.values())


def test_one_option_names_several_zoos(project: pytest.Pytester) -> None:
    flags = ["--headswap-checks=metadata", "--headswap-models=alpha,residual", "--collect-only", "-q"]
    expected = ["testzoo::alpha::metadata", "builtin::residual::metadata"]
    for zoos in (["--headswap-zoo=testzoo, builtin"], ["--headswap-zoo=testzoo", "--headswap-zoo=builtin,testzoo"]):
        assert _ids(project.runpytest_inprocess(*zoos, *flags)) == expected
    project.makeini("[pytest]\nheadswap_zoo = testzoo,builtin")
    assert _ids(project.runpytest_inprocess(*flags)) == ["test_own.py::test_mine", *expected]


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ("!metadata,!round_trip", [name for name in CHECKS if name not in ("metadata", "round_trip")]),
        ("metadata,state_dict,!metadata", ["state_dict"]),
        ("+metadata", list(CHECKS)),
        ("state_dict,+metadata", ["metadata", "state_dict"]),
        ("+metadata,!metadata", [name for name in CHECKS if name != "metadata"]),
    ],
)
def test_a_sign_adds_a_check_or_leaves_one_out(project: pytest.Pytester, checks: str, expected: list[str]) -> None:
    flags = ["--headswap-zoo=testzoo", "--headswap-models=alpha", f"--headswap-checks={checks}"]
    ids = _ids(project.runpytest_inprocess(*flags, "--collect-only", "-q"))
    assert ids == [f"testzoo::alpha::{name}" for name in expected]


def test_models_may_be_named_without_a_zoo_if_a_marker_names_one(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_marked="""
        import pytest
        @pytest.mark.headswap(zoo="testzoo")
        def test_model(headswap_case):
            pass
        """
    )
    result = project.runpytest_inprocess("--headswap-models=alpha", "--collect-only", "-q")
    assert _ids(result) == ["test_marked.py::test_model[testzoo::alpha]", "test_own.py::test_mine"]


def _ids(result: pytest.RunResult) -> list[str]:
    return [line for line in result.stdout.lines if "::" in line]
