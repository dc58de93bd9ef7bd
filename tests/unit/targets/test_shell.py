"""Shell scripts are read and never run: what they assign as literal text is known, and what they compute is told as left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from parsim.errors import ParsimError
from parsim.targets import read_job
from parsim.targets.shell import read_script

SCRIPT = r"""#!/bin/bash
#SBATCH --nodes=4 --gpus-per-node=8
GPUS=8  # a node
TP=${TP:-4}
if [ "$1" = big ]; then PP=8; else PP=4; fi
MODEL_ARGS=(
    --num-layers 32   # a comment
    --hidden-size "4096"
    --num-attention-heads 32
)
PARALLEL="--tensor-model-parallel-size $TP \
  --pipeline-model-parallel-size $PP"
touch $(pwd)/ran
srun torchrun --nproc-per-node=$GPUS --nnodes=4 pretrain_gpt.py ${MODEL_ARGS[@]} $PARALLEL --micro-batch-size 2 \
   --global-batch-size=$((4 * 64)) --bf16 --data-path "$DATA/a b" --lr 3e-4
"""


def test_literal_assignments_arrays_and_continued_lines_are_put_in_their_places() -> None:
    job = read_job(SCRIPT, "run.sh", "megatron-lm")
    assert job.num_devices == 32
    found = {key: job.keys.get(key) for key in ("model.num_layers", "model.hidden_size", "plan.tensor_parallel", "plan.micro_batch")}
    assert found == {"model.num_layers": 32, "model.hidden_size": 4096, "plan.tensor_parallel": 4, "plan.micro_batch": 2}


def test_what_is_computed_or_depends_on_a_branch_is_told_and_not_guessed() -> None:
    job = read_job(SCRIPT, "run.sh", "megatron-lm")
    left = {each.key: each.why for each in job.left}
    assert {"pipeline_model_parallel_size", "global_batch_size", "data_path"} <= left.keys()
    assert job.keys["training.learning_rate"] == 3e-4 and "lr" not in left
    assert "nothing is run" in left["global_batch_size"] and "batch.global_batch" not in job.keys
    assert "plan.data_parallel" not in job.keys  # the pipeline is not known


def test_nothing_of_a_script_runs(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    read_script(f"A=$(touch {ran})\n`touch {ran}`\ntorchrun x.py --a $(touch {ran}) --b `touch {ran}`; touch {ran}")
    assert not ran.exists()


def test_torn_scripts_are_read_as_far_as_they_go() -> None:
    whole = [word.split("=")[0] for word in read_script(SCRIPT).command if word.startswith("--")]
    for end in range(0, len(SCRIPT), 7):
        flags = [word.split("=")[0] for word in read_script(SCRIPT[:end]).command if word.startswith("--")]
        assert all(any(flag.startswith(known) or known.startswith(flag) for known in whole) for flag in flags), flags
    assert not read_script('"' * 999 + "(" * 999 + "$" * 999 + "\\").variables


DOUBLED = "".join(f'A{n}="$A{n - 1} $A{n - 1}"\n' for n in range(1, 60))
DOUBLED_ARRAYS = "".join(f'A{n}=("${{A{n - 1}[@]}}" "${{A{n - 1}[@]}}")\n' for n in range(1, 60))
MANY_COPIES = f"A0={'a' * 100_000}\n" + "".join(f"B{n}=$A0\n" for n in range(10_000))


@pytest.mark.parametrize(
    "script",
    [
        f"A0=word\n{DOUBLED}",
        f"A0=(word word)\n{DOUBLED_ARRAYS}",
        MANY_COPIES,
        f"A={'a' * 10_000}\nx.py {'$A' * 1000}",
        "A=(b b)\n" + 'A+=("${A[@]}")\n' * 60,
    ],
    ids=["variables", "arrays", "copies", "one word", "itself"],
)
def test_a_few_lines_that_double_a_variable_fill_no_memory(script: str) -> None:
    with pytest.raises(ParsimError, match="Give the line that starts the program alone"):
        read_script(f"{script}torchrun x.py --a $A59\n")
