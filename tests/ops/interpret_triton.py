"""Run the Triton kernels in Triton's interpreter, on a CPU, for tests/ops/test_inhomogeneous_triton.py.

A process of its own, since Triton reads TRITON_INTERPRET when it is imported; and without the package, which takes
longer to import than all cases take to run.

    python interpret_triton.py KERNELS CASES RESULTS      # a module, and two files of torch.save
"""

import importlib.util
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch


def main(module: str, cases: str, results: str) -> None:
    spec = importlib.util.spec_from_file_location("kernels", module)
    kernels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernels)
    torch.save(
        {
            name: (kernels.forward(x, taps, size), *kernels.backward(grad, x, taps, size))
            for name, (grad, x, taps, size) in torch.load(cases).items()
        },
        results,
    )


main(*sys.argv[1:])
