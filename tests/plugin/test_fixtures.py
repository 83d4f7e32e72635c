"""Test the marker and the fixtures: a user's test runs once per selected model, each time on a new model."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

Extend = Callable[[str], None]
Builds = Callable[[], list[str]]

# Trains its model, and fails if another test has already trained it.
TRAINING = """
import pytest
import torch
from torch import nn

@pytest.mark.headswap(zoo="testzoo", models="alpha,beta*", num_classes=3)
def test_trains(headswap_case, headswap_model, headswap_swap):
    assert headswap_model is headswap_case.model is headswap_swap.model
    assert headswap_case.num_classes == 3
    assert not any(parameter.is_meta for parameter in headswap_model.parameters())
    assert not hasattr(headswap_model, "trained")
    headswap_model.trained = True
    head = list(headswap_swap.parameters())
    before = [tensor.clone() for tensor in head]
    optimizer = torch.optim.SGD(head, lr=1.0)
    loss = nn.functional.cross_entropy(headswap_model(torch.ones(2, 8)), torch.tensor([0, 2]))
    loss.backward()
    optimizer.step()
    assert not torch.equal(before[1], head[1])
"""


def _run(project: pytest.Pytester, text: str, *flags: str) -> pytest.RunResult:
    project.makepyfile(test_zoo=f"import pytest\nfrom torch import nn\n{text}")
    return project.runpytest_inprocess("test_zoo.py", *flags)


def _listed(project: pytest.Pytester, text: str, *flags: str) -> list[str]:
    result = _run(project, text, "--collect-only", "-q", *flags)
    return [line.partition("test_zoo.py::")[2] for line in result.stdout.lines if "::" in line]


def test_fixtures_provide_a_trainable_model_with_a_new_head(project: pytest.Pytester) -> None:
    project.makepyfile(test_zoo=TRAINING)
    result = project.runpytest_inprocess("test_zoo.py", "--strict-markers", "-W", "error", "-v")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["test_zoo.py::test_trains?testzoo::alpha? PASSED*", "test_zoo.py::test_trains?testzoo::beta.v1_5? PASSED*"]
    )
    assert not (project.path / "headswap-report").exists()


def test_each_test_gets_its_own_model(project: pytest.Pytester, builds: Builds) -> None:
    project.makepyfile(test_zoo=f"{TRAINING}\n{TRAINING.replace('test_trains', 'test_trains_again')}")
    project.runpytest_inprocess("test_zoo.py").assert_outcomes(passed=4)
    assert builds() == ["alpha", "beta.v1_5"] * 2


def test_model_is_the_shipped_one_with_its_own_memory(project: pytest.Pytester) -> None:
    text = """
from pytest_headswap import ModelSpec

class Shipped(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(8, 4096), nn.Linear(4096, 10))

def small():
    return ModelSpec("a", lambda: nn.Linear(8, 10))

@pytest.mark.headswap(zoo=[ModelSpec("a", Shipped, small_variant=small), ModelSpec("b", Shipped)])
def test_a(headswap_model, headswap_case):
    assert isinstance(headswap_model, Shipped), "not the small one"
    sizes = [(tensor.untyped_storage().nbytes(), tensor.nbytes) for tensor in headswap_model.parameters()]
    assert all(held == needed for held, needed in sizes), "it lies in memory that others use"
