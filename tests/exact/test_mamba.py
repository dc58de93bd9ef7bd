"""Mamba-2 layers and hybrids keep the contract with every way to split a step that is built; what is counted, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.errors import ParsimError
from parsim.estimator.estimate import stages_of
from parsim.model.families.hybrid import HybridSpec
from parsim.model.op_kinds import COSTS
from parsim.model.parameters import model_flops_per_token, num_parameters
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.scenario import from_mapping
from parsim.schedules.phase import Phase
from parsim.step.stages import parts_of
from parsim.verify import verify_plan
from parsim_kernels import scan
from parsim_kernels.kernels import KERNELS
from support import STACKS, forget_steps, scenario, tiered

_MAMBA = {"mamba_heads": 4, "mamba_groups": 2, "mamba_head_dim": 3, "state_size": 5, "scan_chunk": 3, "conv_width": 3}
_OTHERS = {"hidden_size": 12, "ffn_hidden_size": 16, "num_heads": 4, "num_kv_heads": 2, "head_dim": 4, "vocab_size": 60, "max_positions": 8}
MAMBA = HybridSpec.of(name="toy mamba", pattern="M", num_layers=2, tied_embedding=True, **_OTHERS, **_MAMBA)
HYBRID = HybridSpec.of(name="toy hybrid", pattern="MM*-", tied_embedding=False, **_OTHERS, **_MAMBA)
EXPERTS = HybridSpec.of(
    **{"name": "toy experts", "pattern": "ME*", "gates": "sigmoid", "gate_scale": 2.5, "shared_ffn_hidden_size": 4},
    **{"num_experts": 4, "experts_per_token": 2, "expert_ffn_hidden_size": 8, **_OTHERS, **_MAMBA},
)
LOADS = replace(EXPERTS, pattern="ME*E", num_layers=4, load_shares=((4.0, 2.0, 1.0, 1.0), (1.0, 1.0, 5.0, 1.0)))
SEQUENCE: dict[str, object] = {"tensor_parallel": 2, "sequence_parallel": True}
CASES: dict[str, tuple[HybridSpec, dict[str, object]]] = {
    "mamba": (MAMBA, {}),
    "hybrid sp zero3 full": (HYBRID, {**SEQUENCE, "data_parallel": 2, "zero_stage": 3, "recompute": "full"}),
    "hybrid uneven": (HYBRID, {"pipeline_parallel": 2, "layers_per_stage": (1, 3)}),
    "experts": (EXPERTS, {"data_parallel": 2, "expert_parallel": 2}),
    "mamba tp": (MAMBA, {"tensor_parallel": 2}),
    "hybrid": (HYBRID, {}),
    "hybrid tp pp": (HYBRID, {"tensor_parallel": 2, "pipeline_parallel": 2}),
    "hybrid zbh1": (HYBRID, {"pipeline_parallel": 2, "schedule": "zero_bubble_h1", **SEQUENCE}),
    "hybrid interleaved": (HYBRID, {"pipeline_parallel": 2, "virtual_pipeline": 2, "schedule": "interleaved_1f1b"}),
    "hybrid dp zero1": (HYBRID, {"data_parallel": 2, "zero_stage": 1}),
    "hybrid zero2": (HYBRID, {"data_parallel": 2, "zero_stage": 2, **SEQUENCE}),
    "hybrid master": (HYBRID, {"data_parallel": 2, "gradient_sync": "master"}),
    "hybrid every": (HYBRID, {"recompute": "full", "recompute_every": 2}),
    "hybrid selective": (HYBRID, {"recompute": "selective", **SEQUENCE}),
    "hybrid ops": (HYBRID, {"recompute_ops": ("norm1", "mixer_norm")}),
    "hybrid offload": (HYBRID, {"offload_optimizer": True}),
    "loads by layer": (LOADS, {"data_parallel": 2, "expert_parallel": 2}),
    "experts pp": (EXPERTS, {"pipeline_parallel": 3, **SEQUENCE, "expert_parallel": 2}),
}


def red(model: HybridSpec, number: int = 2, dtype: str = "bf16", **fields: object) -> set[str]:
    plan = Plan(**fields)  # type: ignore[arg-type]
    toy = scenario(model=model, batch=Batch(2 * plan.data_parallel * plan.pipeline_parallel, 8, dtype), stack=STACKS[number])
    assert not faults(plan, model, toy.batch, plan.num_devices, stack=toy.stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


@pytest.mark.parametrize("name", [tiered(name, name, slow=index > 3) for index, name in enumerate(CASES)])
def test_all_readers_agree(name: str) -> None:
    model, fields = CASES[name]
    assert not red(model, [*CASES].index(name) % len(STACKS), **fields)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(STACKS)))
@pytest.mark.parametrize("model", [MAMBA, HYBRID, EXPERTS], ids=["mamba", "hybrid", "experts"])
def test_all_readers_agree_on_every_stack(model: HybridSpec, number: int) -> None:
    assert not red(model, number, **SEQUENCE)


@pytest.mark.slow
def test_all_readers_agree_in_8_bits() -> None:
    assert not red(replace(HYBRID, hidden_size=16, mamba_head_dim=4), dtype="fp8_current", **SEQUENCE)


@pytest.mark.slow
def test_losses_of_all_plans_are_equal() -> None:
    """Each is that of one rank, whose batch is the same."""
    toy = scenario(model=HYBRID, batch=Batch(8, 8, "bf16"), stack=STACKS[0])
    plans = (Plan(), Plan(tensor_parallel=2), Plan(pipeline_parallel=4), Plan(data_parallel=4, zero_stage=3))
    losses = {f"{check.detail:.12}" for plan in plans for check in verify_plan(toy, plan, "toy") if check.quantity == "loss"}
    assert len(losses) == 1


def test_parameters_are_those_of_the_matrices() -> None:
    """By the names of the released code: in_proj, conv1d, dt_bias, A_log, D, norm, out_proj, and a norm before it."""
    inner, bc = 4 * 3, 2 * 2 * 5
    layer = 12 * (2 * inner + bc + 4) + (inner + bc) * (3 + 1) + 3 * 4 + inner + inner * 12 + 12
    assert num_parameters(MAMBA) == 2 * layer + 12 + 60 * 12


def test_flops_of_a_token_are_megatrons() -> None:
    """Of the scan 7 a channel and element of its state, forward; of attention half of the pairs."""
    mamba, width = 2 * 7 * 12 * 5, 4 * 4
    whole, unmasked = model_flops_per_token(HYBRID, 8)
    assert whole - unmasked == 3 * 2 * 8 * width
    others = replace(HYBRID, state_size=10)  # whose matrices are larger, too
    more = 6 * 2 * 12 * (2 * 2 * 5)  # of B and C in both layers
    conv, norms = 6 * 2 * (2 * 2 * 5) * (3 + 1), 0
    assert model_flops_per_token(others, 8)[0] - whole == more + conv + norms + 3 * mamba


def test_layers_of_experts_have_their_own_loads_whatever_stands_between_them() -> None:
    assert [LOADS.load_row(layer) for layer in range(4)] == [0, 0, 0, 1]
    assert LOADS.layout[-2] == ("loads1_expert_layer", 1)


@pytest.mark.parametrize(("model", "pattern"), [(HYBRID, "M-M-M*-"), (LOADS, "M*-E" * 2), (LOADS, "ME*E" * 2)])
def test_a_likeness_has_fewer_layers_than_the_pattern_has_letters(model: HybridSpec, pattern: str) -> None:
    for num_layers in (2, 4):
        small = replace(model, pattern=pattern, num_layers=len(pattern)).small(num_layers, 1)
        assert (small.num_layers, len(small.pattern)) == (num_layers, num_layers)
        assert not small.misfit({})


@pytest.mark.parametrize(("kernel", "each"), [("scan", (1, 1, 2, 1)), ("scan_grad", (3, 2, 5, 3))])
def test_a_scan_multiplies_pairs_of_a_chunk_and_states(kernel: str, each: tuple[int, int, int, int]) -> None:
    """A sequence of 7 tokens in chunks of 3: 6, 6 and 1 pairs, of 2 groups with states of 5 and 3 heads of 4; D besides."""
    xbc, dt, y = np.ones((1, 7, 2, 3 * 4 + 2 * 5)), np.ones((1, 7, 2, 3)), np.ones((1, 7, 2, 3, 4))
    inputs = (xbc, dt, -dt, np.ones((2, 3)), *((y,) if kernel == "scan_grad" else ()))
    over_state, over_width, tokens, chunks = each
    expected = 2 * 2 * (13 * (over_state * 5 + over_width * 12) + (7 * tokens + 3 * chunks) * 12 * 5) + 2 * y.size
    assert KERNELS[kernel](inputs, {"state": 5, "chunk": 3})[1] == expected


def test_what_the_fused_kernel_makes_again_is_not_kept() -> None:
    """Kept of the mixer: z, x B C and dt as projected, what the scan gives and what enters the last matrix; dt has a number a head."""
    workload = stages_of(scenario(model=MAMBA, batch=Batch(1, 8, "bf16"), stack=STACKS[2]), Plan()).workload
    kept = {each.name: int(workload.sizes.num_bytes(each)[0]) for each in workload.step.segments["mamba_layer"].kept[Phase.F]}
    inner, bc, tokens = 12, 2 * 2 * 5, 8
    assert sum(kept[name] for name in ("z_gemm", "xbc_gemm", "dt_gemm", "scanned", "mixed")) == 2 * tokens * (4 * inner + bc + 4)
    assert not {"xbc", "steps", "decays"} & {*kept}


def test_stages_hold_the_layers_of_the_pattern() -> None:
    assert [*parts_of(HYBRID.layout, [1, 3], 1)] == [
        (("embedding", 1), ("mamba_layer", 1)),
        (("mamba_layer", 1), ("attention_layer", 1), ("mlp_layer", 1), ("head", 1)),
    ]


def test_a_pattern_goes_on_where_there_are_more_layers() -> None:
    assert HybridSpec.of(name="long", pattern="M*", num_layers=6, **_OTHERS, **_MAMBA).letters == "M*M*M*"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": "MX"}, "pattern = 'MX' has 'X'; a layer is one of M * - E m a"),
        ({"pattern": "MM*"}, "pattern has 3 letters, of which num_layers = 4 is no multiple"),
        ({"mamba_groups": 3}, "mamba_groups = 3 does not divide mamba_heads = 4"),
        ({"pattern": "ME"}, "pattern has E, but num_experts = 0"),
        ({"sliding_window": 4}, "sliding_window = 4 is not built in hybrid models; leave it out"),
        ({"dropout": 0.1}, "dropout = 0.1 is not built in hybrid models; leave it out"),
    ],
)
def test_figures_that_do_not_fit_are_told(changes: dict[str, object], message: str) -> None:
    assert replace(HYBRID, **changes).misfit({}) == message  # type: ignore[arg-type]


def test_what_is_not_built_is_refused_in_a_sentence() -> None:
    (fault,) = faults(Plan(context_parallel=2), MAMBA, Batch(8, 8), 2, stack=STACKS[2])
    assert 'context_parallel = 2 cuts sequences of model "toy mamba", whose Mamba layers hand a state on' in str(fault)
    (fault,) = faults(Plan(tensor_parallel=4), HYBRID, Batch(8, 8), 4, stack=STACKS[2])
    assert 'tensor_parallel = 4 does not divide mamba_groups = 2 of model "toy hybrid". Legal: 1, 2' in str(fault)
    parts = {"cluster": {"node": "dgx-a100-80gb"}, "batch": {"global_batch": 8, "sequence_length": 64}, "plans": {"a": {}}}
    for tuning, message in (
        ({"lora_rank": 8, "lora_alpha": 8}, "adapters beside Mamba layers are not built"),
        ({"freeze": ["mlp"]}, "are not told apart in models with Mamba layers"),
    ):
        with pytest.raises(ParsimError, match=message):
            from_mapping({"model": "mamba2-130m", "tuning": tuning, **parts})


Patch = Callable[[pytest.MonkeyPatch], None]


def _states_do_not_decay(patch: pytest.MonkeyPatch) -> None:
    right = scan._state_behind
    patch.setattr(scan, "_state_behind", lambda state, since, steps, b: right(state, 0 * since, steps, b))


def _a_token_sees_what_follows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scan, "_decays", lambda since: np.ones((*since.transpose(0, 2, 3, 1).shape, since.shape[1])))


def _pairs_without_the_mask(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("parsim.cost.scan._pairs", lambda length, chunk: length * chunk)


def _convolution_reads_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(COSTS, "causal_conv", replace(COSTS["causal_conv"], skips=(0,)))


def _steps_cost_more(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(COSTS, "softplus", replace(COSTS["softplus"], per_element=4))


def _groups_are_normalised_together(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("parsim_kernels.gated_norm._inverse", lambda gated: 1 / np.sqrt((gated * gated).mean((-3, -2, -1), keepdims=True) + 1e-5))


MUTANTS: dict[str, tuple[Patch, str]] = {
    "states do not decay between chunks": (_states_do_not_decay, "loss, by hand"),
    "a token sees those behind it": (_a_token_sees_what_follows, "loss, by hand"),
    "FLOPs of whole chunks, not of the pairs that their mask leaves": (_pairs_without_the_mask, "FLOPs"),
    "bytes of a convolution without what it reads": (_convolution_reads_nothing, "HBM bytes"),
    "a softplus that costs a FLOP more": (_steps_cost_more, "FLOPs"),
    "one norm for all groups": (_groups_are_normalised_together, "loss, by hand"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_verify_notices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate, quantity = MUTANTS[name]
    mutate(monkeypatch)
    forget_steps()
    try:
        assert quantity in red(replace(MAMBA, num_layers=1))
    finally:
        forget_steps()
