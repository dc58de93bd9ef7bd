"""Plans as arrays: the extent of every dim and the degree of every axis, one value per plan.  One plan is an array of length 1.

Most axes cut a dim into equal parts; one may follow a table of integers (Table).  What differs from rank to rank is asked of a
representative: the first rank where all are alike, the worst one, which has the most, where they are not; or of the rank of a given place.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from parsim.cluster.scalars import Ints as Ints
from parsim.cluster.scalars import distinct_rows
from parsim.cost.causal import Stretch, causal_pairs, runs_of
from parsim.cost.tables import Table, of_loads, tables_of
from parsim.errors import PlanError, ScenarioError
from parsim.model.dims import (
    COMPUTE,
    CUT_UNITS,
    DIMS,
    FIXED_ITEMSIZE_BYTES,
    FLAT_AND_CAST,
    FLOAT32,
    FREE,
    FULL,
    GRADIENT,
    MASTER,
    PACKED,
    SEQUENCE,
    SLOTS,
    SOURCE,
    TOWER,
    dim_of_loads,
)
from parsim.model.loads import Slots
from parsim.model.spec import ModelSpec
from parsim.model.window import ALL, Window
from parsim.parallel.dimensions import (
    DENSE,
    Degrees,
    UnevenShare,
    all_dimensions,
    axes,
    chunks,
    rules,
    split,
    switched_on,
    uneven,
    view_of,
)
from parsim.parallel.dimensions import degrees as degrees_of
from parsim.parallel.group import Group
from parsim.parallel.mesh import fastest_first, order_of
from parsim.parallel.optimizer import OPTIMIZERS, states_role
from parsim.parallel.plan import MESH, Batch, Stack
from parsim.parallel.plans import Plans, codes_of
from parsim.parallel.sharding import Sharding
from parsim.step.task import Operand

_MOST_FLOPS = 2.0**62  # of a pass: half of int64


class Sizes(Struct, frozen=True, dict=True):
    """Extents of dims (of one micro_batch, all replicas together), degrees of axes, and bytes of an element by role."""

    dims: Mapping[str, Ints]
    degrees: Mapping[str, Ints]
    itemsize_bytes: Mapping[str, int]
    num_plans: int
    orders: tuple[tuple[str, ...], ...]  # of the ranks of some plan: axes of the dense view from the fastest
    order: Ints  # which of them each plan has
    tables: Mapping[tuple[str, str], Table] = field(default_factory=dict)  # by dim and axis; all others are even
    layouts: tuple[tuple[int, ...], ...] = ((),)  # in which chunks sequences lie on their ranks: see Dimension
    layout: Ints = field(default_factory=lambda: np.zeros(1, dtype=np.int64))  # which of them each plan has
    kv_copies: Ints = field(default_factory=lambda: np.ones(1, dtype=np.int64))  # ranks that hold the same kv head
    sequence_axes: tuple[str, ...] = ()  # that cut the sequence of some plan's attention
    slots: Mapping[int, Slots] = field(default_factory=dict)  # of experts in a run of tokens, by their loads
    documents: tuple[int, ...] = ()  # of a sequence
    place: Mapping[str, int] | None = None  # of the rank that is asked about, by axis; None: the representative
    stands: Mapping[str, Ints] = field(default_factory=dict)  # where the representative stands; elsewhere it has most of what is asked

    @functools.cached_property
    def _known(self) -> dict[object, Ints]:
        return {}

    @property
    def num_devices(self) -> Ints:
        """Ranks of the whole mesh."""
        return np.asarray(np.prod([degree for axis, degree in self.degrees.items() if view_of((axis,)) == DENSE], axis=0))

    @property
    def telling(self) -> tuple[str, ...]:
        """The axes along which ranks differ in what they hold, or in how many pairs a causal mask leaves them."""
        return tuple(dict.fromkeys((*(axis for _, axis in self.tables), *self.sequence_axes)))

    @property
    def unordered(self) -> Ints:
        """A number for each plan, the same for those that differ in the order of their ranks only."""
        return self.once("unordered", lambda: distinct_rows([*self.dims.values(), *self.degrees.values()], self.num_plans)[1])

    @property
    def zero(self) -> Ints:
        """A zero for each plan."""
        return np.zeros(self.num_plans, dtype=np.int64)

    def at(self, place: Mapping[str, int]) -> Sizes:
        """The same, of the rank at this place."""
        return replace(self, place=place)

    def take(self, rows: Ints) -> Sizes:
        """The same of some of the plans."""
        if self.num_plans == len(rows) == 1:
            return self  # with all that it knows
        dims, degrees = ({name: values[rows] for name, values in each.items()} for each in (self.dims, self.degrees))
        tables, stands = {key: table.take(rows) for key, table in self.tables.items()}, {axis: at[rows] for axis, at in self.stands.items()}
        own = {name: getattr(self, name)[rows] for name in ("order", "layout", "kv_copies")}
        return replace(self, dims=dims, degrees=degrees, num_plans=len(rows), tables=tables, stands=stands, **own)

    def local(self, sharding: Sharding, dim: str) -> Ints:
        """Extent of one dim on one rank.

        Raises:
            PlanError: an axis cuts by a table what another axis cuts, too.
        """
        name = sharding.sized_dim(dim)
        extent = whole = self.dims[name]
        cuts = sharding.axes[sharding.dims.index(dim)]
        for axis in cuts:
            table = self.tables.get((name, axis))
            if table and len(cuts) > 1 and dim not in FREE:
                raise PlanError(f"dim {dim} is cut by the table of {axis} and by {' and '.join(each for each in cuts if each != axis)}")
            extent = extent * self._of_table(table, axis) // whole if table else extent // self.degrees[axis]
        return extent

    def start(self, sharding: Sharding, dim: str) -> Ints:
        """The first index of a dim that the rank at `place` holds."""
        place, name, start = self.place or {}, sharding.sized_dim(dim), self.zero
        extent = whole = self.dims[name]
        for axis in sharding.axes[sharding.dims.index(dim)]:
            table, position = self.tables.get((name, axis)), place.get(axis, 0)
            if table:
                start = start + np.sum(table.parts[:, :position], axis=1) * extent // whole
                extent = extent * table.at(position) // whole
            else:
                extent = extent // self.degrees[axis]
                start = start + position * extent
        return start

    def runs(self, sharding: Sharding, dim: str, turns: int = 0) -> tuple[Stretch, ...]:
        """The positions of a dim that the rank at `place` of the only plan holds, in the order in which they lie, or another so many
        ranks before it."""
        if turns:
            (axis,), place = sharding.axes[sharding.dims.index(dim)], self.place or {}
            before = (place.get(axis, 0) - turns) % int(self.degrees[axis][0])
            return self.at({**place, axis: before}).runs(sharding, dim)
        start, extent = int(self.start(sharding, dim)[0]), int(self.local(sharding, dim)[0])
        return runs_of(int(self.dims[dim][0]), self.layouts[self.layout[0]] if dim in SEQUENCE else (), start, start + extent)

    def causal_pairs(self, queries: Sharding, keys: Sharding, turns: int = 0, window: Window = ALL) -> Ints:
        """Pairs of query and key that a causal mask leaves of one head of one sequence; where ranks differ, those of the one with most.

        `turns`: how many ranks the keys have come on.
        """
        key = "pairs", queries.dims, queries.axes, keys.dims, keys.axes, turns, window
        return self.once(key, lambda: self._causal_pairs(queries, keys, turns, window))

    def _causal_pairs(self, queries: Sharding, keys: Sharding, turns: int, window: Window) -> Ints:
        (query, over), (key, more) = (
            (dim, axes) for side in (queries, keys) for dim, axes in zip(side.dims, side.axes, strict=True) if dim in SEQUENCE
        )
        axes = dict.fromkeys((*over, *more))
        columns = [self.dims[query], self.layout, *(self.degrees[axis] for axis in axes)]
        first, which = distinct_rows(columns, self.num_plans)
        found = []
        for plan in first:
            own = self._only(plan, (query, key), axes)
            each = (own.at(place) for place in ([self.place] if self.place else own._places(axes)))
            found.append(max(causal_pairs(one.runs(queries, query), one.runs(keys, key, turns), window) for one in each))
        return np.array(found, dtype=np.int64)[which]

    def _only(self, plan: int, dims: Iterable[str], axes: Iterable[str]) -> Sizes:
        """One of the plans, with these dims and axes."""
        rows = slice(plan, plan + 1)
        return replace(
            self,
            dims={dim: self.dims[dim][rows] for dim in dims},
            degrees={axis: self.degrees[axis][rows] for axis in axes},
            num_plans=1,
            tables={key: table.take(rows) for key, table in self.tables.items()},
            layout=self.layout[rows],
            stands={},
        )

    def _places(self, axes: Iterable[str]) -> Iterator[dict[str, int]]:
        """All ranks of the only plan along these axes."""
        ranks = (range(int(self.degrees[axis][0])) for axis in axes)
        yield from (dict(zip(axes, place, strict=True)) for place in itertools.product(*ranks))

    def _of_table(self, cut: Table, axis: str) -> Ints:
        if self.place is not None:
            return cut.at(self.place[axis])
        return cut.at(self.stands.get(axis, cut.worst))

    def elements(self, sharding: Sharding) -> Ints:
        """Elements of a tensor on one rank; a scalar has one."""
        return self.once((sharding.sized_dims, sharding.axes), lambda: self._product(sharding))

    def _product(self, sharding: Sharding) -> Ints:
        count = np.ones(self.num_plans, dtype=np.int64)
        for dim in sharding.dims:
            count = count * self.local(sharding, dim)
        return count

    def once(self, key: object, count: Callable[[], Ints]) -> Ints:
        """What is asked for again and again, and counted once."""
        if key not in self._known:
            found = self._known[key] = count()
            found.setflags(write=False)
        return self._known[key]

    def num_bytes(self, operand: Operand) -> Ints:
        """Bytes of a buffer on one rank, as it is stored."""
        where = operand.sharding
        key = where.sized_dims, where.axes, operand.dtype
        return self.once(key, lambda: self.elements(where) * self.itemsize_bytes[operand.dtype])

    def num_ranks(self, group: Group) -> Ints:
        """Ranks of a group; of one that only homes of a segment form, as many as there are homes, at most."""
        if group.copies:
            return self.kv_copies
        if group.mirrors:
            return self.zero + 2
        count = np.ones(self.num_plans, dtype=np.int64)
        for axis in group.axes:
            count = count * self.degrees[axis]
        return np.minimum(count, len(group.homes)) if group.homes else count

    def position(self, group: Group, place: Mapping[str, int | Ints]) -> Ints:
        """Where the rank at a place stands in a group, whose last axis is the fastest; as the representative on axes that it leaves out."""
        found = self.zero
        for axis in group.axes:
            found = found * self.degrees[axis] + (place[axis] if axis in place else self._representative(axis))
        if group.mirrors:  # the nearer to the first stage is the first
            return np.asarray(found >= self.degrees["pp"] // 2, dtype=np.int64)
        return found % self.kv_copies if group.copies else found

    def _representative(self, axis: str) -> Ints:
        if axis in self.stands:
            return self.stands[axis]
        return next((table.worst for (_, by), table in self.tables.items() if by == axis), self.zero)

    @functools.cached_property
    def torn(self) -> tuple[str, ...]:
        """The axes along which layers differ in which ranks have most: no rank has most of all, so all are asked, if none is."""
        axes = dict.fromkeys(axis for (dim, axis) in self.tables if dim not in DIMS)
        return () if self.place is not None or self.stands else tuple(axes)

    def of_all_ranks(self, axes: Iterable[str]) -> tuple[Sizes, Ints]:
        """The same of each rank along these axes as its own representative, those of a plan together; and which plan each is of."""
        which, stands = np.arange(self.num_plans), dict[str, Ints]()
        for axis in axes:
            degree = self.degrees[axis][which]
            row = np.repeat(np.arange(len(which)), degree)
            stands = {name: at[row] for name, at in stands.items()}
            stands[axis] = np.arange(len(row)) - np.repeat(np.cumsum(degree) - degree, degree)
            which = which[row]
        return replace(self.take(which), stands=stands), which

    def stride(self, group: Group) -> Ints:
        """The distance between neighbours along a group's fastest axis: the product of the faster axes."""
        return self.once(("stride", *group.axes), lambda: self._stride(group.axes))

    def _stride(self, axes: tuple[str, ...]) -> Ints:
        found = np.ones(self.num_plans, dtype=np.int64)
        for number, ranks in enumerate(self.orders) if axes else ():
            order = order_of(view_of(axes), ranks)
            inner = [self.degrees[axis] for axis in order[: min(map(order.index, axes))]]
            found = np.where(self.order == number, np.prod(inner, axis=0, dtype=np.int64), found)
        return found


