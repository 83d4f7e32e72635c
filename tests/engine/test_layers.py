"""Many kinds of heads: reparametrised, shared, wrapped, a multiple of the class count wide, or unlike a Linear."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from pytest_headswap.engine import HeadSwapError, find_heads, swap_head


def with_head(head: nn.Module) -> Any:
    """Return a perceptron with 8 features, 16 hidden units and the given head."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), head)


def swapped(model: Any, inputs: Any, count: int = 3, **options: Any) -> Any:
    """Return the outputs after a swap in both modes. Assert finite values, also after a second forward."""
    swap = swap_head(model, count, inputs, **options)
    for training in (True, False, True):
        outputs = model.train(training)(inputs)
        assert outputs.shape[-1] == count
        assert torch.isfinite(outputs).all()
    assert all(torch.isfinite(value).all() for value in swap.parameters())
    return swap


X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def test_a_weight_normalised_head_stays_weight_normalised() -> None:
    model = with_head(parametrizations.weight_norm(nn.Linear(16, 5)))
    before = copy.deepcopy(model.state_dict())
    swap = swapped(model, X)
    assert swap.heads[0].path == "2"
    assert type(model[2]).__name__ == "ParametrizedLinear"
    assert model[2].out_features == 3
    shapes = {name: tuple(value.shape) for name, value in swap.state_dict().items()}
    assert shapes == {
        "2.bias": (3,),
        "2.parametrizations.weight.original0": (3, 1),
        "2.parametrizations.weight.original1": (3, 16),
    }
    swap.restore()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_older_weight_norm_is_kept() -> None:
    model = with_head(nn.utils.weight_norm(nn.Linear(16, 5)))
    swap = swapped(model, X)
    assert {"2.weight_g", "2.weight_v", "2.bias"} == set(swap.state_dict())
    assert model[2].weight.shape == (3, 16)


def test_a_spectrally_normalised_head_keeps_its_norm() -> None:
    model = with_head(parametrizations.spectral_norm(nn.Linear(16, 5)))
    swap = swapped(model, X)
    assert "2.parametrizations.weight.0._u" in swap.state_dict()
    for _ in range(50):
        model.train()(X)
    assert torch.linalg.matrix_norm(model[2].weight, 2).item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_older_spectral_norm_is_kept() -> None:
    model = with_head(nn.utils.spectral_norm(nn.Linear(16, 5)))
    assert "2.weight_u" in swapped(model, X).state_dict()


def test_a_bilinear_layer_is_a_head() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(8, 6)
            self.head = nn.Bilinear(6, 6, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            return self.head(x, x.relu())  # type: ignore[no-any-return]

    model = Pair()
    swap = swapped(model, X)
    assert (swap.heads[0].path, swap.heads[0].kind) == ("head", "bilinear")
    assert model.head.out_features == 3


def test_distances_to_prototypes_are_a_head() -> None:
    class Prototypes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(8, 6)
            self.centres = nn.Parameter(torch.randn(5, 6))

        def forward(self, x: Tensor) -> Tensor:
            return -torch.cdist(self.body(x), self.centres)

    swap = swap_head(Prototypes(), 3, X)
    assert (swap.heads[0].kind, swap.heads[0].tensors) == ("distance", ("centres",))
    assert swap.model(X).shape == (4, 3)


def test_a_custom_layer_without_reset_parameters_gets_finite_values() -> None:
    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(16, 5))
            self.offset = nn.Parameter(torch.full((5,), 0.25))
            self.gain = nn.Parameter(torch.full((5,), 2.0))
            self.shared = nn.Parameter(torch.tensor(3.0))
            self.out_features = 5

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.kernel * self.shared + self.offset) * self.gain

    model = with_head(Custom())
    kept = model[2].shared
    swapped(model, X)
    assert model[2].shared is kept
    assert model[2].gain.tolist() == [2.0] * 3
    assert model[2].offset.tolist() == [0.25] * 3
    assert 0 < model[2].kernel.abs().max() <= 16**-0.5
    assert model[2].out_features == 3


def test_einsum_and_scaled_heads_are_found() -> None:
    class Einsum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(5, 2, 8))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bgd,cgd->bc", x.unsqueeze(1).expand(-1, 2, -1), self.w)

    assert swapped(Einsum(), X).heads[0].tensors == ("w",)


