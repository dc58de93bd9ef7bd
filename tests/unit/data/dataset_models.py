"""A model that each data set can train."""

from __future__ import annotations

from msgspec.structs import replace

from parsim.model.families.encoder_decoder import EncoderDecoderSpec
from parsim.model.families.mlp import MlpSpec
from parsim.model.families.vision_language import VisionLanguageSpec
from parsim.model.families.vit import VitSpec
from parsim.model.transformer import TransformerSpec

_GPT = TransformerSpec(
    name="toy gpt",
    num_layers=1,
    hidden_size=8,
    ffn_hidden_size=16,
    num_heads=2,
    num_kv_heads=2,
    head_dim=4,
    vocab_size=128,
    max_positions=16,
)
_ENCODER = replace(_GPT, name="toy encoder", vocab_size=96, tied_embedding=False, causal=False, head="text", num_labels=4)
MODELS = {
    "digit-images": VitSpec.of(
        **{"name": "toy vit", "num_layers": 1, "hidden_size": 8, "num_heads": 2, "num_patches": 16, "patch_size": 2, "num_channels": 1},
        num_labels=10,
    ),
    "digit-words": VisionLanguageSpec.of(
        **{"name": "toy reader", "num_layers": 2, "vision_layers": 1, "hidden_size": 8, "num_heads": 2, "vocab_size": 17},
        **{"max_positions": 22, "vision_hidden_size": 8, "vision_heads": 2, "num_patches": 16, "patch_size": 2, "num_channels": 1},
    ),
    "digits": MlpSpec(name="toy mlp", num_layers=1, num_features=64, hidden_size=16, ffn_hidden_size=16, num_labels=10),
    "praise": replace(_ENCODER, num_labels=2),
    "pydoc-sections": replace(_ENCODER, num_token_types=2),
    "pydoc-topics": _GPT,
    "translation": EncoderDecoderSpec.of(name="toy", num_layers=2, hidden_size=8, num_heads=2, vocab_size=64, max_positions=16),
    "roles": replace(_ENCODER, head="token", num_token_types=2, num_labels=6, max_positions=24),
}
