"""Stages of a frozen backbone wake one after the other; all before them stays frozen."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import FrozenBackbone, HeadSwapError, HeadSwapWarning, freeze_backbone, swap_head
from tests.usable import usable_transformers

DROPOUT_NOTE = "a Dropout of the unfrozen part also runs in the frozen part, so it stays in eval mode"


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear, self.norm, self.drop = nn.Linear(width, width), nn.BatchNorm1d(width), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(torch.relu(self.norm(self.linear(x))))  # type: ignore[no-any-return]


class Net(nn.Module):
    """A stem, three blocks with batch norm and dropout, a last norm, and a head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.stem = nn.Linear(8, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, 10)

    def before(self, x: Tensor, count: int) -> Tensor:
        x = self.stem(x) * self.scale
        for block in list(self.blocks)[:count]:
            x = block(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.before(x, 3)))  # type: ignore[no-any-return]


def batch(size: int = 6) -> Tensor:
    return torch.randn(size, 8, generator=torch.Generator().manual_seed(size))


def frozen_net(model: nn.Module | None = None) -> tuple[Any, FrozenBackbone]:
    torch.manual_seed(0)
    model = model or Net()
    return model, freeze_backbone(swap_head(model, 5, batch()))


def trainable(model: nn.Module) -> list[str]:
    return [name for name, value in model.named_parameters() if value.requires_grad]


def moved_by_training(model: nn.Module, steps: int = 2) -> set[str]:
    """Train all parameters with momentum and weight decay, from stale gradients on, and return what has moved."""
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(steps):
        model.train()
        (model(batch()) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def parts(names: Iterable[str], *stages: str) -> set[str]:
    return {name for name in names if name.startswith(tuple(f"{stage}." for stage in stages))}


def test_a_stage_by_path_trains_with_its_batch_norm_and_all_else_stays() -> None:
    model, frozen = frozen_net()
    new = frozen.unfreeze("blocks.2")
    assert [id(value) for value in new] == [id(value) for value in model.blocks[2].parameters()]
    assert moved_by_training(model) == parts(model.state_dict(), "blocks.2", "fc")
    assert [path for path, module in model.named_modules() if module.training and path] == [
        *("blocks.2", "blocks.2.linear", "blocks.2.norm", "blocks.2.drop", "fc")
    ]


def test_the_features_that_enter_a_stage_depend_neither_on_chance_nor_on_the_batch() -> None:
    model, frozen = frozen_net()
    frozen.unfreeze(last=1)
    model.train()
    assert torch.equal(model.before(batch(), 2), model.before(batch(), 2))
    assert torch.allclose(model.before(batch()[:1], 2), model.before(batch(), 2)[:1], atol=1e-6)
    assert not torch.equal(model.before(batch(), 3), model.before(batch(), 3))


def test_a_stage_in_the_middle_trains_alone() -> None:
    model, frozen = frozen_net()
    frozen.unfreeze("blocks.1")
    assert moved_by_training(model) == parts(model.state_dict(), "blocks.1", "fc")


def test_part_of_a_stage_trains_alone() -> None:
    model, frozen = frozen_net()
    frozen.unfreeze("blocks.1.norm", "scale")
    assert moved_by_training(model) == {"scale", *parts(model.state_dict(), "blocks.1.norm", "fc")}


def test_a_parameter_by_name_trains_and_its_module_stays_in_eval_mode() -> None:
    model, frozen = frozen_net()
    (weight,) = frozen.unfreeze("blocks.0.norm.weight")
    assert weight is model.blocks[0].norm.weight
    assert moved_by_training(model) == {"blocks.0.norm.weight", *parts(model.state_dict(), "fc")}


def test_a_container_around_the_head_is_unfrozen_without_changing_the_head() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 16), nn.Sequential(nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 10)))
    _, frozen = frozen_net(model)
    assert not model.train()[1][1].training
    assert len(frozen.unfreeze("1")) == 2
    assert model.train()[1][1].training
    assert moved_by_training(model) == parts(model.state_dict(), "1")


