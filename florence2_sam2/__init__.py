"""Open-vocabulary segmentation as a service: Florence-2 and SAM2 on a real Triton server.

The subpackages are the project's top-level folders: `client` (the SDK), `server`, `postprocess`, `export`.
Nothing heavy is imported here.
"""

__version__ = "0.1.0"
