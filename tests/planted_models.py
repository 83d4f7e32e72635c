"""Small models with one fault each, that only some use of the model shows, and small sound ones that look faulty."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

WIDTH = 16


class Planted(nn.Module):
    """A linear backbone and head. Subclasses change what lies between them."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.backbone = nn.Linear(8, WIDTH)
        self.fc = nn.Linear(WIDTH, num_classes)
        self.set_up()

    def set_up(self) -> None:
        """Create what the subclass needs."""

    def between(self, features: torch.Tensor) -> torch.Tensor:
        """Return the features that the head reads."""
        return features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.fc(self.between(self.backbone(x).relu()))  # type: ignore[no-any-return]


# --- trainable tensors that the model does not register


class ModuleInList(Planted):
    def set_up(self) -> None:
        self.blocks = [nn.Linear(WIDTH, WIDTH)]

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return self.blocks[0](features)  # type: ignore[no-any-return]


class ModuleInListForTraining(ModuleInList):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return super().between(features) if self.training else features


class ModuleInObject(Planted):
    def set_up(self) -> None:
        self.parts = SimpleNamespace(adapter=nn.Linear(WIDTH, WIDTH))

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return self.parts.adapter(features)  # type: ignore[no-any-return]


class TensorInObject(Planted):
    def set_up(self) -> None:
        self.parts = SimpleNamespace(scale={"main": torch.ones(WIDTH, requires_grad=True)})

    def between(self, features: torch.Tensor) -> torch.Tensor:
        scale: torch.Tensor = self.parts.scale["main"]
        return features * scale


class TensorInClosure(Planted):
    def set_up(self) -> None:
        scale = torch.ones(WIDTH, requires_grad=True)
        self.rescale: Callable[[torch.Tensor], torch.Tensor] = lambda features: features * scale

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return self.rescale(features)


GLOBAL_LAYER = nn.Linear(WIDTH, WIDTH)
GLOBAL_SCALE = torch.ones(WIDTH, requires_grad=True)