@pytest.mark.parametrize(
    ("last", "stages"),
    [
        (1, ("blocks.2", "norm")),
        (2, ("blocks.1", "blocks.2", "norm")),
        (3, ("blocks", "norm")),
        (4, ("stem", "blocks", "norm")),
    ],
)
def test_stages_are_counted_from_the_head_back(last: int, stages: tuple[str, ...]) -> None:
    model, frozen = frozen_net()
    frozen.unfreeze(last=last)
    own = {"scale"} if last == 4 else set()
    assert set(trainable(model)) == own | parts(dict(model.named_parameters()), *stages, "fc")


def test_stages_add_up_and_a_second_call_returns_no_parameters() -> None:
    model, frozen = frozen_net()
    assert len(frozen.unfreeze("blocks.2")) == 4
    assert len(frozen.unfreeze(last=2)) == 6  # block 1 and the norm
    assert frozen.unfreeze("blocks.1") == []
    assert moved_by_training(model) == parts(model.state_dict(), "blocks.1", "blocks.2", "norm", "fc")


def test_refreeze_freezes_all_stages_again() -> None:
    model, frozen = frozen_net()
    frozen.unfreeze(last=2)
    (model.train()(batch()) ** 2).mean().backward()
    frozen.refreeze()
    assert [name for name, value in model.named_parameters() if value.grad is not None] == ["fc.weight", "fc.bias"]
    assert moved_by_training(model) == {"fc.weight", "fc.bias"}
    frozen.unfreeze("blocks.2")
    assert moved_by_training(model) == parts(model.state_dict(), "blocks.2", "fc")


def test_unfreezing_all_after_a_stage_restores_what_was_before_the_freeze() -> None:
    model = Net()
    model.scale.requires_grad = False
    frozen = freeze_backbone(swap_head(model, 5, batch()))
    frozen.unfreeze("blocks.2")
    assert len(frozen.unfreeze()) == 12
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == ["scale"]
    assert not any("train" in module.__dict__ for module in model.modules())
    assert frozen.unfreeze("blocks.1") == []
    frozen.refreeze()
    assert trainable(model) == ["fc.weight", "fc.bias"]


def test_freezing_a_partly_unfrozen_model_again_freezes_its_stages() -> None:
    model, frozen = frozen_net()
    frozen.unfreeze(last=1)
    freeze_backbone(model)
    assert moved_by_training(model) == {"fc.weight", "fc.bias"}


def test_a_model_that_was_frozen_as_a_whole_is_unfrozen_by_stages() -> None:
    model, frozen = frozen_net(Net().requires_grad_(False))
    frozen.unfreeze(last=1)
    assert moved_by_training(model) == parts(model.state_dict(), "blocks.2", "norm", "fc")


def test_paths_of_a_wrapped_model_work_with_and_without_the_wrapper() -> None:
    model = nn.DataParallel(Net())
    frozen = freeze_backbone(swap_head(model, 5, batch()))
    assert len(frozen.unfreeze("module.blocks.2")) == len(frozen.unfreeze("blocks.1")) == 4
    assert len(frozen.unfreeze(last=3)) == 6


# --- the rest of training: optimizers, checkpoints, copies


def test_training_resumes_in_the_middle_of_a_stage() -> None:
    def start() -> tuple[Any, FrozenBackbone, Any]:
        model, frozen = frozen_net()
        optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=0.01)
        return model, frozen, optimizer

    def steps(model: Any, optimizer: Any) -> None:
        for step in range(2):
            torch.manual_seed(step)
            model.train()
            optimizer.zero_grad()
            (model(batch()) ** 2).mean().backward()
            optimizer.step()

    model, frozen, optimizer = start()
    steps(model, optimizer)
    optimizer.add_param_group({"params": frozen.unfreeze("blocks.2"), "lr": 0.001})
    steps(model, optimizer)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    steps(model, optimizer)

    resumed, frozen, optimizer = start()
    optimizer.add_param_group({"params": frozen.unfreeze("blocks.2"), "lr": 0.001})
    resumed.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert trainable(resumed) == trainable(model)
    steps(resumed, optimizer)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in model.state_dict().items())


