"""A frozen backbone stays frozen through training, `train()`, copies and pickles; the head learns."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_headswap.engine import HeadSwapError, freeze_backbone, swap_head
from pytest_headswap.engine.dataflow.recorder import record
from pytest_headswap.engine.freezing import verify
from pytest_headswap.engine.freezing.watched_graph import watch
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.outputs import flatten_outputs
from pytest_headswap.zoo import load_zoo

NAMES = [name for name in load_zoo("builtin").names if name not in ("encoder_without_head", "bfloat16")]


def instance_norm() -> nn.Module:
    """Return an instance norm, with running statistics unless this version of torch writes to them in eval mode."""
    norm = nn.InstanceNorm2d(4, track_running_stats=True)
    return norm if not record(norm, Inputs((torch.randn(2, 4, 3, 3),))).mutated else nn.InstanceNorm2d(4)


class Backbone(nn.Module):
    """A model with every kind of layer that changes in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 8))  # owned by the root of the model
        self.body = nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Linear(8, 16)), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5)
        )
        self.image = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), instance_norm())
        self.head = nn.Linear(20, 5)

    def features(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed
        return torch.cat([self.body(x), self.image(x.view(-1, 1, 2, 4).repeat(1, 1, 4, 2)).mean((2, 3))], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))  # type: ignore[no-any-return]


def batch(size: int = 6) -> Tensor:
    return torch.randn(size, 8, generator=torch.Generator().manual_seed(size))


def swapped_model() -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = Backbone()
    swap = swap_head(model, 3, batch())
    return model, swap


def train(model: nn.Module, parameters: Any, inputs: Any, steps: int = 3) -> None:
    """Train with momentum and weight decay."""
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(steps):
        model.train()
        optimizer.zero_grad()
        outputs = [tensor for _, tensor in flatten_outputs(model(inputs)) if tensor.requires_grad]
        sum((tensor.float() ** 2).mean() + tensor.float().mean() for tensor in outputs).backward()  # type: ignore[union-attr]
        optimizer.step()


def test_training_changes_only_the_head() -> None:
    model, swap = swapped_model()
    freeze_backbone(swap, batch())
    before = copy.deepcopy(model.state_dict())
    train(model, model.parameters(), batch())
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}


@pytest.mark.parametrize("name", NAMES)
def test_every_builtin_model_can_be_frozen(name: str) -> None:
    torch.manual_seed(0)
    spec = load_zoo("builtin")[name]
    model = spec.build()
    assert spec.example_inputs is not None
    inputs = spec.example_inputs(model)
    swap = swap_head(model, 3, inputs, head=spec.head)
    freeze_backbone(swap, inputs)
    new = set(swap.state_dict())
    before = copy.deepcopy(model.state_dict())
    train(model, model.parameters(), inputs)
    moved = {key for key, value in model.state_dict(keep_vars=False).items() if not torch.equal(value, before[key])}
    own = {
        key
        for key in model.state_dict()
        if any(model.state_dict()[key].data_ptr() == swap.state_dict()[n].data_ptr() for n in new)
    }
    assert moved <= own
    assert moved


def test_features_of_a_sample_depend_neither_on_its_batch_nor_on_chance() -> None:
    model, swap = swapped_model()
    freeze_backbone(swap, batch())
    model.train()
    alone = model.features(batch()[:1])
    assert torch.equal(model.features(batch())[:1], model.features(batch())[:1])
    assert torch.allclose(model.features(batch())[:1], alone, atol=1e-6)


def test_the_freeze_holds_when_train_is_called_on_the_model_or_a_part() -> None:
    model, swap = swapped_model()
    freeze_backbone(swap, batch())
    model.eval()
    model.train()
    model.body.train()
    for module in model.body:
        module.train()
    assert [name for name, module in model.named_modules() if module.training] == ["", "head"]


def pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


