"""Small configurations of transformers, with fewer layers, experts, words and attention heads."""

from __future__ import annotations

from typing import Any

import transformers

NUM_LABELS = 5
MAX_LAYERS = 2
VOCAB_SIZE = 1000
INTERMEDIATE_SIZE = 128
MIN_HIDDEN_SIZE = 512
MAX_EXPERTS = 16

_LAYER_COUNTS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"),
    *("num_encoder_layers", "num_decoder_layers", "num_hidden_groups", "num_spatial_layers", "num_temporal_layers"),
)
_INNER_WIDTHS = (
    *("intermediate_size", "moe_intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "d_inner"),
    *("n_inner", "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "dim_feedforward"),
)
_WIDTHS = ("hidden_size", "n_embd", "emb_dim", "d_model")
_HEAD_COUNTS = (
    *("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"),
    *("linear_num_value_heads", "linear_num_key_heads", "n_mamba_heads"),
)
_KEY_VALUE_HEAD_COUNTS = ("num_key_value_heads", "num_kv_heads")
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_PER_LAYER = ("layer_types", "layers_block_type", "mlp_layer_types", "no_rope_layers", "attn_layers", "block_types")


def small_config(model_type: str, model_class: Any) -> Any:
    """Return a reduced configuration of `model_type`, of the type that the class expects."""
    config = transformers.AutoConfig.for_model(model_type)
    config_class = model_class.config_class
    if config_class is not None and not isinstance(config, config_class):
        config = config_class()
    _shrink(config, model_type)
    config.num_labels = NUM_LABELS
    return config


def _shrink(config: Any, model_type: str) -> None:
    layers = _one_layer_of_each_kind(config)
    _narrow(config)
    for key, value in list(vars(config).items()):
        if isinstance(value, transformers.PretrainedConfig):
            _shrink(value, model_type)
        elif isinstance(value, int) and not isinstance(value, bool):
            smaller = _smaller(key, value, layers)
            if smaller != value:
                setattr(config, key, smaller)
    for key, value in SPECIAL.get(getattr(config, "model_type", model_type), {}).items():
        setattr(config, key, value)
    _fill_in(config)


def _narrow(config: Any) -> None:
    """Halve width and number of heads together while the width stays at least 512; the size of a head is unchanged."""
    fields = vars(config)
    heads = [fields[key] for key in _HEAD_COUNTS if isinstance(fields.get(key), int)]
    width = next((fields[key] for key in _WIDTHS if key in fields), None)
    if not isinstance(width, int) or not heads:
        return
    parts = 1
    while (
        width % (2 * parts) == 0 and width // (2 * parts) >= MIN_HIDDEN_SIZE and not any(n % (2 * parts) for n in heads)
    ):
        parts *= 2
    for key, value in list(fields.items()):
        if not isinstance(value, int):
            continue
        if key in _HEAD_COUNTS:
            setattr(config, key, value // parts)
        elif key in _KEY_VALUE_HEAD_COUNTS:
            setattr(config, key, max(1, value // parts))
        elif value and value % width == 0 and key.endswith((*_WIDTHS, "_size", "_dim")):
            setattr(config, key, value // parts)


def _one_layer_of_each_kind(config: Any) -> int:
    """Cut lists with one entry per layer to the first of each kind; return the resulting number of layers."""
    layers = MAX_LAYERS
    lists = {key: vars(config).get(key) for key in _PER_LAYER}
    kinds = {key: list(dict.fromkeys(value)) for key, value in lists.items() if isinstance(value, (list, tuple))}
    if kinds:
        layers = max(layers, *map(len, kinds.values()))
    for key, values in kinds.items():
        setattr(config, key, (values + values[-1:] * layers)[:layers])
    return layers


def _smaller(key: str, value: int, layers: int) -> int:
    if key in _LAYER_COUNTS:
        return min(value, layers)
    if key in _INNER_WIDTHS:
        return min(value, INTERMEDIATE_SIZE)
    if key in _EXPERT_COUNTS:
        return min(value, MAX_EXPERTS)
    if key.endswith("vocab_size"):
        return min(value, VOCAB_SIZE)
    if key.endswith(("_token_id", "_token_index")):
        return min(value, VOCAB_SIZE - 1)
    return value


def _fill_in(config: Any) -> None:
    """Fill in values that a configuration leaves to its checkpoint."""
    state = vars(config)
    heads = state.get("num_attention_heads")
    if state.get("head_dim", 0) is None and heads and state.get("hidden_size"):
        config.head_dim = config.hidden_size // heads
    if state.get("num_key_value_heads", 0) is None:
        config.num_key_value_heads = heads
    if state.get("num_experts_per_tok", 0) is None:
        config.num_experts_per_tok = 2
    if state.get("pad_token_id", 0) is None:
        config.pad_token_id = 0  # sequence classification rejects batches without it


_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

# Field values by model type, for the few architectures that the rules above break.
SPECIAL: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}},
    # the smallest of its family: the default is the largest, with 55 blocks
    "efficientnet": {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "image_size": 224},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "falcon": {"hidden_size": MIN_HIDDEN_SIZE, "num_attention_heads": 8},  # the default of 71 heads cannot be halved
    # without its CUDA kernels, it runs on the CPU in every version
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    # as in the library's own image models: the position encoding's channels are not divisible by 8
    "perceiver": {"num_cross_attention_heads": 1, "num_self_attends_per_block": MAX_LAYERS, "pad_token_id": 0},
    "reformer": {"axial_pos_shape": (4, 4)},  # in training, the sequence length must be their product, here 16
    "t5": {"decoder_start_token_id": 0},
    "textnet": {"image_size": 224},
    "timesformer": {"num_frames": 4},
    "videomae": {"num_frames": 4},
    "videoprism_vision_model": {"num_frames": 4},
    "vivit": {"num_frames": 4},
    "vjepa2": {"frames_per_clip": 4, "crop_size": 64},
    "xmod": {"default_language": "en_XX"},
    # the hybrid layers share the weights of the first one, so two are needed
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zamba2": {"hybrid_layer_ids": [1]},
}
