"""Functions that change a backbone, or make its features depend on chance or on the batch, and a model that calls one.

`Net(change, always=False)` calls the function only in train mode: a freeze must prevent that. With `always=True` a
freeze must raise an error.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 16
GENERATOR = np.random.default_rng(0)


class Average:
    """A moving average that is no module."""

    def __init__(self) -> None:
        self.value = torch.zeros(WIDTH)

    def add(self, features: Tensor) -> Tensor:
        self.value = self.value * 0.9 + features.detach().mean(0) * 0.1
        return self.value


class Net(nn.Module):
    """A linear layer, a function of the features, and a head."""

    average: Tensor
    steps: Tensor
    scale: Tensor

    def __init__(self, change: Callable[[Any, Tensor], Tensor], always: bool) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 10)
        self.register_buffer("average", torch.zeros(WIDTH))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("absent", None)
        self.gain = nn.Parameter(torch.ones(WIDTH))
        self.plain = torch.zeros(WIDTH)
        self.state: dict[str, Any] = {"average": torch.zeros(WIDTH), "list": [torch.zeros(WIDTH)]}
        self.tracker = Average()
        self.generator = np.random.default_rng(0)
        self.python = random.Random(0)
        self.change, self.always = change, always

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.body(x))
        if self.training or self.always:
            features = self.change(self, features)
        return self.fc(features * self.gain - self.average)  # type: ignore[no-any-return]


def _mask(numbers: Any) -> Tensor:
    return torch.as_tensor(numbers, dtype=torch.float32)


# --- random numbers


def normal(_: Any, f: Tensor) -> Tensor:
    return f + torch.normal(0.0, 1.0, f.shape)


def normal_of_tensor(_: Any, f: Tensor) -> Tensor:
    return torch.normal(f, 1.0)


def rrelu(_: Any, f: Tensor) -> Tensor:
    return functional.rrelu(f - 0.5, training=True)


def gamma(_: Any, f: Tensor) -> Tensor:
    return f * torch._standard_gamma(f + 1)


def dirichlet(_: Any, f: Tensor) -> Tensor:
    return f + torch.distributions.Dirichlet(torch.ones(WIDTH)).sample()


def cauchy(_: Any, f: Tensor) -> Tensor:
    return f + torch.empty_like(f).cauchy_()


def geometric(_: Any, f: Tensor) -> Tensor:
    return f + torch.empty_like(f).geometric_(0.5)


def log_normal(_: Any, f: Tensor) -> Tensor:
    return f + torch.empty_like(f).log_normal_()


def binomial(_: Any, f: Tensor) -> Tensor:
    return f * torch.binomial(torch.full_like(f, 4), torch.full_like(f, 0.5))


def random_integers(_: Any, f: Tensor) -> Tensor:
    return f + torch.empty_like(f).random_(0, 3)


def alpha_dropout(_: Any, f: Tensor) -> Tensor:
    return functional.alpha_dropout(f, 0.5, training=True)


def gumbel(_: Any, f: Tensor) -> Tensor:
    return functional.gumbel_softmax(f)


def attention_dropout(_: Any, f: Tensor) -> Tensor:
    q = f.unsqueeze(1).view(-1, 1, 4, 4)
    return f + functional.scaled_dot_product_attention(q, q, q, dropout_p=0.5).flatten(1)


def own_generator(_: Any, f: Tensor) -> Tensor:
    return f + torch.rand(f.shape, generator=torch.Generator().manual_seed(random.randrange(9)))


def permuted_features(_: Any, f: Tensor) -> Tensor:
    return f[:, torch.randperm(WIDTH)]


def numpy_global(_: Any, f: Tensor) -> Tensor:
    return f * _mask(np.random.rand(*f.shape))


def numpy_held(model: Any, f: Tensor) -> Any:
    return f * _mask(model.generator.random(f.shape))


def numpy_of_python_module(_: Any, f: Tensor) -> Tensor:
    return f * _mask(GENERATOR.random(f.shape))


def python_global(_: Any, f: Tensor) -> Tensor:
    return f * random.random()


def python_held(model: Any, f: Tensor) -> Any:
    return f * model.python.random()


def python_branch(_: Any, f: Tensor) -> Tensor:
    return f * 2 if random.random() < 0.5 else f


# --- writes


def assign_buffer(model: Any, f: Tensor) -> Any:
    model.average = model.average * 0.9 + f.detach().mean(0) * 0.1
    return f


def assign_counter(model: Any, f: Tensor) -> Any:
    model.steps = model.steps + 1
    return f


def assign_in_registry(model: Any, f: Tensor) -> Any:
    model._buffers["average"] = model.average + 1
    return f


def assign_with_setattr(model: Any, f: Tensor) -> Any:
    setattr(model, "average", torch.ones(WIDTH) + f[0].detach() * 0)  # noqa: B010 - another way to assign
    return f


def register_again(model: Any, f: Tensor) -> Any:
    model.register_buffer("average", model.average + f.detach().amax(0))
    return f


def fill_absent(model: Any, f: Tensor) -> Any:
    model.absent = f.detach()[0] if model.absent is None else model.absent
    return f + model.absent


def assign_parameter(model: Any, f: Tensor) -> Any:
    model.gain = nn.Parameter(model.gain.detach() * 1.1)
    return f


def delete_buffer(model: Any, f: Tensor) -> Any:
    steps = model.steps
    del model.steps
    model.register_buffer("steps", steps + 1)
    return f


def data_in_place(model: Any, f: Tensor) -> Any:
    model.body.weight.data.mul_(0.9)
    return f


def data_assigned(model: Any, f: Tensor) -> Any:
    model.body.weight.data = model.body.weight.data * 0.9
    return f


def set_data(model: Any, f: Tensor) -> Any:
    model.average.set_(model.average + 1)
    return f


def through_a_view(model: Any, f: Tensor) -> Any:
    model.average[2:5].add_(1)
    return f


def through_numpy_like_copy(model: Any, f: Tensor) -> Any:
    with torch.no_grad():
        model.body.weight.view(-1)[:8].copy_(torch.zeros(8))
    return f


def foreach(model: Any, f: Tensor) -> Any:
    torch._foreach_mul_([model.average, model.gain.data], 0.9)
    return f


def out_argument(model: Any, f: Tensor) -> Any:
    torch.mean(f.detach(), 0, out=model.average)
    return f


def plain_in_place(model: Any, f: Tensor) -> Any:
    model.plain.mul_(0.9).add_(f.detach().mean(0))
    return f - model.plain


def plain_assigned(model: Any, f: Tensor) -> Any:
    before, model.plain = model.plain, f.detach().mean(0)
    return f - before


def in_a_dictionary(model: Any, f: Tensor) -> Any:
    model.state["average"].add_(f.detach().mean(0))
    return f - model.state["average"]


def in_a_dictionary_assigned(model: Any, f: Tensor) -> Any:
    before = model.state["average"]
    model.state["average"] = before * 0.9 + f.detach().amax(0)
    return f - before


def in_a_nested_list(model: Any, f: Tensor) -> Any:
    model.state["list"].append(f.detach()[-1])
    return f - torch.stack(model.state["list"][:-1]).sum(0)


def in_an_object(model: Any, f: Tensor) -> Any:
    before = model.tracker.value
    model.tracker.add(f)
    return f - before


# --- the rest of the batch


def batch_mean(_: Any, f: Tensor) -> Tensor:
    return f - f.mean(0)


def batch_mean_kept(_: Any, f: Tensor) -> Tensor:
    return f - f.mean(dim=0, keepdim=True)


def batch_std(_: Any, f: Tensor) -> Tensor:
    return f / (f.std(0) + 1)


def batch_maximum(_: Any, f: Tensor) -> Tensor:
    return f / (f.abs().max() + 1)


def batch_softmax(_: Any, f: Tensor) -> Tensor:
    return f.softmax(0)


def shifted_norm_of_single_entries(_: Any, f: Tensor) -> Tensor:
    return f + nn.functional.layer_norm(f[..., None], (1,), bias=f.mean().view(1))[..., 0]


def batch_norm_of_length(_: Any, f: Tensor) -> Tensor:
    return functional.normalize(f, dim=0)


def cumulative(_: Any, f: Tensor) -> Tensor:
    return f + f.cumsum(0)


def cumulative_product(_: Any, f: Tensor) -> Tensor:
    return f + (f * 0.1 + 1).cumprod(0)


def backwards_cumulative(_: Any, f: Tensor) -> Tensor:
    return f + f.flip(0).cumsum(0).flip(0)


def rolled(_: Any, f: Tensor) -> Tensor:
    return f + f.roll(1, 0)


def flipped(_: Any, f: Tensor) -> Tensor:
    return f + f.flip(0)


def first_sample(_: Any, f: Tensor) -> Tensor:
    return f - f[0]


def last_sample(_: Any, f: Tensor) -> Tensor:
    return f - f[-1:]


def neighbours(_: Any, f: Tensor) -> Tensor:
    return torch.cat([f[:1], f[1:] - f[:-1]])


def transposed_mean(_: Any, f: Tensor) -> Tensor:
    return f - f.t().mean(1)


def reshaped_mean(_: Any, f: Tensor) -> Tensor:
    return f - f.reshape(-1, 4, 4).mean(0).flatten()


def batch_product(_: Any, f: Tensor) -> Tensor:
    return f + (f @ f.t()).softmax(-1) @ f


def sorted_batch(_: Any, f: Tensor) -> Tensor:
    return f + f.sort(0).values


def statistics_of_batch_norm(_: Any, f: Tensor) -> Tensor:
    return functional.batch_norm(f, None, None, training=True)


def mixup(_: Any, f: Tensor) -> Tensor:
    return f * 0.7 + f[torch.arange(f.shape[0] - 1, -1, -1)] * 0.3


def attention(_: Any, f: Tensor) -> Tensor:
    q = f[None]
    return f + functional.scaled_dot_product_attention(q, q, q)[0]


def other_samples(_: Any, f: Tensor) -> Tensor:
    """Subtract the samples of the batch that are alike, as a loss with negatives from the batch does."""
    scores = (f @ f.t()).masked_fill(torch.eye(len(f), dtype=torch.bool), -1e9)
    return f - scores.softmax(-1) @ f


def distances(_: Any, f: Tensor) -> Tensor:
    return f * torch.cdist(f, f).mean(1, keepdim=True)


def covariance(_: Any, f: Tensor) -> Tensor:
    return f @ (f.t() @ f)


def mean_as_a_product(_: Any, f: Tensor) -> Tensor:
    return f - torch.full((len(f), len(f)), 1 / len(f)) @ f


def pairs(_: Any, f: Tensor) -> Tensor:
    return f[torch.tensor([1, 0, 3, 2, 5, 4])]


def index_select(_: Any, f: Tensor) -> Tensor:
    return f + f.index_select(0, torch.arange(len(f)).flip(0))


def next_sample(_: Any, f: Tensor) -> Tensor:
    return f - f[(torch.arange(len(f), device=f.device) + 1) % len(f)]


def gathered(_: Any, f: Tensor) -> Tensor:
    return f + f.gather(0, torch.arange(len(f)).flip(0)[:, None].expand_as(f))


def written_elsewhere(_: Any, f: Tensor) -> Tensor:
    moved = torch.zeros_like(f)
    moved[torch.arange(len(f)).flip(0)] = f
    return f - moved


def sorted_by_sum(_: Any, f: Tensor) -> Tensor:
    return f[f.sum(1).argsort()]


def differences(_: Any, f: Tensor) -> Tensor:
    return f + functional.pad(f.diff(dim=0), (0, 0, 1, 0))


def differences_in_place(_: Any, f: Tensor) -> Tensor:
    changed = f.clone()
    changed[1:] -= f[:-1]
    return changed


def sample_by_sample(_: Any, f: Tensor) -> Tensor:
    return torch.stack([f[index] - f[index - 1] for index in range(len(f))])


def written_sample_by_sample(_: Any, f: Tensor) -> Tensor:
    moved = torch.zeros_like(f)
    for index in range(len(f)):
        moved[index] = f[index - 1]
    return moved


def halves(_: Any, f: Tensor) -> Tensor:
    first, second = f.chunk(2)
    return torch.cat([second, first])


def largest(_: Any, f: Tensor) -> Tensor:
    return f - f.topk(2, dim=0).values[1:]


def median(_: Any, f: Tensor) -> Tensor:
    return f - f.kthvalue(3, dim=0).values


def norm_over_the_batch(_: Any, f: Tensor) -> Tensor:
    return functional.layer_norm(f.t(), [len(f)]).t()


def convolution_over_the_batch(_: Any, f: Tensor) -> Tensor:
    return functional.conv1d(f.t()[:, None], torch.ones(1, 1, 3), padding=1)[:, 0].t()


def pooling_over_the_batch(_: Any, f: Tensor) -> Tensor:
    return f - functional.avg_pool1d(f.t(), 3, 1, 1).t()


def transform_over_the_batch(_: Any, f: Tensor) -> Tensor:
    return torch.real(torch.fft.fft(f, dim=0))


def rolled_elements(_: Any, f: Tensor) -> Tensor:
    return f.roll(3)


def folded_mean(_: Any, f: Tensor) -> Tensor:
    return f - f.view(-1, 4).mean(0).repeat(4)


def folded_index(_: Any, f: Tensor) -> Tensor:
    return f.view(-1, 4)[torch.arange(4 * len(f)).flip(0)].reshape(f.shape)


CHANGES: tuple[Callable[[Any, Tensor], Any], ...] = (
    *(normal, normal_of_tensor, rrelu, gamma, dirichlet, cauchy, geometric, log_normal, binomial, random_integers),
    *(alpha_dropout, gumbel, attention_dropout, own_generator, permuted_features, numpy_global, numpy_held),
    *(numpy_of_python_module, python_global, python_held, python_branch, assign_buffer, assign_counter),
    *(assign_in_registry, assign_with_setattr, register_again, fill_absent, assign_parameter, delete_buffer),
    *(data_in_place, data_assigned, set_data, through_a_view, through_numpy_like_copy, foreach, out_argument),
    *(plain_in_place, plain_assigned, in_a_dictionary, in_a_dictionary_assigned, in_a_nested_list, in_an_object),
    *(batch_mean, batch_mean_kept, batch_std, batch_maximum, batch_softmax, batch_norm_of_length, cumulative),
    *(cumulative_product, backwards_cumulative, rolled, flipped, first_sample, last_sample, neighbours),
    *(transposed_mean, reshaped_mean, batch_product, sorted_batch, statistics_of_batch_norm, mixup),
    *(attention, other_samples, distances, covariance, mean_as_a_product, pairs, index_select, next_sample, gathered),
    *(written_elsewhere, sorted_by_sum, differences, differences_in_place, sample_by_sample),
    *(written_sample_by_sample, halves, largest, median, norm_over_the_batch, convolution_over_the_batch),
    *(pooling_over_the_batch, transform_over_the_batch, rolled_elements, folded_mean, folded_index),
    shifted_norm_of_single_entries,
)
