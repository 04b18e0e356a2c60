"""mpi_arrays.py ROUNDS SIZE: ranks exchange numpy arrays, large and small, by mpi4py: in a ring, from all to all, reduced, with
windows of one another's memory, as pickled objects. Each checks what it gets; what rank 0 prints depends on all of it.
"""

import hashlib
import sys

import numpy as np
from mpi4py import MPI

ROUNDS, SIZE = int(sys.argv[1]), int(sys.argv[2])
world = MPI.COMM_WORLD
rank, ranks = world.Get_rank(), world.Get_size()


def field(owner, round, size):
    return (np.arange(size, dtype=np.int64) * 2654435761 + owner * 7919 + round) % 1000003


def expect(got, wanted, what, round):
    if not np.array_equal(got, wanted):
        print(f"WRONG: rank {rank}, round {round}: {what}", flush=True)
        world.Abort(1)


window = MPI.Win.Allocate(8 * ranks * 1000, 8, comm=world)
seen = np.frombuffer(window.tomemory(), dtype=np.int64)
digest = hashlib.sha256()
for round in range(1, ROUNDS + 1):
    # Large: to the right without waiting, from the left, while smaller ones pass by.
    large = np.empty(SIZE, dtype=np.int64)
    requests = [
        world.Isend(field(rank, round, SIZE), (rank + 1) % ranks, tag=1),
        world.Irecv(large, (rank - 1) % ranks, tag=1),
    ]
    small = np.empty(5, dtype=np.int64)
    for step in range(10):
        world.Sendrecv(field(rank, step, 5), (rank + 1) % ranks, 2, small, (rank - 1) % ranks, 2)
        expect(small, field((rank - 1) % ranks, step, 5), "a small message", round)
    MPI.Request.Waitall(requests)
    expect(large, field((rank - 1) % ranks, round, SIZE), "a large message", round)

    part = SIZE // ranks
    from_all = np.empty(part * ranks, dtype=np.int64)
    world.Alltoall(np.concatenate([field(rank * ranks + to, round, part) for to in range(ranks)]), from_all)
    expect(from_all, np.concatenate([field(by * ranks + rank, round, part) for by in range(ranks)]), "from all", round)

    total = np.empty(SIZE // 8, dtype=np.int64)
    world.Allreduce(field(rank, round, SIZE // 8), total)
    expect(total, sum(field(one, round, SIZE // 8) for one in range(ranks)), "the sum", round)

    window.Fence()
    for target in range(ranks):
        window.Put(field(rank, round, 1000), target, rank * 1000)
    window.Fence()
    expect(seen, np.concatenate([field(by, round, 1000) for by in range(ranks)]), "the window", round)

    parts = world.gather((round, rank, hashlib.sha256(large).hexdigest()))
    if rank == 0:
        digest.update(repr(parts).encode() + total.tobytes())
        print("ROUND", round, flush=True)
window.Free()
if rank == 0:
    print("FINAL", digest.hexdigest())
