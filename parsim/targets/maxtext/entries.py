"""MaxText's keys beside those of its mesh: model, batch, pipeline, what runs again, precision, optimizer.

Source: AI-Hypercomputer/maxtext, commit e591f30c, src/maxtext/configs/base.yml and types.py, layers/decoders.py (get_remat_policy) and
layers/quantizations.py.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Final

from parsim.parallel.stages import layers_of
from parsim.scenario.asked import lack_of
from parsim.targets import training
from parsim.targets.entries import MOST_COUNT, Entry, Keys, by_name, same
from parsim.targets.figures import long_enough
from parsim.targets.maxtext import axes
from parsim.targets.maxtext.models import NAME, keys_of_figures, name_of, read_row
from parsim.targets.target import MICRO_BATCHES, KeyValue, Setup

STACK: Final = "jax-xla"
_ELEMENTWISE: Final = (
    *("norm1_wide", "norm1_normalize", "norm1_narrow", "norm1", "q_rotary", "k_rotary"),
    *("norm2_wide", "norm2_normalize", "norm2_narrow", "norm2", "swish", "activation", "moe"),  # no policy keeps anything of experts
)
_QKV, _WI, _WO = ("q_gemm", "k_gemm", "v_gemm"), ("up_gemm", "gate_gemm"), ("down_gemm",)
POLICIES: Final = {  # name: what of a layer runs again
    "minimal_with_context": _ELEMENTWISE,
    "minimal": (*_ELEMENTWISE, "core_attn"),
    "save_dot_with_context_except_mlp": (*_ELEMENTWISE, *_WI, *_WO),
    "save_dot_except_mlpwi": (*_ELEMENTWISE, "core_attn", *_WI),
    "save_dot_except_mlp": (*_ELEMENTWISE, "core_attn", *_WI, *_WO),
    "save_qkv_proj": (*_ELEMENTWISE, "core_attn", "out_gemm", *_WI, *_WO),
    "save_out_proj": (*_ELEMENTWISE, "core_attn", *_QKV, *_WI, *_WO),
}
_TO_HOST: Final = "parsim moves no activations to the host; it is taken as run again, or kept where it enters a layer"
_ALSO: Final = {"minimal_flash": "minimal_with_context"}
NARROW: Final = {
    "fp8_delayed": "te_fp8_delayedscaling",
    "fp8_current": "te_fp8_currentscaling",
    "mxfp8": "te_mxfp8",
    "nvfp4": "te_nvfp4",
}
WIDE: Final = {
    "bf16": ("bfloat16", "float32"),
    "fp32": ("float32", "float32"),
    "fp16": ("float16", "float32"),
    "bf16_pure": ("bfloat16", "bfloat16"),
}
_RATES: Final = {
    "learning_rate": "learning_rate",
    "beta1": "adam_b1",
    "beta2": "adam_b2",
    "eps": "adam_eps",
    "weight_decay": "adam_weight_decay",
    "max_norm": "gradient_clipping_threshold",
}
_USUAL_RATES: Final = {"learning_rate": 3e-5, "beta2": 0.95, "weight_decay": 0.1}  # of base.yml
_POLICY, _QUANTISED, _ACCUMULATED = "remat_policy", "quantization", "gradient_accumulation_steps"
_BATCH, _LENGTH, _COUNT = "per_device_batch_size", "max_target_length", "num_pipeline_microbatches"
_LAYERS, _REPEATS = "num_layers_per_pipeline_stage", "num_pipeline_repeats"
_IMAGES: Final = "use_multimodal"
BASE, OTHERS = "base_config", "other_commands"  # not base.yml, and further commands of a script that train
_IDLE: Final = (  # keys that say nothing of what a step does
    *("run_name", "enable_checkpointing", "async_checkpointing", "dataset_type", "dataset_path", "dataset_name"),
    *("base_output_directory", "reuse_example_batch", "profiler", "log_period", "tokenizer_path", "tokenizer_type"),
    *("save_config_to_gcs", "gcs_metrics", "enable_goodput_recording", "monitor_goodput", "skip_first_n_steps_for_profiler"),
    *("checkpoint_period", "warmup_steps_fraction", "profiler_steps", "enable_tensorboard", "use_vertex_tensorboard", "init_weights_seed"),
    *("logits_dot_in_fp32", "hardware"),
)


def entries(version: str) -> tuple[Entry, ...]:
    """The table; one version has been read."""
    degrees = ("data_parallel", "tensor_parallel", "sequence_parallel", "context_parallel", "context_kind", "context_group")
    others = ("pipeline_parallel", "expert_parallel", "expert_tensor_parallel", "zero_stage", "zero_group", "reshard_after_forward")
    return (
        Entry((), _write_model, _read_model),
        Entry((), lambda setup: {}, _read_file),
        Entry(("stack",), lambda setup: {}, _read_stack),
        Entry(tuple(f"plan.{name}" for name in (*degrees, *others)), axes.write, axes.read),
        Entry(("plan.virtual_pipeline", "plan.schedule", "plan.layers_per_stage"), _write_stages, _read_stages),
        same("batch.sequence_length", _LENGTH, default=2048),
        Entry(("plan.micro_batch",), _write_batch, _read_batch),
        Entry(("batch.global_batch",), lambda setup: {}, assumed=True),  # that of a device, times steps, times devices
        Entry(("plan.recompute",), _write_policy, _read_policy),
        Entry(("batch.dtype", "plan.precision"), _write_precision, _read_precision),
        by_name("plan.optimizer", "opt_type", {"adamw": "adamw"}, default="adamw"),
        *training.figures(_RATES, usual=_USUAL_RATES),
        training.steps("steps"),  # read, how many devices share a step's batch is not known
        *training.left_to("epochs"),
        Entry((), _write_hardware, _read_rest),
    )


def _write_model(setup: Setup) -> dict[str, KeyValue]:
    if name := name_of(setup.model):
        return {NAME: name}
    return keys_of_figures(setup.model) or {}


def _read_model(keys: Keys) -> dict[str, Any]:
    row = read_row(keys)
    if row is None:
        name = keys.like(NAME, "default")
        key = NAME if name != "default" else "decoder_block"
        said = lack_of("model", str(keys.take(key)))
        keys.leave(key, f"it {said}" if said.startswith("is not") else "no model of parsim's catalog is known by it; state the model")
        return {}
    if keys.take(_IMAGES) is True:
        text = f"; --model {row['base']} is its text model alone, without that part's time and memory" if NAME in keys else ""
        keys.leave(_IMAGES, f"what reads images is not built{text}")
        return {}
    return long_enough(row, keys.like(_LENGTH, 2048))


def _read_file(keys: Keys) -> dict[str, Any]:
    """What a file lies over, and what else it does."""
    if not str(keys.take(BASE, "base.yml")).endswith("base.yml"):
        keys.leave(BASE, "what that file says is not read here: import it, too")
    if keys.take(OTHERS) is not None:
        keys.leave(OTHERS, "of several commands that train the first is read")
    return {}


def _read_stack(keys: Keys) -> dict[str, Any]:
    return {"stack": STACK, **({"stack.attention": "unfused"} if keys.take("attention") == "dot_product" else {})}


def chunks_of(setup: Setup) -> int | None:
    """Layers of each stage where all have as many; None: they have not."""
    layers = set(layers_of(setup.plan, setup.model.num_layers, setup.stack.layer_split))
    return layers.pop() if len(layers) == 1 else None


def _write_stages(setup: Setup) -> dict[str, KeyValue]:
    plan = setup.plan
    if plan.pipeline_parallel == 1:
        return {}
    return {_LAYERS: chunks_of(setup), _REPEATS: plan.virtual_pipeline, _COUNT: setup.num_micro_batches}


def _read_stages(keys: Keys) -> dict[str, Any]:
    stages, repeats, layers = axes.ranks(keys, "pipeline"), keys.like(_REPEATS, -1), keys.like(_LAYERS, 1)
    if stages <= 1:
        return {}
    if repeats < 1 and (found := _read_model(keys)):
        row = {name.removeprefix("model."): value for name, value in found.items()}
        repeats = axes.num_layers(row) // (stages * layers)
    if repeats < 1:
        keys.leave(_LAYERS, "how often the stages repeat, the layers of a model say that is not known here")
        return {}
    return {"plan.virtual_pipeline": repeats, "plan.schedule": "breadth_first" if repeats > 1 else "gpipe"}


def _write_batch(setup: Setup) -> dict[str, KeyValue]:
    count = 1 if setup.plan.pipeline_parallel > 1 else setup.num_micro_batches
    each = Fraction(setup.batch.global_batch, count * axes.num_devices(setup))
    return {_BATCH: each.numerator if each.denominator == 1 else float(each), _ACCUMULATED: count}


def _read_batch(keys: Keys) -> dict[str, Any]:
    """Sequences of a replica, which has a device for each rank that splits layers, a sequence or the pipeline."""
    stages, inner = axes.ranks(keys, "pipeline"), axes.ranks(keys, "context") * axes.ranks(keys, "context_usp_ulysses")
    split = stages * inner * axes.ranks(keys, "tensor") * axes.ranks(keys, "tensor_sequence")
    stated, count = keys.take(_BATCH, 12), keys.like(_ACCUMULATED, 1)
    if type(stated) not in (int, float) or not 0 < stated < MOST_COUNT:
        keys.leave(_BATCH, "it is no number of sequences")
        return {}
    each = Fraction(str(stated))
    pipeline = keys.like(_COUNT, -1)
    if stages > 1:
        if count > 1:
            why = "gradients add up over several runs of the pipeline; parsim runs all micro_batches of a step through it at once"
            keys.leave(_ACCUMULATED, why)
        count, each = (pipeline if pipeline > 0 else stages) * count, each / (pipeline if pipeline > 0 else stages)
    if not split or (size := each * split).denominator != 1:
        keys.leave(_BATCH, "it is no whole number of sequences a replica")
        return {}
    return {"plan.micro_batch": int(size), MICRO_BATCHES: count}


def policy_of(setup: Setup) -> str | None:
    """The name of what runs again; None: there is none."""
    if setup.plan.recompute == "full":
        return "full"
    again = set(setup.stack.selective_recompute)
    return next((name for name, ops in POLICIES.items() if set(ops) == again), None) if setup.plan.recompute == "selective" else None


def _write_policy(setup: Setup) -> dict[str, KeyValue]:
    return {_POLICY: policy_of(setup)}


def _read_policy(keys: Keys) -> dict[str, Any]:
    """ "none" wraps layers in jax.checkpoint without a policy, which keeps nothing of them."""
    stated = str(keys.like(_POLICY, "full"))
    name = _ALSO.get(stated, stated)
    if name in ("full", "none"):
        return {"plan.recompute": "full"}
    if name not in POLICIES:
        keys.leave(_POLICY, "parsim moves no activations to the host, and does not know what it keeps; full is taken")
        return {"plan.recompute": "full"}
    return {"plan.recompute": "selective", "stack.selective_recompute": list(POLICIES[name])}


def _write_precision(setup: Setup) -> dict[str, KeyValue]:
    computed, kept = WIDE.get(setup.dtype, WIDE["bf16"])
    return {"dtype": computed, "weight_dtype": kept, _QUANTISED: NARROW.get(setup.dtype, "")}


def _read_precision(keys: Keys) -> dict[str, Any]:
    found = keys.like("dtype", "bfloat16"), keys.like("weight_dtype", "float32")
    narrow = keys.like(_QUANTISED, "") or ""
    if narrow in ("fp8", "fp8_gpu", "fp8_full"):
        keys.leave(_QUANTISED, "scales of earlier steps as in delayed scaling, which parsim takes it for")
        return {"batch.dtype": "fp8_delayed"}
    named = next((ours for ours, theirs in NARROW.items() if theirs == narrow), None)
    if narrow and not named:
        keys.leave(_QUANTISED, "parsim has no recipe of that name, and takes bf16")
    return {"batch.dtype": named or next((ours for ours, theirs in WIDE.items() if theirs == found), "bf16")}


def _write_hardware(setup: Setup) -> dict[str, KeyValue]:
    return {"hardware": "tpu" if axes.on_tpu(setup) else "gpu"}


def _read_rest(keys: Keys) -> dict[str, Any]:
    """What says nothing of a step, and what parsim has otherwise."""
    told = {
        "optimizer_memory_host_offload": "states come back to the device for the update; parsim's offload_optimizer updates on the host",
        "parameter_memory_host_offload": "parsim keeps parameters on the device",
    }
    for key, why in told.items():
        if keys.like(key, False):
            keys.leave(key, why)
    if keys.like("mu_dtype", "") not in ("", None, keys.like("weight_dtype", "float32")):
        keys.leave("mu_dtype", "parsim keeps both moments alike")
    for key in keys.rest():
        if key in _IDLE:
            keys.leave(key, "it says nothing of what a step does")
    return {}
