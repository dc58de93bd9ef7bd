"""Names of values that people ask for and that are not built, by what they name: each with what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MIXED: Final = "nodes of several kinds are cluster.nodes: [{node: NAME, count: 2}, {node: OTHER, count: 4}]"

_NOT_BUILT = "is not built"
# What has values by name -> a sentence -> the names of which it is said.
UNBUILT: Final[Mapping[str, Mapping[str, str]]] = {
    "dtype": {
        "is no precision that is built: fp8 is what the stack means by it, and others have names of their own": (
            "fp8* float8* e5m2* mxfp* fp4* fp6* int8* int4* nf4*"
        ),
        _NOT_BUILT: "fp64 float64 double",
    },
    "activation": {
        "is a gate that is not built: swiglu and geglu are": "reglu* glu bilinear",
        "without a gate is not built; with one it is swiglu": "silu swish",
        _NOT_BUILT: "tanh sigmoid mish elu leaky_relu quick_gelu laplace",
    },
    "positions": {
        "is of encoder-decoder models: add family: encoder_decoder": "sinusoidal",
        "are biases that the layers of a stack share, of encoder-decoder models: positions = relative of family: encoder_decoder": (
            "relative* t5* relative_bias"
        ),
        _NOT_BUILT: "none nope xpos fire mrope 2d*",
    },
    "norm": {_NOT_BUILT: "none group_norm dyt batch_norm deep_norm scale_norm"},
    "schedule": {_NOT_BUILT: ("zb2p interleaved_zero_bubble* pipedream* chimera hanayo")},
    "optimizer": {
        _NOT_BUILT: (
            "sgd lion* adafactor muon lamb lars *shampoo soap sophia* galore* paged_lion* paged_ademamix* came adagrad rmsprop adan prodigy"
        )
    },
    "stack": {
        "is no stack but a way to shard: give zero_stage = 3 of a plan, and a stack that runs it": "fsdp* zero*",
        "has no row: start one of your own from a row of what it runs on, stack: {base: NAME, name: mine, ...}": (
            "accelerate* colossal* neox* gpt_neox* axolotl* unsloth* llama_factory* litgpt* fairseq* alpa* trl*"
        ),
        "is no stack but a way to split: plans of data_parallel alone are that, with any stack": "ddp",
    },
    "model": {
        "is not built: sparse attention behind an indexer": (
            "deepseek_v3.2* deepseek_v32* deepseek_v4* deepseek3.2* deepseek32* deepseek4* glm_moe_dsa* glm5*"
        ),
        "is not built: state-space layers, or layers of linear attention": (
            "jamba* qwen3_next* qwen3.5* qwen3_5* qwen35* minimax* kimi_linear* bailing_hybrid* olmo_hybrid* recurrent_gemma* "
            "recurrentgemma*"
        ),
        "is not built: layers of convolution": "lfm2* lfm3*",
        "is not built: attention to differences of positions inside scores (disentangled)": "deberta*",
        "is not built: permuted sequences, and two streams of attention": "xlnet*",
        "is not read: its keys; write its figures as an inline model": "modernbert_decoder* xlm_roberta_xl*",
        "is not read: its keys; write its figures as an inline model, with kv_lora_rank": "minicpm3*",
        "is not read: its keys; write its figures as an inline model, with num_experts": (
            "deepseek_moe* dbrx* grok* hunyuan_v1_moe* hunyuan_a13b*"
        ),
        "has no row, but its config.json is read: model: hf:PATH, or hf:ORGANISATION/NAME of the Hub's cache": (
            "gemma gemma_1.1_* codegemma* gemma_3_270m* gemma4* phi3* phi4* qwen2_moe* qwen2_57b* qwen1.5_moe* mistral_nemo* "
            "mistral_small* glm4 glm4_9b* glm4_32b* roberta* xlm_roberta* camembert* distilbert* modernbert* olmo2* olmo3* flexolmo* "
            "glm4_moe glm4.7* glm4_moe_lite* youtu* granite_3* granitemoe exaone4* phimoe* apertus* seed_oss* internlm2* internlm3* "
            "ernie4.5* hunyuan_7b* vaultgemma* eurobert* mt5* t5_v1.1* t5_efficient* minimax_m2* llava_1.5*"
        ),
        "is not built: embeddings of each layer, and keys and values of other layers": "gemma3n* gemma4_e2b* gemma4_e4b* gemma4_small*",
        "is not built: blocks of attention that are left out": "phi3_small*",
        "is not built: an MLP beside attention whose norms are of another kind, or weights laid out otherwise": "codegen* palm*",
        "is not read: its keys; write its figures as an inline model, with positions = alibi": "baichuan_13b* baichuan2_13b*",
        "is not read: its keys; write its figures as an inline model, of the 13B with positions = alibi": "baichuan*",
        "is not built: biases by distance of each layer's own": "umt5*",
        "is not built: a norm behind the embedding of an encoder and a decoder": "bart* mbart*",
        "is not built: several images, or an image in several sizes, before a text; one is: family: vision_language, rows llava-1.5-7b and "
        "-13b, and config.json of model_type llava": (
            "llava* vipllava* video_llava* paligemma* internvl* idefics* smolvlm* aya_vision* qwen2_vl* qwen2.5_vl* qwen3_vl* deepseek_vl* "
            "glm4.5v* glm4.6v* kimi_vl* kimi_k2.5* kimi_k2_7* exaone4.5* nvidia_nemotron_nano_12b_v2_vl* step3.7*"
        ),
        "is not built: sounds, or images that a decoder attends to": (
            "whisper* clip* phi4_multimodal* mllama* qwen2_audio* qwen3_omni* nemotron_3_nano_omni* qwen3_asr*"
        ),
        "is not built: gates of attention's heads": "step3.5* step3p5* muse_glimmer*",
        "is not built: diffusion, of images or video": "flux* wan* stable_diffusion* sdxl* dit*",
        "is not read: its keys, and how it is to be laid out; write its figures as an inline model": "k_exaone* exaone_moe* envy*",
        "has no row, but its config.json is read: model: hf:PATH, or hf:ORGANISATION/NAME of the Hub's cache; rows begin with mamba2- or "
        "nemotron-": "mamba2* mamba_codestral* codestral_mamba* nemotron_h* nemotron_nano* bamba* granitemoehybrid* granite_4*",
        "is not built: state-space layers": "mamba* mamba_2.8b* rwkv* falcon_mamba* falcon3_mamba* falcon_h1* zamba*",
        "is not built: layers that share their weights": "albert*",
        "is not built: embeddings narrower than the model": "electra*",
        "is not built: norms without weights": "olmo olmo_1b* olmo_7b* nanochat*",
        "is not read: its keys, and positions or weights laid out otherwise; write its figures as an inline model": (
            "internlm internlm_7b* internlm_20b* chatglm* exaone exaone3*"
        ),
    },
}
