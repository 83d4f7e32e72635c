"""The arguments of `swap_head` other than the class count."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, find_heads, swap_head
from pytest_headswap.engine.abstract.infer_inputs import infer_inputs
from pytest_headswap.zoo import load_zoo

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def perceptron(count: int = 5) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, count))


# --- new_head ---------------------------------------------------------------------------------


def test_a_factory_makes_the_new_head() -> None:
    model = perceptron().half()
    swap = swap_head(model, 3, X.half(), new_head=lambda width, n: nn.Sequential(nn.Dropout(0.2), nn.Linear(width, n)))
    assert model(X.half()).shape == (4, 3)
    assert isinstance(model[2], nn.Sequential)
    assert {value.dtype for value in swap.parameters()} == {torch.float16}
    assert [name for name, _ in swap.named_parameters()] == ["2.1.weight", "2.1.bias"]


@pytest.mark.parametrize("training", [False, True])
def test_a_new_head_gets_the_mode_of_the_old_one(training: bool) -> None:
    model, new = perceptron().train(training), nn.Sequential(nn.Dropout(), nn.Linear(16, 3)).train(not training)
    swap_head(model, 3, X, new_head=new)
    assert [module.training for module in new.modules()] == [training] * 3


def test_a_module_becomes_the_new_head_and_restore_removes_it() -> None:
    model = perceptron()
    old, new = model[2], nn.Linear(16, 3, bias=False)
    swap = swap_head(model, 3, X, new_head=new)
    assert model[2] is new
    swap.restore()
    assert model[2] is old


def test_a_new_head_is_registered_under_every_name_of_the_old_one() -> None:
    model: Any = load_zoo("builtin")["alias"].build()
    swap_head(model, 3, torch.randn(2, 24), new_head=nn.Linear)
    assert model.fc is model.classifier
    assert model.fc.out_features == 3


def test_a_new_head_of_the_wrong_width_is_undone() -> None:
    model = perceptron()
    old = model[2]
    with pytest.raises(HeadSwapError) as caught:
        swap_head(model, 3, X, new_head=nn.Linear(16, 4))
    assert caught.value.reason == "verification_failed"
    assert model[2] is old


def test_layers_after_a_new_head_are_resized() -> None:
    model: Any = load_zoo("builtin")["batch_norm_behind"].build()
    swap_head(model, 3, torch.randn(4, 24), new_head=nn.Linear)
    assert model[3].running_mean.shape == (3,)
    assert model(torch.randn(4, 24)).shape == (4, 3)


def test_several_heads_need_a_factory_not_a_module() -> None:
    model: Any = load_zoo("builtin")["distilled"].build()
    images = torch.randn(2, 3, 32, 32)
    with pytest.raises(HeadSwapError, match="pass a function of"):
        swap_head(model, 3, images, new_head=nn.Linear(24, 3))
    swap_head(model, 3, images, new_head=nn.Linear)
    assert model.head is not model.head_dist


def test_a_raw_parameter_cannot_be_replaced_by_a_module() -> None:
    model = load_zoo("builtin")["raw_parameter"].build()
    with pytest.raises(HeadSwapError, match="no module can replace it") as caught:
        swap_head(model, 3, torch.randn(2, 24), new_head=nn.Linear)
    assert caught.value.reason == "unsupported_layer"


def test_new_head_fills_the_slot_of_a_headless_model() -> None:
    model: Any = load_zoo("builtin")["headless"].build()
    swap_head(model, 3, torch.randn(2, 3, 32, 32), new_head=lambda width, n: nn.Linear(width, n, bias=False))
    assert model.fc.bias is None
    assert model.num_classes == 3


# --- init, class_map --------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["default", "zeros", "prior"])
@pytest.mark.parametrize("name", ["seed_simple_cnn", "batch_norm_behind", "cosine", "conv_head", "class_scale"])
def test_every_init_is_finite_for_every_kind_of_layer(name: str, init: str) -> None:
    spec = load_zoo("builtin")[name]
    model = spec.build()
    assert spec.example_inputs is not None
    swap = swap_head(model, 3, spec.example_inputs(model), init=init)
    assert all(torch.isfinite(value).all() for value in swap.state_dict().values())


def test_default_equals_the_initialisation_of_a_new_layer() -> None:
    model = perceptron()
    torch.manual_seed(7)
    swap_head(model, 300, X)
    bound = 1 / math.sqrt(16)
    assert 0.9 * bound < model[2].weight.abs().max() <= bound
    torch.manual_seed(7)
    assert torch.equal(model[2].weight, nn.Linear(16, 300).weight)


def test_zeros_gives_equal_probabilities() -> None:
    model = perceptron()
    swap_head(model, 4, X, init="zeros")
    assert torch.equal(model(X).softmax(-1), torch.full((4, 4), 0.25))


def test_prior_gives_every_class_a_probability_of_one_percent() -> None:
    model = perceptron()
    swap_head(model, 4, X, init="prior")
    assert torch.allclose(model[2].bias.sigmoid(), torch.full((4,), 0.01))


def test_a_function_can_fill_the_new_tensors() -> None:
    model = perceptron()
    names: list[str] = []

    def fill(name: str, tensor: Tensor) -> None:
        names.append(name)
        tensor.fill_(2.0)

    swap_head(model, 3, X, init=fill)
    assert sorted(names) == ["2.bias", "2.weight"]
    assert (model[2].weight == 2).all()


@pytest.mark.parametrize("init", ["default", "prior"])
def test_the_same_seed_gives_the_same_head(init: str) -> None:
    heads = []
    for _ in range(2):
        model = perceptron()
        torch.manual_seed(5)
        swap_head(model, 3, X, init=init)
        heads.append(model[2].weight)
    assert torch.equal(*heads)


def test_class_map_copies_old_classes_by_index() -> None:
    model = perceptron()
    old = model(X).detach()
    swap_head(model, 3, X, class_map={0: 4, 2: 1})
    assert torch.allclose(model(X)[:, [0, 2]], old[:, [4, 1]])


def test_class_map_copies_old_classes_by_position_and_name() -> None:
    model = perceptron()
    model.config = SimpleNamespace(id2label=dict(enumerate(["ant", "bee", "cat", "dog", "eel"])))
    old = model(X).detach()
    swap_head(model, 3, X, class_map=["dog", None, 0], class_names=["dog", "fox", "ant"])
    assert torch.allclose(model(X)[:, [0, 2]], old[:, [3, 0]])
    assert model.config.id2label == {0: "dog", 1: "fox", 2: "ant"}


@pytest.mark.parametrize(
    ("class_map", "text"),
    [
        ({0: 9}, "9 is not a valid old class index: there are 5 classes, from 0 to 4"),
        ({7: 0}, "7 is not a valid new class index: there are 3"),
        ({0: -1}, "-1 is not a valid old class"),
        ({0: True}, "True is not a valid old class"),
        ({0: "bee"}, "stores no class names"),
        ([0, 1, 2, 3], "4 entries for 3 new classes"),
        ("bee", "must be a mapping"),
        (3, "must be a mapping"),
    ],
)
def test_an_invalid_class_map_is_refused(class_map: Any, text: str) -> None:
    model = perceptron()
    with pytest.raises(HeadSwapError, match=text) as caught:
        swap_head(model, 3, X, class_map=class_map)
    assert caught.value.reason == "bad_argument"
    assert model[2].out_features == 5


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"init": "normal"},
            r"default, zeros, prior or a function of \(name, tensor\), not 'normal'",
        ),
        ({"init": "xavier"}, r"pass init=lambda name, tensor: torch.nn.init.normal_\(tensor, std=0.01\)"),
        ({"new_head": 3}, "new_head must be a module or a function"),
        ({"new_head": lambda width, n: "x"}, "new_head returned str"),
        ({"activation": "remove"}, "activation must be 'keep' or 'drop'"),
        ({"class_names": ["a"]}, "class_names must contain 3 names"),
        ({"class_names": "abc"}, "class_names must contain 3 names"),
    ],
)
def test_errors_for_invalid_arguments_say_what_to_pass(options: dict[str, Any], text: str) -> None:
    model = perceptron()
    with pytest.raises(HeadSwapError, match=text) as caught:
        swap_head(model, 3, X, **options)
    assert caught.value.reason == "bad_argument"
    assert model[2].out_features == 5


# --- features only, activation, state ----------------------------------------------------------


@pytest.mark.parametrize("name", ["seed_simple_cnn", "conv_head", "batch_norm_behind", "residual", "train_only_aux"])
def test_zero_classes_returns_features_and_a_head_can_be_added_again(name: str) -> None:
    spec = load_zoo("builtin")[name]
    model = spec.build()
    assert spec.example_inputs is not None
    inputs = spec.example_inputs(model)
    (first, *_) = find_heads(model, inputs)
    before = {key: value.shape for key, value in model.state_dict().items()}
    swap = swap_head(model, 0, inputs)
    assert (swap.heads, list(swap.parameters())) == ((), [])
    assert model.eval()(inputs).shape == (len(inputs), first.in_features)
    if name in ("seed_simple_cnn", "conv_head", "residual"):
        again = swap_head(model, 6, inputs)
        assert model(inputs).shape == (len(inputs), 6)
        again.restore()
    swap.restore()
    assert {key: value.shape for key, value in model.state_dict().items()} == before


def test_a_raw_parameter_cannot_be_removed() -> None:
    with pytest.raises(HeadSwapError, match="no module can replace it"):
        swap_head(load_zoo("builtin")["raw_parameter"].build(), 0, torch.randn(2, 24))


@pytest.mark.parametrize("name", ["softmax_tail", "log_softmax_tail", "sigmoid_tail"])
def test_an_activation_that_is_a_module_can_be_dropped(name: str) -> None:
    model: Any = load_zoo("builtin")[name].build()
    inputs = torch.randn(2, 24)
    swap = swap_head(model, 4, inputs, activation="drop", init="prior")
    assert swap.heads[0].activation is None
    assert swap.old_heads[0].activation is not None
    assert torch.equal(model(inputs), model[0](inputs))
    swap.restore()
    assert not isinstance(model[1], nn.Identity)


def test_an_activation_in_forward_cannot_be_dropped() -> None:
    class Probabilities(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x).softmax(-1)  # type: ignore[no-any-return]

    model = Probabilities()
    with pytest.raises(HeadSwapError, match="softmax is applied in a forward method") as caught:
        swap_head(model, 3, X, activation="drop")
    assert caught.value.reason == "activation_in_forward"
    assert model.fc.out_features == 5
    assert swap_head(model, 3, X).heads[0].activation == "softmax"


def test_only_the_head_can_be_saved_and_loaded_into_a_fresh_model() -> None:
    images = torch.randn(2, 3, 32, 32)
    first: Any = load_zoo("builtin")["headless"].build()
    saved = {name: value.clone() for name, value in swap_head(first, 3, images).state_dict().items()}
    second: Any = load_zoo("builtin")["headless"].build()
    swap = swap_head(second, 3, images)
    swap.load_state_dict(saved)
    assert torch.equal(first.fc.weight, second.fc.weight)
    assert set(saved) == {"fc.weight", "fc.bias"}


def test_the_state_of_a_head_includes_its_statistics() -> None:
    model = load_zoo("builtin")["batch_norm_behind"].build()
    assert {"3.running_mean", "3.running_var"} < swap_head(model, 3, torch.randn(4, 24)).state_dict().keys()


def test_a_state_that_does_not_match_is_refused_and_changes_nothing() -> None:
    model = perceptron()
    swap = swap_head(model, 3, X, init="zeros")
    with pytest.raises(HeadSwapError, match=r"missing \['2.bias'\], unknown \['x'\], wrong shapes: 2.weight"):
        swap.load_state_dict({"2.weight": torch.ones(4, 16), "x": torch.ones(1)})
    assert not model[2].weight.any()


# --- bookkeeping --------------------------------------------------------------------------------


def test_counts_and_label_names_of_configurations_are_updated() -> None:
    model = perceptron()
    model.config = SimpleNamespace(
        num_labels=5, id2label={i: f"L{i}" for i in range(5)}, label2id={f"L{i}": i for i in range(5)}, hidden_size=5
    )
    model[0].num_classes = 5
    swap = swap_head(model, 3, X)
    assert model.config.num_labels == model[0].num_classes == 3
    assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert model.config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    assert model.config.hidden_size == 5
    swap.restore()
    assert (model.config.num_labels, model.config.id2label[4], model[0].num_classes) == (5, "L4", 5)


def test_a_loss_that_reads_the_count_from_the_model_works_after_the_swap() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_labels = 5
            self.fc = nn.Linear(8, 5)

        def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.fc(x)
            return nn.functional.cross_entropy(logits.view(-1, self.num_labels), labels), logits

    model = WithLoss()
    labels = torch.zeros(4, dtype=torch.long)
    swap_head(model, 3, (X, labels))
    loss, logits = model(X, labels)
    assert logits.shape == (4, 3)
    assert torch.isfinite(loss)


# --- inferred inputs ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in load_zoo("builtin").names if n != "encoder_without_head"])
def test_inputs_are_inferred_for_every_model_of_the_builtin_zoo(name: str) -> None:
    spec = load_zoo("builtin")[name]
    model = spec.build()
    assert spec.example_inputs is not None
    wanted = [head.path for head in find_heads(model, spec.example_inputs(model))]
    assert [head.path for head in find_heads(model)] == wanted


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 6)
        self.fc = nn.Linear(6, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.fc(self.embed(input_ids).mean(1))  # type: ignore[no-any-return]


def test_inputs_are_inferred_for_tokens_audio_video_and_tables() -> None:
    assert infer_inputs(Tokens()).tensors()[0].dtype == torch.long
    audio = nn.Sequential(nn.Conv1d(1, 4, 80, 16), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 5))
    assert infer_inputs(audio).tensors()[0].shape == (2, 1, 1024)
    video = nn.Sequential(nn.Conv3d(3, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 5))
    assert infer_inputs(video).tensors()[0].dim() == 5
    assert infer_inputs(perceptron()).tensors()[0].shape == (2, 8)


def test_inputs_that_the_model_declares_are_tried_first() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    model.default_cfg = {"input_size": (3, 50, 60)}  # type: ignore[assignment]
    assert infer_inputs(model).tensors()[0].shape == (2, 3, 50, 60)


def test_inferring_inputs_draws_no_random_numbers() -> None:
    model = perceptron()
    state = torch.get_rng_state()
    infer_inputs(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_error_for_a_model_with_two_inputs_asks_for_example_inputs() -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    with pytest.raises(HeadSwapError, match="pass example_inputs") as caught:
        swap_head(Two(), 3)
    assert caught.value.reason == "no_inputs"


@pytest.mark.parametrize("new_head", [nn.Linear, nn.Linear(16, 3)], ids=["a class", "a module"])
def test_a_function_can_fill_a_head_that_is_passed_in(new_head: Any) -> None:
    model = perceptron()
    names: list[str] = []

    def fill(name: str, tensor: Tensor) -> None:
        names.append(name)
        tensor.fill_(2.0)

    swap_head(model, 3, X, new_head=new_head, init=fill)
    assert sorted(names) == ["2.bias", "2.weight"]
    assert all((value == 2).all() for value in model[2].parameters())
    assert all(value.requires_grad for value in model[2].parameters())
