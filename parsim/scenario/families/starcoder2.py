"""StarCoder2: LayerNorm, a plain MLP and biases, with keys that heads share and a window in all layers.

Source: configuration_starcoder2.py and modeling_starcoder2.py of release 5.24.
"""

from __future__ import annotations

from parsim.scenario.families import ConfigFamily, register

register(
    ConfigFamily(
        windows=True,
        fixed={"norm": "layer_norm", "positions": "rotary"},
        flags={"bias": "use_bias", "qkv_bias": "use_bias"},
        activation=("hidden_act", "gelu_pytorch_tanh", ("gelu", "relu")),
        dropouts=("residual_dropout",),
        dropped={"scores_dropped": "attention_dropout", "embedding_dropped": "embedding_dropout"},
        tied=True,
        only={"mlp_type": "default", "norm_type": "layer_norm"},
        left_out={"num_key_value_heads": 2, "use_bias": True},
    ),
    "starcoder2",
)
