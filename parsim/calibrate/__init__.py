"""This machine as an accelerator: laws of its kernels and links, fitted to what they took, and predictions held against the clock.

Kernels are timed where they run, in steps of small models that are really trained; samples that waited for a core are dropped.
"""
