"""What somebody else prepared for training, such as low-rank adapters, stays trainable in a freeze."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_headswap.engine import FrozenBackbone, HeadSwapError, HeadSwapWarning, freeze_backbone, swap_head

WIDTH = 64


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear: nn.Module = nn.Linear(WIDTH, WIDTH)
        self.norm, self.drop = nn.BatchNorm1d(WIDTH), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(torch.relu(self.norm(self.linear(x))))  # type: ignore[no-any-return]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.fc = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(x)  # type: ignore[no-any-return]


class LowRank(nn.Module):
    """A linear layer with a low-rank update of its own modules, as in PEFT."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.lora_drop = nn.Dropout(0.5)
        self.down, self.up = nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(self.lora_drop(x)))  # type: ignore[no-any-return]


class LowRankParameters(nn.Module):
    """A low-rank update whose factors are parameters of the layer."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.lora_drop = nn.Dropout(0.5)
        self.down, self.up = nn.Parameter(torch.randn(2, WIDTH)), nn.Parameter(torch.randn(WIDTH, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_drop(x) @ self.down.t() @ self.up.t()  # type: ignore[no-any-return]


class LowRankFunctional(LowRankParameters):
    """A low-rank update with dropout in its forward."""

    def forward(self, x: Tensor) -> Tensor:
        dropped = functional.dropout(x, 0.5, self.training)
        return self.base(x) + dropped @ self.down.t() @ self.up.t()  # type: ignore[no-any-return]


def adapt(model: Any, kind: Callable[[nn.Module], nn.Module] = LowRank) -> Any:
    """Freeze everything and add low-rank updates, like get_peft_model."""
    model.requires_grad_(False)
    for block in model.blocks:
        block.linear = kind(block.linear)
    return model


def batch(size: int = 6) -> Tensor:
    return torch.randn(size, 8, generator=torch.Generator().manual_seed(size))


def trainable(model: nn.Module) -> set[str]:
    return {name for name, value in model.named_parameters() if value.requires_grad}


def moved_by_training(model: nn.Module) -> set[str]:
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        model.train()
        (model(batch()) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def awake(model: nn.Module) -> set[str]:
    """Return the leaf modules in train mode."""
    model.train()
    return {path for path, module in model.named_modules() if module.training and not list(module.children())}


HEAD = {"fc.weight", "fc.bias"}


def adapters(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters() if ".down" in name or ".up" in name}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", [LowRank, LowRankParameters])
@pytest.mark.parametrize("swapped_first", [True, False])
def test_low_rank_updates_stay_trainable_and_their_dropout_awake(kind: Any, swapped_first: bool) -> None:
    model: Any = Net()
    if swapped_first:
        swap = swap_head(model, 5, batch())
        adapt(model, kind)
    else:
        swap = swap_head(adapt(model, kind), 5, batch())
    with pytest.warns(
        HeadSwapWarning, match=r"and 6 other parameters, such as blocks\.0\.linear\.down.* stay trainable"
    ):
        freeze_backbone(swap)
    assert moved_by_training(model) == adapters(model) | HEAD
    own = {f"blocks.{index}.linear.{name}" for index in range(3) for name in ("lora_drop", "down", "up")}
    assert awake(model) == {*(own & {path for path, _ in model.named_modules()}), "fc"}


@pytest.mark.parametrize("rank", [8, 64, 200])
@pytest.mark.parametrize("more", [0, 1])
def test_updates_of_any_size_that_came_after_a_swap_stay_trainable(rank: int, more: int) -> None:
    model: Any = Net()
    swap = swap_head(model, 5, batch())
    for _ in range(more):
        swap = swap_head(model, 3, batch())
    adapt(model)
    for block in model.blocks:
        block.linear.down, block.linear.up = nn.Linear(WIDTH, rank, bias=False), nn.Linear(rank, WIDTH, bias=False)
    with pytest.warns(HeadSwapWarning, match="6 other parameters"):
        freeze_backbone(swap)
    assert trainable(model) == adapters(model) | HEAD


@pytest.mark.filterwarnings("ignore::pytest_headswap.engine.HeadSwapWarning")
def test_the_frozen_part_still_keeps_its_promise() -> None:
    model = adapt(Net())
    freeze_backbone(swap_head(model, 5, batch()))
    model.train()
    first = model.blocks[0].linear.base(model.stem(batch()))
    assert torch.equal(first, model.blocks[0].linear.base(model.stem(batch())))
    for block in model.blocks:
        block.linear.lora_drop.eval()
    assert torch.allclose(model(batch())[:1], model(batch()[:1]), atol=1e-5)


@pytest.mark.filterwarnings("ignore::pytest_headswap.engine.HeadSwapWarning")
def test_dropout_in_a_forward_beside_frozen_parameters_stays_off_with_a_note() -> None:
    model = adapt(Net(), LowRankFunctional)
    frozen = freeze_backbone(swap_head(model, 5, batch()))
    assert "modules with both trainable and frozen parameters (LowRankFunctional) stay in eval mode" in frozen.notes
    assert torch.equal(model.train()(batch()), model(batch()))
    assert moved_by_training(model) == adapters(model) | HEAD


@pytest.mark.filterwarnings("ignore::pytest_headswap.engine.HeadSwapWarning")
def test_dropout_of_the_backbone_beside_an_adapter_stays_asleep() -> None:
    class Adapted(Block):
        def __init__(self) -> None:
            super().__init__()
            self.adapter = nn.Sequential(nn.Linear(WIDTH, 2), nn.Dropout(), nn.Linear(2, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(x)
            return x + self.adapter(self.drop(x))  # type: ignore[no-any-return]

    model: Any = Net()
    model.blocks[1] = Adapted()
    model.requires_grad_(False)
    model.blocks[1].adapter.requires_grad_(True)
    freeze_backbone(swap_head(model, 5, batch()))
    assert awake(model) == {"blocks.1.adapter.0", "blocks.1.adapter.1", "blocks.1.adapter.2", "fc"}


@pytest.mark.filterwarnings("ignore::pytest_headswap.engine.HeadSwapWarning")
def test_biases_that_were_left_trainable_move_and_statistics_stay() -> None:
    model = Net().requires_grad_(False)
    biases = {name for name, _ in model.named_parameters() if name.endswith("bias")} | HEAD
    for name, value in model.named_parameters():
        value.requires_grad = name in biases
    freeze_backbone(model, batch())
    assert moved_by_training(model) == biases
    assert awake(model) == {"fc"}


@pytest.mark.filterwarnings("ignore::pytest_headswap.engine.HeadSwapWarning")
def test_a_batch_norm_that_was_left_trainable_stays_awake() -> None:
    model: Any = Net().requires_grad_(False)
    model.blocks[2].norm.requires_grad_(True)
    freeze_backbone(swap_head(model, 5, batch()))
    moved = moved_by_training(model)
    assert moved == HEAD | {name for name in model.state_dict() if name.startswith("blocks.2.norm")}


# --- what is not kept


class Scaled(nn.Linear):
    def __init__(self) -> None:
        super().__init__(WIDTH, 10)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


def frozen_all_but_a_scale_of_the_head(model: Any) -> None:
    model.requires_grad_(False)
    model.fc = Scaled()


def frozen_stem(model: Any) -> None:
    model.stem.requires_grad_(False)


def frozen_half(model: Any) -> None:
    for part in (model.stem, model.blocks[0], model.blocks[1]):
        part.requires_grad_(False)


def frozen_head(model: Any) -> None:
    model.fc.requires_grad_(False)


def nothing_frozen(_: Any) -> None:
    pass


@pytest.mark.parametrize(
    "freeze", [frozen_stem, frozen_half, frozen_head, nothing_frozen, frozen_all_but_a_scale_of_the_head]
)
def test_a_model_that_is_frozen_only_in_part_was_not_prepared(freeze: Callable[[Any], None]) -> None:
    model = Net()
    freeze(model)
    swap = swap_head(model, 5, batch())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frozen = freeze_backbone(swap)
    assert frozen.notes == ()
    assert moved_by_training(model) == HEAD


def test_what_unfreeze_made_trainable_is_frozen_by_the_next_freeze() -> None:
    model: Any = Net()
    model.blocks.append(Block())
    model.blocks[3].linear = nn.Sequential(nn.Linear(WIDTH, 2), nn.Linear(2, WIDTH))  # less than a tenth
    frozen = freeze_backbone(swap_head(model, 5, batch()))
    frozen.unfreeze("blocks.3", "stem.bias")
    for again in (model, copy.deepcopy(model)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            freeze_backbone(again, batch())
        assert trainable(again) == HEAD


# --- further freezes, stages, copies


def frozen_and_adapted() -> tuple[Any, FrozenBackbone]:
    model = adapt(Net())
    with pytest.warns(HeadSwapWarning):
        return model, freeze_backbone(swap_head(model, 5, batch()))


@pytest.mark.filterwarnings("ignore::pytest_headswap.engine.HeadSwapWarning")
def test_a_second_freeze_keeps_what_the_first_kept() -> None:
    model, frozen = frozen_and_adapted()
    frozen.unfreeze("blocks.2", "blocks.1")  # now less than nine tenths are frozen
    for again in (copy.deepcopy(model), model):
        freeze_backbone(again, batch())
        assert moved_by_training(again) == adapters(model) | HEAD


@pytest.mark.filterwarnings("ignore::pytest_headswap.engine.HeadSwapWarning")
def test_requires_grad_false_freezes_the_adapters_too_as_the_warning_says() -> None:
    model, _ = frozen_and_adapted()
    model.requires_grad_(False)
    freeze_backbone(model, batch())
    assert moved_by_training(model) == HEAD
    assert awake(model) == {"fc"}


@pytest.mark.filterwarnings("ignore::pytest_headswap.engine.HeadSwapWarning")
def test_updates_that_are_added_to_a_frozen_model_train_after_the_next_freeze() -> None:
    model: Any = Net()
    freeze_backbone(swap_head(model, 5, batch()))
    for block in model.blocks:
        block.linear = LowRank(block.linear)
    freeze_backbone(model, batch())
    assert moved_by_training(model) == adapters(model) | HEAD
    assert "blocks.0.linear.lora_drop" in awake(model)


def test_stages_are_added_to_what_is_kept_and_refrozen_without_it() -> None:
    model, frozen = frozen_and_adapted()
    frozen.unfreeze("blocks.2.norm")
    norm = {name for name in model.state_dict() if name.startswith("blocks.2.norm")}
    assert moved_by_training(model) == adapters(model) | HEAD | norm
    frozen.refreeze()
    assert moved_by_training(model) == adapters(model) | HEAD
    frozen.unfreeze()
    assert trainable(model) == adapters(model) | HEAD


def test_copies_keep_the_adapters_awake() -> None:
    model, _ = frozen_and_adapted()
    copied = copy.deepcopy(model)
    assert moved_by_training(copied) == adapters(model) | HEAD
    assert awake(copied) == awake(model)


# --- what kept parts may do, and others may not


class Counts(LowRank):
    """A low-rank update that counts its calls and adds noise, even in eval mode."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.update = nn.Sequential(Counted(), nn.Linear(WIDTH, WIDTH // 32), nn.Linear(WIDTH // 32, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.update(x)  # type: ignore[no-any-return]


