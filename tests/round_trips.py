"""Plans that are drawn, exported to a launcher's files and read back from them; what a launcher cannot say is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from math import inf

from msgspec import Struct, field
from msgspec.structs import replace

from parsim.errors import PlanError
from parsim.parallel.plan import KEYS, Plan
from parsim.parallel.plans import Plans
from parsim.planner.canonical import canonical
from parsim.scenario import Scenario
from parsim.scenario.types import Training
from parsim.targets import ForeignJob, Launch, NotExpressible, Setup, Target, find, read_job
from parsim.targets.exporting import export_setup, keys_of
from random_plans import Drawn, drawn, faults_of_case

TOGETHER = (
    ("virtual_pipeline", "schedule", "layers_per_stage"),
    ("context_parallel", "context_kind", "context_group"),
    ("recompute", "recompute_modules", "recompute_ops", "recompute_every"),
    ("zero_stage", "zero_group", "reshard_after_forward", "offload_optimizer"),
)  # of which one alone as usual is seldom legal


class Tally(Struct):
    """How many draws came back, how many only once fields of theirs were as usual, and what was refused first, and last."""

    came_back: int = 0
    made_usual: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    never: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)


def setup_of(case: Drawn) -> Setup:
    return Setup("drawn", case.scenario, case.plan)


def same_work(scenario: Scenario, one: Plan, other: Plan) -> bool:
    """Whether two plans have one canonical form, their precision apart, which the batch says."""
    found = canonical(Plans.of([replace(each, precision=None) for each in (one, other)]), scenario.facts)
    return bool(found[0] == found[1])


def plan_of(job: ForeignJob) -> Plan:
    return Plan.from_dict({name.removeprefix("plan."): value for name, value in job.keys.items() if name.startswith("plan.")})


def of_one_stage(case: Drawn) -> Drawn:
    """The case without a pipeline, in bf16, where that is legal: what most launchers beside Megatron's are for."""
    usual = {name: KEYS[name].default for name in ("pipeline_parallel", *TOGETHER[0])}
    batch = replace(case.scenario.batch, dtype="bf16", num_layers_at_start_in_bf16=0, num_layers_at_end_in_bf16=0)
    changed = Drawn(replace(case.scenario, batch=batch), replace(case.plan, **usual))
    return case if faults_of_case(changed) else changed


def nearest(case: Drawn, target: str) -> Iterator[tuple[Drawn, Launch | PlanError]]:
    """The case as drawn, then with each field that is refused as usual, as long as that is legal: each with what the launcher says."""
    known, version = find(target)
    for _ in KEYS:
        try:
            launch = export_setup(known, version, setup_of(case))
        except NotExpressible as error:
            yield case, error
            name = error.field if error.field in KEYS else ""
            if not name or getattr(case.plan, name) == KEYS[name].default or name == "data_parallel":
                return
            together = next((group for group in TOGETHER if name in group), (name,))
            case = Drawn(case.scenario, replace(case.plan, **{each: KEYS[each].default for each in together}))
            if faults_of_case(case):
                return
        except PlanError as error:
            yield case, error
            return
        else:
            yield case, launch
            return


def tally(target: str, seeds: range, change: Callable[[Drawn], Drawn] = lambda case: case) -> Tally:
    """All draws of these seeds, to the launcher and back."""
    result = Tally()
    for seed in seeds:
        last = ""
        for step, (case, said) in enumerate(nearest(change(drawn(seed)), target)):
            if isinstance(said, PlanError):
                last = f"{said.field}: {said.args[3].split(' = ')[0]}" if isinstance(said, NotExpressible) else said.what
                result.refused[last] += step == 0
                continue
            last = ""
            name, text = next(iter(said.files.items()))
            job = read_job(text, name)
            if job.target != said.target or not same_work(case.scenario, case.plan, plan_of(job)):
                result.failed.append(f"seed {seed}: {case.plan} came back as {plan_of(job)} of {job.target}")
            if (count := job.keys.get("num_micro_batches", 0)) and count != case.plan.num_micro_batches(case.scenario.batch):
                result.failed.append(f"seed {seed}: {count} micro_batches of {case.plan}")
            result.came_back += 1
            result.made_usual += step > 0
        result.never[last] += bool(last)
    return result


def expressed(target: str, seeds: range) -> Iterator[Setup]:
    """Of each draw what the target can say of it, if anything."""
    for seed in seeds:
        for case, said in nearest(drawn(seed), target):
            if isinstance(said, Launch):
                yield setup_of(case)


def unnoticed(target: str, setups: Iterable[Setup]) -> list[str]:
    """The entries of NAME@VERSION that could write nothing, or read nothing, of all these setups, and nobody would say so."""
    known, version = find(target)
    table = known.entries(version)
    expressible = [setup for setup in map(trained_otherwise, setups) if is_expressible(known, version, setup)]
    assert len(expressible) > 5, "too few that the target can express"
    silent, deaf = {"write": lambda setup: {}}, {"read": lambda keys: {}}
    found = []
    for entry in (each for each in table if each.fields and not each.assumed):
        for how in (silent, deaf):
            mutant = tuple(replace(each, **how) if each is entry else each for each in table)
            if all(is_expressible(replace(known, entries=lambda version, mutant=mutant: mutant), version, each) for each in expressible):
                found.append(f"{next(iter(how))} {entry.fields[0]}")
    return found


def trained_otherwise(setup: Setup) -> Setup:
    """The setup with no figure of `training` as it is by default."""
    norm = inf if setup.plan.optimizer_in_backward else 0.5
    figures = Training(learning_rate=0.002, beta1=0.8, beta2=0.97, eps=1e-7, weight_decay=0.05, momentum=0.7, max_norm=norm)
    return replace(setup, scenario=replace(setup.scenario, training=figures, total_tokens=300 * setup.batch.num_tokens))


def is_expressible(target: Target, version: str, setup: Setup) -> bool:
    try:
        keys_of(target, version, setup)
    except PlanError:
        return False
    return True