def saved(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved])
def test_copies_keep_the_unfrozen_stages(copied: Callable[[Any], Any]) -> None:
    model, frozen = frozen_net()
    frozen.unfreeze("blocks.2")
    assert moved_by_training(copied(model)) == parts(model.state_dict(), "blocks.2", "fc")


# --- what cannot be unfrozen


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("block.2",), {}, r"no module or parameter at 'block\.2': did you mean blocks\.2"),
        (("blocks.2.linear.wieght",), {}, r"did you mean blocks\.2\.linear\.weight"),
        (("blocks.2.norm.running_mean",), {}, r"no module or parameter"),
        (("blocks.2", "nothing at all"), {}, "no module or parameter at 'nothing at all'"),
        (("fc",), {}, "'fc' is part of a head, which is trainable already"),
        (("fc.weight",), {}, r"'fc\.weight' is part of a head"),
        (("",), {}, "is the model itself: call unfreeze"),
        ((2,), {}, "takes paths of modules such as 'layer4', not int"),
        ((None,), {}, "not NoneType"),
        ((["blocks.2"],), {}, "not list"),
        ((nn.Linear(2, 2),), {}, "not Linear"),
        ((), {"last": 0}, "last must be a positive whole number"),
        ((), {"last": -1}, "positive whole number"),
        ((), {"last": True}, "positive whole number"),
        ((), {"last": 1.5}, "positive whole number"),
        ((), {"last": "2"}, "positive whole number"),
        ((), {"last": 5}, "has 4 stages before its heads, not 5"),
    ],
)
def test_bad_arguments_raise_and_change_nothing(arguments: Any, options: Any, message: str) -> None:
    model, frozen = frozen_net()
    with pytest.raises(HeadSwapError, match=message) as caught:
        frozen.unfreeze(*arguments, **options)
    assert caught.value.reason == "bad_argument"
    assert moved_by_training(model) == {"fc.weight", "fc.bias"}


def test_a_model_that_is_all_head_has_no_stages() -> None:
    frozen = freeze_backbone(nn.Linear(8, 10))
    with pytest.raises(HeadSwapError, match="has 0 stages"):
        frozen.unfreeze(last=1)


def tied_parameter(model: Any) -> None:
    model.blocks[2].linear.weight = model.blocks[0].linear.weight


def shared_memory(model: Any) -> None:
    model.blocks[2].linear.weight = nn.Parameter(model.blocks[0].linear.weight.data)


def shared_block(model: Any) -> None:
    model.blocks[2].norm = model.blocks[0].norm


def shared_buffer(model: Any) -> None:
    model.blocks[2].norm.running_mean = model.blocks[0].norm.running_mean


@pytest.mark.parametrize("tie", [tied_parameter, shared_memory, shared_block, shared_buffer])
def test_a_stage_that_shares_tensors_with_the_frozen_part_is_refused(tie: Callable[[Any], None]) -> None:
    model: Any = Net()
    tie(model)
    frozen = freeze_backbone(swap_head(model, 5, batch()))
    with pytest.raises(
        HeadSwapError, match=r"shares its values with .*unfreeze both in one call, or neither"
    ) as caught:
        frozen.unfreeze("blocks.2")
    assert caught.value.reason == "not_freezable"
    assert moved_by_training(model) == {"fc.weight", "fc.bias"}
    frozen.unfreeze("blocks.2", "blocks.0")
    assert parts(moved_by_training(model), "blocks.2", "blocks.0")


def test_a_dropout_that_also_runs_in_the_frozen_part_stays_in_eval_mode_with_a_note() -> None:
    model: Any = Net()
    model.blocks[2].drop = model.blocks[1].drop
    frozen = freeze_backbone(swap_head(model, 5, batch()))
    frozen.unfreeze("blocks.2")
    assert frozen.notes == (DROPOUT_NOTE,)
    model.train()
    assert torch.equal(model.before(batch(), 2), model.before(batch(), 2))


