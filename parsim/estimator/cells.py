"""How a plan and its figures read in the cells of a table, and in a few letters: the same wherever they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from parsim import units
from parsim.estimator.result import Estimate
from parsim.estimator.whole import WholeTraining
from parsim.parallel.dimensions import DIMENSIONS, axis_of
from parsim.parallel.plan import EXPERT_KEYS, KEYS, Plan
from parsim.units import percent

SPEED: Final = "speed\n%"
# What the columns of a plan say already; others in which plans differ have one column together.
_SAID: Final = (
    *("data_parallel", "tensor_parallel", "pipeline_parallel", "virtual_pipeline", "sequence_parallel", "micro_batch", "recompute"),
    *("context_parallel", "context_group", *EXPERT_KEYS, "dimensions", "recompute_every"),
    *("zero_stage", "zero_group", "reshard_after_forward", "offload_optimizer", "precision"),
    *("parameter_servers", "staleness_bound", "backup_workers"),
)
_OTHERS: Final = {name: key.default for name, key in KEYS.items() if name not in _SAID}
_LONG: Final = 12  # characters of a line of a title or a name


def rows_of(estimates: Sequence[Estimate], more: Sequence[Mapping[str, str]] = ()) -> list[dict[str, str]]:
    """A row a plan: its axes, more about it where there is more, its figures, and its speed beside the first's."""
    plans, rows = [each.plan for each in estimates], list[dict[str, str]]()
    for each, own in zip(estimates, more or [{}] * len(plans), strict=True):
        behind = share(each.tokens_per_s / estimates[0].tokens_per_s - 1, signed=True) if rows else "best"
        rows.append({**axes(each, plans), **other_axes(each.plan, plans), **own, **figures(each), SPEED: behind})
    return rows


def axes(estimate: Estimate, plans: Sequence[Plan]) -> dict[str, str]:
    """The axes of a plan, with a column for each that one of `plans` has."""
    plan, has_chunks = estimate.plan, any(each.virtual_pipeline > 1 for each in plans)
    others = {axis: "-" for each in plans for axis in _others(each)} | _others(plan)
    tp, pp, dp = map(axis_of, ("tensor_parallel", "pipeline_parallel", "data_parallel"))
    return {
        tp: f"{plan.tensor_parallel}{' sp' if plan.sequence_parallel else ''}",
        pp: str(plan.pipeline_parallel),
        **({"vpp": str(plan.virtual_pipeline)} if has_chunks else {}),
        dp: f"{plan.data_parallel}{_zero(plan)}",
        **others,
        **({"servers": _served_in_two(plan)} if any(each.is_served for each in plans) else {}),
        **({"precision": estimate.precision} if any(each.precision for each in plans) else {}),
        "mbs": f"{plan.micro_batch}x{estimate.num_micro_batches}",
        "recompute": _recompute(plan),
    }


def other_axes(plan: Plan, plans: Sequence[Plan]) -> dict[str, str]:
    """A column of the axes without one in which `plans` differ, so that rows that differ never read the same; "-" is their defaults."""
    differ = _differences(plans)
    stated = {name: value for name in differ if (value := _value_of(plan, name)) != _OTHERS[name]}
    words = (name if value is True else _text(value) for name, value in stated.items())
    return {"\n".join(map(_broken, differ)): ", ".join(map(_broken, words)) or "-"} if differ else {}


def defaults(plans: Sequence[Plan]) -> str:
    """What that column leaves out, of "-" all; "" where each plan states each of its axes.

    >>> defaults([Plan(schedule="gpipe"), Plan()]), defaults([Plan(schedule="gpipe"), Plan(schedule="zero_bubble_h1")])
    ('schedule 1f1b', '')
    """
    left_out = (name for name in _differences(plans) if any(_value_of(each, name) == _OTHERS[name] for each in plans))
    return ", ".join(f"{name} {_text(_OTHERS[name])}" for name in left_out)


def _differences(plans: Sequence[Plan]) -> list[str]:
    return [name for name in _OTHERS if len({_value_of(each, name) for each in plans}) > 1]


def _value_of(plan: Plan, name: str) -> object:
    """The value of a field without a column; parameter servers have one."""
    return _OTHERS[name] if name == "gradient_sync" and plan.is_served else getattr(plan, name)


def _text(value: object) -> str:
    if value is None or value is False or value == ():
        return "none"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _others(plan: Plan) -> dict[str, str]:
    """Degrees of dimensions that not every plan has, by axis; one that is on or off, by its name."""
    stated = {name: getattr(plan, name) for name in ("context_parallel", *EXPERT_KEYS)}
    found = {**{name: degree for name, degree in stated.items() if degree > 1}, **dict(plan.dimensions)}
    known = {name: DIMENSIONS.get(name) for name in found}
    group = {"context_parallel": f"/{plan.context_group}" if plan.context_group else ""}
    return {name if known[name].nesting is None else known[name].axis: f"{n}{group.get(name, '')}" for name, n in found.items()}


def _zero(plan: Plan) -> str:
    group = f"/{plan.zero_group}" if plan.zero_group else ""
    zero = f" z{plan.zero_stage}{group}" if plan.zero_stage else ""
    parameters = "" if plan.reshard_after_forward is None else " let go" if plan.reshard_after_forward else " kept"
    return zero + parameters + (" host" if plan.offload_optimizer else "")