def saved(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copy_model", [copy.deepcopy, pickled, saved])
def test_the_freeze_holds_in_copies(copy_model: Any) -> None:
    torch.manual_seed(0)
    model: Any = Backbone()
    nn.utils.parametrize.remove_parametrizations(model.body[0], "weight")  # torch cannot pickle parametrized modules
    freeze_backbone(swap_head(model, 3, batch()), batch())
    copied = copy_model(model)
    before = copy.deepcopy(copied.state_dict())
    train(copied, copied.parameters(), batch())
    moved = {name for name, value in copied.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}
    assert copied.body.__dict__["train"].module is copied.body


def test_every_parameter_outside_the_head_is_frozen() -> None:
    model, swap = swapped_model()
    freeze_backbone(swap, batch())
    assert [name for name, value in model.named_parameters() if value.requires_grad] == ["head.weight", "head.bias"]


def test_existing_gradients_of_the_backbone_are_cleared() -> None:
    model, swap = swapped_model()
    model(batch()).sum().backward()
    assert model.pos_embed.grad is not None
    freeze_backbone(swap, batch())
    assert model.pos_embed.grad is None
    assert model.body[1].weight.grad is None


def test_state_dict_keys_and_module_types_do_not_change() -> None:
    model, swap = swapped_model()
    keys, types = list(model.state_dict()), [type(module) for module in model.modules()]
    freeze_backbone(swap, batch())
    assert (list(model.state_dict()), [type(module) for module in model.modules()]) == (keys, types)


def test_batch_norm_and_dropout_of_the_head_stay_active() -> None:
    spec = load_zoo("builtin")["batch_norm_behind"]
    model: Any = spec.build()
    swap = swap_head(model, 3, torch.randn(4, 24))
    freeze_backbone(swap, torch.randn(4, 24))
    model.train()(torch.randn(4, 24) + 3)
    assert model[3].num_batches_tracked == 1

    other: Any = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 5))
    swap = swap_head(other, 3, batch(), new_head=lambda width, n: nn.Sequential(nn.Dropout(0.5), nn.Linear(width, n)))
    freeze_backbone(swap, batch())
    assert other.train()[1][0].training


def test_unfreeze_restores_requires_grad_flags_and_modes() -> None:
    model, swap = swapped_model()
    model.body[1].eval()
    model.pos_embed.requires_grad_(requires_grad=False)
    modes = [module.training for module in model.modules()]
    frozen = freeze_backbone(swap, batch())
    frozen.unfreeze()
    assert [module.training for module in model.modules()] == modes
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == ["pos_embed"]
    assert not any("train" in module.__dict__ for module in model.modules())
    model.train()(batch())
    assert model.body[1].num_batches_tracked == 1
    frozen.unfreeze()  # a second call does nothing


class Functional(nn.Module):
    """A model that calls dropout in forward: in train mode, or always."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 5)
        self.always = always

    def forward(self, x: Tensor) -> Tensor:
        x = functional.dropout(self.body(x), 0.5, training=self.training or self.always)
        return self.head(x)  # type: ignore[no-any-return]


def test_functional_dropout_of_the_model_itself_is_disabled_with_a_note() -> None:
    model = Functional(always=False)
    frozen = freeze_backbone(swap_head(model, 3, batch()), batch())
    assert "also stay in eval mode" in frozen.notes[0]
    model.train()
    assert torch.equal(model(batch()), model(batch()))


def test_dropout_in_eval_mode_raises_and_nothing_is_frozen() -> None:
    model = Functional(always=True)
    with pytest.raises(HeadSwapError, match=r"let it depend on self\.training") as caught:
        freeze_backbone(swap_head(model, 3, batch()), batch())
    assert caught.value.reason == "not_freezable"
    assert all(value.requires_grad for value in model.parameters())
    assert model.body.training


@pytest.mark.parametrize("through_data", [True, False])
def test_a_forward_that_writes_to_the_backbone_raises_and_names_the_tensor(through_data: bool) -> None:
    class Writes(nn.Module):
        counter: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 5)
            self.register_buffer("counter", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            if through_data:
                self.body.weight.data.mul_(0.9)
            else:
                self.counter += 1
            return self.head(self.body(x))  # type: ignore[no-any-return]

    name = "body.weight" if through_data else "counter"
    with pytest.raises(HeadSwapError, match=f"forward writes to {name} even in eval mode") as caught:
        freeze_backbone(swap_head(Writes(), 3, batch()), batch())
    assert caught.value.reason == "not_freezable"


def test_auxiliary_heads_are_trained_too() -> None:
    model: Any = load_zoo("builtin")["train_only_aux"].build()
    images = torch.randn(2, 3, 32, 32)
    freeze_backbone(swap_head(model, 3, images), images)
    logits, aux = model.train()(images)
    (logits.sum() + aux.sum()).backward()
    assert model.aux[2].weight.grad is not None


def test_a_note_says_when_train_mode_could_not_be_verified() -> None:
    class EvalOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("targets are needed")
            return self.head(self.body(x))  # type: ignore[no-any-return]

    frozen = freeze_backbone(swap_head(EvalOnly(), 3, batch()), batch())
    assert "not verified" in frozen.notes[0]


@pytest.mark.parametrize("norm", [nn.InstanceNorm1d(4), nn.GroupNorm(2, 4)], ids=["instance", "group"])
def test_instance_and_group_norm_can_be_frozen(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Conv1d(1, 4, 3), norm, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 5))
    waves = torch.randn(3, 1, 8)
    assert freeze_backbone(swap_head(model, 3, waves), waves).notes == ()


def test_batch_statistics_in_eval_mode_raise() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16, track_running_stats=False), nn.Linear(16, 5))
    with pytest.raises(HeadSwapError, match="native_batch_norm in 1 acts on the features even in eval mode"):
        freeze_backbone(swap_head(model, 3, batch()), batch())


class ReplacesItsParts(nn.Module):
    """A model that replaces a layer in its first forward pass, like BigBird in transformers for short inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.Identity())
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.body[1], nn.Identity):
            self.body[1] = nn.Dropout(0.5).eval()
        return self.head(self.body(x))  # type: ignore[no-any-return]


