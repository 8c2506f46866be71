"""Drawn scenes, and the small Florence-2 and SAM2 checkpoints trained on them."""
