"""Lets torchvision be imported where it is built for CUDA and torch is built for the CPU.

Such a torchvision cannot load its compiled operators, and its import fails where it describes two of them, although
what image processors use of it, resizing and normalising, is written in Python. Python imports this module at its
start, in every process (see `install.py`); a torchvision that has its operators is left as it is.
"""

import sys

OPERATORS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class Finder:
    """A meta path finder that finds nothing, and declares the operators just before they are described."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Leave every module to the finders that follow.

        torchvision has tried to load its operators before it imports `torchvision._meta_registrations`.
        """
        if name == "torchvision._meta_registrations":
            declare_missing()


def declare_missing() -> None:
    """Declare the operators unless torchvision has brought them."""
    torch = sys.modules["torch"]  # which torchvision has imported
    if not hasattr(torch.ops.torchvision, OPERATORS[0]):
        for operator in OPERATORS:
            torch.library.define(f"torchvision::{operator}", SCHEMA)


sys.meta_path.insert(0, Finder)
