"""Build the inputs of transformers models from their configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 2
TOKENS = 16
TOKEN_ID = 7
AUDIO_SAMPLES = 16000
FRAMES = 128


def make_inputs(task: str, model: Any) -> dict[str, Tensor]:
    """Return keyword inputs for a model of the given task."""
    special = SPECIAL.get(type(model).__name__) or SPECIAL.get(model.config.model_type)
    if special is not None:
        return special(model)
    make = {"image": _pixels, "video": _clip, "audio": _audio}.get(task, _tokens)
    return make(model)


def _field(config: Any, *names: str, default: Any = None) -> Any:
    for owner in (config, getattr(config, "vision_config", None), getattr(config, "encoder_config", None)):
        for name in names:
            value = getattr(owner, name, None)
            if value is not None:
                return value
    return default


def _pixels(model: Any) -> dict[str, Tensor]:
    """Return images (2, channels, size, size)."""
    size = _field(model.config, "image_size", default=224)
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    return {
        "pixel_values": torch.zeros(
            BATCH, _field(model.config, "num_channels", "in_channels", default=3), height, width
        )
    }


def _clip(model: Any) -> dict[str, Tensor]:
    """Return clips (2, frames, channels, size, size)."""
    frames = _field(model.config, "num_frames", "frames_per_clip", default=8)
    size = _field(model.config, "image_size", "crop_size", default=224)
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    clip = torch.zeros(BATCH, frames, _field(model.config, "num_channels", "in_chans", default=3), height, width)
    return {_main(model): clip}


def _audio(model: Any) -> dict[str, Tensor]:
    """Return waveforms (2, samples), or spectrograms in the layout of the model."""
    fields = vars(model.config)
    bins = fields.get("num_mel_bins")
    if bins is None and _main(model) == "input_features":  # (2, frames, features)
        return {"input_features": torch.zeros(BATCH, FRAMES, fields["feature_projection_input_dim"])}
    if bins is None:
        return {"input_values": torch.zeros(BATCH, AUDIO_SAMPLES)}
    if "max_source_positions" in fields:  # Whisper: (2, mel bins, frames), two frames per position
        return {"input_features": torch.zeros(BATCH, bins, 2 * fields["max_source_positions"])}
    return {"input_values": torch.zeros(BATCH, fields["max_length"], bins)}


def _tokens(model: Any) -> dict[str, Tensor]:
    """Return token ids (2, 16) without padding, ending in the end-of-text token, and boxes for layout models."""
    text_config = getattr(model.config, "get_text_config", lambda: model.config)  # absent in transformers 4.44
    fields = vars(text_config())
    ids = torch.full((BATCH, TOKENS), TOKEN_ID if fields.get("pad_token_id") != TOKEN_ID else TOKEN_ID + 1)
    end = fields.get("eos_token_id")
    if isinstance(end, int) and end != TOKEN_ID:
        ids[:, -1] = end  # encoder-decoder models read their classes from this token
    inputs = {"input_ids": ids}
    takes = inspect.signature(model.forward).parameters
    if "attention_mask" in takes:
        inputs["attention_mask"] = torch.ones(BATCH, TOKENS, dtype=torch.long)
    if "bbox" in takes:
        inputs["bbox"] = torch.zeros(BATCH, TOKENS, 4, dtype=torch.long)
    return inputs


def _main(model: nn.Module) -> str:
    return str(getattr(model, "main_input_name", "input_ids"))


def _perceiver_image(_: Any) -> dict[str, Tensor]:
    return {"inputs": torch.zeros(BATCH, 3, 224, 224)}


def _perceiver_learned(model: Any) -> dict[str, Tensor]:
    """Return images of the only size for which the model has learned positions."""
    return {"inputs": torch.zeros(BATCH, 3, model.config.image_size, model.config.image_size)}


def _perceiver_text(model: Any) -> dict[str, Tensor]:
    positions = model.config.max_position_embeddings
    return {"inputs": torch.full((BATCH, positions), TOKEN_ID), "attention_mask": torch.ones(BATCH, positions)}


def _image_tokens(_: Any) -> dict[str, Tensor]:
    """Return color clusters, which ImageGPT reads as tokens."""
    return {"input_ids": torch.full((BATCH, TOKENS), TOKEN_ID)}


def _patches(model: Any) -> dict[str, Tensor]:
    """Return images cut into patches, as Siglip2 reads them: (2, patches, 3 * size * size)."""
    config = model.config.vision_config
    side = int(config.num_patches**0.5)
    return {
        "pixel_values": torch.zeros(BATCH, side * side, config.num_channels * config.patch_size**2),
        "pixel_attention_mask": torch.ones(BATCH, side * side, dtype=torch.long),
        "spatial_shapes": torch.full((BATCH, 2), side),
    }


# Special inputs, by class or model type.
SPECIAL: dict[str, Callable[[Any], dict[str, Tensor]]] = {
    "PerceiverForSequenceClassification": _perceiver_text,
    "PerceiverForImageClassificationLearned": _perceiver_learned,
    "perceiver": _perceiver_image,
    "imagegpt": _image_tokens,
    "Siglip2ForImageClassification": _patches,
}