"""
    _run(project, text).assert_outcomes(passed=2)


def test_collection_builds_no_model(project: pytest.Pytester, builds: Builds) -> None:
    mark = "@pytest.mark.headswap(zoo='testzoo', models='al*,unbuildable')\n"
    assert _listed(project, f"{mark}def test_a(headswap_swap):\n    pass") == [
        "test_a[testzoo::alpha]",
        "test_a[testzoo::unbuildable]",
    ]
    assert builds() == []


@pytest.mark.parametrize("fixture", ["headswap_case", "headswap_model", "headswap_swap", "mine"])
def test_any_fixture_parametrizes_the_test_directly_or_through_another(project: pytest.Pytester, fixture: str) -> None:
    own = "@pytest.fixture\ndef mine(headswap_model):\n    return headswap_model\n"
    mark = "@pytest.mark.headswap(zoo='testzoo', models='alpha')\n"
    assert _listed(project, f"{own}{mark}def test_a({fixture}):\n    pass") == ["test_a[testzoo::alpha]"]


SOURCES = {
    "name": "'testzoo'",
    "names": "['testzoo', 'builtin']",
    "dict": "{'net': lambda: nn.Linear(8, 3), 'conv': lambda: nn.Linear(8, 4)}",
    "zoo": "Zoo('own', ('b', 'a'), lambda name: ModelSpec(name, lambda: nn.Linear(8, 3)))",
    "specs": "[ModelSpec('net', lambda: nn.Linear(8, 3))]",
    "spec": "ModelSpec('net', lambda: nn.Linear(8, 3))",
    "function": "lambda: {'net': lambda: nn.Linear(8, 3)}",
    "names and objects": "['testzoo', {'net': lambda: nn.Linear(8, 3)}]",
}
FOUND = {
    "name": ["testzoo::alpha"],
    "names": ["testzoo::alpha", "builtin::alias"],
    "dict": ["models::conv", "models::net"],
    "zoo": ["own::a", "own::b"],
    "specs": ["models::net"],
    "spec": ["models::net"],
    "function": ["models::net"],
    "names and objects": ["testzoo::alpha", "models::net"],
}


@pytest.mark.parametrize("kind", SOURCES)
def test_zoo_argument_accepts_names_and_objects(project: pytest.Pytester, kind: str) -> None:
    models = "models='al*', " if "testzoo" in SOURCES[kind] and "{" not in SOURCES[kind] else ""
    models = "models='alpha,net', " if kind == "names and objects" else models
    text = (
        "from pytest_headswap import ModelSpec, Zoo\n"
        f"@pytest.mark.headswap({models}zoo={SOURCES[kind]})\n"
        "def test_a(headswap_model):\n    pass"
    )
    assert _listed(project, text) == [f"test_a[{name}]" for name in FOUND[kind]]
    _run(project, text).assert_outcomes(passed=len(FOUND[kind]))


def test_closest_mark_takes_precedence_for_each_argument(project: pytest.Pytester) -> None:
    text = """
pytestmark = pytest.mark.headswap(zoo="builtin", models="alias", num_classes=5)

def test_of_module(headswap_case):
    assert headswap_case.num_classes == 5

@pytest.mark.headswap(zoo="testzoo", models=["alpha", "beta*"])
class TestClass:
    def test_of_class(self, headswap_case):
        assert headswap_case.num_classes == 5

    @pytest.mark.headswap(models="beta*", num_classes=9, zoo=None)
    def test_of_function(self, headswap_case):
        assert headswap_case.num_classes == 9
