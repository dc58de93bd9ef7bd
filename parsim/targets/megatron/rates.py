"""How Megatron Core is told of a training beside its plan: the optimizer's figures, a constant rate, and how far it goes."""

from __future__ import annotations

from typing import Any, Final

from parsim.targets import training
from parsim.targets.entries import TOKENS, Entry, Keys, constant, counted_figures
from parsim.targets.target import KeyValue, Setup

_NAMES: Final = {
    "learning_rate": "lr",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "eps": "adam_eps",
    "momentum": "sgd_momentum",
    "max_norm": "clip_grad",
}
_DECAY, _ITERATIONS, _SAMPLES = "weight_decay", "train_iters", "train_samples"
_USUAL_DECAY: Final = 0.01  # megatron/training/arguments.py of both versions, where no flag says another
_MOST_SAMPLES: Final = 10**12  # recipes of Llama 3 say 1,953,125,000: 16 T tokens
_STAND_IN: Final = 100  # iterations, where nobody says how far it goes
_OF_SCHEDULER: Final = ("start_weight_decay", "end_weight_decay")  # which its scheduler sets at each step


def entries(*, bridge: bool = False) -> tuple[Entry, ...]:
    """Those of a command line, or of the classes that a recipe of Megatron-Bridge fills."""
    of_scheduler = _OF_SCHEDULER if bridge else ()
    own: dict[str, KeyValue] = {"lr_warmup_iters": 0, "min_lr": 0.0} if bridge else {}

    def write_decay(setup: Setup) -> dict[str, KeyValue]:
        """Also of SGD, whose weights parsim does not shrink."""
        decays = f"training.{_DECAY}" in counted_figures(setup)
        return dict.fromkeys((_DECAY, *of_scheduler), setup.training.weight_decay if decays else 0.0)

    def read_decay(keys: Keys) -> dict[str, Any]:
        stated = [(key, value) for key in (_DECAY, *_OF_SCHEDULER) if (value := keys.of_type(float, key)) is not None]
        if not stated:  # a recipe calls functions with decays of their own
            is_usual = not bridge and not any(keys.is_unresolved(key) for key in (_DECAY, *_OF_SCHEDULER))
            return {f"training.{_DECAY}": _USUAL_DECAY} if is_usual else {}
        return training.legal_figure(_DECAY, stated[-1][1], stated[-1][0], keys)

    return (
        *training.figures(_NAMES),
        Entry((f"training.{_DECAY}",), write_decay, read_decay),
        Entry((TOKENS,), _write_steps if bridge else _write_steps_or_stand_in, _read_steps if bridge else _read_steps_unless_stand_in),
        *training.left_to("epochs"),
        constant(lr_decay_style="constant", **own),
    )


def _write_steps(setup: Setup) -> dict[str, KeyValue]:
    count = training.num_steps(setup)
    return {} if count is None else {_ITERATIONS: count}


def _write_steps_or_stand_in(setup: Setup) -> dict[str, KeyValue]:
    """As samples where iterations would be those of the stand-in."""
    stated = _write_steps(setup) or {_ITERATIONS: _STAND_IN}
    is_meant = training.num_steps(setup) == _STAND_IN
    return {_SAMPLES: _STAND_IN * setup.batch.global_batch} if is_meant else stated


def _read_steps(keys: Keys) -> dict[str, Any]:
    length, batch = keys.like("seq_length", 0), keys.like("global_batch_size", 0)
    count, samples = keys.like(_ITERATIONS, 0), keys.like(_SAMPLES, 0, below=_MOST_SAMPLES)
    if not (count or samples):
        return {}
    if not length or not (samples or batch):
        keys.leave(_SAMPLES if samples else _ITERATIONS, "how many tokens that are, nobody says: see training.total_tokens")
        return {}
    return {TOKENS: (samples or count * batch) * length}


def _read_steps_unless_stand_in(keys: Keys) -> dict[str, Any]:
    if keys.is_value(_ITERATIONS, _STAND_IN):
        keys.take(_ITERATIONS)
        return {}
    return _read_steps(keys)