def test_notes_are_about_what_is_frozen_now() -> None:
    model: Any = Net()
    model.blocks[2].drop = model.blocks[1].drop
    frozen = freeze_backbone(swap_head(model, 5, batch()))
    frozen.unfreeze("blocks.2")
    assert list(frozen.notes) == [DROPOUT_NOTE]
    frozen.unfreeze("blocks.1")  # the Dropout now runs in unfrozen stages only
    assert list(frozen.notes) == []
    frozen.refreeze()
    frozen.unfreeze("blocks.2")
    assert list(frozen.notes) == [DROPOUT_NOTE]
    frozen.refreeze()
    assert list(frozen.notes) == []


def test_a_note_of_the_freeze_is_gone_while_all_is_unfrozen_and_back_after_refreeze() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 10))
    model.requires_grad_(False)
    model[1].bias.requires_grad_(True)
    with pytest.warns(HeadSwapWarning, match="1 other parameters, such as 1.bias"):
        frozen = freeze_backbone(swap_head(model, 5, batch()))
    (note,) = frozen.notes
    frozen.unfreeze("0")
    assert list(frozen.notes) == [note]
    frozen.unfreeze()
    assert list(frozen.notes) == []
    frozen.refreeze()
    assert list(frozen.notes) == [note]


def test_an_activation_that_also_runs_in_the_frozen_part_needs_no_note() -> None:
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(8, 16), act, nn.Linear(16, 16), act, nn.Linear(16, 10))
    frozen = freeze_backbone(swap_head(model, 5, batch()))
    frozen.unfreeze("2", "3")
    assert frozen.notes == ()


def test_a_stage_that_writes_to_the_frozen_part_in_train_mode_is_refused() -> None:
    class Writes(Block):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                others: Any = self.__dict__["others"]
                others[0].norm.running_mean += 1
            return super().forward(x)

    model: Any = Net()
    model.blocks[2] = Writes(16)
    model.blocks[2].__dict__["others"] = list(model.blocks)
    frozen = freeze_backbone(swap_head(model, 5, batch()))
    with pytest.raises(HeadSwapError, match=r"writes to blocks\.0\.norm\.running_mean, which is frozen") as caught:
        frozen.unfreeze("blocks.2")
    assert caught.value.reason == "not_freezable"
    assert moved_by_training(model) == {"fc.weight", "fc.bias"}
    frozen.unfreeze("blocks.0", "blocks.2")


def test_noise_that_a_newly_enclosing_module_adds_to_the_frozen_part_stays_off() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(nn.functional.dropout(self.first(x), 0.5, self.training))  # type: ignore[no-any-return]

    model: Any = nn.Sequential(nn.Linear(8, 16), Noisy(), nn.Linear(16, 10))
    frozen = freeze_backbone(swap_head(model, 5, batch()))
    assert not frozen.notes
    frozen.unfreeze("1.second")
    assert not frozen.notes
    assert torch.equal(model.train()(batch()), model(batch()))
    frozen.unfreeze("1")  # its own noise is awake
    assert not torch.equal(model.train()(batch()), model(batch()))


# --- stages of real architectures


def timm_model(name: str) -> Callable[[], Any]:
    return lambda: pytest.importorskip("timm").create_model(name)


def torchvision_model(name: str) -> Callable[[], Any]:
    return lambda: pytest.importorskip("torchvision").models.get_model(name)


def bert() -> Any:
    transformers = usable_transformers()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3}
    return transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, vocab_size=50, num_labels=7))


REAL = {
    "resnet18": (timm_model("resnet18"), ("layer4", "layer3")),
    "vit": (timm_model("vit_tiny_patch16_224"), ("blocks.11", "blocks.10", "norm")),
    "convnext": (timm_model("convnext_atto"), ("stages.3", "stages.2", "head.norm")),
    "convnext of torchvision": (
        torchvision_model("convnext_tiny"),
        ("features.7", "features.6", "features.5", "classifier.0"),
    ),
    "efficientnet": (timm_model("efficientnet_b0"), ("blocks.6", "blocks.5", "conv_head", "bn2")),
    "densenet": (
        timm_model("densenet121"),
        ("features.denseblock4", "features.denseblock3", "features.transition3", "features.norm5"),
    ),
    "vgg": (torchvision_model("vgg16"), ("classifier.3", "classifier.0")),
    "bert": (bert, ("bert.encoder.layer.2", "bert.encoder.layer.1", "bert.pooler")),
}


