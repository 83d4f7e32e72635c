"""Adapters of PEFT train together with a swapped head, whichever comes first."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pytest_headswap.engine import HeadSwapWarning, freeze_backbone, swap_head
from tests.usable import usable_transformers

peft = pytest.importorskip("peft")
timm = pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore")


def vit() -> Any:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, embed_dim=48, num_classes=10)


def images() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def bert() -> Any:
    transformers = usable_transformers()
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = transformers.BertConfig(**sizes, vocab_size=50, num_labels=10)
    return transformers.BertForSequenceClassification(config)


def tokens() -> dict[str, Tensor]:
    ids = torch.randint(0, 50, (4, 7), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def logits(model: Any) -> Any:
    if any("bert" in name for name, _ in model.named_modules()):
        return model(**tokens()).logits
    return model(images())


def moved_by_training(model: Any) -> set[str]:
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    for _ in range(2):
        model.train()
        (logits(model) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


CONFIGS = {
    "lora": lambda: peft.LoraConfig(r=2, target_modules=["qkv"], lora_dropout=0.2),
    "dora": lambda: peft.LoraConfig(r=2, target_modules=["qkv"], use_dora=True, lora_dropout=0.2),
    "ia3": lambda: peft.IA3Config(target_modules=["qkv"], feedforward_modules=[]),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("order", ["adapter first", "swap first", "swap first, head saved"])
def test_adapters_and_the_head_train_and_nothing_else(name: str, order: str, tmp_path: Path) -> None:
    config = CONFIGS[name]()
    if order == "adapter first":
        model = peft.get_peft_model(vit(), config)
        swap = swap_head(model, 5, images())
    else:
        config.modules_to_save = ["head"] if "saved" in order else None
        swap = swap_head(vit(), 5, images())
        model = peft.get_peft_model(swap.model, config)
    frozen = freeze_backbone(swap)
    trained = {id(value) for value in swap.parameters()}
    heads = {name for name, value in model.named_parameters() if id(value) in trained}
    adapters = {name for name, _ in model.named_parameters() if "lora_" in name or "ia3_" in name}
    assert len(heads) == 2
    assert moved_by_training(model) == adapters | heads
    asleep = [path for path, module in model.named_modules() if "dropout" in path and not module.training]
    if name == "dora":  # drops features of the frozen layer too, and only if the layer itself is in train mode
        assert "modules with both trainable and frozen parameters (Linear) stay in eval mode" in frozen.notes
    else:
        assert asleep == []
    model.save_pretrained(str(tmp_path))
    saved = set(peft.utils.load_peft_weights(str(tmp_path)))
    assert any("lora_" in key or "ia3_" in key for key in saved)
    assert any("head" in key for key in saved) == ("saved" in order)
    model.eval()
    before = logits(model)
    merged = model.merge_and_unload()
    assert torch.allclose(logits(merged.eval()), before, atol=1e-4)
    assert tuple(before.shape) == (4, 5)


@pytest.mark.parametrize(
    "config",
    [
        lambda: peft.LoraConfig(r=2, task_type="SEQ_CLS", target_modules=["query", "value"], lora_dropout=0.2),
        lambda: peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4),
    ],
    ids=["lora", "prompt tuning"],
)
def test_a_text_model_of_transformers_trains_its_adapter_and_its_saved_head(config: Any) -> None:
    model = peft.get_peft_model(bert(), config())
    prepared = {name for name, value in model.named_parameters() if value.requires_grad}
    swap = swap_head(model, 5, tokens())
    freeze_backbone(swap)
    assert moved_by_training(model) == prepared
    assert tuple(logits(model).shape) == (4, 5)
    backbone = [module for path, module in model.named_modules() if path.endswith("bert.encoder.layer.0")]
    assert not any(module.training for module in backbone)


def test_adapters_added_after_the_freeze_stay_asleep_with_a_warning() -> None:
    swap = swap_head(vit(), 5, images())
    freeze_backbone(swap)
    config = peft.LoraConfig(r=2, target_modules=["qkv"], lora_dropout=0.2, modules_to_save=["head"])
    wrapped = peft.get_peft_model(swap.model, config)
    dropouts = [module for name, module in wrapped.named_modules() if name.endswith("lora_dropout.default")]
    with pytest.warns(HeadSwapWarning, match=r"added to the frozen backbone \(Linear\).*call freeze_backbone again"):
        wrapped.train()
    assert {module.training for module in dropouts} == {False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapped.train()
    freeze_backbone(wrapped)
    wrapped.train()
    assert {module.training for module in dropouts} == {True}
