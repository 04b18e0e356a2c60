"""numpy_job.py BYTES REPORT: goes over an array of that size again and again, and says when it ran.

Each line of the report is one time through all of it: when it began and ended, the longest time between two looks at the clock (one
for each 64 KiB), and when that was over. All are nanoseconds of CLOCK_REALTIME.
"""
import sys
import time

import numpy

report = open(sys.argv[2], "ab", 0)
field = numpy.random.default_rng(1).standard_normal(int(sys.argv[1]) // 8)
STEP = 1 << 13
while True:
    begin = last = time.time_ns()
    longest = awake = 0
    for start in range(0, len(field), STEP):
        part = field[start : start + STEP]
        part += 1e-3
        now = time.time_ns()
        if now - last > longest:
            longest, awake = now - last, now
        last = now
    report.write(b"%d %d %d %d\n" % (begin, last, longest, awake))
