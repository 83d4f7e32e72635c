"""The zoo of transformers: every class of its classification mappings, built from a scaled-down configuration.

Layers, experts, vocabulary and inner widths are reduced. The width of a model and its number of attention heads are
halved together, because nearly all constraints between configuration fields concern the size of a head.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from pytest_headswap.zoo.spec import ModelSpec, Zoo, ZooError
from pytest_headswap.zoo.transformers.config import small_config
from pytest_headswap.zoo.transformers.inputs import make_inputs

if not transformers.is_torch_available():  # its own errors would only say that torch is missing
    raise ZooError(
        f"zoo 'transformers' cannot be used: transformers {transformers.__version__} needs a newer torch than "
        f"{torch.__version__}: upgrade torch, or install an older transformers"
    )
from transformers.models.auto import modeling_auto

TASKS = ("image", "sequence", "token", "audio", "video")
# packages that classes require only when they are built
_REQUIRED_PACKAGES = {"layoutlmv2": "detectron2", "dinat": "natten", "nat": "natten", "qdqbert": "pytorch_quantization"}
_WITHOUT_CLASSES = {"shieldgemma2": "its two classes are words of the language model, which no swap can change"}


def load() -> Zoo:
    """List the classes without importing their modules."""
    origins = _origins()
    return Zoo("transformers", tuple(origins), partial(_spec, origins), {"transformers": transformers.__version__})


def _origins() -> dict[str, tuple[str, str]]:
    """Return the model type and task under which the library first lists each class."""
    origins: dict[str, tuple[str, str]] = {}
    for task in TASKS:
        mapping = getattr(modeling_auto, f"MODEL_FOR_{task.upper()}_CLASSIFICATION_MAPPING_NAMES")
        for model_type, names in mapping.items():
            for name in (names,) if isinstance(names, str) else names:
                origins.setdefault(name, (model_type, task))
    return origins


def _spec(origins: dict[str, tuple[str, str]], name: str) -> ModelSpec:
    model_type, task = origins[name]
    return ModelSpec(
        name,
        build=partial(_build, name, model_type),
        example_inputs=partial(make_inputs, task),
        build_native=partial(_build, name, model_type),
        skip_reason=_skip_reason(model_type),
        family=model_type,
        tags=(task,),
        enable_grad_checkpointing=_enable_grad_checkpointing,
        save_and_load=_save_and_load,
    )


def _enable_grad_checkpointing(model: Any) -> None:
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()


def _save_and_load(model: Any, folder: Path) -> nn.Module:
    model.save_pretrained(folder)
    loaded, info = type(model).from_pretrained(folder, output_loading_info=True)
    if problems := {kind: keys for kind, keys in info.items() if keys}:
        raise RuntimeError(f"from_pretrained reports {problems}")
    return loaded  # type: ignore[no-any-return]


def _skip_reason(model_type: str) -> str:
    package = _REQUIRED_PACKAGES.get(model_type)
    if package is not None and find_spec(package) is None:
        return f"it needs {package}, which is not installed"
    return _WITHOUT_CLASSES.get(model_type, "")


def _build(name: str, model_type: str, num_labels: int | None = None) -> nn.Module:
    """Return a model with random weights. Without `num_labels`, it has the default number of labels."""
    model_class = getattr(transformers, name)
    config = small_config(model_type, model_class)
    if num_labels is not None:
        config.num_labels = num_labels
    model: Any = model_class(config)
    if not isinstance(model, nn.Module):
        raise ZooError(f"transformers.{name} did not build a model: {model!r}")
    return model