def padded_vocabulary(vocab_size: int, multiple: int, num_shards: int) -> int:
    """The vocabulary, padded so that every shard is a multiple of `multiple` (Megatron-LM, make-vocab-size-divisible-by).

    >>> padded_vocabulary(50257, 128, 8)
    51200
    """
    unit = multiple * num_shards
    return -(-vocab_size // unit) * unit


def _check_range(dims: Mapping[str, Ints], micro_batch: Ints, model: ModelSpec) -> None:
    """Refuse extents whose largest matmul would overflow int64.

    Raises:
        ScenarioError: it would.
    """
    extent = {dim: float(values.max()) for dim, values in dims.items()}
    width = max(math.prod(extent.get(dim, 0.0) for dim in dims) for dims in ("KRC", [FULL[dim] for dim in "KRC"]))
    slots = max((own for dim, own in extent.items() if dim.startswith("O")), default=0.0)
    chosen = extent.get("J", 0.0) * slots * extent["M"] / (extent["B"] * extent["S"])  # of all experts of a token
    widest = max(width, chosen, *(extent.get(dim, 0.0) for dim in (*"DFLVYI", "Fp", CUT_UNITS[0], TOWER["D"], TOWER["F"])))
    first = extent.get("I", 0.0) * extent.get(CUT_UNITS[0], 0.0)  # of a chain of dense layers, by columns
    largest = 2 * float(micro_batch.max()) * extent["S"] * max(extent["D"] * widest, width * extent["S"], first)
    if 20 * largest > _MOST_FLOPS:  # a pass through a layer, backward and recomputation included, is below twenty of its largest
        raise ScenarioError(
            f'model "{model.name}" needs {largest:.1e} FLOPs in one matmul of a micro_batch, more than is counted exactly',
            remedy="Lower micro_batch, sequence_length or the model's widths.",
        )


def sizes_of(model: ModelSpec, batch: Batch, plans: Plans, stack: Stack, dtype_bytes: Mapping[str, int]) -> Sizes:
    """Sizes of several plans of one model and batch.

    Raises:
        ScenarioError: the batch's precision stores what has no bytes, or a matmul has more FLOPs than are counted exactly.

    >>> from parsim.parallel.plan import Batch, Plan, Stack
    >>> from parsim.parallel.plans import Plans, codes_of
    >>> from parsim.model.transformer import TransformerSpec
    >>> tiny = TransformerSpec(
    ...     name="tiny", num_layers=2, hidden_size=8, ffn_hidden_size=32, num_heads=2,
    ...     num_kv_heads=2, head_dim=4, vocab_size=64, max_positions=16
    ... )
    >>> sizes = sizes_of(tiny, Batch(4, 16), Plans.of([Plan(data_parallel=2, micro_batch=2)]), Stack("any"), {"bf16": 2, "fp32": 4})
    >>> int(sizes.dims["B"][0]), int(sizes.dims["V"][0])
    (4, 128)
    """

    length = batch.sequence_length
    of_source = dict.fromkeys(SOURCE.values(), batch.source)
    same = {**of_source, **dict.fromkeys(SEQUENCE, length), "s": length // stack.loss_chunks, "St": length - model.image_tokens}
    same |= model.extents
    dims = {dim: np.full(plans.num_plans, extent, dtype=np.int64) for dim, extent in same.items()}
    dims["B"] = plans.columns["micro_batch"] * plans.numbers(MESH, lambda plan: split(plan, "B"))
    dims["M"] = dims["G"] = dims["B"] * batch.sequence_length // model.run_length(batch.sequence_length)
    slots = {row: model.slots(length, row) for row in model.load_rows}
    for row, own in slots.items() if slots[0].loads else ():
        dims |= {dim_of_loads(dim, row): np.full(plans.num_plans, sum(own.loads), dtype=np.int64) for dim in SLOTS}
    if "V" in same:
        padded = plans.numbers(MESH, lambda plan: padded_vocabulary(same["V"], stack.vocab_multiple, split(plan, "V")))
        dims["V"] = dims["W"] = padded
    copies = np.ones(plans.num_plans, dtype=np.int64)
    if "K" in same:
        copies = np.maximum(plans.numbers(MESH, lambda plan: split(plan, "K")) // same["K"], 1)
        for kv, attended, queries in _heads(same):
            dims |= {kv: dims[kv] * copies, attended: dims[attended] * copies, queries: dims[queries] // copies}
    by_mesh, which = plans.each(MESH, degrees_of)
    degrees = {axis: np.array([found[axis] for found in by_mesh], dtype=np.int64)[which] for axis in axes()}
    _check_range(dims, plans.columns["micro_batch"], model)
    stores = batch.recipe.stores
    compute = stores[COMPUTE]
    stored = {MASTER: compute, GRADIENT: compute if stack.gradient_dtype == "compute" else stack.gradient_dtype, **stores}
    if unknown := [dtype for dtype in stored.values() if dtype not in dtype_bytes]:
        said = f"'{unknown[0]}', in which '{batch.dtype}' stores tensors, is no dtype"
        raise ScenarioError(said, remedy=f"Known: {', '.join(dtype_bytes)}.")
    states = {states_role(name): each.state_bytes(dtype_bytes[stored[MASTER]]) for name, each in OPTIMIZERS.items()}
    itemsize = {**FIXED_ITEMSIZE_BYTES, **states, **{role: dtype_bytes[dtype] for role, dtype in stored.items()}}
    gradient, cast = itemsize[GRADIENT], itemsize[FLOAT32]
    itemsize[FLAT_AND_CAST] = gradient + (cast if gradient < cast else 0)
    itemsize |= {PACKED: model.tuning.packed_bytes} if model.tuning.quantization else {}
    orders, order = plans.each(("rank_order",), lambda plan: fastest_first(plan.rank_order))
    shares = (*uneven(), *(each for row, own in slots.items() for each in of_loads(row, _slots(own.loads))))
    laid, which = plans.each(MESH, chunks)
    layout, layouts = codes_of(laid)
    tables = tables_of(plans, dims, degrees, shares)
    over = tuple(dict.fromkeys(axis for cut in plans.each(MESH, _sequence_axes)[0] for axis in cut))
    chosen = slots, batch.documents
    return Sizes(dims, degrees, itemsize, plans.num_plans, tuple(orders), order, tables, layouts, layout[which], copies, over, *chosen)


def _heads(extents: Mapping[str, int]) -> Iterator[Sequence[str]]:
    """Kv heads, these in attention, and query heads a kv head: of each kind that there is, copied as often (see sharding_faults)."""
    yield "KAR"
    if FULL["K"] in extents:
        yield [FULL[dim] for dim in "KAR"]


def _sequence_axes(plan: Degrees) -> tuple[str, ...]:
    found = rules(switched_on(plan))
    return (*found.get("Q", ()), *found.get("Z", ()))


def _slots(loads: tuple[int, ...]) -> Iterator[UnevenShare]:
    """The slots of the experts of each rank, where some have more than others."""
    starts = np.cumsum((0, *loads))
    if len(set(loads)) > 1:
        for each in (each for each in all_dimensions() if "X" in each.shards):
            yield "X", each.axis, lambda extent, ranks: np.diff(starts[:: len(loads) // ranks]).tolist()