"""
    assert _listed(project, text) == [
        "test_of_module[builtin::alias]",
        "TestClass::test_of_class[testzoo::alpha]",
        "TestClass::test_of_class[testzoo::beta.v1_5]",
        "TestClass::test_of_function[testzoo::beta.v1_5]",
    ]
    _run(project, text).assert_outcomes(passed=4)


PLAIN = "def test_a(headswap_case):\n    assert headswap_case.num_classes == 4"


def test_arguments_without_a_mark_come_from_the_ini_file(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nheadswap_zoo = testzoo\nheadswap_models = al*\nheadswap_num_classes = 4\n")
    assert _listed(project, PLAIN) == ["test_a[testzoo::alpha]"]
    _run(project, PLAIN).assert_outcomes(passed=1)


def test_arguments_without_a_mark_come_from_the_command_line(project: pytest.Pytester) -> None:
    flags = ["--headswap-zoo=testzoo", "--headswap-models=lonely", "--headswap-num-classes=4"]
    flags.append("--headswap-checks=output_shape")
    _run(project, PLAIN, *flags).assert_outcomes(passed=2)  # including the check of the zoo run
    marked = f"@pytest.mark.headswap(models='alpha')\n{PLAIN}"
    assert _listed(project, marked, *flags)[0] == "test_a[testzoo::alpha]"


def test_models_option_narrows_the_zoo_of_a_mark(project: pytest.Pytester) -> None:
    text = "@pytest.mark.headswap(zoo='testzoo')\ndef test_a(headswap_case):\n    pass"
    assert _listed(project, text, "--headswap-models=al*,resnet*") == ["test_a[testzoo::alpha]"]
    result = _run(project, text, "--headswap-models=resnet18", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*--headswap-models selects no model of the zoo of this test"])


def test_missing_zoo_is_an_error_that_says_what_to_add(project: pytest.Pytester) -> None:
    result = _run(project, f"{PLAIN}\ndef test_b():\n    pass")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["this test has no zoo: *pytest.mark.headswap(zoo='builtin')*headswap_zoo*"])


def test_fixture_requested_at_run_time_is_an_error(project: pytest.Pytester) -> None:
    mark = "@pytest.mark.headswap(zoo='testzoo')\n"
    result = _run(project, f"{mark}def test_a(request):\n    request.getfixturevalue('headswap_model')")
    result.stdout.fnmatch_lines(["*models are selected during collection: *Add headswap_case*"])


WRONG = {
    "unknown zoo": ("zoo='testzo'", "zoo: unknown zoo 'testzo'*did you mean testzoo*"),
    "unknown zoo in a list": ("zoo=['testzoo', 'builtn']", "zoo: unknown zoo 'builtn'*did you mean builtin*"),
    "no zoo in the list": ("zoo=[]", "zoo is an empty list*"),
    "no zoo at all": ("zoo=3", "zoo: zoo 'models' is int 3: it must be a mapping*"),
    "two zoos of one name": ("zoo=[{'a': nn.Identity}, {'b': nn.Identity}]", "two zoos are named 'models'*"),
    "unknown model": ("zoo='testzoo', models='alpa'", "models: unknown model 'alpa'*did you mean alpha*"),
    "nothing left": ("zoo='testzoo', models='alpha,!a*'", "models: *excludes every model of zoo*"),
    "models that are no text": ("zoo='testzoo', models=[3]", "models must be globs*not ?3?"),
    "unknown check": (
        "zoo='testzoo', require_checks='output_shap'",
        "unknown check 'output_shap' in require_checks: did you mean output*",
    ),
    "no class count": ("zoo='testzoo', num_classes='x'", "num_classes must be a positive whole number, not 'x'*"),
    "no positive class count": ("zoo='testzoo', num_classes=0", "num_classes must be a positive whole number, not 0*"),
    "unknown argument": ("zoos='testzoo'", "unknown argument 'zoos': did you mean zoo? It takes zoo, models, *"),
    "argument without a name": ("'testzoo'", "pass its arguments by name (zoo, *), not as 'testzoo'"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG.keys())
def test_invalid_marker_is_a_collection_error_that_names_the_test(
    project: pytest.Pytester, arguments: str, message: str
) -> None:
    result = _run(project, f"@pytest.mark.headswap({arguments})\ndef test_a(headswap_model):\n    pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"@pytest.mark.headswap of test_zoo.py::test_a: {message}"])
    assert "Traceback" not in result.stdout.str()
    assert ".py:" not in "".join(line for line in result.stdout.lines if "pytest_headswap/" in line)


def test_invalid_ini_key_is_an_error_of_the_tests_that_need_it(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nheadswap_num_classes = many\n")
    result = _run(project, "@pytest.mark.headswap(zoo='testzoo')\ndef test_a(headswap_model):\n    pass")
    result.stdout.fnmatch_lines(["*test_zoo.py::test_a: --headswap-num-classes must be a positive*not 'many'*"])


def test_marker_without_a_fixture_has_no_effect(project: pytest.Pytester) -> None:
    _run(project, "@pytest.mark.headswap(zoo='nowhere')\ndef test_a():\n    pass").assert_outcomes(passed=1)


CHECKED = """
@pytest.mark.headswap(zoo="testzoo", models="{models}", require_checks="{checks}")
def test_a(headswap_model):
    print("the test ran")
