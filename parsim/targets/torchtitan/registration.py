"""A flavour that torchtitan does not have, as its own flavours are made: a function of a configuration, under its name in the registry.

Source: pytorch/torchtitan, release 0.3.0 and commit b5bcd76c, torchtitan/models/llama3/__init__.py (_8b, llama3_configs, model_registry).
"""

from __future__ import annotations

from typing import Final

from parsim.model.transformer import TransformerSpec
from parsim.targets.target import Setup
from parsim.targets.torchtitan.dialect import Dialect
from parsim.targets.torchtitan.flavours import flavour_of

_BUILT: Final = "_build_llama3_layers, _EMBEDDING_INIT, _EMBEDDING_SKIP_INIT, _NORM_INIT, _output_linear_init, Llama3Model, llama3_configs"


def registers(setup: Setup, dialect: Dialect) -> bool:
    """Whether a function can register the model: a dense one in the form of Llama 3, whose heads make up its width."""
    model = setup.model
    if dialect.toml or flavour_of(model, toml=False) or not isinstance(model, TransformerSpec) or model.num_experts:
        return False
    return model.num_heads * model.head_dim == model.hidden_size


def registration(setup: Setup, dialect: Dialect) -> str:
    """The lines that do it, behind imports of a module."""
    model = setup.model
    assert isinstance(model, TransformerSpec)
    longest = "max_context_length" if dialect.tokens else "max_seq_len"
    embedding = "_EMBEDDING_SKIP_INIT" if model.tied_embedding else "_EMBEDDING_INIT"
    return f"""from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
from torchtitan.models.llama3 import {_BUILT}


def flavour(attn_backend: str, tp_gemm_backend: str = "default") -> Llama3Model.Config:
    dim, vocab_size = {model.hidden_size}, {model.vocab_size}
    return Llama3Model.Config(
        dim=dim,
        vocab_size=vocab_size,
        enable_weight_tying={model.tied_embedding},
        tok_embeddings=Embedding.Config(num_embeddings=vocab_size, embedding_dim=dim, param_init={embedding}),
        norm=RMSNorm.Config(normalized_shape=dim, param_init=_NORM_INIT),
        lm_head=Linear.Config(in_features=dim, out_features=vocab_size, param_init=_output_linear_init(dim)),
        layers=_build_llama3_layers(
            n_layers={model.num_layers},
            dim=dim,
            n_heads={model.num_heads},
            n_kv_heads={model.num_kv_heads},
            hidden_dim={model.ffn_hidden_size},
            rope=ComplexRoPE.Config(dim={model.head_dim}, {longest}={model.max_positions}, theta=500000, scaling="llama"),
            attn_backend=attn_backend,
            tp_gemm_backend=tp_gemm_backend,
        ),
    )


llama3_configs[{model.name!r}] = flavour
"""