class ModuleInGlobal(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return GLOBAL_LAYER(features)  # type: ignore[no-any-return]


class TensorInGlobal(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features * GLOBAL_SCALE


class TensorCreatedInForward(Planted):
    """Sound: each forward pass creates another tensor, which is no part of the model."""

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features * torch.ones(WIDTH, device=features.device, requires_grad=True)


# --- devices


class LeavesTheDevice(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features.cpu() if features.is_cuda else features


class AddsFromTheCpu(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features + torch.ones(WIDTH) if features.device.type == "cuda" else features


class HasNoKernel(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        if str(self.fc.weight.device).startswith("cuda"):
            raise RuntimeError("no kernel")
        return features


class AddsFromTheCpuIfCudaIsAvailable(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features + torch.ones(WIDTH) if torch.cuda.is_available() else features


class CannotBeMoved(Planted):
    def to(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("cannot be moved")


class MovesNothing(Planted):
    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        for parameter in self.parameters() if recurse else ():
            fn(parameter)
        return self


class LeavesABufferBehind(Planted):
    def set_up(self) -> None:
        self.register_buffer("offset", torch.ones(WIDTH))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        offset = self._buffers.pop("offset")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._buffers["offset"] = offset
        return self


class FetchesABuffer(LeavesABufferBehind):
    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        nn.Module._apply(self, fn, recurse)  # type: ignore[no-untyped-call]
        self._buffers["offset"] = self.get_buffer("offset").cpu()
        return self


class MovesALooseTensor(Planted):
    """Sound: `_apply` moves a tensor that is neither a parameter nor a buffer, also one in an object."""

    def set_up(self) -> None:
        self.loose = torch.ones(WIDTH)
        self.parts = SimpleNamespace(loose=torch.ones(WIDTH))

    def between(self, features: torch.Tensor) -> torch.Tensor:
        loose: torch.Tensor = self.parts.loose
        return features + self.loose + loose

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.loose = fn(self.loose)
        self.parts.loose = fn(self.parts.loose)
        return self


class AsksForCuda(Planted):
    """Sound: it creates a tensor on CUDA if there is a CUDA device, which the model is then on."""

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features + torch.ones(WIDTH, device="cuda" if torch.cuda.is_available() else "cpu")


class ImportsAKernel(Planted):
    """Sound: on CUDA it uses a package that this machine lacks."""

    def between(self, features: torch.Tensor) -> torch.Tensor:
        if features.is_cuda:
            import kernels_of_no_package  # type: ignore[import-not-found]

            return kernels_of_no_package.run(features)  # type: ignore[no-any-return]
        return features


# --- faults that only a later forward pass shows


class Late(Planted):
    """Counts its forward passes, and does something else from the third on."""

    first = 3

    def set_up(self) -> None:
        self.calls = 0

    def is_late(self) -> bool:
        """Count a forward pass."""
        self.calls += 1
        return self.calls >= self.first


class LateMixing(Late):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features - features.mean(0) if self.is_late() else features


class SecondMixing(LateMixing):
    first = 2


class LateMixingBesideAScale(LateMixing):
    """The head reads the features and a constant, which does not change."""

    def set_up(self) -> None:
        super().set_up()
        self.fc = _ScaledLinear(WIDTH, self.fc.out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.between(self.backbone(x).relu()), torch.full((1,), 0.5, device=x.device))  # type: ignore[no-any-return]


class _ScaledLinear(nn.Linear):
    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x) * scale


class LateMixingByList(LateMixing):
    def set_up(self) -> None:
        self.seen: list[int] = []

    def is_late(self) -> bool:
        self.seen.append(1)
        return len(self.seen) >= self.first


class LateMixingByObject(LateMixing):
    def set_up(self) -> None:
        self.parts = SimpleNamespace(calls=0)

    def is_late(self) -> bool:
        self.parts.calls += 1
        return bool(self.parts.calls >= self.first)


class LateMixingByTensor(LateMixing):
    def set_up(self) -> None:
        self.counter = torch.zeros(())

    def is_late(self) -> bool:
        if self.counter.is_meta:
            return False
        self.counter.add_(1)
        return bool(self.counter >= self.first)


class LateMixingByClosure(LateMixing):
    def set_up(self) -> None:
        calls = 0

        def count() -> bool:
            nonlocal calls
            calls += 1
            return calls >= self.first

        self.is_late = count  # type: ignore[method-assign]


class LateMixingByClass(LateMixing):
    total = 0

    def is_late(self) -> bool:
        type(self).total += 1
        return type(self).total % self.first == 0


class LateChance(Late):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(features) if self.is_late() else features


class LateNaN(Late):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features / 0 if self.is_late() else features


class LateError(Late):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        if self.is_late():
            raise RuntimeError("out of luck")
        return features


class LateWrite(Late):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        if self.is_late():
            self.backbone.weight.data.mul_(0.5)
        return features


class LateUnfreeze(Late):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        if self.is_late():
            self.backbone.weight.requires_grad_()
            return features + self.backbone.weight.sum()
        return features


class LateWidth(Late):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        return nn.functional.pad(logits, (0, 3)) if self.is_late() else logits


class LateDetach(Late):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        return logits.detach() if self.is_late() else logits


class CountsOnly(Late):
    """Sound: it counts its forward passes, and keeps the last features, but does not read either."""

    def between(self, features: torch.Tensor) -> torch.Tensor:
        self.is_late()
        self.last = features.detach()
        return features


# --- sound models with unusual inputs


class NormalisesInPlace(Planted):
    """Sound: it writes to its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.sub_(0.5).div_(0.25))


class MasksInPlace(Planted):
    """Sound: it writes to a part of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x[:, 0] = 0
        x += 1
        return super().forward(x)


class ActivatesInPlace(Planted):
    """Sound: its first layer writes to its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.leaky_relu(x, inplace=True).mul_(2))


class GraphOfNodes(Planted):
    """Sound: each row of the input is a node, and a second input lists the edges."""

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        nodes = self.backbone(x).relu()
        return self.fc(nodes.index_add(0, edges[1], nodes[edges[0]]))  # type: ignore[no-any-return]


class Backwards(Planted):
    """Faulty: the backward pass changes a weight or a buffer of the backbone."""

    def set_up(self) -> None:
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("average", torch.zeros(WIDTH))

    def count(self, *_: Any) -> None:
        self.get_buffer("steps").add_(1)


class BackwardHookOfModel(Backwards):
    def set_up(self) -> None:
        super().set_up()
        self.register_full_backward_hook(lambda *_: self.count())


class BackwardPreHookOfHead(Backwards):
    def set_up(self) -> None:
        super().set_up()
        self.fc.register_full_backward_pre_hook(lambda *_: self.count())


class HookOfLogits(Backwards):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        if logits.requires_grad:
            logits.register_hook(self.assign)  # type: ignore[no-untyped-call, unused-ignore]
        return logits

    def assign(self, gradient: torch.Tensor) -> None:
        self.average = self.get_buffer("average") + gradient.sum()


class HookOfWeight(Backwards):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.fc.weight * 1
        if weight.requires_grad:
            weight.register_hook(lambda _: self.count())  # type: ignore[no-untyped-call, unused-ignore]
        return nn.functional.linear(self.backbone(x).relu(), weight, self.fc.bias)


class _DecaysInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, model: Any) -> torch.Tensor:
        ctx.model = model
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        ctx.model.backbone.weight.data.mul_(0.9)
        return gradients[0], None


class FunctionThatWrites(Backwards):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _DecaysInBackward.apply(super().forward(x), self)  # type: ignore[no-any-return, no-untyped-call, unused-ignore]


class NormInBlock(Planted):
    """Sound: a norm inside a block."""

    def set_up(self) -> None:
        self.blocks = nn.Sequential(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)))

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return self.blocks(features)  # type: ignore[no-any-return]


class ResetsItsStatistics(Planted):
    """Faulty: `train` resets the count of batches."""

    def set_up(self) -> None:
        self.bn = nn.BatchNorm1d(WIDTH)

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return self.bn(features)  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Any:
        self.bn.get_buffer("num_batches_tracked").zero_()
        return super().train(mode)


class GraphOfGraphs(Planted):
    """Sound: the nodes of two graphs are the rows of the input, and the head reads one row for each graph."""

    def forward(self, x: torch.Tensor, edges: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        nodes = self.backbone(x).relu()
        target = edges[1, :, None].expand(-1, WIDTH)
        nodes = nodes + torch.zeros_like(nodes).scatter_add(0, target, nodes.index_select(0, edges[0]))
        return self.fc(nodes.new_zeros(2, WIDTH).index_add(0, graph, nodes))  # type: ignore[no-any-return]


class GraphWithMatrix(Planted):
    """Sound: an adjacency matrix decides which nodes meet."""

    def forward(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return self.fc(adjacency @ self.backbone(x).relu())  # type: ignore[no-any-return]


class LabelsForEachStep(Planted):
    """Sound: the sequence comes first, as `nn.LSTM` reads it by default."""

    def set_up(self) -> None:
        self.recurrent = nn.LSTM(WIDTH, WIDTH)

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return self.recurrent(features)[0]  # type: ignore[no-any-return]


class LabelsOfSteps(LabelsForEachStep):
    """Sound: the same with one label for each sequence."""

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return super().between(features)[-1]


class TokensFirst(Planted):
    """Sound: the tokens come first, as `nn.TransformerEncoderLayer` reads them by default."""

    def set_up(self) -> None:
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout=0.0)

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return self.layer(features).mean(0)  # type: ignore[no-any-return]


class ViewsOfSamples(Planted):
    """Sound: two views of each sample run as one batch, first all samples of one view."""

    def forward(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(torch.cat([x, other]))


class PartsOfSamples(Planted):
    """Sound: the parts of each sample run as one batch, first all parts of one sample."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(0, 1))


class AttendsToSamples(Planted):
    """Faulty: each sample attends to the others."""

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features + (features @ features.T).softmax(-1) @ features


# --- sound heads whose tensors are not those of one layer


class LayerForEachClass(Planted):
    """Sound: a list with one layer for each class, so the new list is shorter."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        del self.fc
        self.layers = nn.ModuleList(nn.Linear(WIDTH, 1) for _ in range(num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.backbone(x).relu()
        return torch.cat([layer(features) for layer in self.layers], 1)


class OrthogonalHead(Planted):
    """Sound: the weight is relative to a base that `orthogonal` keeps in a buffer."""

    def set_up(self) -> None:
        nn.utils.parametrizations.orthogonal(self.fc)


class ScriptedBody(Planted):
    """Sound: part of the backbone is a script module, with batch norm and dropout."""

    def set_up(self) -> None:
        self.scripted = torch.jit.script(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout()))

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return self.scripted(features)  # type: ignore[no-any-return]


class HeadWithTwoNames(Planted):
    """Sound: the head is registered twice."""

    def set_up(self) -> None:
        self.classifier = self.fc


class HeadInAnotherContainer(Planted):
    """Sound: the head is also registered in a container beside the backbone."""

    def set_up(self) -> None:
        self.tasks = nn.ModuleDict({"first": self.fc})


class TracedBody(Planted):
    """Sound: part of the backbone is a traced module."""

    def set_up(self) -> None:
        body = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
        self.traced = torch.jit.trace(body, torch.zeros(2, WIDTH))  # type: ignore[no-untyped-call]

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return self.traced(features)  # type: ignore[no-any-return]


class _Standardized(nn.Module):
    """A parametrization that keeps the mean of the weight, and in a module of its own the deviation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, width))
        self.deviation: Any = nn.Module()
        self.deviation.register_buffer("value", torch.ones(1, width))

    def forward(self, stored: torch.Tensor) -> torch.Tensor:
        return stored * self.deviation.value + self.mean  # type: ignore[no-any-return]

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        self.mean, self.deviation.value = weight.mean(0, keepdim=True), weight.std(0, keepdim=True)
        return (weight - self.mean) / self.deviation.value  # type: ignore[no-any-return]


class StandardizedHead(Planted):
    """Sound: setting the weight of the head sets buffers of its parametrization, also in a module inside."""

    def set_up(self) -> None:
        nn.utils.parametrize.register_parametrization(self.fc, "weight", _Standardized(WIDTH))


class ComplexNumbers(Planted):
    """Sound: backbone and head compute with complex numbers."""

    def set_up(self) -> None:
        self.to(torch.complex64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.backbone(x.to(torch.complex64)).tanh()).abs()  # type: ignore[no-any-return]


class HouseholderHead(Planted):
    """Sound: the weight is computed from reflections."""

    def set_up(self) -> None:
        nn.utils.parametrizations.orthogonal(self.fc, use_trivialization=False)


# --- sound models that copy, save and load in their own way


class ForgetsItsMode(nn.Module):
    """A layer without parameters, whose copies are made from its arguments only."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.times = times

    def __getstate__(self) -> dict[str, Any]:
        return {"times": self.times}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__init__()
        self.times = state["times"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input, scaled."""
        return x * self.times


class HasForgetfulLayer(Planted):
    """Sound: a layer forgets its mode when it is copied."""

    def set_up(self) -> None:
        self.layer = ForgetsItsMode(2)

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return self.layer(features)  # type: ignore[no-any-return]


class LoadingDropsABuffer(Planted):
    """Sound: a buffer of earlier versions is saved, and ignored when it is loaded."""

    def set_up(self) -> None:
        self.register_buffer("positions", torch.arange(4))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        state.pop(f"{prefix}positions", None)
        super()._load_from_state_dict(state, prefix, *args)


class SavingAddsAnEntry(Planted):
    """Sound: it saves a checksum, which loading does not know."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = super().state_dict(*args, **kwargs)
        state["checksum"] = self.backbone.weight.sum()
        return state


class SavingClones(Planted):
    """Sound: it saves clones of its tensors."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = super().state_dict(*args, **kwargs)
        state.update({key: value.clone() for key, value in state.items()})
        return state


class HasItsWeightTwice(Planted):
    """Sound: the weight of the head is registered on the model too, and first."""

    def set_up(self) -> None:
        head: Any = self._modules.pop("fc")
        self.first = head.weight
        self.fc = head


class SharesItsWeight(Planted):
    """Sound: the weight of the head belongs to a layer that does not run as well, and to a list."""

    def set_up(self) -> None:
        head: Any = self._modules.pop("fc")
        self.unused = nn.Linear(WIDTH, head.out_features, bias=False)
        self.fc = head
        self.fc.weight = self.unused.weight
        self.kept = nn.ParameterList(head.parameters())


class ComputesItsLoss(Planted):
    """Sound: with labels, it returns the loss before the logits."""

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> Any:  # type: ignore[override]
        logits = super().forward(x)
        return nn.functional.cross_entropy(logits, labels), logits


class MapsItsHead(Planted):
    """Sound: the head is called on one sample at a time, by `torch.vmap`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.vmap(self.fc)(self.backbone(x).relu())  # type: ignore[no-any-return]


class TakesThePiecesOfABatch(Planted):
    """Sound: it computes one logit after the other for pieces of the batch, the first one alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pieces = (x[:1], *torch.split(x[1:], 2))
        return torch.cat([super(TakesThePiecesOfABatch, self).forward(piece) for piece in pieces if len(piece)])


class CountsItself(Planted):
    """Sound: numbers that merely differ between two models, by chance in the ratio of their classes or a multiple."""

    made = 0

    def set_up(self) -> None:
        type(self).made += 5
        self.number = type(self).made
        self.parameter_count = sum(value.numel() for value in self.parameters())
        self.megabytes = self.parameter_count * 4 / 2**20
        self.seeds = [type(self).made + 1, type(self).made + 10]


class LoadsOnlyWhole(SavingAddsAnEntry):
    """Faulty: it accepts its checksum only together with a head."""

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state, prefix, *args)
        if f"{prefix}fc.weight" in state:
            state.pop(f"{prefix}checksum", None)
            args[3][:] = [key for key in args[3] if key != f"{prefix}checksum"]


class CopiesAreTrainable(Planted):
    """Faulty: a copy is trainable, whatever the original is."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.requires_grad_()


class ImportsAKernelAndMixes(ImportsAKernel):
    """Faulty: after a kernel that this machine lacks, it adds a tensor on the CPU."""

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return super().between(features) + torch.ones(WIDTH)
