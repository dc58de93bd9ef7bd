"""A dask cluster is one more executor: two processes of its own say the same as this one."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import asdict

from parsim.sweeps import sweep

distributed = pytest.importorskip("distributed", reason="needs dask: pip install 'parsim-llm[dask]'")
SWEEP = Path(__file__).parents[3] / "scenarios/sweeps/tensor-by-pipeline.yaml"


def test_two_workers_of_a_dask_cluster_say_the_same_as_one_process(tmp_path: Path) -> None:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        result = sweep(SWEEP, executor=client.get_executor(), workers=2, cache=tmp_path / "c.sqlite")
        pids = client.run(lambda: __import__("os").getpid())
    assert len(set(pids.values())) == 2
    here = sweep(SWEEP)
    assert [asdict(each) for each in result.rows] == [asdict(each) for each in here.rows]
    assert sweep(SWEEP, cache=tmp_path / "c.sqlite").num_estimated == 0
