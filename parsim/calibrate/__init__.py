"""Rows found from what was measured: of this machine, and of somebody's own cluster.

This machine as an accelerator: laws of its kernels and links, fitted to what they took, and predictions held against the clock.

Kernels are timed where they run, in steps of small models that are really trained; samples that waited for a core are dropped.
Of a cluster (own_*.py) logs and tables are read, and a few factors of the catalog's rows are found and shrunk.
"""
