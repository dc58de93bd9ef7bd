"""Schedules as actions and states, one by one, for tests that count them; the readers of parsim take them as columns."""

from __future__ import annotations

from parsim.schedules import Action, Phase, columns, find, state_columns


def actions_of(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int) -> list[list[Action]]:
    """The actions of each rank."""
    found = find(schedule, num_ranks)
    return [list(found.order(rank, num_ranks, chunks, num_micro_batches)) for rank in range(num_ranks)]


def as_text(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int) -> tuple[str, ...]:
    """The schedule as a plan writes it."""
    return tuple(" ".join(map(str, actions)) for actions in actions_of(schedule, num_ranks, chunks, num_micro_batches))


def in_order(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int) -> list[Action]:
    """All actions, each after what it needs."""
    held = columns(schedule, num_ranks, chunks, num_micro_batches)
    actions = held.actions()
    return [actions[row] for rows in held.levels for row in rows]


def needs(action: Action, num_stages: int) -> set[Action]:
    """What must have run before: the phase that it follows, and the neighbouring stage whose message it takes, of so many of a copy of the
    model."""
    stage, phase, m = action
    follows = {Phase.B: Phase.F, Phase.I: Phase.F, Phase.W: Phase.I}
    before = {Action(stage, follows[phase], m)} if phase in follows else set()
    source = stage - phase.step
    return before | {Action(source, phase, m)} if phase.step and source // num_stages == stage // num_stages else before


# Micro_batches in flight, by chunk and phase; chunk and phase of the next action; of a pair the chunk of its backward, or -1.
State = tuple[tuple[int, ...], int, Phase, int]


def states_of(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int) -> list[list[State]]:
    """The states of each rank that may set its peak."""
    found, phases = state_columns(schedule, num_ranks, chunks, num_micro_batches), find(schedule, num_ranks).phases
    by_rank: list[list[State]] = [[] for _ in range(num_ranks)]
    flat = found.in_flight.reshape(len(found.rank), -1)
    columns_of = (found.rank, found.chunk, found.phase, found.together, flat)
    for rank, chunk, phase, together, in_flight in zip(*(each.tolist() for each in columns_of), strict=True):
        by_rank[rank].append((tuple(in_flight), chunk, phases[phase], together))
    return by_rank
