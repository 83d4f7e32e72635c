"""A checkpoint of any class count is loaded into a swapped model, and the result says what was not loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations

from pytest_headswap import HeadSwapError, freeze_backbone, load_checkpoint, swap_head
from tests.usable import usable_transformers

X = torch.zeros(2, 8)


class Net(nn.Module):
    def __init__(self, classes: int = 10, *, names: list[str] | None = None) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.fc = nn.Linear(16, classes)
        self.id2label = dict(enumerate(names or [f"c{index}" for index in range(classes)]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.body(x)).relu())  # type: ignore[no-any-return]


class Anchors(nn.Module):
    """A detector with several anchors, whose classes are the inner factor of the channels."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.num_classes = classes
        self.body = nn.Conv2d(3, 8, 3)
        self.head = nn.Conv2d(8, 3 * classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(self.body(x).relu())
        return y.view(len(x), 3, self.num_classes, *y.shape[2:]).permute(0, 3, 4, 1, 2)  # type: ignore[no-any-return]


class Sequence(nn.Module):
    """A recurrent network with a weight-normed head."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.fc = parametrizations.weight_norm(nn.Linear(16, classes))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.fc(self.lstm(self.table(tokens))[0][:, -1])  # type: ignore[no-any-return]


class Segmenter(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Sequential(nn.Conv2d(8, classes, 1), nn.BatchNorm2d(classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).relu())  # type: ignore[no-any-return]


def _fill(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.uniform_(0.5, 1.5)
    return model.eval()


IMAGES = torch.rand(2, 3, 8, 8)
MODELS: dict[str, tuple[Callable[[int], nn.Module], torch.Tensor, int]] = {
    "linear": (Net, torch.rand(2, 8), 1),
    "anchors": (Anchors, IMAGES, -1),
    "weight norm and recurrence": (Sequence, torch.randint(0, 20, (2, 5)), 1),
    "convolution with batch norm": (Segmenter, IMAGES, 1),
    "parametrised backbone": (
        lambda n: nn.Sequential(
            nn.Linear(8, 8), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(8, 8)), nn.Linear(8, n)
        ),
        torch.rand(2, 8),
        1,
    ),
    "half precision": (lambda n: Net(n).to(torch.bfloat16), torch.rand(2, 8).bfloat16(), 1),
}


@pytest.mark.parametrize("case", MODELS)
def test_classes_are_carried_over_by_index(case: str) -> None:
    build, x, dim = MODELS[case]
    trained = _fill(build(7))
    swap = swap_head(build(10), 5, x)
    result = load_checkpoint(swap, trained.state_dict(), class_map={0: 6, 3: 2})
    (path,) = result.classes
    assert result.classes[path] == {0: 6, 3: 2}
    assert result.new_classes[path] == (1, 2, 4)
    assert (result.missing, result.unexpected, result.mismatched, result.notes) == ((), (), {}, ())
    expected, outputs = trained(x), swap.model.eval()(x)
    for new, old in ((0, 6), (3, 2)):
        assert torch.allclose(outputs.select(dim, new), expected.select(dim, old), atol=1e-5)


@pytest.mark.parametrize("case", MODELS)
def test_a_checkpoint_of_the_new_class_count_is_loaded_whole(case: str) -> None:
    build, x, _ = MODELS[case]
    trained = _fill(build(5))
    swap = swap_head(build(10), 5, x)
    result = load_checkpoint(swap, trained.state_dict())
    assert torch.equal(swap.model.eval()(x), trained(x))
    assert set(result.new_classes.values()) == {()}
    parameters = dict(swap.named_parameters())
    load_checkpoint(swap, trained.state_dict())
    assert all(value is parameters[name] for name, value in swap.named_parameters())


def test_without_class_map_the_head_keeps_its_values() -> None:
    swap = swap_head(Net(), 5, X)
    head = copy.deepcopy(swap.state_dict())
    trained = _fill(Net(7))
    result = load_checkpoint(swap, trained.state_dict())
    assert all(torch.equal(head[name], value) for name, value in swap.state_dict().items())
    assert torch.equal(swap.model.body.weight, trained.body.weight)  # type: ignore[arg-type, union-attr]
    assert (result.classes, result.new_classes) == ({"fc": {}}, {"fc": (0, 1, 2, 3, 4)})
    assert repr(result) == "LoadedCheckpoint(loaded: 7 tensors; fc: 0 of 5 classes)"


def test_classes_are_carried_over_by_name() -> None:
    names = ["cat", "dog", "cow"]
    trained = _fill(Net(3))
    swap = swap_head(Net(3, names=names), 5, X)
    result = load_checkpoint(swap, trained.state_dict(), class_map={4: "cow"})  # the names before the swap
    assert result.classes == {"fc": {4: 2}}
    result = load_checkpoint(swap, _fill(Net(4)).state_dict(), ["b", None, "a"], class_names=["a", "b", "c", "d"])
    assert result.classes == {"fc": {0: 1, 2: 0}}
    with pytest.raises(HeadSwapError, match="it stores no class names"):
        load_checkpoint(swap, _fill(Net(4)).state_dict(), {4: "cow"})  # those names are of three classes


def test_several_heads_have_a_class_map_each() -> None:
    class Two(Net):
        def __init__(self, kind: int, colour: int) -> None:
            super().__init__(kind)
            self.colour = nn.Linear(16, colour)

        def forward(self, x: torch.Tensor) -> Any:
            features = self.norm(self.body(x)).relu()
            return self.fc(features), self.colour(features)

    trained, swap = _fill(Two(6, 4)), swap_head(Two(10, 3), {"fc": 5, "colour": 2}, X)
    result = load_checkpoint(
        swap, trained.state_dict(), {"colour": ["red", None]}, class_names={"colour": ["a", "b", "red", "d"]}
    )
    assert result.classes == {"fc": {}, "colour": {0: 2}}
    assert torch.equal(swap.model.colour.weight[0], trained.colour.weight[2])  # type: ignore[index, union-attr]
    with pytest.raises(HeadSwapError, match="class_map must be one too"):
        load_checkpoint(swap, trained.state_dict(), {0: 1})


NESTED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "plain": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}},
    "state_dict with prefix": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    "deeper": lambda state: {"app": {"net": {"weights": state}}},
    "data parallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "compiled": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
    "both": lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
    "a compiled part": lambda state: {key.replace("body.", "body._orig_mod."): value for key, value in state.items()},
    "lightning": lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()} | {"loss.w": X}},
    "with another model": lambda state: {"teacher": {"a.weight": X, "b.weight": X}, "student": state},
}


@pytest.mark.parametrize("case", NESTED)
@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel])
def test_the_entry_with_the_tensors_is_found(case: str, wrap: Callable[[nn.Module], nn.Module]) -> None:
    trained = _fill(Net(7))
    swap = swap_head(wrap(Net()), 5, X)
    result = load_checkpoint(swap, NESTED[case](trained.state_dict()), {0: 6})
    inner: Any = swap._plan.model
    assert torch.equal(inner.body.weight, trained.body.weight)  # type: ignore[arg-type, union-attr]
    assert torch.equal(inner.fc.weight[0], trained.fc.weight[6])  # type: ignore[index, union-attr]
    assert result.missing == ()
    assert result.unexpected == (("loss.w",) if case == "lightning" else ())


def test_a_checkpoint_of_the_backbone_alone_is_loaded() -> None:
    transformers = usable_transformers()
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=30
    )
    tokens = torch.ones(2, 6, dtype=torch.long)
    bert = _fill(transformers.BertModel(config))
    swap = swap_head(transformers.BertForSequenceClassification(config), 5, {"input_ids": tokens})
    result = load_checkpoint(swap, bert.state_dict())
    assert result.missing == ("classifier.weight", "classifier.bias")
    assert torch.equal(swap.model.bert.pooler.dense.weight, bert.pooler.dense.weight)  # type: ignore[arg-type, union-attr]


def test_real_models_are_loaded() -> None:
    for name, arguments in (("deit_tiny_distilled_patch16_224", {"depth": 2, "img_size": 32}), ("resnet18", {})):
        trained = _fill(timm.create_model(name, num_classes=7, **arguments))
        swap = swap_head(timm.create_model(name, **arguments), 5)
        result = load_checkpoint(swap, {"model": trained.state_dict()}, {2: 3})
        assert result.missing == result.unexpected == ()
        assert all(kept == {2: 3} for kept in result.classes.values())
        x = torch.rand(2, 3, 32, 32)
        assert torch.allclose(swap.model.eval()(x)[:, 2], trained(x)[:, 3], atol=1e-4)


def test_a_head_in_a_model_that_was_built_without_one_is_loaded() -> None:
    trained = _fill(timm.create_model("resnet18", num_classes=7))
    swap = swap_head(timm.create_model("resnet18", num_classes=0), 5)
    result = load_checkpoint(swap, trained.state_dict(), {4: 0})
    assert result.classes == {"fc": {4: 0}}
    assert torch.equal(swap.model.fc.weight[4], trained.fc.weight[0])  # type: ignore[index, union-attr]


def test_what_is_not_loaded_is_returned() -> None:
    state = _fill(Net(7)).state_dict()
    del state["norm.weight"]
    state["body.bias"] = torch.zeros(3)
    state["extra"] = torch.zeros(1)
    result = load_checkpoint(swap_head(Net(), 5, X), state, {1: 1})
    assert result.missing == ("norm.weight",)
    assert result.unexpected == ("extra",)
    assert result.mismatched == {"body.bias": ((3,), (16,))}
    assert result.new_classes == {"fc": (0, 2, 3, 4)}
    assert repr(result) == (
        "LoadedCheckpoint(loaded: 5 tensors; fc: 1 of 5 classes; missing: norm.weight; unexpected: extra; "
        "other shape: body.bias (3,) instead of (16,))"
    )


def test_a_new_head_of_another_layout_is_not_loaded() -> None:
    swap = swap_head(Net(), 5, X, new_head=lambda width, count: nn.Sequential(nn.ReLU(), nn.Linear(width, count)))
    result = load_checkpoint(swap, _fill(Net(7)).state_dict())
    assert result.missing == ("fc.1.weight", "fc.1.bias")
    assert result.unexpected == ("fc.weight", "fc.bias")


@pytest.mark.parametrize("parametrize", [parametrizations.spectral_norm, parametrizations.orthogonal])
def test_a_head_whose_rows_depend_on_each_other_keeps_its_values(parametrize: Callable[..., nn.Module]) -> None:
    def build(classes: int) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), parametrize(nn.Linear(16, classes)))

    trained, swap = _fill(build(7)), swap_head(build(10), 5, X)
    before = swap.model.eval()[2].weight.clone()  # type: ignore[index]
    result = load_checkpoint(swap, trained.state_dict(), {0: 6})
    assert result.classes == {"2": {}}
    assert "2 computes its weight from all classes together" in result.notes[0]
    assert torch.equal(swap.model[2].weight, before)  # type: ignore[index]
    assert (result.missing, result.unexpected) == ((), ())


def test_layers_of_a_label_list_are_carried_over() -> None:
    class Labels(nn.Module):
        def __init__(self, count: int) -> None:
            super().__init__()
            self.body = nn.Linear(8, 16)
            self.heads = nn.ModuleList(nn.Linear(16, 1) for _ in range(count))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features = self.body(x).relu()
            return torch.cat([head(features) for head in self.heads], 1)

    x = torch.rand(2, 8)
    trained, swap = _fill(Labels(7)), swap_head(Labels(10), 5, x)
    result = load_checkpoint(swap, trained.state_dict(), {0: 6})
    assert list(result.classes.values()) == [{0: 6}]
    assert torch.allclose(swap.model(x)[:, 0], trained(x)[:, 6])


def test_a_frozen_model_is_loaded_and_stays_frozen() -> None:
    swap = swap_head(Net(), 5, X)
    frozen = freeze_backbone(swap)
    trained = _fill(Net(7))
    load_checkpoint(swap, trained.state_dict(), {0: 6})
    assert torch.equal(swap.model.norm.running_mean, trained.norm.running_mean)  # type: ignore[arg-type, union-attr]
    assert [name for name, value in swap.model.named_parameters() if value.requires_grad] == ["fc.weight", "fc.bias"]
    assert not swap.model.train().norm.training  # type: ignore[union-attr]
    assert "2 of 6" in repr(frozen)


def _state() -> dict[str, Any]:
    return dict(_fill(Net(7)).state_dict())


BAD: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "a path": (lambda: "weights.pt", {}, r"pass the result of torch\.load\(path"),
    "a model": (lambda: Net(7), {}, "a checkpoint is a mapping of names to tensors, not Net"),
    "nothing": (dict, {}, "it has no tensors"),
    "another model": (
        lambda: timm.create_model("resnet18").state_dict(),
        {},
        "does not have the tensors of this model: it has conv1.weight, bn1.weight",
    ),
    "twice": (
        lambda: {"model": _state(), "ema": _state()},
        {},
        r"several times: pass one of checkpoint\['model'\], checkpoint\['ema'\]",
    ),
    "other shapes": (lambda: {name: torch.zeros(3, 3, 3) for name in _state()}, {}, "no tensor of the checkpoint has"),
    "meta": (lambda: {name: value.to("meta") for name, value in _state().items()}, {}, "is on the meta device"),
    "an index": (_state, {"class_map": {0: 7}}, "7 is not a valid old class index: there are 7 classes"),
    "a new index": (_state, {"class_map": {5: 0}}, "5 is not a valid new class index"),
    "an unknown name": (_state, {"class_map": {0: "cat"}, "class_names": list("abcdefg")}, "which is not a class"),
    "too few names": (_state, {"class_map": {0: "a"}, "class_names": ["a"]}, "class_names has 1 names, and the check"),
    "no names": (_state, {"class_map": {0: "a"}, "class_names": []}, "class_names has 0 names, and the checkpoint"),
    "names in a text": (_state, {"class_map": {0: "a"}, "class_names": "abcdefg"}, "class_names must be a list"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_and_nothing_is_loaded(case: str) -> None:
    build, arguments, message = BAD[case]
    swap = swap_head(Net(), 5, X)
    before = copy.deepcopy(swap.model.state_dict())
    with pytest.raises(HeadSwapError, match=message) as caught:
        load_checkpoint(swap, build(), **arguments)
    assert caught.value.reason == "bad_argument"
    assert all(torch.equal(value, before[name]) for name, value in swap.model.state_dict().items())


def test_models_and_meta_models_are_refused() -> None:
    model: Any = Net()
    with pytest.raises(HeadSwapError, match="pass the result of swap_head, not Net"):
        load_checkpoint(model, model.state_dict())
    with pytest.raises(HeadSwapError, match="the model is on the meta device"):
        load_checkpoint(swap_head(Net().to("meta"), 5, X), _state())
