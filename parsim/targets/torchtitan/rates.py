"""How torchtitan is told of a training beside its plan: the optimizer's figures, what clips gradients, and how many steps.

Source: torchtitan/config/job_config.py of tag v0.2.2; config/configs.py and components/optimizer/optimizer.py of 0.3.0 and b5bcd76c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Final

from msgspec.structs import replace

from parsim.targets import training
from parsim.targets.entries import Entry, Keys
from parsim.targets.target import KeyValue, Setup
from parsim.targets.torchtitan.dialect import Dialect

_GROUP: Final = "optimizer.param_groups.0.optimizer_kwargs"  # that of all parameters, in the functions of its registry
_USUAL: Final = {"learning_rate": 8e-4, "beta2": 0.95, "weight_decay": 0.1}  # of a TOML; since 0.3 the functions of its registry say them
_BETAS: Final = f"{_GROUP}.betas"
_NORM, _STEPS, _EARLY = "training.max_norm", "training.steps", "optimizer.early_step_in_backward"


def entries(dialect: Dialect) -> tuple[Entry, ...]:
    """Those of a dialect, whose optimizers are all AdamW."""
    place = "optimizer" if dialect.toml else _GROUP
    names = {
        "learning_rate": "lr",
        "eps": "eps",
        "weight_decay": "weight_decay",
        **({"beta1": "beta1", "beta2": "beta2"} if dialect.toml else {}),
    }
    of_group = training.figures({name: f"{place}.{key}" for name, key in names.items()}, usual=_USUAL if dialect.toml else {})
    return (
        *of_group,
        *(() if dialect.toml else (Entry(("training.beta1", "training.beta2"), _write_betas, _read_betas),)),
        *(replace(each, read=_unless_early(each.read)) for each in training.figures({"max_norm": _NORM}, off=inf)),
        training.steps(_STEPS, _tokens_of_step(dialect)),
        *training.left_to("epochs"),
    )


def _unless_early(read: Callable[[Keys], Mapping[str, Any]]) -> Callable[[Keys], Mapping[str, Any]]:
    """A norm that comes too late, where each weight is updated as soon as its gradient is there, is left out."""

    def read_norm(keys: Keys) -> Mapping[str, Any]:
        if keys.is_value(_EARLY, True) and _NORM in keys:
            keys.leave(_NORM, "weights are updated before the norm of all gradients is known")
            return {}
        return read(keys)

    return read_norm


def _write_betas(setup: Setup) -> dict[str, KeyValue]:
    return {_BETAS: [setup.training.beta1, setup.training.beta2]}


def _read_betas(keys: Keys) -> dict[str, Any]:
    stated = keys.take(_BETAS)
    if stated is None:
        return {}
    if not isinstance(stated, list | tuple) or [type(each) for each in stated] != [float, float]:
        keys.leave(_BETAS, "it is no pair of numbers")
        return {}
    first, second = (training.legal_figure(name, value, _BETAS, keys) for name, value in zip(("beta1", "beta2"), stated, strict=True))
    return first | second


def _tokens_of_step(dialect: Dialect) -> Callable[[Keys], int]:
    return _stated_tokens if dialect.tokens else _batch_tokens


def _stated_tokens(keys: Keys) -> int:
    return int(keys.like("training.num_tokens_per_train_step", 0))


def _batch_tokens(keys: Keys) -> int:
    return max(0, int(keys.like("training.global_batch_size", -1)) * int(keys.like("training.seq_len", 2048)))