"""


def test_failed_required_check_is_a_setup_error_with_its_message(project: pytest.Pytester) -> None:
    result = _run(project, CHECKED.format(models="mismatched", checks="output_shape,native_parity"))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at setup of test_a?testzoo::mismatched?*", "native_parity failed: the state_dict differs from*"]
    )
    result.stdout.no_fnmatch_line("*the test ran*")
    assert ".py:" not in "".join(line for line in result.stdout.lines if "pytest_headswap/" in line)
    _run(project, CHECKED.format(models="mismatched", checks="output_shape")).assert_outcomes(passed=1)


def test_skipped_required_check_skips_the_test(project: pytest.Pytester) -> None:
    result = _run(project, CHECKED.format(models="lonely", checks="native_parity"), "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*native_parity does not apply: ?no_native? *"])


def test_check_of_a_hook_can_be_required(project: pytest.Pytester, extend_conftest: Extend) -> None:
    extend_conftest(
        "def raising(case):\n    raise KeyError('pixels')\n"
        "def pytest_headswap_checks(config):\n    return {'raising': raising}\n"
    )
    result = _run(project, CHECKED.format(models="alpha", checks="raising"))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["raising could not run: KeyError: 'pixels'"])


def test_model_without_a_head_skips_the_test_with_its_reason(project: pytest.Pytester) -> None:
    result = _run(project, CHECKED.format(models="doubled", checks=""), "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*?output_from_input? *"])


def test_model_that_cannot_be_built_is_an_error_without_a_traceback(project: pytest.Pytester) -> None:
    result = _run(project, CHECKED.format(models="unbuildable", checks=""))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["ValueError: no such depth", "*conftest.py*in unbuildable"])
    assert "Traceback" not in result.stdout.str()
    native = _run(project, CHECKED.format(models="unbuildable", checks=""), "--tb=native")
    native.stdout.fnmatch_lines(["Traceback (most recent call last):", "ValueError: no such depth"])


def test_case_hook_receives_each_case(project: pytest.Pytester, extend_conftest: Extend) -> None:
    extend_conftest("def pytest_headswap_case(config, case):\n    print('told of', case.spec.name)")
    _run(project, CHECKED.format(models="alpha", checks=""), "-s").stdout.fnmatch_lines(["*told of alpha"])


ALIVE = """
import gc, weakref
ALIVE = weakref.WeakSet()

class Cyclic(nn.Module):
    def __init__(self):
        super().__init__()
        assert not ALIVE, "the last model still lives"
        self.fc = nn.Linear(8, 4)
        self.me = [self]
        ALIVE.add(self)
    def forward(self, x):
        return self.fc(x)

@pytest.fixture(autouse=True, scope="module")
def without_collection():
    gc.disable()
    yield
    gc.enable()

@pytest.mark.headswap(zoo={f"m{i}": Cyclic for i in range(3)}, require_checks="output_shape")
def test_a(headswap_model, headswap_swap):
    copy = headswap_model
    assert len(ALIVE) == 1
