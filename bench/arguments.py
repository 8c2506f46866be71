"""Types of command-line arguments that several benches take."""

import argparse


def positive(text: str) -> int:
    """A whole number of at least 1; argparse shows what is wrong with others."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1 is needed")
    return value
