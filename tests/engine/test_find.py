"""The heads found are the layers that set the class dimension, whatever their names."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap import engine
from pytest_headswap.engine import HeadSwapError, NoHeadError, find_heads
from pytest_headswap.engine.dataflow.assembled import ALIASED_WRITE
from pytest_headswap.engine.dataflow.graph import ancestors
from pytest_headswap.engine.dataflow.recorder import record
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.zoo import load_zoo

# path, kind, in_features, role, activation of each head of each model of the builtin zoo
EXPECTED = {
    "alias": [("classifier", "linear", 16, "main", None)],
    "batch_norm_behind": [("2", "linear", 16, "main", None)],
    "bfloat16": [("2", "linear", 16, "main", None)],
    "class_scale": [("fc.2", "linear", 16, "main", None)],
    "conv1d_head": [("2", "conv1d", 8, "main", None)],
    "conv3d_head": [("2", "conv3d", 8, "main", None)],
    "conv_head": [("2", "conv2d", 24, "main", None)],
    "conv_relu_pool": [("1.1", "conv2d", 24, "main", None)],
    "cosine": [("", "linear", 16, "main", None)],
    "distilled": [("head", "linear", 24, "main", None), ("head_dist", "linear", 24, "distillation", None)],
    "frozen": [("1", "linear", 24, "main", None)],
    "gru_dict_output": [("fc", "linear", 16, "main", None)],
    "head_list": [("heads.0", "linear", 24, "main", None), ("heads.1", "linear", 12, "main", None)],
    "headless": [("fc", "identity", 24, "main", None)],
    "headless_conv": [("2", "identity", 24, "main", None)],
    "log_softmax_tail": [("0.2", "linear", 16, "main", "log_softmax")],
    "lstm": [("fc", "linear", 32, "main", None)],
    "misleading_names": [("stem", "linear", 16, "main", None)],
    "no_grad_backbone": [("head", "linear", 24, "main", None)],
    "one_class": [("2", "linear", 16, "main", None)],
    "raw_parameter": [("", "linear", 16, "main", None)],
    "residual": [("head", "linear", 24, "main", None)],
    "root_linear": [("", "linear", 24, "main", None)],
    "seed_nested": [("1.1.1.0", "linear", 32, "main", None)],
    "seed_simple_cnn": [("6", "linear", 128, "main", None)],
    "seed_two_heads": [("head1", "linear", 64, "main", None), ("head2", "linear", 64, "auxiliary", None)],
    "segmentation": [("classifier", "conv2d", 24, "main", None), ("aux_classifier", "conv2d", 24, "auxiliary", None)],
    "shared_scale": [("fc.2", "linear", 16, "main", None)],
    "sigmoid_tail": [("0.2", "linear", 16, "main", "sigmoid")],
    "softmax_tail": [("0.2", "linear", 16, "main", "softmax")],
    "summed_aux": [("head", "linear", 24, "main", None), ("aux_head", "linear", 24, "main", None)],
    "token_classifier": [("3", "linear", 24, "main", None)],
    "train_only_aux": [("fc", "linear", 24, "main", None), ("aux.2", "linear", 8, "auxiliary", None)],
    "transformer": [("head", "linear", 24, "main", None)],
}
WITHOUT_HEAD = {"encoder_without_head"}


def test_every_model_of_the_builtin_zoo_is_listed_here() -> None:
    assert set(load_zoo("builtin").names) == EXPECTED.keys() | WITHOUT_HEAD


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_exactly_the_expected_heads_are_found(name: str, device: str) -> None:
    spec = load_zoo("builtin")[name]
    assert spec.example_inputs is not None
    with torch.device(device):
        model = spec.build()
        inputs = spec.example_inputs(model)
    found = [(h.path, h.kind, h.in_features, h.role, h.activation) for h in find_heads(model, inputs)]
    assert found == EXPECTED[name]


def test_a_head_lists_its_outputs_and_tensors() -> None:
    spec = load_zoo("builtin")["batch_norm_behind"]
    (head,) = find_heads(spec.build(), torch.randn(2, 24))
    assert head.outputs == ("output",)
    assert head.class_dim == 1
    assert head.num_classes == 10
    assert set(head.tensors) == {"2.weight", "3.weight", "3.bias", "3.running_mean", "3.running_var"}
    assert "2.weight" in head.evidence[0]
    assert "one entry per class, after the projection" in head.evidence[-1]


def test_aliases_are_reported_in_addition_to_the_path() -> None:
    (head,) = find_heads(load_zoo("builtin")["alias"].build(), torch.randn(2, 24))
    assert head.aliases == ("fc",)


def test_the_layer_before_the_head_is_reported_as_rejected() -> None:
    heads = find_heads(load_zoo("builtin")["seed_simple_cnn"].build(), torch.randn(2, 3, 28, 28))
    assert [item.path for item in heads.rejected] == ["4"]
    assert "6.weight" in heads.rejected[0].reason


def test_a_feature_output_next_to_the_logits_is_not_a_head() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(8, 10)
            self.fc = nn.Linear(10, 10)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            features = self.body(x)
            return features, self.fc(features)

    heads = find_heads(Both(), torch.randn(2, 8))
    assert [head.path for head in heads] == ["fc"]
    assert heads.rejected[0].path == "body"
    assert "fc.weight consumes" in heads.rejected[0].reason


def test_a_head_written_into_a_slice_of_a_preallocated_tensor_is_found() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            out = x.new_zeros(x.shape[0], 3, self.fc.out_features)
            out[:, 1] = self.fc(x)
            return out

    assert [head.path for head in find_heads(InPlace(), torch.randn(2, 8))] == ["fc"]


def test_reshaped_and_permuted_logits_are_traced() -> None:
    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)  # (B, 6, H, W)
            return y.flatten(2).permute(2, 0, 1).transpose(0, 1).softmax(-1)  # type: ignore[no-any-return]

    (head,) = find_heads(Shuffled(), torch.randn(2, 3, 8, 9))
    assert (head.path, head.class_dim, head.activation) == ("conv", 2, "softmax")


def test_grouped_and_transposed_convolutions_are_heads() -> None:
    grouped = nn.Sequential(nn.Conv2d(4, 6, 1, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert find_heads(grouped, torch.randn(2, 4, 5, 5))[0].in_features == 4
    transposed = nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.ConvTranspose2d(6, 3, 2))
    assert find_heads(transposed, torch.randn(2, 4, 5, 5))[0].path == "2"


def test_similarity_to_another_input_is_not_a_head() -> None:
    class TwoTowers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.text = nn.Linear(8, 16), nn.Linear(6, 16)

        def forward(self, image: Tensor, text: Tensor) -> Tensor:
            return self.image(image) @ self.text(text).T  # type: ignore[no-any-return]

    with pytest.raises(NoHeadError) as caught:
        find_heads(TwoTowers(), (torch.randn(2, 8), torch.randn(5, 6)))
    assert caught.value.reason == "output_from_input"


def test_residual_features_are_refused_as_a_backbone() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block = nn.Linear(8, 16), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return x + self.block(x)  # type: ignore[no-any-return]

    with pytest.raises(NoHeadError) as caught:
        find_heads(Encoder(), torch.randn(2, 8))
    assert caught.value.reason == "output_is_backbone"
    assert any("stem" in sentence for sentence in caught.value.rejected)


def test_concatenated_heads_are_refused_with_a_reason() -> None:
    class TwoForEachLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleList([nn.Linear(8, 2) for _ in range(4)])

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([head(x) for head in self.heads], dim=1)

    with pytest.raises(HeadSwapError) as caught:
        find_heads(TwoForEachLayer(), torch.randn(2, 8))
    assert caught.value.reason == "concatenated"
    assert "heads.0.weight" in str(caught.value)


def test_a_model_that_returns_no_tensor_is_refused() -> None:
    class Text(nn.Module):
        def forward(self, x: Tensor) -> str:
            return "a label"

    with pytest.raises(NoHeadError) as caught:
        find_heads(Text(), torch.randn(2, 8))
    assert caught.value.reason == "no_tensor_output"


def test_the_last_projection_of_a_model_that_declares_no_classes_is_kept() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12))
    model.num_classes = 0  # type: ignore[assignment]
    with pytest.raises(NoHeadError) as caught:
        find_heads(model, torch.randn(2, 8))
    assert caught.value.reason == "declared_headless"


def test_a_note_says_that_train_mode_could_not_run() -> None:
    class EvalOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("targets are needed")
            return self.fc(x)  # type: ignore[no-any-return]

    heads = find_heads(EvalOnly(), torch.randn(2, 8))
    assert [head.path for head in heads] == ["fc"]
    assert "targets are needed" in heads.notes[0]


class WritesToParts(nn.Module):
    """Write logits to one part of a tensor and features to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(8, 16)
        self.fc = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.backbone(x)
        one, other = x.new_zeros(len(x), 32).chunk(2, 1)
        one += self.fc(features)
        other += features
        return one, other


def test_parts_of_one_tensor_do_not_depend_on_each_other() -> None:
    graph = record(WritesToParts(), Inputs((torch.zeros(2, 8),)))
    assert [node for node in graph.nodes if node.name == ALIASED_WRITE and len(node.outputs[0].shape) == 2] != []
    of_head, of_features = (
        {name for node in ancestors([value]) for item in node.inputs for name in item.names}
        for value in graph.outputs.values()
    )
    assert "fc.weight" in of_head
    assert "fc.weight" not in of_features


def test_the_engine_lists_every_name_that_it_exports() -> None:
    public = {name for name, value in vars(engine).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    assert public - {"annotations"} == set(engine.__all__)
