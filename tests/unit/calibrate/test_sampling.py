"""Sampling for real, briefly, in this process: what is timed is all that a step does, under the names that prices ask for."""

from __future__ import annotations

from msgspec.structs import replace

from parsim.calibrate import links, models, wall
from parsim.calibrate.links import MESSAGE, Exchange
from parsim.calibrate.walk import TimedCall, sample_kernels
from parsim.cluster import Cluster
from parsim.cost.work import law_name, works_of
from parsim.model.op_kinds import COSTS
from parsim.scenario.rows import read
from parsim.step.task import Compute
from parsim_kernels import launch
from support import DTYPES

RUNS = list(models.runs(Cluster(read("nodes", "one-cpu-generic")), DTYPES))


def test_every_call_of_a_step_is_timed_and_every_gap_between_calls() -> None:
    (walks,) = launch(sample_kernels, 1, args=(RUNS[:1], 0.01))
    (walk,) = walks
    num_samples = sum(len(each.seconds) + each.num_dropped for each in walk.calls.values())
    num_steps, rest = divmod(num_samples, walk.num_calls)
    assert rest == 0 and num_steps >= 2
    gaps = {gap: len(each.seconds) + each.num_dropped for gap, each in walk.between.items()}
    assert gaps == {"first": num_steps, "keep": num_steps, "last": num_steps, "calls": num_steps * (walk.num_calls - 2)}


def test_the_calibration_models_have_every_kernel_in_three_sizes() -> None:
    sizes: dict[str, set[TimedCall]] = {}
    for run in RUNS:
        job = run.job()
        lists = [segment.phases[phase] for segment in job.step.segments.values() for phase in job.workload.phases]
        for task in (task for tasks in lists for task in tasks if isinstance(task, Compute)):
            sizes.setdefault(law_name(task), set()).add(TimedCall.of(task, next(works_of(task, job.sizes))))
        for kernel in {task.kernel for task in job.step.finish if isinstance(task, Compute)}:
            sizes.setdefault(kernel, set()).add(TimedCall(kernel, float(job.spec.hidden_size), 0.0))
    # Of no model or plan that is timed here: chunks of a loss, rings, latent attention, narrow formats, gpt-oss, Llama 4, ALiBi,
    # translators, Mamba-2, images, experts that drop tokens or balance loads; and an einsum_batched.
    others = {"flatten", "unflatten", "grouped_gemm", "take", "join", "flash_attention_more", "append", "append_grad", "absmax", "quantise"}
    others |= {"sink_softmax", "sink_softmax_grad"}
    others |= {"average", "outer_nesterov"}  # of replicas, and a rank is alone here
    others |= {"sigmoid", "sigmoid_grad", "softcap", "softcap_grad", "geglu", "geglu_grad", "weighted_geglu", "weighted_geglu_grad"}
    others |= {"clamped_swiglu", "clamped_swiglu_grad", "weighted_clamped_swiglu", "weighted_clamped_swiglu_grad", "sinks_grad"}
    others |= {"weighted_squared_relu", "weighted_squared_relu_grad"}
    others |= {
        *("xielu", "xielu_grad", "xielu_grad_p", "xielu_grad_n"),
        "expert_scale",
        "expert_scale_grad",
        "expert_bias",
        "expert_bias_grad",
        "weighted_expert_bias",
        "weighted_expert_bias_grad",
        "weighted_expert_bias_grad_gates",
    }
    others |= {"route_again_grad", "count_choices", "steer", "balance_loss", "balance_loss_grad"}
    others |= {
        "relative_biases",
        "relative_biases_grad",
        "alibi",
        "sinusoid",
        "unshifted_layer_norm",
        "unshifted_layer_norm_grad_gamma",
        "unshifted_layer_norm_grad_x",
    }
    others |= {"layer_norm_by_head", "layer_norm_by_head_grad_x", "layer_norm_by_head_grad_gamma", "layer_norm_by_head_grad_beta"}
    others |= {"square_sum", "square_sum_grad", "rms_normalize_by", "rms_normalize_by_grad_sum", "rms_norm_by", "rms_norm_by_grad_sum"}
    others |= {"rms_norm_by_grad_gamma", "gain_by_head", "gain_by_head_grad", "repeat", "prepend", "prepend_grad"}
    others |= {"quick_gelu", "quick_gelu_grad", "excerpt", "excerpt_grad", "dequantise"}
    others |= {"causal_conv", "causal_conv_grad_x", "causal_conv_grad_weight", "causal_conv_grad_bias", "softplus", "softplus_grad"}
    others |= {"decay", "decay_grad", "scan", "scan_grad", "scan_skip_grad"}
    others |= {"gated_rms_norm", "gated_rms_norm_grad", "gated_rms_norm_grad_gamma"}
    assert set(COSTS) - others - {name.removesuffix("_add").removesuffix("_batched") for name in sizes} == set()
    assert {name for name, shapes in sizes.items() if len(shapes) < 3} == set()


def test_parameters_are_counted_as_they_lie_in_memory() -> None:
    (walks,) = launch(sample_kernels, 1, args=(RUNS[:1], 1e-6))
    model = RUNS[0].spec
    width, ffn, rows = model.hidden_size, model.ffn_hidden_size, model.vocab_size + model.max_positions
    # A layer's four square matrices and two of the MLP, with their biases, and three norms of two: the GPT-2 of Radford et al. 2019.
    count = rows * width + 4 * (width * width + width) + 2 * width * ffn + ffn + width + 6 * width
    assert walks[0].parameter_bytes == 4 * count


def test_each_step_of_a_run_is_clocked_with_its_pace() -> None:
    (steps,) = launch(wall._steps, 1, args=(replace(RUNS[24], num_steps=3),))
    assert len(steps) == 3
    assert all(wall_s > 0.0 and wait_s >= 0.0 and pace > 0.0 for wall_s, wait_s, pace in steps)


def test_ranks_agree_on_what_they_exchanged_and_the_slowest_counts() -> None:
    by_rank = launch(links.sample_links, 2, args=(1e-6,))
    assert [len(each) for each in by_rank[0].values()] == [len(each) for each in by_rank[1].values()]
    found: dict[Exchange, object] = {}
    links.join_ranks(by_rank, found)  # type: ignore[arg-type]
    assert {exchange.operation for exchange in found} == {"all_reduce", "all_gather", "reduce_scatter", MESSAGE}


def test_an_exchange_takes_as_long_as_its_slowest_rank_and_is_dropped_where_one_waited() -> None:
    exchange, message = Exchange("all_reduce", 2, 8), Exchange(MESSAGE, 2, 8)
    ranks = [
        {exchange: [(1.0, 0.0, 5.0), (1.0, 0.5, 5.0)], message: [(4.0, 0.0, 5.0)]},
        {exchange: [(2.0, 0.0, 7.0), (1.0, 0.0, 5.0)], message: [(3.0, 0.0, 5.0)]},
    ]
    found: dict[Exchange, links.Samples] = {}
    links.join_ranks(ranks, found)
    assert found[exchange] == links.Samples([2.0], 1, [7.0])  # and at the pace of the slower core
    assert found[message].seconds == [2.0]  # there and back


def test_models_that_the_time_does_not_reach_are_left_out() -> None:
    (walks,) = launch(sample_kernels, 1, args=(RUNS[:3], 1e-6))
    assert len(walks) == 1 and walks[0].calls
