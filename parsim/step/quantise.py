"""Linear layers in a narrow format: what they multiply is quantised before its first use, by a kernel that states its bytes.

A pass over the calls of a block.  The input of a linear layer is quantised once for all that multiply it, in a layout for each GEMM that
sums it: `row` along its features (forward), `col` along its tokens, which stays for the weight gradient; in forward what stays is
narrow, too.  Where a relabel may gather it, it is quantised before, so that narrow numbers are sent.  Gradients of outputs likewise.
Tokens go to experts and back wide, and each expert quantises its own rows and its own matrix: a scale a tensor is one an expert.
Source: NVIDIA/TransformerEngine@d0067d0d, transformer_engine/pytorch/module/linear.py, layernorm_linear.py and grouped_linear.py
(_split_quantize, a quantizer each of m_splits); NVIDIA/Megatron-LM@d98e8a64, megatron/core/transformer/moe/fused_a2a.py ("Currently, we
do not support fp8 dispatch") and router.py (router_gating_linear).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec import Struct, field
from msgspec.structs import replace

from parsim.model.dims import COMPUTE, FLOAT32, LINEAR, QUANTISED, TOKEN_DIMS
from parsim.model.op import Dims
from parsim.model.op_kinds import GEMMS
from parsim.parallel.precision import COLUMN, LAYOUTS, ROW, Narrowing
from parsim.step.gradient import KernelCall, part_of

RESCALED: Final = "rescaled"  # an attribute of a GEMM
LOCAL: Final = "@local"  # behind the name of what a relabel brings: the narrow tensor before
TURNED: Final = "@turned"  # behind that of a weight: what backward makes of the layout that lasts, to multiply it
_NORMS: Final = ("layer_norm", "unshifted_layer_norm", "rms_norm", "gain")
_PLAIN: Final = "einsum"  # a linear layer of all tokens
_OF_EXPERTS: Final = frozenset("EX")  # of matrices of experts, and of their rows


class LinearWeight(NamedTuple):
    """A matrix of a linear layer, or of each expert: its dims as the GEMM sees them, of which the first are the rows, up to the input's."""

    dims: Dims
    rows: int


def linear_weights(forward: Sequence[KernelCall], weights: Collection[str]) -> dict[str, LinearWeight]:
    """The matrices of linear layers among the weights of a block; what makes float32, a router, is none."""
    found = {}
    for call in forward:
        if call.kernel in GEMMS and call.inputs[1][0] in weights and call.outputs[0][2] == COMPUTE:
            (_, summed), (name, dims) = call.inputs
            found[name] = LinearWeight(dims, sum(dim in summed or dim in _OF_EXPERTS for dim in dims))
    return found


def in_narrow(
    forward: Sequence[KernelCall],
    backward: Sequence[KernelCall],
    weights: Mapping[str, LinearWeight],
    how: Narrowing,
    *,
    lasting: Collection[str],
    fused: bool,
) -> tuple[list[KernelCall], list[KernelCall]]:
    """The calls of forward and backward with what linear layers multiply quantised.

    Args:
        forward: calls of a block.
        backward: those derived from them.
        weights: of its linear layers.
        how: formats and scales.
        lasting: the layouts of narrow weights that are there from the last step; where none is, each pass makes them.
        fused: whether a norm writes its result quantised, or finds its largest element where that is measured.
    """
    quantiser = _Quantiser(forward, backward, weights, how, lasting, fused)
    return list(quantiser.forward_calls()), list(quantiser.backward_calls())


