"""An iterative solver with numpy that has itself checkpointed every so many steps.

    python3 solver.py 2000 500 solver.cryo    # steps, steps between checkpoints, image
    cryo restart solver.cryo                  # after a crash: goes on where the last checkpoint was made
"""

import sys

import cryonaut
import numpy

steps, every, image = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
grid = numpy.zeros((256, 256))
grid[0] = 100.0
# What can be computed again need not be in the image.
scratch = numpy.zeros((4, 256, 256))
cryonaut.exclude(scratch)

for now in range(1, steps + 1):
    scratch[0], scratch[1] = numpy.roll(grid, 1, 0), numpy.roll(grid, -1, 0)
    scratch[2], scratch[3] = numpy.roll(grid, 1, 1), numpy.roll(grid, -1, 1)
    grid[1:-1, 1:-1] = 0.25 * scratch.sum(axis=0)[1:-1, 1:-1]
    if now % every == 0 and now < steps:
        try:
            life = cryonaut.checkpoint(image)
            print(f"step {now}: life {life} begins" if life else f"step {now}: saved", flush=True)
        except OSError as error:
            # Without cryo, or when it cannot be done now, the work goes on all the same.
            print(f"step {now}: no checkpoint: {error.strerror}", flush=True)

print(f"result {grid.sum():.12e}", flush=True)
