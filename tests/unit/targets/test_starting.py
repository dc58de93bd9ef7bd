"""Lines that start a job's processes: the numbers of the plan, and the same numbers read back."""

from __future__ import annotations

import shlex
import subprocess

import pytest

import parsim
from parsim.errors import ParsimError
from parsim.targets import Setup
from parsim.targets.starting import Processes, of_sbatch, processes_of, sbatch, split_line, torchrun


def setup(**changes: int) -> Setup:
    scenario = parsim.load("scenarios/table5-175b.yaml")  # 8 nodes of 8 devices
    return Setup("plan", scenario, parsim.Plan(**changes))


@pytest.mark.parametrize(("degrees", "nodes", "per_node"), [((8, 8), 8, 8), ((4, 1), 1, 4), ((8, 1), 1, 8), ((1, 1), 1, 1)])
def test_a_plan_has_a_process_a_device_on_whole_nodes_or_a_part_of_one(degrees: tuple[int, int], nodes: int, per_node: int) -> None:
    assert processes_of(setup(tensor_parallel=degrees[0], pipeline_parallel=degrees[1])) == Processes(nodes, per_node)


def test_a_node_that_is_filled_in_part_beside_whole_ones_is_refused() -> None:
    with pytest.raises(ParsimError, match="12 devices are not whole nodes of 8"):
        processes_of(setup(tensor_parallel=4, pipeline_parallel=3))


@pytest.mark.parametrize("degrees", [(8, 8), (4, 1)])
def test_lines_of_torchrun_and_slurm_read_back_with_the_program_behind_them(degrees: tuple[int, int]) -> None:
    asked, program = setup(tensor_parallel=degrees[0], pipeline_parallel=degrees[1]), ["train.py", "--name", "two words"]
    line, script = torchrun(asked, program), sbatch(asked, program, {"CUDA_DEVICE_MAX_CONNECTIONS": "1"})
    assert split_line(shlex.split(line)) == (processes_of(asked), program)
    assert of_sbatch(script) == processes_of(asked)
    assert "export CUDA_DEVICE_MAX_CONNECTIONS=1\n" in script and f"srun {line}\n" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0  # a shell reads it; it runs nothing


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("python -m torch.distributed.run --nproc_per_node 4 t.py", Processes(1, 4)),
        ("srun -N 2 --gres=gpu:h100:4 python t.py", Processes(2, 4)),
        ("srun --nodes 2 --ntasks 16 python t.py", Processes(2, 8)),
        ("torchrun --nnodes $NODES --nproc-per-node 8 t.py", None),
        ("torchrun --nnodes 1:4 --nproc-per-node gpu t.py", None),
        ("python t.py", None),
    ],
)
def test_numbers_that_a_line_does_not_say_are_not_guessed(line: str, said: Processes | None) -> None:
    assert split_line(line.split())[0] == said