def test_a_layer_that_forward_adds_to_the_backbone_is_frozen_too() -> None:
    model = ReplacesItsParts()
    freeze_backbone(swap_head(model, 3, batch()))
    model.train()
    first = model(batch())
    model.train()
    assert not model.body[1].training
    assert torch.equal(model(batch()), first)


@pytest.mark.parametrize(
    ("model", "deterministic"),
    [
        (nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 10)), True),
        (nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 10), nn.BatchNorm1d(10)), False),
        (nn.Sequential(nn.Linear(8, 16), nn.Sequential(nn.Dropout(), nn.Linear(16, 10))), True),
    ],
    ids=["deterministic backbone", "statistics in the head", "dropout before the head"],
)
def test_the_data_flow_is_recorded_only_if_the_run_may_be_nondeterministic(
    model: nn.Module, deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = swap_head(model, 5, torch.randn(4, 8))
    recorded = []

    def counting_watch(*args: Any, **options: Any) -> Any:
        recorded.append(args)
        return watch(*args, **options)

    monkeypatch.setattr(verify, "watch", counting_watch)
    assert freeze_backbone(swap, torch.randn(4, 8)).notes == ()
    assert (not recorded) == deterministic


# --- without a swap ----------------------------------------------------------------------------


def test_a_model_can_be_frozen_without_a_swap() -> None:
    torch.manual_seed(0)
    model = Backbone()
    head = model.head.weight
    frozen = freeze_backbone(model, batch())
    assert model.head.weight is head
    assert {name for name, value in model.named_parameters() if value.requires_grad} == {"head.weight", "head.bias"}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model.train()
    loss: Any = functional.cross_entropy(model(batch()), torch.arange(6) % 5)
    loss.backward()
    optimizer.step()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"head.weight", "head.bias"}
    frozen.unfreeze()
    assert all(value.requires_grad for value in model.parameters())


def test_the_head_of_a_fully_frozen_model_becomes_trainable() -> None:
    model = Backbone().requires_grad_(False)
    frozen = freeze_backbone(model, batch())
    assert {name for name, value in model.named_parameters() if value.requires_grad} == {"head.weight", "head.bias"}
    frozen.unfreeze()
    assert not any(value.requires_grad for value in model.parameters())


def test_a_wrapped_model_can_be_frozen() -> None:
    model = nn.DataParallel(Backbone())
    freeze_backbone(model, batch())
    learns = {name for name, value in model.named_parameters() if value.requires_grad}
    assert learns == {"module.head.weight", "module.head.bias"}


def test_a_model_is_frozen_on_inferred_inputs() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
    freeze_backbone(model)
    assert [value.requires_grad for value in model.parameters()] == [False] * 4 + [True] * 2
    assert not model.train()[1].training


@pytest.mark.parametrize("argument", ["a name", None, 5, {}, nn.Linear], ids=repr)
def test_an_argument_that_is_neither_a_swap_nor_a_model_raises(argument: Any) -> None:
    with pytest.raises(HeadSwapError) as caught:
        freeze_backbone(argument)
    assert caught.value.reason == "not_a_module"


def test_a_model_without_a_head_raises() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 16), nn.Identity())
    model.num_classes = 0
    with pytest.raises(HeadSwapError, match="call swap_head first") as caught:
        freeze_backbone(model, batch())
    assert caught.value.reason == "bad_argument"
    assert all(value.requires_grad for value in model.parameters())


