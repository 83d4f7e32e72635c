"""Test the transformers zoo: a sample of all tasks and kinds of heads, and the models it refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from pytest_headswap.case.build import build_case
from pytest_headswap.case.options import CaseOptions
from pytest_headswap.checks import CHECKS, run_check
from pytest_headswap.engine import NoHeadError, swap_head
from pytest_headswap.zoo import load_zoo
from tests.usable import usable_transformers

usable_transformers()

SAMPLE = {
    "ViTForImageClassification": "classifier",
    "LevitForImageClassificationWithTeacher": "classifier.linear",  # two heads, averaged
    "SegformerForImageClassification": "classifier",
    "PerceiverForImageClassificationLearned": "perceiver.decoder.decoder.final_layer",
    "BertForSequenceClassification": "classifier",
    "RobertaForTokenClassification": "classifier",
    "GPT2ForSequenceClassification": "score",
    "LlamaForSequenceClassification": "score",
    "T5ForTokenClassification": "classifier",
    "BartForSequenceClassification": "classification_head.out_proj",  # needs values, so it runs on real tensors
    "Wav2Vec2ForSequenceClassification": "classifier",
    "WhisperForAudioClassification": "classifier",
    "VideoMAEForVideoClassification": "classifier",
}

EXPECTED = {
    ("BartForSequenceClassification", "device_placement"): ("skipped", "a device cannot be simulated"),
    ("Wav2Vec2ForSequenceClassification", "device_placement"): (
        "passed",
        "code for cuda:0 was not checked in train mode",
    ),
    # torch can save parametrized modules only as a state_dict
    ("Wav2Vec2ForSequenceClassification", "round_trip"): ("passed", "copies were not checked, because the model"),
}


@pytest.mark.parametrize("name", SAMPLE)
def test_every_check_passes(name: str) -> None:
    case = build_case("transformers", load_zoo("transformers")[name], CaseOptions())
    findings = {check: run_check(check, case) for check in CHECKS}
    for check, finding in findings.items():
        expected = EXPECTED.get((name, check), ("passed", ""))
        assert (finding.outcome, finding.message[: len(expected[1])]) == expected, (check, finding)
        assert expected[1] or not finding.message, (check, finding)
    assert case.swap.heads[0].path == SAMPLE[name]
    assert case.model.config.num_labels == len(case.model.config.id2label) == 7  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("name", SAMPLE)
def test_swapped_model_runs_and_matches_the_native_state_dict(name: str) -> None:
    spec = load_zoo("transformers")[name]
    assert spec.example_inputs is not None
    assert spec.build_native is not None
    model = spec.build().eval()
    inputs = spec.example_inputs(model)
    assert _logits(model, inputs).shape[-1] == 5
    swap_head(model, 7, inputs)
    logits = _logits(model, inputs)
    assert logits.shape[-1] == 7
    assert logits.isfinite().all()
    assert _shapes(model) == _shapes(spec.build_native(7))


def _logits(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(**inputs).logits
    return logits


def _shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def test_listing_models_imports_no_modeling_module() -> None:
    code = """if True:
        import sys
        from pytest_headswap.zoo import load_zoo
        assert all(spec.family for spec in load_zoo("transformers"))
        modules = [name for name in sys.modules if ".modeling_" in name and name.startswith("transformers.models.")]
        print([name for name in modules if not name.startswith("transformers.models.auto.")])
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_evidence_names_the_kind_of_tensors() -> None:
    zoo = load_zoo("transformers")
    evidence = {
        name: build_case("transformers", zoo[name], CaseOptions(7, "abstract")).evidence
        for name in ("ViTForImageClassification", "LlamaForSequenceClassification", "BartForSequenceClassification")
    }
    assert list(evidence.values()) == ["abstract", "abstract, fake tensors", "abstract, real tensors"]


def test_every_classification_class_is_listed_once() -> None:
    zoo = load_zoo("transformers")
    assert len(zoo) > 200
    assert list(zoo.names) == sorted(set(zoo.names))
    assert {tag for spec in zoo for tag in spec.tags} == {"image", "sequence", "token", "audio", "video"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ShieldGemma2ForImageClassification", "words of the language model"),
        ("LayoutLMv2ForTokenClassification", "detectron2"),
    ],
)
def test_models_that_cannot_be_built_here_are_refused(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_headswap.zoo.transformers.find_spec", lambda _: None)
    with pytest.raises(NoHeadError, match=text) as caught:
        build_case("transformers", load_zoo("transformers")[name], CaseOptions())
    assert caught.value.reason == "zoo_refused"


def test_native_model_has_the_requested_number_of_labels() -> None:
    spec = load_zoo("transformers")["BertForSequenceClassification"]
    assert spec.build_native is not None
    assert spec.build_native(9).config.num_labels == 9  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("ViTForImageClassification", (2,)),
        ("GPT2ForSequenceClassification", (2,)),
        ("BertForTokenClassification", (2, 16)),
        ("WhisperForAudioClassification", (2,)),
        ("VJEPA2ForVideoClassification", (2,)),
    ],
)
def test_swapped_model_trains_on_the_last_new_class(name: str, labels: tuple[int, ...]) -> None:
    spec = load_zoo("transformers")[name]
    model = spec.build()
    assert spec.example_inputs is not None
    inputs = spec.example_inputs(model)
    swap = swap_head(model, 7, inputs)
    outputs = model(**inputs, labels=torch.full(labels, 6))
    assert outputs["logits"].shape == (*labels, 7)
    outputs["loss"].backward()
    assert outputs["loss"].isfinite()
    assert all(parameter.grad is not None for parameter in swap.parameters())


@pytest.mark.parametrize(
    "name",
    [
        "CohereCompassTextForSequenceClassification",
        "DeepseekV3ForSequenceClassification",  # mixture of experts
        "EfficientNetForImageClassification",
        "FalconForSequenceClassification",
        "GPTJForSequenceClassification",
        "LukeForSequenceClassification",  # has an entity vocabulary
        "ZambaForSequenceClassification",  # hybrid of attention and state space
    ],
)
def test_large_models_are_scaled_down(name: str) -> None:
    with torch.device("meta"):
        model = load_zoo("transformers")[name].build()
    assert sum(parameter.numel() for parameter in model.parameters()) < 150e6


def test_error_names_a_torch_that_is_too_old_for_transformers() -> None:
    script = """
import transformers
transformers.is_torch_available = lambda: False
from pytest_headswap.zoo import ZooError, load_zoo
try:
    load_zoo("transformers")
except ZooError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert f"needs a newer torch than {torch.__version__}: upgrade torch, or" in done.stdout


def test_zoo_sets_no_environment_variables() -> None:
    script = """
import os
before = dict(os.environ)
from pytest_headswap.zoo import load_zoo
load_zoo("transformers")["BertForSequenceClassification"].build()
new = set(os.environ.items()) - set(before.items())
assert not any(key.startswith(("HF_", "TRANSFORMERS_")) for key, _ in new), new
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