class Counted(nn.Module):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.scale


@pytest.mark.filterwarnings("ignore::pytest_headswap.engine.HeadSwapWarning")
def test_a_kept_part_may_write_to_its_own_buffers() -> None:
    model = adapt(Net(), Counts)
    freeze_backbone(swap_head(model, 5, batch()))
    assert "blocks.0.linear.update.0.calls" in moved_by_training(model)


@pytest.mark.filterwarnings("ignore::pytest_headswap.engine.HeadSwapWarning")
@pytest.mark.parametrize("fault", ["noise", "write", "batch"])
def test_faults_of_the_frozen_part_are_still_refused(fault: str) -> None:
    class Faulty(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if fault == "noise":
                x = functional.dropout(x, 0.5, training=True)
            if fault == "write":
                self.weight.data.mul_(0.9)
            return super().forward(x) - (x.mean() if fault == "batch" else 0)

    model = adapt(Net())
    model.stem = Faulty(8, WIDTH).requires_grad_(False)
    swap = swap_head(model, 5, batch())
    with pytest.raises(HeadSwapError, match="even in eval mode") as caught:
        freeze_backbone(swap)
    assert caught.value.reason == "not_freezable"
    assert trainable(model) == adapters(model) | HEAD


# --- a swap whose head is wrapped


class TrainsACopy(nn.Module):
    """Keep a module as it is and train a copy, like `modules_to_save` of PEFT."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original = original.requires_grad_(False)
        self.copies = nn.ModuleDict({"default": copy.deepcopy(original).requires_grad_(True)})

    def forward(self, x: Tensor) -> Any:
        return self.copies["default"](x)


@pytest.mark.filterwarnings("ignore::pytest_headswap.engine.HeadSwapWarning")
def test_a_swap_follows_its_head_into_a_wrapper_that_trains_a_copy() -> None:
    model: Any = Net()
    swap = swap_head(model, 5, batch())
    state = swap.state_dict()
    adapt(model)
    model.fc = TrainsACopy(model.fc)
    assert [id(value) for value in swap.parameters()] == [id(value) for value in model.fc.copies.parameters()]
    freeze_backbone(swap)
    assert moved_by_training(model) == adapters(model) | {"fc.copies.default.weight", "fc.copies.default.bias"}
    assert swap.state_dict().keys() == state.keys()
    assert torch.equal(swap.state_dict()["fc.weight"], model.fc.copies["default"].weight)
    swap.load_state_dict(state)
    assert torch.equal(model.fc.copies["default"].weight, model.fc.original.weight)


def test_a_wrapper_without_a_trainable_copy_is_an_error_and_not_a_frozen_head() -> None:
    model: Any = Net()
    swap = swap_head(model, 5, batch())
    model.fc = TrainsACopy(model.fc).requires_grad_(False)
    with pytest.raises(HeadSwapError, match=r"fc\.weight is not a registered parameter"):
        list(swap.parameters())


class LowRankHead(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.low = nn.ModuleDict({"a": nn.Linear(WIDTH, 2, bias=False).requires_grad_(False), "b": nn.Linear(2, 5)})

    def forward(self, x: Tensor) -> Any:
        return self.base(x) + self.low["b"](self.low["a"](x))


@pytest.mark.filterwarnings("ignore::pytest_headswap.engine.HeadSwapWarning")
def test_a_layer_of_another_shape_inside_a_wrapped_head_is_not_taken_for_the_head() -> None:
    model: Any = Net()
    swap = swap_head(model, 5, batch())
    adapt(model)
    model.fc = LowRankHead(model.fc)
    with pytest.raises(HeadSwapError, match=r"fc\.weight is not a registered parameter"):
        list(swap.parameters())
    freeze_backbone(swap)
    own = {"fc.base.weight", "fc.base.bias", "fc.low.b.weight", "fc.low.b.bias"}
    assert moved_by_training(model) == adapters(model) | own
