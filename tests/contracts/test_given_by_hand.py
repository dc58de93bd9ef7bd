"""What is made by hand in Python is held to what a file is: each public function refuses it, or says what the file's plan gets."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

import parsim
from parsim.parallel import legality
from parsim.parallel.plan import Batch, Plan
from parsim.report.explain import explain
from parsim.scenario import Scenario
from parsim.verify import verify

TINY = str(Path(__file__).parents[2] / "scenarios" / "tiny.yaml")
NAME = "tensor"
VALUES: dict[str, list[object]] = {
    "tensor_parallel": ["2", 2.0, True, -1, 0, None, 3, np.int64(2), (2,)],
    "data_parallel": [1, 3, 8, "2"],
    "micro_batch": [1, 3, 1.5, 9],
    "pipeline_parallel": [2, "x"],
    "virtual_pipeline": [2],
    "expert_parallel": [2, 0],
    "context_group": ["2", 2],
    "context_kind": ["zz", 5, "ring"],
    "sequence_parallel": ["yes", 1, True],
    "schedule": [None, ["0F0"], ("0F0",), ("0F0", 1), "nope", "gpipe"],
    "precision": [8, ["bf16"], "nope", "fp32"],
    "recompute": ["x", True, None, "none"],
    "recompute_modules": [["mlp"], "mlp", ("nope",), ("mlp",), (1,)],
    "recompute_ops": ["norm1", [], ("norm1",)],
    "layers_per_stage": [[4], (4,), (2, 2), ("4",), 4, ()],
    "dimensions": [{"a": 1}, 5, ("a", 1), (("zz", 2),), (("zz",),), (("zz", "2"),), [["zz", 2]]],
    "rank_order": ["xx", 5, "dp-tp-pp"],
    "optimizer": ["xx", None, "sgd_momentum"],
    "optimizer_in_backward": ["no", 0],
    "zero_stage": ["1", 9, True, 1.0, 1],
    "zero_group": ["2", 3],
    "reshard_after_forward": ["no", False],
}
PLANS = [pytest.param(name, value, id=f"{name}-{value!r}") for name, values in VALUES.items() for value in values]
OF_A_PLAN: dict[str, Callable[..., Any]] = {
    "estimate": parsim.estimate,
    "estimates": lambda scenario, plan: parsim.estimates(scenario, [scenario.plan(NAME), plan]),
    "simulate": parsim.simulate,
    "execute": parsim.execute,
    "trace": parsim.trace,
    "remedies": parsim.remedies,
    "whatif": parsim.whatif,
    "advise": parsim.advise,
    "save_plan": lambda scenario, plan: parsim.save_plan(scenario, plan, "never written"),
    "by name": lambda scenario, plan: parsim.estimate(replace(scenario, plans={NAME: plan}), NAME),
    "verify": lambda scenario, plan: verify(replace(scenario, plans={NAME: plan})),
    "explain": lambda scenario, plan: explain(replace(scenario, plans={NAME: plan}), NAME, "step"),
    "plan": lambda scenario, plan: parsim.plan(replace(scenario, plans={NAME: plan}), space={"tensor_parallel": [1]}),
}


@cache
def tiny() -> Scenario:
    return parsim.load(TINY)


def in_a_file(name: str, value: object) -> Scenario | None:
    """The scenario whose file says so of the plan; None where no file can."""
    said = {key: [*each] for key, each in [(name, value)] if isinstance(each, tuple)} or {name: value}
    try:
        found = parsim.load(TINY, changes={f"plans.{NAME}.{name}": said[name]})
    except parsim.ParsimError:
        return None
    return found if NAME in found.plans else None  # not what a planner fills


def refused(work: Callable[[], object]) -> bool:
    try:
        work()
    except parsim.ParsimError:
        return True
    return False


@pytest.mark.parametrize(("name", "value"), PLANS)
def test_a_plan_by_hand_gets_what_a_file_gets_or_a_sentence(name: str, value: object) -> None:
    given, stated = replace(tiny().plan(NAME), **{name: value}), in_a_file(name, value)
    if stated is None or stated.plan(NAME) != given or type(getattr(stated.plan(NAME), name)) is not type(value):
        assert [ask for ask, work in OF_A_PLAN.items() if not refused(lambda work=work: work(tiny(), given))] == []  # type: ignore[misc]
        return
    own, by_file = parsim.estimate(tiny(), given), parsim.estimate(stated, NAME)
    assert replace(own, name=NAME) == by_file


def test_mutant_plans_by_hand_that_nobody_checks_are_priced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scenario, "legal_plan", lambda self, plan, where="": plan)
    plan = Plan(data_parallel=2)
    assert not refused(lambda: parsim.estimate(tiny(), plan))


def test_all_that_is_wrong_with_a_plan_is_told_at_once_with_its_types_and_what_would_do() -> None:
    given = Plan(tensor_parallel="2", micro_batch=0, recompute="ful", recompute_modules=["mlp"], zero_stage=1.0)  # type: ignore[arg-type]
    with pytest.raises(parsim.ParsimError) as told:
        parsim.estimate(tiny(), given)
    for said in (
        "tensor_parallel = '2' is not of type int",
        "recompute_modules = ['mlp'] is not of type tuple[str, ...]",
        "zero_stage = 1.0 is not of type int",
        "micro_batch = 0 is not a positive whole number. Legal: 1, 2, 3, ...",
        "unknown recompute 'ful' (did you mean 'full'?). Legal: none, selective, full",
    ):
        assert said in str(told.value)


def changed(part: str, **fields: Any) -> Scenario:
    return replace(tiny(), **{part: replace(getattr(tiny(), part), **fields)})


def of_node(**fields: Any) -> Scenario:
    return changed("cluster", node=replace(tiny().cluster.node, **fields))


def of_accelerator(**fields: Any) -> Scenario:
    return of_node(accelerator=replace(tiny().cluster.node.accelerator, **fields))


SCENARIOS: dict[str, tuple[Callable[[], Scenario], str]] = {
    "text": (lambda: changed("batch", global_batch="4"), "batch.global_batch = '4' is not of type int"),
    "half": (lambda: changed("batch", global_batch=8.5), "batch.global_batch = 8.5 is not of type int"),
    "negative": (lambda: changed("batch", global_batch=-8), "batch.global_batch: must be above 0, not -8"),
    "dtype": (lambda: changed("batch", dtype="bf61"), "unknown dtype 'bf61'"),
    "long": (lambda: changed("batch", sequence_length=4096), "is above max_positions"),
    "layers": (lambda: changed("model", num_layers="4"), "model.num_layers = '4' is not of type int"),
    "no layers": (lambda: changed("model", num_layers=-4), "model.num_layers must be above 0, not -4"),
    "heads": (lambda: changed("model", num_kv_heads=3), "num_kv_heads = 3 does not divide num_heads"),
    "norm": (lambda: changed("model", norm="layernorm"), "did you mean 'layer_norm'"),
    "dropout": (lambda: changed("model", dropout=1.0), "model.dropout must be below 1, not 1.0"),
    "stack": (lambda: changed("stack", host_launch_s=-1e-6), "stack.host_launch_s must be at least 0, not -1e-06"),
    "stack's type": (lambda: changed("stack", fusions=["bias"]), "stack.fusions = ['bias'] is not of type tuple[str, ...]"),
    "fusions": (lambda: changed("stack", fusions=("biass",)), "stack.fusions.0: cannot be 'biass'"),
    "split": (lambda: changed("stack", layer_split="evn"), "stack.layer_split: unknown layer_split 'evn'"),
    "topology": (lambda: of_node(topology="star"), "cluster.node.topology: unknown topology 'star'"),
    "share": (lambda: of_node(p2p_efficiency=5.0), "cluster.node.p2p_efficiency: must be at most 1, not 5.0"),
    "layout": (lambda: changed("batch", one_layout=True), "batch.one_layout = True, but of accelerator"),
    "devices": (lambda: of_node(devices_per_node="4"), "cluster.node.devices_per_node = '4' is not of type int"),
    "peak": (lambda: of_accelerator(peak_flops_per_s={"bf16": -1.0}), "cluster.node.accelerator.peak_flops_per_s.bf16 must be at least 0"),
    "bandwidth": (lambda: of_accelerator(hbm_bandwidth_bytes_per_s=0.0), "hbm_bandwidth_bytes_per_s must be above 0, not 0.0"),
    "training": (lambda: changed("training", learning_rate=-1.0), "training.learning_rate must be above 0, not -1.0"),
    "no batch": (lambda: replace(tiny(), batch=None), "batch = None is not of type Batch"),
    "seed": (lambda: replace(tiny(), seed="1"), "seed = '1' is not of type int"),
    "seed below 0": (lambda: replace(tiny(), seed=-1), "seed: must be at least 0, not -1"),
}
OF_A_SCENARIO: dict[str, Callable[[Scenario], Any]] = {
    **{name: lambda scenario, work=work: work(scenario, NAME) for name, work in OF_A_PLAN.items() if name not in ("by name", "estimates")},
    "verify": verify,
    "explain": lambda scenario: explain(scenario, NAME, "step"),
    "estimates": lambda scenario: parsim.estimates(scenario, [tiny().plan(NAME)]),
    "plan": lambda scenario: parsim.plan(scenario, top=1),
    "pareto": parsim.pareto,
    "size": lambda scenario: parsim.size(scenario, "1M", within="1 day"),
    "smallest_cluster": parsim.smallest_cluster,
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_that_is_changed_by_hand_is_refused_by_whoever_is_given_it(name: str) -> None:
    make, said = SCENARIOS[name]
    for work in OF_A_SCENARIO.values():
        with pytest.raises(parsim.ParsimError) as told:
            work(make())
        assert said in str(told.value)


def test_a_model_by_hand_is_refused_where_its_weights_are_counted() -> None:
    with pytest.raises(parsim.ParsimError, match="num_layers must be above 0, not -4"):
        parsim.num_parameters(replace(tiny().model, num_layers=-4))


@pytest.mark.parametrize("path", ["tiny.yaml", "tiny-moe.yaml", "long-context.yaml", "deepseek-v3-2048.yaml", "digits-mlp.yaml"])
def test_what_a_file_says_is_right_by_hand_too(path: str) -> None:
    scenario = parsim.load(str(Path(TINY).parent / path))
    assert not scenario.misfits()
    by_hand = replace(scenario, seed=scenario.seed)
    assert by_hand.misfits() == [] and all(scenario.legal_plan(name) == plan for name, plan in scenario.plans.items())


@pytest.mark.parametrize(("name", "value"), [("num_steps", 0), ("seed", -1), ("precision", "bf16"), ("rounds_as", Plan(zero_stage="1"))])  # type: ignore[arg-type]
def test_a_run_of_wrong_numbers_is_refused(name: str, value: object) -> None:
    assert refused(lambda: parsim.execute(tiny(), NAME, **{name: value}))  # type: ignore[arg-type]


def asked(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans whose legality was asked for, from now on."""
    tiny()  # is read before
    found, real = list[Plan](), legality.faults_of
    monkeypatch.setattr(legality, "faults_of", lambda plan, facts: found.append(plan) or real(plan, facts))
    return found