def test_a_low_rank_adapter_is_swapped_with_its_head() -> None:
    class Adapted(nn.Module):
        """A layer wrapped as in PEFT: the base layer and two small matrices."""

        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base_layer = base
            self.lora_A = nn.Linear(base.in_features, 2, bias=False)
            self.lora_B = nn.Linear(2, base.out_features, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.base_layer(x) + self.lora_B(self.lora_A(x))  # type: ignore[no-any-return]

    model = with_head(Adapted(nn.Linear(16, 5)))
    swap = swapped(model, X)
    assert {head.path for head in swap.heads} == {"2.base_layer", "2.lora_B"}
    assert model[2].lora_A.weight.shape == (2, 16)


class TiedToEmbedding(nn.Module):
    """The head shares its weight with the embedding of the backbone."""

    def __init__(self, by_layer: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 6)
        self.mix = nn.Linear(6, 6)
        self.decoder = nn.Linear(6, 10)
        self.by_layer = by_layer
        self.decoder.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(self.embed(x)).mean(1)
        return self.decoder(x) if self.by_layer else functional.linear(x, self.embed.weight)


def test_a_head_tied_to_an_embedding_is_untied_and_the_evidence_says_so() -> None:
    model, tokens = TiedToEmbedding(by_layer=True), torch.randint(0, 10, (2, 4))
    embedding = model.embed.weight
    swap = swap_head(model, 3, tokens)
    assert model(tokens).shape == (2, 3)
    assert model.embed.weight is embedding
    assert embedding.shape == (10, 6)
    assert any("shared with embed.weight" in sentence for sentence in swap.heads[0].evidence)
    swap.restore()
    assert model.decoder.weight is model.embed.weight


def test_an_embedding_that_is_also_the_head_is_refused() -> None:
    with pytest.raises(HeadSwapError, match="give the head its own weight") as caught:
        swap_head(TiedToEmbedding(by_layer=False), 3, torch.randint(0, 10, (2, 4)))
    assert caught.value.reason == "unsupported_layer"


class Anchors(nn.Module):
    """A detection head: the convolution is anchors times classes wide, as in RetinaNet."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.num_classes = count
        self.conv = nn.Conv2d(3, 6 * count, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        batch, _, height, width = y.shape
        y = y.view(batch, 6, self.num_classes, height, width).permute(0, 3, 4, 1, 2)
        return y.reshape(batch, -1, self.num_classes)  # type: ignore[no-any-return]


def test_anchors_times_classes_are_resized_as_a_whole() -> None:
    model, images = Anchors(5), torch.randn(2, 3, 4, 4)
    old = model.conv.weight.detach().clone()
    swap = swap_head(model, 3, images, class_map={0: 4, 2: 1})
    assert model(images).shape == (2, 96, 3)
    assert model.conv.weight.shape == (18, 3, 3, 3)
    assert swap.heads[0].num_classes == 3
    new = model.conv.weight.view(6, 3, 3, 3, 3)
    assert torch.equal(new[:, 0], old.view(6, 5, 3, 3, 3)[:, 4])
    assert torch.equal(new[:, 2], old.view(6, 5, 3, 3, 3)[:, 1])


def test_a_width_that_the_model_reads_from_a_tuple_follows() -> None:
    class Hidden(Anchors):
        def __init__(self) -> None:
            super().__init__(5)
            self.classes_somewhere = (5,)

        def forward(self, x: Tensor) -> Tensor:
            self.num_classes = self.classes_somewhere[0]
            return super().forward(x)

    model = Hidden()
    swap = swap_head(model, 3, torch.randn(2, 3, 4, 4))
    assert model.classes_somewhere == (3,)
    assert model.conv.weight.shape == (18, 3, 3, 3)
    swap.restore()
    assert model.classes_somewhere == (5,)


def test_logits_flattened_together_with_another_dimension_are_refused() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.view(-1, 2, 4)).flatten(1)  # type: ignore[no-any-return]

    with pytest.raises(HeadSwapError) as caught:
        swap_head(Flat(), 3, X)
    assert caught.value.reason == "composite"


def test_paths_in_data_parallel_start_at_the_wrapper() -> None:
    inner = with_head(nn.Linear(16, 5))
    model = nn.DataParallel(inner)
    swap = swap_head(model, 3, X)
    assert swap.heads[0].path == "module.2"
    assert [name for name, _ in swap.named_parameters()] == ["module.2.weight", "module.2.bias"]
    assert model.get_submodule(swap.heads[0].path) is inner[2]
    assert inner(X).shape == (4, 3)
    assert find_heads(model, X)[0].tensors == ("module.2.weight", "module.2.bias")


def test_a_compiled_model_is_swapped_and_recompiles() -> None:
    torch._dynamo.reset()
    model: Any = torch.compile(with_head(nn.Linear(16, 5)), backend="eager")
    assert model(X).shape == (4, 5)
    swap = swap_head(model, 3, X)
    assert model(X).shape == (4, 3)
    swap.restore()
    assert model(X).shape == (4, 5)


def test_distributed_data_parallel_is_searched_but_not_swapped(tmp_path: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(with_head(nn.Linear(16, 5)))
        assert find_heads(model, X)[0].path == "module.2"
        with pytest.raises(HeadSwapError, match="wrap it again") as caught:
            swap_head(model, 3, X)
        assert caught.value.reason == "unsupported_model"
        assert swap_head(model.module, 3, X).heads[0].path == "2"
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_module_is_refused_with_the_next_step() -> None:
    model = torch.jit.script(with_head(nn.Linear(16, 5)))
    with pytest.raises(HeadSwapError, match="then script it") as caught:
        swap_head(model, 3, X)
    assert caught.value.reason == "unsupported_model"


def test_reentrant_checkpointing_of_the_head_warns_with_the_remedy() -> None:
    from torch.utils.checkpoint import checkpoint

    from pytest_headswap.engine import HeadSwapWarning

    class Checkpointed(nn.Module):
        def __init__(self, reentrant: bool) -> None:
            super().__init__()
            self.body = nn.Linear(8, 16)
            self.head = nn.Linear(16, 5)
            self.reentrant = reentrant

        def forward(self, x: Tensor) -> Tensor:
            run = lambda features: self.head(features.relu())  # noqa: E731
            return checkpoint(run, self.body(x), use_reentrant=self.reentrant)  # type: ignore[no-any-return]

    with pytest.warns(HeadSwapWarning, match=r"no gradient reaches head.weight.*use_reentrant=False"):
        swap = swap_head(Checkpointed(reentrant=True), 3, X)
    assert "use_reentrant=False" in swap.notes[0]
    assert swap_head(Checkpointed(reentrant=False), 3, X).notes == ()


def test_quantised_weights_are_refused_before_anything_changes() -> None:
    class Int8(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(5, 8, dtype=torch.int8), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.to(x.dtype).T

    model = Int8()
    with pytest.raises(HeadSwapError, match="before quantising"):
        swap_head(model, 3, X)
    assert model.weight.shape == (5, 8)


class Boxes(nn.Module):
    """Coordinates for each class, as in Faster R-CNN, with or without scores."""

    def __init__(self, scores: bool) -> None:
        super().__init__()
        self.scores = nn.Linear(8, 5) if scores else None
        self.boxes = nn.Linear(8, 5 * 4)

    def forward(self, x: Tensor) -> list[Tensor]:
        boxes = self.boxes(x)
        outputs = [boxes.reshape(len(x), -1, 4)]
        return [self.scores(x), *outputs] if self.scores is not None else outputs


def test_coordinates_times_classes_are_resized_with_the_scores() -> None:
    model = Boxes(scores=True)
    swap = swap_head(model, 3, X)
    scores, boxes = model(X)
    assert (scores.shape, boxes.shape) == ((4, 3), (4, 3, 4))
    assert model.boxes.weight.shape == (12, 8)
    assert {head.path for head in swap.heads} == {"scores", "boxes"}


def test_only_the_declared_count_separates_two_factors_of_one_width() -> None:
    model: Any = Boxes(scores=False)
    with pytest.raises(HeadSwapError, match=r"set model\.num_classes") as caught:
        swap_head(model, 3, X)
    assert caught.value.reason == "ambiguous"
    model.num_classes = 5
    swap_head(model, 3, X)
    assert model(X)[0].shape == (4, 3, 4)
