"""Small configurations of transformers: fewer layers, experts and words, and everything else as it is."""

from __future__ import annotations

from typing import Any

import transformers

NUM_LABELS = 5
LAYERS = 2
WORDS = 1000
INNER = 128
EXPERTS = 16

_LAYER_COUNTS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"),
    *("num_encoder_layers", "num_decoder_layers", "num_hidden_groups"),
)
_INNER_WIDTHS = (
    *("intermediate_size", "moe_intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "d_inner"),
    *("n_inner", "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "dim_feedforward"),
)
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_PER_LAYER = ("layer_types", "layers_block_type", "mlp_layer_types", "no_rope_layers", "attn_layers", "block_types")


def small_config(model_type: str, model_class: Any) -> Any:
    """The configuration of `model_type`, cut down; of the kind that the class wants."""
    config = transformers.AutoConfig.for_model(model_type)
    wanted = model_class.config_class
    if wanted is not None and not isinstance(config, wanted):
        config = wanted()
    _shrink(config, model_type)
    config.num_labels = NUM_LABELS
    return config


def _shrink(config: Any, model_type: str) -> None:
    layers = _one_layer_of_each_kind(config)
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


def _one_layer_of_each_kind(config: Any) -> int:
    """Cut lists with one entry a layer down to the first of each kind; returns how many layers that makes."""
    layers = LAYERS
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
        return min(value, INNER)
    if key in _EXPERT_COUNTS:
        return min(value, EXPERTS)
    if key == "vocab_size":
        return min(value, WORDS)
    if key.endswith(("_token_id", "_token_index")):
        return min(value, WORDS - 1)
    return value


def _fill_in(config: Any) -> None:
    """Values that a configuration leaves to the checkpoint that it comes with."""
    state = vars(config)
    heads = state.get("num_attention_heads")
    if state.get("head_dim", 0) is None and heads and state.get("hidden_size"):
        config.head_dim = config.hidden_size // heads
    if state.get("num_key_value_heads", 0) is None:
        config.num_key_value_heads = heads
    if state.get("num_experts_per_tok", 0) is None:
        config.num_experts_per_tok = 2
    if state.get("pad_token_id", 0) is None:
        config.pad_token_id = 0  # sequence classification refuses batches without it


_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

# Fields with values of their own, by model type, for the few architectures that the rules above break.
SPECIAL: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    # as in the library's own image models: the channels of the position encodings are not divisible by 8
    "perceiver": {"num_cross_attention_heads": 1, "num_self_attends_per_block": LAYERS, "pad_token_id": 0},
    "reformer": {"axial_pos_shape": (4, 4)},  # it is trained on sequences of their product alone, here 16
    "t5": {"decoder_start_token_id": 0},
    "xmod": {"default_language": "en_XX"},
    # its hybrid layers share weights with the first of them, so there have to be two
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zamba2": {"hybrid_layer_ids": [1]},
}