"""


@pytest.mark.parametrize("ending", ["", "    assert copy is None\n"])
def test_model_is_released_before_the_next_one_is_built(project: pytest.Pytester, ending: str) -> None:
    project.makepyfile(test_zoo=f"import pytest\nfrom torch import nn\n{ALIVE}{ending}")
    # in a subprocess, because pytester keeps references to all hook arguments
    result = project.runpytest_subprocess("test_zoo.py")
    result.assert_outcomes(**({"failed": 3} if ending else {"passed": 3}))


def test_model_is_released_after_a_failed_check(project: pytest.Pytester, extend_conftest: Extend) -> None:
    extend_conftest(
        "from pytest_headswap import CheckFailed\n"
        "def refusing(case):\n    raise CheckFailed('never')\n"
        "def pytest_headswap_checks(config):\n    return {'refusing': refusing}\n"
    )
    text = ALIVE.replace("output_shape", "refusing")
    project.makepyfile(test_zoo=f"import pytest\nfrom torch import nn\n{text}")
    result = project.runpytest_subprocess("test_zoo.py")
    result.assert_outcomes(errors=3)
    result.stdout.no_fnmatch_line("*still lives*")
    assert result.stdout.str().count("refusing failed: never") >= 3


SOME = "@pytest.mark.headswap(zoo='testzoo', models='alpha,beta*,lonely')\ndef test_a(headswap_model):\n    {}\n"


def test_pytest_selects_tests_by_model(project: pytest.Pytester) -> None:
    text = SOME.format("pass")
    assert _listed(project, text, "-k", "beta") == ["test_a[testzoo::beta.v1_5]"]
    assert _listed(project, text, "--deselect", "test_zoo.py::test_a[testzoo::alpha]") == [
        "test_a[testzoo::beta.v1_5]",
        "test_a[testzoo::lonely]",
    ]
    project.runpytest_inprocess("test_zoo.py::test_a[testzoo::lonely]").assert_outcomes(passed=1)


def test_last_failed_and_exitfirst_work(project: pytest.Pytester) -> None:
    text = SOME.format("assert 'alpha' not in headswap_model.name")
    text = text.replace("(headswap_model)", "(headswap_case)").replace("headswap_model.name", "headswap_case.spec.name")
    _run(project, text).assert_outcomes(passed=2, failed=1)
    result = _run(project, text, "--lf", "-v")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["test_zoo.py::test_a?testzoo::alpha? FAILED*"])
    _run(project, text, "-x").assert_outcomes(failed=1)


def test_junit_xml_names_the_model(project: pytest.Pytester) -> None:
    _run(project, SOME.format("pass"), "--junitxml=junit.xml")
    cases = list(ET.parse(project.path / "junit.xml").getroot().iter("testcase"))
    assert [case.get("name") for case in cases] == [f"test_a[testzoo::{m}]" for m in ("alpha", "beta.v1_5", "lonely")]


@pytest.mark.parametrize("dist", ["load", "loadscope"])
def test_tests_run_on_xdist_workers(project: pytest.Pytester, builds: Builds, dist: str) -> None:
    pytest.importorskip("xdist")
    project.makepyfile(test_zoo=TRAINING)
    project.runpytest_subprocess("test_zoo.py", "-n", "2", "--dist", dist).assert_outcomes(passed=2)
    assert sorted(builds()) == ["alpha", "beta.v1_5"]


def test_results_of_a_zoo_exclude_user_tests(project: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    project.makeini("[pytest]\nheadswap_zoo = testzoo\nheadswap_models = alpha\nheadswap_checks = output_shape\n")
    project.makepyfile(test_own=TRAINING)
    result = project.runpytest_subprocess("-n", "2")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["testzoo: 1 results: 1 passed"])


def test_unusual_model_names_have_selectable_ids(project: pytest.Pytester) -> None:
    names = ["a::b", "a[0]", "a b", "größe", "a/b"]
    text = (
        f"ZOO = {{name: (lambda: nn.Linear(8, 3)) for name in {names!r}}}\n"
        "@pytest.mark.headswap(zoo=ZOO)\ndef test_a(headswap_case):\n    assert headswap_case.spec.name != 'a::b'"
    )
    _run(project, text).assert_outcomes(passed=4, failed=1)
    _run(project, text, "--lf").assert_outcomes(failed=1)
    for nodeid in _listed(project, text):
        project.runpytest_inprocess(f"test_zoo.py::{nodeid}").assert_outcomes(
            **({"failed": 1} if "%3A" in nodeid else {"passed": 1})
        )


def test_marker_and_fixtures_are_listed(project: pytest.Pytester) -> None:
    project.runpytest_inprocess("--markers").stdout.fnmatch_lines(
        ["@pytest.mark.headswap(zoo=None, models=None, require_checks=None, num_classes=None): *"]
    )
    listing = project.runpytest_inprocess("--fixtures")
    for name in ("headswap_case", "headswap_model", "headswap_swap"):
        listing.stdout.fnmatch_lines([f"{name} -- *"])


def test_marker_is_registered(project: pytest.Pytester) -> None:
    text = "@pytest.mark.headswap(zoo='testzoo', models='alpha')\ndef test_a(headswap_model):\n    pass\n"
    _run(project, text, "--strict-markers").assert_outcomes(passed=1)
