"""Compute a digest of the values of a tensor."""

from __future__ import annotations

import ctypes
import hashlib
from typing import Any

import torch


def digest(tensor: torch.Tensor) -> bytes:
    """Return a digest of the values, shape and dtype of a tensor of any kind, device and dtype, without a copy on CPU.

    Tensors on the meta device have no values.
    """
    found = hashlib.blake2b(f"{tuple(tensor.shape)} {tensor.dtype}".encode(), digest_size=32)
    if hasattr(tensor, "__tensor_flatten__"):
        any_tensor: Any = tensor
        for name in any_tensor.__tensor_flatten__()[0]:
            found.update(digest(getattr(tensor, name)))
    elif not tensor.is_meta and tensor.numel():
        values = tensor.detach().to_dense() if tensor.layout is not torch.strided else tensor.detach()
        values = values.resolve_conj().resolve_neg().cpu().contiguous()
        size = values.numel() * values.element_size()
        found.update((ctypes.c_char * size).from_address(values.data_ptr()))
    return found.digest()
