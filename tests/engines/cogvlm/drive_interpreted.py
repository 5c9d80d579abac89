"""What `drive` does, with vLLM's model runner for GPUs, whose Triton kernels an interpreter runs on the CPU.

vLLM for CPUs takes Triton only with a back end of the name "cpu", which Triton itself lacks. An interpreter needs none.
"""

import importlib
import sys

from triton.backends import Backend, backends  # type: ignore[import-untyped]


class NoDriver:
    """A driver that drives nothing."""

    @staticmethod
    def is_active() -> bool:
        """Leave Triton's own choice among drivers alone."""
        return False


def main() -> None:
    """Register the back end before vLLM is imported, and see to it afterwards that the runner was taken."""
    backends["cpu"] = Backend(compiler=None, driver=NoDriver)
    importlib.import_module("tests.engines.cogvlm.drive").main()
    assert "vllm.v1.worker.cpu.model_runner" in sys.modules, "vLLM took its model runner for CPUs"


if __name__ == "__main__":
    main()
