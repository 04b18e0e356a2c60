"""algebra.py ROUNDS [SIZE]: seeded dense linear algebra (QR, FFT, solve, random numbers) on the threads of the BLAS.

Prints a digest of its whole state at the end; the same arguments give the same digest.
"""
import hashlib
import sys

import numpy
import scipy.linalg

rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
size = int(sys.argv[2]) if len(sys.argv) > 2 else 400
random = numpy.random.default_rng(42)
matrix = random.standard_normal((size, size))
vector = random.standard_normal(size)
print("READY", flush=True)
for number in range(rounds):
    q, r = numpy.linalg.qr(matrix)
    matrix = r @ q + 1e-3 * random.standard_normal((size, size))
    matrix = numpy.fft.ifft2(numpy.fft.fft2(matrix)).real
    vector = scipy.linalg.solve(matrix + size * numpy.eye(size), vector)
    vector /= numpy.linalg.norm(vector)
    if number % 10 == 0:
        print(number, repr(float(vector[0])), hashlib.sha256(matrix.tobytes()).hexdigest()[:16], flush=True)
print("FINAL", hashlib.sha256(matrix.tobytes() + vector.tobytes()).hexdigest())
