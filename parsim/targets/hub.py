"""Repositories of the hub: which row of the catalog has the figures of their models, and of which a part is not built.

Source: config.json of each, as the rows say.
"""

from __future__ import annotations

import re
from typing import Final

from parsim import catalog
from parsim.scenario.asked import lack_of
from parsim.scenario.huggingface import PREFIX
from parsim.targets.figures import spec_of

_QWEN3: Final = ("0.6B", "1.7B", "4B", "8B", "14B", "32B", "30B-A3B", "235B-A22B")
ROWS: Final = {
    **{f"meta-llama/Llama-2-{size}-hf": f"llama2-{size}" for size in ("7b", "13b", "70b")},
    **{f"meta-llama/Meta-Llama-{release}-{size}B": f"llama3-{size}b" for release in ("3", "3.1") for size in (8, 70)},
    **{"meta-llama/Meta-Llama-3.1-405B": "llama3.1-405b", "deepseek-ai/DeepSeek-V2": "deepseek-v2"},
    **{"deepseek-ai/DeepSeek-V2-Lite": "deepseek-v2-lite", "deepseek-ai/DeepSeek-V3": "deepseek-v3"},
    **{"moonshotai/Moonlight-16B-A3B": "moonlight-16b-a3b", "moonshotai/Kimi-K2-Instruct": "kimi-k2"},
    **{f"Qwen/Qwen2.5-{size}B": f"qwen2.5-{size}b" for size in (0.5, 1.5, 3, 7, 14, 32, 72)},
    **{f"Qwen/Qwen2-{size}B": f"qwen2.5-{size}b" for size in (0.5, 1.5, 7, 72)},  # of the same figures
    **{f"meta-llama/Llama-3.2-{size}B": f"llama3.2-{size}b" for size in (1, 3)},
    **{f"Qwen/Qwen3-{size}": f"qwen3-{size.lower()}" for size in _QWEN3},
    **{f"Qwen/Qwen3-{size}-Instruct-2507": f"qwen3-{size.lower()}" for size in ("4B", "30B-A3B", "235B-A22B")},
    **{f"openai/gpt-oss-{size}b": f"gpt-oss-{size}b" for size in (20, 120)},
    **{f"mistralai/Mixtral-{size}-v0.1": f"mixtral-{size.lower()}" for size in ("8x7B", "8x22B")},
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": "nemotron-3-nano-30b-a3b",
    "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16": "nemotron-3-super-120b-a12b",
    **{f"google/gemma-{size}": f"gemma-{size}" for size in ("2b", "7b", "2-2b", "2-9b", "2-27b")},
    **{"google/gemma-3-1b-pt": "gemma-3-1b", "google/gemma-3-1b-it": "gemma-3-1b"},
    **{"zai-org/GLM-4.5": "glm-4.5", "zai-org/GLM-4.5-Air": "glm-4.5-air"},
    **{f"LGAI-EXAONE/EXAONE-4.0-{size}B": f"exaone-4.0-{size.lower()}b" for size in ("1.2", "32")},
    **{"allenai/OLMoE-1B-7B-0924": "olmoe-1b-7b", "MiniMaxAI/MiniMax-M2": "minimax-m2"},
    **{"allenai/OLMo-2-1124-7B": "olmo-2-7b", "allenai/OLMo-2-0325-32B": "olmo-2-32b"},
    **{"allenai/Olmo-3-1025-7B": "olmo-3-7b", "allenai/Olmo-3-1125-32B": "olmo-3-32b"},
    **{"mistralai/Mistral-Nemo-Base-2407": "mistral-nemo-12b", "mistralai/Mistral-Small-24B-Base-2501": "mistral-small-24b"},
    **{f"bigcode/starcoder2-{size}": f"starcoder2-{size}" for size in ("3b", "15b")},
    **{"microsoft/phi-4": "phi-4", "microsoft/Phi-3-mini-4k-instruct": "phi-3-mini", "tiiuae/falcon-7b": "falcon-7b"},
}
# Repositories whose tokenizer alone is known: that of a row.
TOKENS_OF: Final = {
    **{f"nvidia/Nemotron-H-{size}-Base-8K": "nemotron-h-8b" for size in ("4B", "8B", "47B", "56B")},
    **{f"nvidia/NVIDIA-Nemotron-Nano-{size}-v2-Base": "nemotron-nano-9b-v2" for size in ("9B", "12B")},
    **{f"nvidia/NVIDIA-Nemotron-{name}-BF16": "nemotron-3-nano-30b-a3b" for name in ("3-Nano-4B", "3.5-Lightning-30B-A3B")},
}
# Models of several parts, of which the row has the one that reads text.
TEXT_ROWS: Final = {
    **{f"google/gemma-3-{size}b-{kind}": f"gemma-3-{size}b" for size in (4, 12, 27) for kind in ("pt", "it")},
    **{f"google/gemma-4-26B-A4B{end}": "gemma-4-26b-a4b" for end in ("", "-it")},
    **{f"mistralai/Ministral-3-{size}B-{kind}-2512": f"ministral-3-{size}b" for size in (3, 8, 14) for kind in ("Base", "Instruct")},
    **{f"Qwen/Qwen2.5-VL-{size}B-Instruct": f"qwen2.5-{size}b" for size in (3, 7, 32, 72)},
    **{f"Qwen/Qwen3-VL-{size}-Instruct": f"qwen3-{size.lower()}" for size in ("4B", "8B", "32B", "30B-A3B", "235B-A22B")},
    "Qwen/Qwen3-Omni-30B-A3B-Instruct": "qwen3-30b-a3b",
    **{"zai-org/GLM-4.5V": "glm-4.5-air", "moonshotai/Kimi-K2.5": "kimi-k2"},
    "nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-BF16": "nemotron-nano-12b-v2",
    "nvidia/Nemotron-3-Nano-Omni-30B-A3B-Reasoning-BF16": "nemotron-3-nano-30b-a3b",
}