def _served_in_two(plan: Plan) -> str:
    return _servers(plan).removeprefix(" ps").replace(" backup", "\nbackup") or "-"


def _servers(plan: Plan) -> str:
    if not plan.is_served:
        return ""
    backup = f" backup {plan.backup_workers}" if plan.backup_workers else ""
    return f" ps{plan.parameter_servers}" + ("" if plan.staleness_bound is None else f" bound {plan.staleness_bound}") + backup


def _recompute(plan: Plan) -> str:
    """'full', 'selective + 1 op', '2 modules', '3 ops', and the share of layers where not each does."""
    counts = {"module": len(plan.recompute_modules), "op": len(plan.recompute_ops)}
    parts = [f"{count} {what}{'s' if count > 1 else ''}" for what, count in counts.items() if count]
    whole = plan.recompute != "none" and not plan.recompute_modules  # which say what selective means
    again = " + ".join([*([plan.recompute] if whole or not parts else []), *parts])
    return again + (f" 1/{plan.recompute_every}" if plan.recompute_every > 1 else "")


def figures(estimate: Estimate) -> dict[str, str]:
    """The step, what it reaches, and what the most loaded device holds."""
    return {
        "step": units.format(estimate.step_s, "s", digits=4),
        "token/s\n/device": _number(estimate.tokens_per_s_per_device, "token/s"),
        "MFU\n%": share(estimate.mfu),
        f"GiB\n/{gib(estimate.capacity_bytes)}": gib(estimate.peak_bytes),
    }


def span(interval: tuple[float, float], unit: str) -> str:
    """Both ends of an interval, with their unit once where it is the same.

    >>> span((17.93, 26.4), "s"), span((0.95, 1.2), "s"), span((2**30, 2**31), "GiB")
    ('17.9 to 26.4 s', '950 ms to 1.2 s', '1 to 2 GiB')
    """
    low, high = (units.format(each, unit) for each in interval)
    (number, _, own), (*_, other) = low.partition(" "), high.partition(" ")
    return f"{number if own == other else low} to {high}"


def _number(value: float, unit: str) -> str:
    return units.format(value, unit).partition(" ")[0]


def share(value: float, *, signed: bool = False) -> str:
    """Percent, without their sign."""
    return percent(value, signed=signed).removesuffix(" %")


def gib(num_bytes: float) -> str:
    """The GiB, without their unit."""
    least = units.parse("0.001 GiB", "bytes")
    return units.format(num_bytes, "GiB").partition(" ")[0] if num_bytes >= least or not num_bytes else "<0.001"


def short(plan: Plan) -> str:
    """A plan in a few letters.

    >>> short(Plan(tensor_parallel=8, data_parallel=2, recompute="full"))
    'tp8 pp1 dp2 mbs1 recompute full'
    >>> short(Plan(data_parallel=4, zero_stage=3, zero_group=2, recompute_ops=("norm1",), recompute_every=2))
    'tp1 pp1 dp4 z3/2 mbs1 recompute 1 op 1/2'
    >>> short(Plan(data_parallel=4, gradient_sync="parameter_server", parameter_servers=2, staleness_bound=1))
    'tp1 pp1 dp4 ps2 bound 1 mbs1 recompute none'
    """
    chunks = f" vpp{plan.virtual_pipeline}" if plan.virtual_pipeline > 1 else ""
    sequence = " sp" if plan.sequence_parallel else ""
    axes = f"tp{plan.tensor_parallel}{sequence} pp{plan.pipeline_parallel}{chunks} dp{plan.data_parallel}{_zero(plan)}{_servers(plan)}"
    others = "".join(f" {axis}{degree}" for axis, degree in _others(plan).items())
    precision = f" {plan.precision}" if plan.precision else ""
    return f"{axes}{others} mbs{plan.micro_batch} recompute {_recompute(plan)}{precision}"


def _broken(text: str) -> str:
    """A long name in two lines."""
    return text.replace("_", "_\n", 1) if len(text) > _LONG else text


def words(training: WholeTraining | None) -> dict[str, str]:
    """Columns of a whole training; none without one."""
    if training is None:
        return {}
    return {
        "time_to_tokens": days(training.time_s),
        "device_hours": f"{training.device_hours:,.0f}",
        "cost": "-" if training.cost_usd is None else usd(training.cost_usd),
        "energy": "-" if training.energy_j is None else units.format(training.energy_j, "MWh"),
    }


def columns(training: WholeTraining | None) -> dict[str, str]:
    """The same under titles of two lines."""
    titles = {"time_to_tokens": "time to\ntokens", "device_hours": "device\nhours", "cost": "cost\nUSD", "energy": "energy\nMWh"}
    return {titles[name]: text.removesuffix(" USD").removesuffix(" MWh") for name, text in words(training).items()}


def days(seconds: float) -> str:
    """Seconds as days.

    >>> days(2_592_000.0), days(4_320.0)
    ('30 days', '0.05 days')
    """
    return units.format(seconds, "days")


def usd(cost: float) -> str:
    """Money, without cents where they do not count.

    >>> usd(1_234_567.8), usd(12.5)
    ('1,234,568 USD', '12.50 USD')
    """
    return f"{cost:,.0f} USD" if cost >= 1000 else f"{cost:,.2f} USD"
