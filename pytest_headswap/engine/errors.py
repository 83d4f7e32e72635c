"""Exceptions of the engine. Each has a reason code, and a message that tells the user what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_headswap._links import page

ZOO_REFUSED = "zoo_refused"
"""Reason code of models that the zoo excludes from testing."""

# Reason codes are public API: reports, expectations files and users' `except` clauses rely on them.
# Never rename a code.
REASONS: dict[str, str] = {
    # NoHeadError: the model has no classification head, and no slot for one
    "no_tensor_output": "no output of the model is a floating-point tensor with a class dimension",
    "output_from_input": "every dimension of the outputs comes from the inputs, not from a layer",
    ZOO_REFUSED: "the zoo declares that the model has no classes or cannot be built here",
    "output_is_backbone": "other layers consume the width of the outputs: the outputs are features",
    "no_layer_sets_output": "no projection layer sets the width of the outputs",
    "declared_headless": "the model declares that it has no classes, and has no Identity where a head could go",
    # HeadSwapError: there is a head, but the engine cannot swap it
    "ambiguous": "several heads have different class counts, and nothing selects one of them",
    "count_disagrees": "the model declares a class count that no head has",
    "unknown_head": "the requested head is not among the heads that were found",
    "concatenated": "the class dimension is concatenated from several layers",
    "composite": "the class count cannot be separated from other factors of the layer's width",
    "unsupported_layer": "the layer that sets the class dimension cannot be resized",
    "decoded_output": "the model returns results selected from its logits, not the logits themselves",
    "verification_failed": "after the swap, an output did not have the new class count",
    "not_freezable": "the backbone changes, draws random numbers or combines samples even in eval mode",
    "no_features": "no single tensor with a row for each sample flows into a head",
    "activation_in_forward": "the activation after the head is not a separate module and cannot be dropped",
    "shared_activation": "the module of the activation after the head also runs elsewhere",
    "opaque_output": "the output contains an object that cannot be searched for tensors",
    # HeadSwapError: the arguments or the model are invalid
    "bad_argument": "an argument of swap_head is invalid",
    "bad_num_classes": "num_classes is not a positive whole number",
    "bad_inputs": "the example inputs are invalid",
    "no_inputs": "no example inputs were given, and the engine could not infer any",
    "unsupported_model": "the model cannot be modified, for example because it is a script module",
    "not_a_module": "the model is not a torch.nn.Module",
    "forward_failed": "the model's forward raised an exception",
    "leaked_tensor": "the model's forward stores a tensor where the engine cannot remove it",
}
"""Meaning of each reason code. The errors page of the documentation explains each in detail."""


class HeadSwapError(Exception):
    """The head was not swapped. The model is unchanged.

    Attributes:
        reason: a code from `REASONS`.
        message: the code in brackets, the tensors or layers concerned, and the next step. `str(error)` adds a link to
            the documentation of the code.
        rejected: one sentence for each layer that was considered and rejected.
    """

    def __init__(self, reason: str, message: str, rejected: Sequence[str] = ()) -> None:
        if reason not in REASONS:
            raise ValueError(f"unknown reason code {reason!r}")
        self.message = f"[{reason}] {message}"
        super().__init__(self.message)
        self.reason = reason
        self.rejected = tuple(rejected)

    def __str__(self) -> str:
        return f"{self.message}\nSee {page('errors', self.reason)}"

    def __reduce__(self) -> tuple[object, ...]:
        # The default would pass only the formatted text to __init__.
        return _rebuild, (type(self), self.reason, self.message, self.rejected)


class NoHeadError(HeadSwapError):
    """The model has no classification head, and no slot for one."""


class HeadSwapWarning(UserWarning):
    """The swap succeeded, but something about the model needs attention before training."""


def _rebuild(kind: type[HeadSwapError], reason: str, text: str, rejected: tuple[str, ...]) -> HeadSwapError:
    return kind(reason, text.removeprefix(f"[{reason}] "), rejected)