@pytest.mark.parametrize("name", ["estimate", "simulate", "execute", "trace", "whatif", "remedies"])
def test_legality_is_asked_once_a_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked(monkeypatch)
    OF_A_PLAN[name](tiny(), NAME)
    assert found == [tiny().plan(NAME)]


def test_a_planner_asks_for_the_plans_that_have_a_name_and_for_none_that_it_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked(monkeypatch)
    ranking = parsim.plan(tiny(), space={"tensor_parallel": "auto", "recompute": "auto", "micro_batch": "auto"}, top=None)
    assert ranking.num_legal > len(tiny().plans) and found == [*tiny().plans.values()]


def test_of_many_plans_a_rule_is_asked_once_for_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked(monkeypatch)
    plans = [replace(tiny().plan(NAME), recompute=each) for each in ("none", "full") for _ in range(50)]
    assert len(parsim.estimates(tiny(), plans).step_s) == 100 and found == []


def test_what_is_made_of_wrong_names_or_types_is_told_as_far_as_nobody_else_asks() -> None:
    with pytest.raises(parsim.ParsimError, match="global_batch = '8' is not of type int\nlearning_rate = 'x' is not of type float"):
        parsim.Reference("8", "x")  # type: ignore[arg-type]
    with pytest.raises(parsim.ParsimError, match="dimensions = 5 is not of type"):
        Plan.from_dict({"dimensions": 5})
    with pytest.raises(parsim.ParsimError, match=r"Plan has no field 'tensor_parallell' \(did you mean 'tensor_parallel'\?\)"):
        Plan(tensor_parallell=2)  # type: ignore[call-arg]
    with pytest.raises(parsim.ParsimError, match=r"Batch has no field 'dtpe' \(did you mean 'dtype'\?\)"):
        Batch(8, 8, dtpe="bf16")  # type: ignore[call-arg]
