"""CPU seconds of 1,000 disturbed steps of 16 stages and 64 micro_batches, beside those of drawing their random numbers."""

from __future__ import annotations

import time

import numpy as np
from msgspec.structs import replace

from parsim.disturbance.monte_carlo import DisturbedPlan
from parsim.estimator.samples import sample_steps
from parsim.parallel.plan import Batch, Plan
from parsim.scenario import Disturbance, Jitter
from support import GPT, scenario

SAMPLES, TRIES = 1000, 5


def test_steps_of_a_thousand_samples() -> None:
    toy = scenario(model=replace(GPT, num_layers=16), batch=Batch(64, 8))
    print()
    for schedule in ("1f1b", "gpipe", "zero_bubble_h1"):
        for jitter in (Disturbance(Jitter("normal", 0.05), samples=SAMPLES), Disturbance(Jitter("normal", 0.05), Jitter("gamma", 0.3))):
            made = DisturbedPlan.of(toy, Plan(pipeline_parallel=16, schedule=schedule), jitter)
            spent = []
            for part in range(TRIES):
                start = time.process_time()
                factors = made.draws(jitter).factors(0, part, SAMPLES)
                drawn = time.process_time()
                sample_steps([(made.usual, factors)], lambda task: np.zeros(1, dtype=np.int64))
                spent.append((drawn - start, time.process_time() - drawn))
            draw_s, step_s = map(min, zip(*spent, strict=True))
            links = " and links" if jitter.links else ""
            size = factors.kernels.size
            print(f"{schedule}: jitter of kernels{links}: {step_s:.3f} s, beside {draw_s:.3f} s of drawing {size:,} numbers")
