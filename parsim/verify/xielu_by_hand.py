"""An MLP whose nonlinearity has weights, in plain numpy: xIELU, Huang and Schlag 2024 (arXiv:2411.13010), Eq. 3, slope 1/2 at 0."""

from __future__ import annotations

import numpy as np

from parsim.verify.arithmetic import Arithmetic, Valued
from parsim_kernels.signature import Array


def xielu_mlp(run: Arithmetic, at: str, x: Array) -> Valued:
    """up, xIELU with two numbers of the layer, down."""
    hidden, up = run.dense(f"{at}/up", x)
    names = f"{at}/alpha_p", f"{at}/alpha_n"
    p, n = (run.weights[name] for name in names)
    steep_p, steep_n, near = np.log1p(np.exp(p)), 0.5 + np.log1p(np.exp(n)), np.minimum(hidden, -1e-6)
    is_above, falls = hidden > 0, np.exp(near) - 1 - hidden
    y, down = run.dense(f"{at}/down", hidden / 2 + is_above * steep_p * hidden**2 + ~is_above * steep_n * falls)

    def back(dy: Array) -> Array:
        d_active = down(dy)
        run.gradients[names[0]] += (d_active * is_above * hidden**2).sum() * np.exp(p) / (1 + np.exp(p))
        run.gradients[names[1]] += (d_active * ~is_above * falls).sum() * np.exp(n) / (1 + np.exp(n))
        slope = 0.5 + is_above * 2 * steep_p * hidden + ~is_above * steep_n * (np.exp(near) * (hidden < -1e-6) - 1)
        return up(d_active * slope)

    return y, back