class _Quantiser(Struct):
    """The state of one rewriting."""

    forward: Sequence[KernelCall]
    backward: Sequence[KernelCall]
    weights: Mapping[str, LinearWeight]
    how: Narrowing
    lasting: Collection[str]
    fused: bool
    sources: dict[str, Dims] = field(default_factory=dict)  # of an input that a relabel brings: its dims before
    ready: set[str] = field(default_factory=set)  # what has been made in the present pass

    @property
    def of_weights(self) -> set[str]:
        """What gradients of weights are made of: a frozen one has none, so that its layer makes one layout of each alone.

        Source: NVIDIA/TransformerEngine@d0067d0d, transformer_engine/pytorch/module/linear.py (backward_needs_input, requires_wgrad).
        """
        gradients = {name for weight in self.weights for name in (f"d_{weight}", part_of(weight))}
        return {name for call in self.backward if call.outputs[0][0] in gradients for name, _ in call.inputs}

    @property
    def turns(self) -> bool:
        """Whether the layout of weights that backward multiplies is made of the other."""
        return bool(self.lasting) and ROW not in self.lasting

    @property
    def second(self) -> str:
        """The layout that the other GEMM of a tensor reads."""
        return self.how.layouts[-1]

    def forward_calls(self) -> Iterator[KernelCall]:
        """Forward."""
        inputs = {call.inputs[0][0] for call in self.forward if self.is_gemm(call) and call.kernel == _PLAIN}
        others = {name for call in (*self.forward, *self.backward) if not self.is_gemm(call) for name, _ in call.inputs}
        before = ""
        for call in self.forward:
            target = call.outputs[0][0]
            # Where something else reads what it brings, that is brought wide, once.
            if call.kernel == "relabel" and target in inputs and target not in others and not self.how.by_row:
                self.sources[target] = call.inputs[0][1]
                layouts = self.layouts_of(target)
                yield from self.quantise(*call.inputs[0], call.tag, layouts, out=target + LOCAL, fused=self.fused and before in _NORMS)
                yield _through(call, ROW)
                self.ready.add(target)
            if self.is_gemm(call):
                (x, dims), (w, w_dims) = call.inputs
                if x not in self.ready:
                    yield from self.quantise(x, dims, call.tag, (ROW,) if self.how.by_row else self.layouts_of(x))
                    self.ready.add(x)
                yield from self.weight(w, COLUMN, call.tag)
                layout = self.second if self.lasting else COLUMN
                yield replace(call, inputs=((x + ROW, dims), (w + layout, w_dims)), dtype=LINEAR)
            elif not (target in self.ready and target not in others):
                yield call
            before = call.kernel

    def backward_calls(self) -> Iterator[KernelCall]:
        """Backward."""
        self.ready = set()
        input_of = {call.inputs[1][0]: call for call in self.forward if self.is_gemm(call)}
        owner = {name: weight for weight in self.weights for name in (f"d_{weight}", part_of(weight))}
        others = {name for call in self.backward if not self.is_gemm(call) for name, _ in call.inputs}
        wanted = {call.inputs[0][0] for call in self.backward if self.is_gemm(call) and call.kernel == _PLAIN}
        for call in self.backward:
            target = call.outputs[0][0]
            if call.kernel == "relabel" and target in wanted and not self.how.by_row:
                yield from self.gradient_through(call)
            if self.is_gemm(call):
                weight = owner.get(target) or call.inputs[1][0]
                yield from self.gradient(call, input_of[weight])
            elif not (target in self.ready and target not in others):
                yield call

    def gradient(self, call: KernelCall, linear: KernelCall) -> Iterator[KernelCall]:
        """The GEMM of the gradient of an input or of a weight of a linear layer, with what it reads made first."""
        (dy, dims), (other, other_dims) = call.inputs
        x = linear.inputs[0][0]
        if self.how.wide_gradients and other not in self.weights:
            yield call
            return
        if dy not in self.ready:
            yield from self.quantise_gradient(dy, dims, call.tag, (ROW,) if self.how.wide_gradients else self.layouts_of(dy))
            self.ready.add(dy)
        if x in self.sources and x not in self.ready and x in self.of_weights:
            inputs, outputs = ((x + LOCAL + self.second, self.sources[x]),), ((x + COLUMN, linear.inputs[0][1], QUANTISED),)
            yield KernelCall(f"{linear.name}.bring_{x}", "relabel", inputs, outputs, {}, tag=call.tag)
            self.ready.add(x)
        if other in self.weights:
            yield from self.weight(other, ROW, call.tag)
            layout = TURNED if self.turns else ROW
            yield self.with_rescaling(replace(call, inputs=((dy + ROW, dims), (other + layout, other_dims)), dtype=LINEAR))
        else:
            if self.how.by_row and other not in self.ready:
                yield from self.quantise(other, other_dims, call.tag, (COLUMN,))
                self.ready.add(other)
            layout = COLUMN if other in self.sources else self.second
            yield self.with_rescaling(replace(call, inputs=((dy + self.second, dims), (other + layout, other_dims)), dtype=LINEAR))

    def layouts_of(self, name: str) -> tuple[str, ...]:
        """The layouts of an input of a linear layer, or of the gradient of its output."""
        return self.how.layouts if name in self.of_weights else (ROW,)

    def with_rescaling(self, call: KernelCall) -> KernelCall:
        """A GEMM of backward, with whether another kernel scales its result.

        Source: pytorch/ao issue 2184: with exact sums, as in backward, operands of scales by row are multiplied without these by cuBLAS,
        and its result is scaled by at least one kernel a GEMM.
        """
        return replace(call, attributes={**call.attributes, RESCALED: 1}) if self.how.by_row else call

    def gradient_through(self, call: KernelCall) -> Iterator[KernelCall]:
        """A gradient that a relabel may gather: with one scale a tensor a second layout is made behind it, else both are sent."""
        ((target, after, _),) = call.outputs
        kept = self.layouts_of(target)
        both = bool(self.how.along) and COLUMN in kept
        yield from self.quantise_gradient(*call.inputs[0], call.tag, LAYOUTS if both else (ROW,), out=target + LOCAL)
        yield _through(call, ROW)
        if both:
            yield _through(call, COLUMN)
        elif COLUMN in kept:
            name, inputs = f"{call.name}.transpose", ((target + ROW, after),)
            yield KernelCall(name, "cast", inputs, ((target + COLUMN, after, QUANTISED),), {}, tag=call.tag)
        self.ready.add(target)

    def weight(self, name: str, layout: str, tag: str) -> Iterator[KernelCall]:
        """The narrow weight, where it does not last so.

        Source: pytorch/ao, torchao/float8/float8_ops.py (preprocess_addmm): b_data.t().contiguous().t() of one that lies by rows.
        """
        if name + layout in self.ready:
            return
        self.ready.add(name + layout)
        dims, rows = self.weights[name]
        if not self.lasting:
            yield from self.kernels(name, dims, told_of(self.how.attributes(weight=True), rows, (layout,)), tag)
        elif layout == ROW and self.turns:
            inputs, outputs = ((name + self.second, dims),), ((name + TURNED, dims, QUANTISED),)
            yield KernelCall(f"{name}.transpose", "cast", inputs, outputs, {}, tag=tag)

    def quantise(
        self, name: str, dims: Dims, tag: str, layouts: Sequence[str] = (), *, out: str = "", fused: bool = False
    ) -> Iterator[KernelCall]:
        """An input of linear layers; for forward and backward, where no layout is named."""
        attributes = told_of(self.how.attributes(), _num_token_dims(dims), layouts or self.how.layouts)
        yield from self.kernels(name, dims, attributes, tag, out=out, fused=fused)

    def quantise_gradient(self, name: str, dims: Dims, tag: str, layouts: Sequence[str] = (), out: str = "") -> Iterator[KernelCall]:
        """The gradient of an output; in all layouts where none is named."""
        attributes = told_of(self.told_of_gradients(), _num_token_dims(dims), layouts or self.how.layouts)
        yield from self.kernels(name, dims, attributes, tag, out=out)

    def told_of_gradients(self) -> Mapping[str, float | str]:
        """Format and scales of gradients."""
        return self.how.attributes(gradient=True)

    def kernels(
        self, name: str, dims: Dims, attributes: Mapping[str, float | str], tag: str, *, out: str = "", fused: bool = False
    ) -> Iterator[KernelCall]:
        """What quantises a tensor; each rank scales its own part, and each expert."""
        outputs = tuple((f"{out or name}@{layout}", dims, QUANTISED) for layout in str(attributes["layouts"]).split())
        inputs: tuple[tuple[str, Dims], ...] = ((name, dims),)
        if self.how.measures:
            largest = f"{outputs[0][0]}@max"
            apart: Dims = ("E",) if _OF_EXPERTS.intersection(dims) else ()
            yield KernelCall(f"{name}.absmax", "absmax", inputs, ((largest, apart, FLOAT32),), {}, fused=fused, tag=tag, operator="")
            inputs = (*inputs, (largest, apart))
        yield KernelCall(f"{name}.quantise", "quantise", inputs, outputs, attributes, fused=fused and not self.how.measures, tag=tag)

    def is_gemm(self, call: KernelCall) -> bool:
        """Whether it multiplies for a linear layer, forward or backward."""
        gradients = {name for weight in self.weights for name in (f"d_{weight}", part_of(weight))}
        return call.kernel in GEMMS and (call.inputs[1][0] in self.weights or call.outputs[0][0] in gradients)


def told_of(how: Mapping[str, float | str], rows: int, layouts: Sequence[str]) -> dict[str, float | str]:
    """Attributes of the kernel that quantises a tensor whose first `rows` dims are the rows of a matrix."""
    return {**how, "rows": rows, "layouts": " ".join(layout.removeprefix("@") for layout in layouts)}


def _num_token_dims(dims: Dims) -> int:
    return sum(dim in TOKEN_DIMS for dim in dims)


def _through(call: KernelCall, layout: str) -> KernelCall:
    """A relabel of the narrow tensor in place of the wide one."""
    ((_, before),), ((target, after, _),) = call.inputs, call.outputs
    inputs, outputs = ((target + LOCAL + layout, before),), ((target + layout, after, QUANTISED),)
    return replace(call, name=call.name + layout, inputs=inputs, outputs=outputs)
