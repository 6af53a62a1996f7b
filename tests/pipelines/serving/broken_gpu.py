"""`infinite-id` with one more method, whose GPU breaks where a prompt says so.

python -m tests.pipelines.serving.broken_gpu serve --set methods=[broken_gpu]
"""

from __future__ import annotations

import time

import numpy as np

from infinite_id.methods import METHODS, MethodSpec
from infinite_id.types import GeneratedImage


class BrokenGpu:
    """Takes half a second; raises what CUDA raises, for ever, once a kernel has failed."""

    revision = "broken-gpu"

    def generate(self, requests, identities, **hooks):
        import torch

        if any("break" in request.prompt for request in requests):
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        time.sleep(0.5)
        grey = np.full((64, 64, 3), 128, np.uint8)
        return [GeneratedImage(request.sample_id, grey, 0.5) for request in requests]


def broken_gpu(spec, preset, base) -> BrokenGpu:
    return BrokenGpu()


if __name__ == "__main__":
    from jobs.cli import main

    factory = "tests.pipelines.serving.broken_gpu:broken_gpu"
    METHODS["broken_gpu"] = MethodSpec(factory, "A GPU that breaks", needs_base=False)
    main()