class TwoInputs(nn.Module):
    """A model with two inputs, which cannot be inferred."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 16), nn.Linear(5, 16)
        self.norm, self.fc = nn.BatchNorm1d(16), nn.Linear(16, 10)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.fc(self.norm(self.left(a) + self.right(b)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_freeze_uses_the_inputs_of_the_swap(dtype: torch.dtype) -> None:
    model = TwoInputs()
    swap = swap_head(model, 3, (torch.randn(4, 3), torch.randn(4, 5)))
    model.to(dtype)
    frozen = freeze_backbone(swap)
    assert frozen.notes == ()
    assert [name for name, value in model.named_parameters() if value.requires_grad] == ["fc.weight", "fc.bias"]


class MovingCenter(nn.Module):
    """Subtract a mean of the features that train mode updates."""

    center: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)
        self.register_buffer("center", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(x))
        if self.training:
            self.center.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return self.fc(x - self.center)  # type: ignore[no-any-return]


def test_what_forward_writes_only_in_train_mode_is_held_with_the_backbone() -> None:
    model = MovingCenter()
    frozen = freeze_backbone(swap_head(model, 5, torch.randn(4, 8)))
    assert "writes to center in train mode" in frozen.notes[0]
    before = model.center.clone()
    model.train()
    model(torch.randn(4, 8))
    assert torch.equal(model.center, before)


@pytest.mark.parametrize("bias", [True, False], ids=["with a bias", "without a bias"])
def test_noise_before_any_head_is_found(bias: bool) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 10, bias=bias)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(nn.functional.dropout(self.body(x)))  # type: ignore[no-any-return]

    with pytest.raises(HeadSwapError) as caught:
        freeze_backbone(swap_head(Noisy(), 5, torch.zeros(4, 8)))
    assert caught.value.reason == "not_freezable"


def test_refreeze_drops_the_gradients_of_the_backbone_but_not_of_the_head() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    x = torch.randn(4, 8)
    frozen = freeze_backbone(swap_head(model, 3, x))
    frozen.unfreeze()
    model(x).square().sum().backward()
    frozen.refreeze()
    assert [name for name, value in model.named_parameters() if value.grad is not None] == ["2.weight", "2.bias"]


def test_a_buffer_set_from_the_inputs_and_a_shape_is_written_and_named_once() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 5)
            self.register_buffer("kept", torch.zeros(16))

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            self.kept = x.mean(0) + torch.zeros_like(x[0])
            return self.head(x)  # type: ignore[no-any-return]

    with pytest.raises(HeadSwapError, match="forward writes to kept even in eval mode"):
        freeze_backbone(swap_head(Keeps(), 3, batch()), batch())


def test_a_buffer_that_forward_reads_and_replaces_is_named_once() -> None:
    class Moves(nn.Module):
        center: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 5)
            self.register_buffer("center", torch.zeros(16))

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            self.center = self.center * 0.9 + x.mean(0)
            return self.head(x - self.center)  # type: ignore[no-any-return]

    with pytest.raises(HeadSwapError, match="forward writes to center even in eval mode"):
        freeze_backbone(swap_head(Moves(), 3, batch()), batch())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_whose_dtype_changes_after_the_swap_is_frozen(dtype: torch.dtype) -> None:
    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            if x.dtype != self.body.weight.dtype:
                raise TypeError(f"expected {self.body.weight.dtype}")
            return self.head(self.body(x))  # type: ignore[no-any-return]

    swap = swap_head(Strict(), 3, batch())
    swap.model.to(dtype)
    assert freeze_backbone(swap).notes == ()
    assert {name for name, value in swap.model.named_parameters() if value.requires_grad} == {
        "head.weight",
        "head.bias",
    }


def test_the_heads_of_all_swaps_are_trained() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 5), nn.Linear(16, 6)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.body(x)
            return self.one(x), self.two(x)

    model = Two()
    swap_head(model, 3, batch(), head="one")
    freeze_backbone(swap_head(model, 4, batch(), head="two"))
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {"one.weight", "one.bias", "two.weight", "two.bias"}


def test_a_freeze_can_be_undone_and_redone_after_a_move_that_makes_new_parameters() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 10))
    model[0].bias.requires_grad_(False)
    swap = swap_head(model, 5, torch.randn(4, 8))
    before = {name: value.requires_grad for name, value in model.named_parameters()}
    frozen = freeze_backbone(swap)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        model.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    heads = {"2.weight", "2.bias"}
    assert {name for name, value in model.named_parameters() if value.requires_grad} == heads
    frozen.unfreeze()
    assert {name: value.requires_grad for name, value in model.named_parameters()} == before
    frozen.refreeze()
    assert {name for name, value in model.named_parameters() if value.requires_grad} == heads
