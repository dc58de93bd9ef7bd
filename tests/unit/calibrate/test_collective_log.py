"""The output of nccl-tests is read as it is, whichever version printed it, and a line that cannot be is told with its number."""

from __future__ import annotations

import pytest
from own_logs import line, log_text

from parsim.calibrate import collective_log
from parsim.calibrate.collective_log import TimedCollective, bus_factor, read_log

NODE = ["n0"] * 8
TWO = ["n0"] * 8 + ["n1"] * 8
SECONDS = {2**20: 50e-6, 2**30: 4e-3}
OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p")


def read(text: str, path: str = "a.log") -> tuple[list[TimedCollective], list[str]]:
    found, faults = read_log(path, text.splitlines(keepends=True))
    return found, [str(fault) for fault in faults]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("layout", ["2.0", "2.13", "2.18"])
@pytest.mark.parametrize("tag", ["", "0: ", "gpu-node.a01: ", "[1,0]<stdout>:", "[prterun-n0-1234@1,0]<stdout>: ", "> "])
def test_every_layout_gives_bytes_seconds_ranks_and_hosts(operation: str, layout: str, tag: str) -> None:
    text = log_text(operation, TWO, SECONDS, layout=layout)
    found, faults = read("".join(f"{tag}{each}\n" for each in text.splitlines()))
    assert faults == []
    assert [(each.operation, each.num_ranks, each.num_nodes, each.payload_bytes) for each in found] == [
        (operation, 16, 2, n) for n in SECONDS
    ]
    assert [each.seconds for each in found] == pytest.approx([*SECONDS.values()], rel=1e-9)
    assert text.splitlines()[found[0].line - 1] == line(operation, 16, 2**20, 50e-6, layout)


def test_a_rank_sends_as_nccl_tests_says() -> None:
    # doc/PERFORMANCE.md of nccl-tests: 2 (n - 1) / n, (n - 1) / n and 1.
    assert [bus_factor(each, 8) for each in OPERATIONS] == [14 / 8, 7 / 8, 7 / 8, 7 / 8, 1.0]
    assert TimedCollective("all_reduce", 8, 1, 8 * 10**9, 0.1, "", 0).bus_bytes_per_s == pytest.approx(140e9)


def test_several_runs_of_a_log_are_told_apart_with_what_lies_between() -> None:
    noise = "n0:11:22 [0] NCCL INFO Channel 00/24 : 0 1 2 3\n"
    both = log_text("all_reduce", NODE, SECONDS) + noise + "\n" + log_text("all_gather", TWO, SECONDS, layout="2.18")
    found, faults = read(noise + both)
    assert faults == []
    assert [(each.operation, each.num_nodes) for each in found] == [("all_reduce", 1)] * 2 + [("all_gather", 2)] * 2


def test_a_program_that_nobody_names_is_known_by_its_rates_and_columns_or_by_the_name_of_the_file() -> None:
    for operation in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"):
        found, faults = read(log_text(operation, NODE, SECONDS, layout="2.13?"))
        assert faults == [] and {each.operation for each in found} == {operation}
    text = log_text("p2p", NODE, SECONDS, layout="2.13?")  # a broadcast looks so, too
    assert "a.log:1:1: no line says which program ran" in read(text)[1][0]
    assert [each.operation for each in read(text, "logs/sendrecv-8.txt")[0]] == ["p2p", "p2p"]


def test_payloads_of_no_byte_say_nothing() -> None:
    text = log_text("all_reduce", NODE, SECONDS).replace(
        line("all_reduce", 8, 2**20, 50e-6),
        "           0             0     float     sum      -1     5.70    0.00    0.00      0     5.54    0.00    0.00      0",
    )
    assert [each.payload_bytes for each in read(text)[0]] == [2**30]


GOOD = log_text("all_reduce", NODE, SECONDS)
FIRST = line("all_reduce", 8, 2**20, 50e-6)
FIRST_LINE = GOOD.splitlines().index(FIRST) + 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD[: GOOD.index(FIRST) + 60], [":2:1: this run has no end", f":{FIRST_LINE}:1: the line ends after 6 columns"]),
        (GOOD[: GOOD.index("# Out of")], [":2:1: this run has no end (a line '# Avg bus bandwidth'): the log is cut off"]),
        (GOOD.replace(FIRST, ""), []),
        ("".join(each for each in GOOD.splitlines(True) if each.startswith(("#", "srun"))), [":2:1: this run has no line of figures"]),
        (GOOD.replace(FIRST, FIRST.replace("50.00", "-50.0")), [f":{FIRST_LINE}:1: time = -50 us is none"]),
        (GOOD.replace(FIRST, FIRST.replace("     1048576", "9" * 400)), [f":{FIRST_LINE}:1: size = 9999"]),
        (GOOD.replace(FIRST, FIRST.replace("  50.00", "    0.05")), [f":{FIRST_LINE}:1: 1048576 bytes in 0.05 us are 2.097e+04 GB/s"]),
        (GOOD.replace("(us)", "(ms)"), [f":{FIRST_LINE - 1}:1: times or rates are in (ms)"]),
        (GOOD.replace(FIRST, FIRST.replace("36.70      0", "36.70      3", 1)), [f":{FIRST_LINE}:1: 3 values were wrong"]),
        (GOOD.replace("#  Rank", "#  Rang"), [":2:1: this run names no ranks"]),
        (GOOD.replace("#  Rank  3", "#  Rank  0"), [":2:1: rank 0 is there twice"]),
        (GOOD.replace("#  Rank  3", "#  Rang  3"), [":2:1: 7 ranks are named, the last of them 7"]),
        (GOOD.replace("Rank  3 Group  0", "Rank  3 Group  1"), [":2:1: 2 groups of ranks talk at the same time"]),
        (log_text("all_reduce", [*NODE, "n1"], SECONDS), [":2:1: hosts hold unequal numbers of ranks (1, 8)"]),
        (log_text("all_reduce", ["n0"], SECONDS), [":2:1: 1 rank talks to nobody"]),
        (GOOD.replace("all_reduce_perf", "all_gather_perf"), [f":{FIRST_LINE}:1: busbw / algbw = 469.76 / 268.44, as of all_red"]),
        (GOOD.replace("all_reduce_perf", "broadcast_perf"), [":2:1: is a run of broadcast_perf, on which no factor rests"]),
        ("nothing of the kind\n", [": holds no run of nccl-tests"]),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_with_its_line(text: str, said: list[str]) -> None:
    found, faults = read(text)
    assert found or said
    assert len(faults) == len(said)
    for each, start in zip(faults, said, strict=True):
        assert each.startswith(f"a.log{start}")


def test_all_faults_of_a_log_are_told_at_once() -> None:
    wrong = log_text("all_reduce", ["n0"], SECONDS) + GOOD.replace(FIRST, FIRST.replace("50.00", "-50.0"))
    assert len(read(wrong)[1]) == 2


def test_a_bus_factor_of_the_tensor_alone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collective_log, "bus_factor", lambda operation, num_ranks: 1.0)
    assert "the log of another program" in read(GOOD)[1][0]
