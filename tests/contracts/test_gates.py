"""What is asked of each gate, and that one of the user's own is a file: its slope, its FLOPs and its choices hold in executed runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate
from parsim.model import gates
from parsim.model.gates import GATES, gate
from parsim.parallel.plan import Batch, Plan
from parsim.scenario.rows import read
from parsim.verify import verify_plan
from support import MOE, STACK, enough, forget_steps, scenario
from test_examples import EXAMPLES

MODEL = replace(MOE, num_layers=1, num_dense_layers=0, shared_ffn_hidden_size=0, gate_scale=2.5)
PLAN = Plan(data_parallel=2, expert_parallel=2, recompute="full")


def failures(name: str, plan: Plan = PLAN, **figures: object) -> set[str]:
    forget_steps()
    toy = scenario(model=replace(MODEL, gates=name, **figures), batch=enough(PLAN))  # type: ignore[arg-type]
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


@pytest.fixture
def softplus(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The gate of the README in a folder of one's own, forgotten after the test."""
    package = f"mine_{abs(hash(request.node.name))}"
    folder = tmp_path / package
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "softplus.py").write_text(EXAMPLES["softplus.py"])
    monkeypatch.syspath_prepend(str(tmp_path))
    gates.names()
    monkeypatch.setattr(GATES, "_values", dict(GATES._values))
    monkeypatch.setattr(GATES, "_discovered", set(GATES._discovered))
    GATES.discover(package)
    return "softplus"


@pytest.mark.parametrize("name", gates.names())
def test_a_slope_is_that_of_the_gates(name: str) -> None:
    """By a step along the imaginary axis, exact but for rounding."""
    rng, rule = np.random.default_rng(0), gate(name)
    logits, d_gates, chosen = rng.standard_normal((5, 4)), rng.standard_normal((5, 4)), np.array([[True, False, True, True]] * 5)
    d_gates = d_gates * chosen
    found = rule.slope(logits, rule.weigh(logits, chosen), d_gates)
    for expert in range(4):
        moved = logits + 1e-30j * (np.arange(4) == expert)
        assert np.abs((rule.weigh(moved, chosen).imag / 1e-30 * d_gates).sum(-1) - found[:, expert]).max() < 1e-14


DROPPED = {"load_skew": 0.9, "capacity_factor": 1.25}


@pytest.mark.parametrize("figures", [{}, DROPPED, {**DROPPED, "bias": True}], ids=["all", "dropped", "dropped, with biases"])
@pytest.mark.parametrize("name", gates.names())
def test_a_gate_keeps_the_contract(name: str, figures: dict[str, float]) -> None:
    """A bias counts, as much of it as the gate says, where a token is computed only."""
    assert not failures(name, **figures)


def test_a_file_of_ones_own_is_a_gate(softplus: str) -> None:
    assert not failures(softplus)
    assert not failures(softplus, load_skew=0.9, capacity_factor=1.25)
    toy = scenario(model=MODEL, batch=Batch(8, 8))
    own = replace(toy, model=replace(MODEL, gates=softplus))
    logits, slots = 4 * 8 * 4, 4 * 8 * 2  # of a rank's 4 sequences of 8 tokens, with 4 logits and 2 slots each; the forward runs twice
    assert estimate(own, PLAN).flops[0] - estimate(toy, PLAN).flops[0] == 2 * (10 - 1) * logits + (9 - 4) * slots


def test_a_wrong_slope_in_a_file_of_ones_own_is_noticed(softplus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GATES._values, softplus, replace(gate(softplus), slope=gate("softmax").slope))
    assert failures(softplus) == {"weight gradients, by hand", "updated weights, by hand"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"slope_reads": ("logitz",)}, "slope_reads = ('logitz',), which is no tuple of gates and logits"),
        ({"slope_reads": "logits"}, "slope_reads = 'logits', which is no tuple"),
        ({"slope_reads": ("gates",)}, "TypeError: bad operand type for unary -: 'NoneType'; its slope gets logits only where"),
        ({"flops": "10"}, "flops = '10', which is no whole number"),
        ({"weigh": None}, "weigh = None, which is no function"),
        ({"weigh": lambda logits, chosen: logits.sum()}, "of 2 x 2 logits come numbers of shape ()"),
    ],
)
def test_a_gate_with_a_mistake_is_refused(softplus: str, wrong: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GATES._values, softplus, replace(gate(softplus), **wrong))
    with pytest.raises(ParsimError, match="a gate ") as caught:
        gate(softplus)
    assert said in str(caught.value) and "made up" in str(caught.value)


def test_experts_that_choose_take_as_many_tokens_each() -> None:
    model = replace(read("models", "qwen3-30b-a3b"), gates="expert_choice", load_skew=0.0)
    slots = model.slots(4096)
    counts = np.bincount(slots.tokens)
    assert set(slots.loads) == {model.run_length(4096) * 8 // 128} and len(set(counts)) > 1
    toy = scenario(model=replace(MODEL, gates="expert_choice"), batch=Batch(16, 8), stack=replace(STACK, dispatch="per_node"))
    assert not [check for check in verify_plan(toy, Plan(data_parallel=4, expert_parallel=4), "toy") if not check.ok]


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"gates": "sigmoids"}, "gates = sigmoids is none (did you mean 'sigmoid'?); known: expert_choice, own_sigmoid, "),
        ({"gate_scale": 0.0}, "gate_scale = 0.0 leaves nothing"),
        ({"gates": "expert_choice", "expert_groups": 2, "groups_per_token": 1}, "limits what tokens choose, but gates = expert_choice"),
        ({"gates": "expert_choice", "steer_rate": 0.001}, "steer_rate = 0.001 steers what tokens choose, but gates = expert_choice"),
    ],
)
def test_gates_that_do_not_fit_are_told(figures: dict[str, object], said: str) -> None:
    assert said in replace(MODEL, **figures).misfit({})  # type: ignore[arg-type]
