"""Triton in NVIDIA's container: what runs there beside the models. deploy/ has the files that use it.

`serve` and its embedded Triton have no part in this: the container brings a Triton of its own, and who runs the
container starts it again.
"""
