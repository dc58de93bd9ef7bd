"""Phi-3, Phi-4 and Phi-4-mini: Llama whose projections of one input are one matrix, which has as many weights as three or two.

Source: configuration_phi3.py and modeling_phi3.py of release 5.24.
"""

from __future__ import annotations

from parsim.scenario.families import NO_BIAS, PLAIN, ConfigFamily, register

register(ConfigFamily(windows=True, fixed=PLAIN, dropouts=("resid_pdrop", "embd_pdrop", "attention_dropout"), only=NO_BIAS), "phi3")
