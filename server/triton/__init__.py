"""What the repository's `model.py` files share. Each of them unpacks a request, calls a plain function, and
packs.

Triton's own python package (`triton_python_backend_utils`) exists only inside a running model, so it is
imported inside the functions that need it, and everything else here can be imported and tested anywhere.
"""
