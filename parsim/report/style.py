"""How figures look: one colour for each component wherever it is drawn, told apart by the colour-blind.

Source: Okabe and Ito 2008 (time), Tol 2021, "light" (memory).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from parsim.parallel.dimensions import axes

_PURPLE, _GREY = "#CC79A7", "#BBBBBB"
_AXES = ("#E69F00", "#009E73", "#D55E00", "#56B4E9")  # of the mesh, the innermost first

TIME: Final[Mapping[str, str]] = {
    "compute": "#0072B2",
    **{f"exposed_{axis}": colour for axis, colour in zip(reversed(axes()), _AXES, strict=False)},
    "exposed_host": "#F0E442",
    "bubble": _GREY,
    "optimizer": _PURPLE,
    "other": "#333333",
}
MEMORY: Final[Mapping[str, str]] = {
    "parameters": "#77AADD",
    "gradients": "#EE8866",
    "optimizer": _PURPLE,
    "activations": "#44BB99",
    "transients": "#EEDD88",
    "buffers": "#99DDFF",
    "framework": "#DDDDDD",
}
LABELS: Final[Mapping[str, str]] = {name: f"{name.removeprefix('exposed_')}, exposed" for name in TIME if name.startswith("exposed_")}
UNKNOWN: Final = "#882255"  # a component that a later version adds, until it gets its own
OVER: Final = "xxx"  # hatch of what does not fit

# The same data give the same bytes: no random ids in SVG, no date, no version.
SETTINGS: Final[dict[str, Any]] = {
    "svg.hashsalt": "parsim",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,  # a $ in a name is a $
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "figure.dpi": 150,
}
METADATA: Final[Mapping[str, dict[str, None]]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
