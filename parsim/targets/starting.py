"""How the processes of a job are started, whatever its program: the lines of torchrun and Slurm, and what such lines say.

Source: PyTorch, torch/distributed/run.py (--nnodes, --nproc-per-node, --rdzv-*); Slurm, sbatch(1) and srun(1).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from parsim.errors import PlanError
from parsim.targets.target import Setup

PORT: Final = 29500  # torchrun's own default of --master-port
_NODES, _PER_NODE = ("--nnodes",), ("--nproc-per-node", "--nproc_per_node")
_SLURM: Final = {
    "nodes": ("--nodes", "-N"),
    "tasks": ("--ntasks-per-node",),
    "devices": ("--gpus-per-node", "--gres"),
    "all": ("--ntasks", "-n"),
}


class Processes(Struct, frozen=True):
    """One process a device, as many on each node.

    >>> Processes(8, 4).num_devices
    32
    """

    num_nodes: int
    per_node: int

    @property
    def num_devices(self) -> int:
        """All of them."""
        return self.num_nodes * self.per_node


def processes_of(setup: Setup) -> Processes:
    """The processes of a plan on its cluster.

    Raises:
        PlanError: its devices fill some nodes, and a part of another.
    """
    count, per_node = setup.plan.num_devices, setup.cluster.node.devices_per_node
    if count > per_node and count % per_node:
        said = f"{count} devices are not whole nodes of {per_node}, of which torchrun starts as many processes on each"
        raise PlanError(said, f"plans.{setup.name}", "Use whole nodes, or a part of one.")
    return Processes(max(1, count // per_node), min(count, per_node))


def torchrun(setup: Setup, program: Sequence[str], *, where: str = "") -> str:
    """The line that each node runs; `program`: the script and its arguments.  Several nodes meet at `where`.

    The address is that of the first node, which torchrun asks of the environment: $MASTER_ADDR:$MASTER_PORT.
    """
    found = processes_of(setup)
    words = ["torchrun", f"--nnodes={found.num_nodes}", f"--nproc-per-node={found.per_node}"]
    if found.num_nodes == 1:
        return shlex.join([*words, "--standalone", *program])
    meeting = f'--rdzv-id="${{JOB_ID:-{PORT}}}" --rdzv-backend=c10d --rdzv-endpoint="{where or f"$MASTER_ADDR:${{MASTER_PORT:-{PORT}}}"}"'
    return f"{shlex.join(words)} {meeting} {shlex.join(program)}"


def sbatch(setup: Setup, program: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """A Slurm script: one task a node, which torchrun splits into a process a device.

    `environment`: what the program needs to find there; srun hands it on.
    """
    return slurm(setup, torchrun(setup, program), environment)


def slurm(setup: Setup, line: str, environment: Mapping[str, str] | None = None) -> str:
    """The same of a line of a shell, which each node runs."""
    found = processes_of(setup)
    name = re.sub(r"[^\w.-]+", "-", f"{setup.scenario.name}-{setup.name}")
    head = [
        "#!/bin/bash",
        f"#SBATCH --job-name={name}",
        f"#SBATCH --nodes={found.num_nodes}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --gpus-per-node={found.per_node}",
        "#SBATCH --exclusive",
        "set -euo pipefail",
    ]
    meeting = [
        'export MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"',
        f'export MASTER_PORT="${{MASTER_PORT:-{PORT}}}" JOB_ID="$SLURM_JOB_ID"',
    ]
    return "\n".join([*head, *meeting, *exports(environment or {}), f"srun {line}", ""])


def exports(environment: Mapping[str, str]) -> list[str]:
    """Lines of a shell that set an environment.

    >>> exports({"CUDA_DEVICE_MAX_CONNECTIONS": "1"})
    ['export CUDA_DEVICE_MAX_CONNECTIONS=1']
    """
    return [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]


def split_line(words: Sequence[str]) -> tuple[Processes | None, list[str]]:
    """What the words of a line say of its processes, and the program with its arguments; None where they do not say all.

    >>> split_line("srun -N 4 --ntasks-per-node=1 torchrun --nnodes=4 --nproc-per-node 8 train.py --tp 2".split())
    (Processes(num_nodes=4, per_node=8), ['train.py', '--tp', '2'])
    """
    place = next((n for n, word in enumerate(words) if word.endswith(".py")), len(words))
    place = place - 2 if place < len(words) and words[place - 1 : place] == ["-m"] else place
    head, program = list(words[:place]), list(words[place:])
    return _of_torchrun(head) or _of_slurm(head), program


def of_sbatch(text: str) -> Processes | None:
    """What the #SBATCH lines of a script say, one process a device; None where they do not say all.

    >>> of_sbatch("#SBATCH --nodes=2 --gpus-per-node=h100:8")
    Processes(num_nodes=2, per_node=8)
    """
    return _of_slurm([word for line in re.findall(r"^#SBATCH\s+(.+)$", text, re.MULTILINE) for word in line.split()])


def _of_torchrun(words: Sequence[str]) -> Processes | None:
    per_node, nodes = _number(words, _PER_NODE), _number(words, _NODES)
    named = any(word == "torchrun" or word.endswith(("/torchrun", "torch.distributed.run", "torch.distributed.launch")) for word in words)
    standalone = named and not any(word.split("=")[0] in _NODES for word in words)
    return Processes(nodes or 1, per_node) if per_node and (nodes or standalone) else None


def _of_slurm(words: Sequence[str]) -> Processes | None:
    found = {what: _number(words, names) for what, names in _SLURM.items()}
    nodes, per_node = found["nodes"], found["devices"] or found["tasks"]
    if nodes and not per_node and (total := found["all"]) and total % nodes == 0:
        per_node = total // nodes
    return Processes(nodes, per_node) if nodes and per_node else None


def _number(words: Sequence[str], names: Sequence[str]) -> int | None:
    """The number that an option has, behind its "=" or as the next word; of "gpu:h100:8" the last."""
    pairs = [(word.partition("=")[0], word.partition("=")[2] or (list(words[n + 1 : n + 2]) or [""])[0]) for n, word in enumerate(words)]
    said = [value.rpartition(":")[2] for name, value in pairs if name in names]
    return int(said[-1]) if said and re.fullmatch(r"[1-9]\d{0,8}", said[-1]) else None