def model_of(repository: str) -> str:
    """What a scenario calls the model of a repository: a row, or its config.json; "" where it is known that a part of it is not built.

    >>> model_of("google/gemma-2-9b"), model_of("me/mine"), model_of("Qwen/Qwen3.5-9B")
    ('gemma-2-9b', 'hf:me/mine', '')
    """
    return ROWS.get(repository) or ("" if part_left(repository) else f"{PREFIX}{repository}")


def row_called(repository: str) -> str:
    """The row of a repository's model, also of what others made of it under its name; "" where none is known.

    >>> row_called("Qwen/Qwen2.5-7B-Instruct"), row_called("NousResearch/Meta-Llama-3.1-8B"), row_called("meta-llama/Llama-3.1-70B")
    ('qwen2.5-7b', 'llama3-8b', 'llama3-70b')
    >>> row_called("mistralai/Mistral-7B-v0.1"), row_called("me/mine"), row_called("Qwen/Qwen2.5-VL-7B-Instruct")
    ('mistral-7b', '', '')
    """
    if part_left(repository):
        return ""
    name, rows = _without_what_it_learnt(repository), {_without_what_it_learnt(each): row for each, row in ROWS.items()}
    return rows.get(name) or catalog.find("models", name)


def _without_what_it_learnt(repository: str) -> str:
    """The end of a name, without words that say nothing of its figures."""
    return re.sub(r"(-instruct|-chat|-it|-base|-hf|-v0\.\d)+$", "", repository.rpartition("/")[2].lower().removeprefix("meta-"))


def part_left(repository: str) -> str:
    """Why a repository's model is not carried over, or not as a whole, with the row of its part that reads text; "" of others.

    >>> part_left("Qwen/Qwen2.5-VL-7B-Instruct")
    "what reads images or sounds is not built; --model qwen2.5-7b is its text model alone, without that part's time and memory"
    """
    if row := TEXT_ROWS.get(repository):
        return f"what reads images or sounds is not built; --model {row} is its text model alone, without that part's time and memory"
    said = "" if repository in ROWS else lack_of("model", repository.rpartition("/")[2])
    return f"it {said}" if said.startswith("is not") else ""


def is_latent(repository: str) -> bool:
    """Whether a model has latent attention, whose linear layers have other names.

    >>> [is_latent(name) for name in ("deepseek-ai/DeepSeek-V3", "Qwen/Qwen3-8B", "me/mine")]
    [True, False, False]
    """
    return repository in ROWS and getattr(spec_of({"base": ROWS[repository]}), "kv_lora_rank", 0) > 0