@pytest.mark.parametrize("name", REAL)
def test_the_last_two_stages_of_real_architectures(name: str) -> None:
    build, stages = REAL[name]
    with torch.device("meta"):
        model = build()
    swap = swap_head(model, 5)
    heads = {name for name, _ in swap.named_parameters()}
    freeze_backbone(swap).unfreeze(last=2)
    assert set(trainable(model)) == heads | parts(dict(model.named_parameters()), *stages)


class TwoTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = (
            nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()) for _ in range(2)
        )
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.cat([self.left(x), self.right(x)], 1))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.rnn, self.fc = nn.Linear(8, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(self.words(x)[:, None])[0][:, -1])  # type: ignore[no-any-return]


class Looped(nn.Module):
    """Two layers that run in turns, three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = torch.relu(self.two(torch.relu(self.one(x))))
        return self.fc(x)  # type: ignore[no-any-return]


class Tokens(nn.Module):
    """A head that reads all tokens, so that its product folds them first."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.fc = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.two(torch.relu(self.one(x[:, None].repeat(1, 3, 1))))))[:, 0]  # type: ignore[no-any-return]


class SharedBias(nn.Module):
    """Blocks that all add a table of the first one, like T5."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(nn.ModuleDict({"linear": nn.Linear(16, 16)}) for _ in range(3))
        self.blocks[0]["table"] = nn.Embedding(4, 16)  # type: ignore[operator]
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        bias = self.blocks[0]["table"](torch.arange(4, device=x.device)).mean(0)  # type: ignore[index]
        for block in self.blocks:
            x = x + torch.relu(block["linear"](x) + bias[None])  # type: ignore[index]
        return self.fc(x)  # type: ignore[no-any-return]


class ListOfLayersBetween(nn.Module):
    """A list of small layers, one before each block, like PoolFormer."""

    def __init__(self) -> None:
        super().__init__()
        self.between = nn.ModuleList(nn.Linear(width, 16) for width in (8, 16, 16))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16), nn.ReLU()) for _ in range(3)
        )
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer, block in zip(self.between, self.blocks, strict=True):
            x = block(layer(x))
        return self.fc(x)  # type: ignore[no-any-return]


def weight_normed() -> nn.Module:
    layers = [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)]
    normed = [nn.utils.parametrizations.weight_norm(x) if isinstance(x, nn.Linear) else x for x in layers]
    return nn.Sequential(*normed, nn.Linear(16, 10))


@pytest.mark.parametrize(
    ("build", "last"),
    [
        (TwoTowers, [("left.2", "right.2"), ("left.0", "right.0")]),
        (Recurrent, [("rnn",), ("words",)]),
        (Looped, [("two",), ("one",), ("stem",)]),
        (Tokens, [("two",), ("one",)]),
        (SharedBias, [("blocks.2",), ("blocks.1",), ("blocks.0",), ("stem",)]),
        (ListOfLayersBetween, [("blocks.2",), ("blocks.1", "between.2"), ("blocks.0", "between.1"), ("between.0",)]),
        (weight_normed, [("4",), ("2",), ("0",)]),
    ],
    ids=["towers", "recurrent", "looped", "tokens", "shared bias", "list", "parametrized"],
)
def test_stages_follow_the_data_flow_of_other_kinds(build: Callable[[], Any], last: list[tuple[str, ...]]) -> None:
    model = build()
    swap = swap_head(model, 5, batch())
    heads = {name for name, _ in swap.named_parameters()}
    frozen = freeze_backbone(swap)
    stages: list[str] = []
    for count, added in enumerate(last, 1):
        stages += added
        frozen.unfreeze(last=count)
        assert set(trainable(model)) == heads | parts(dict(model.named_parameters()), *stages)
