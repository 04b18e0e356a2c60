"""A program on a terminal of its own (by way of pty.spawn, outside the job); says whether it still has one.

Arguments: a directory of its own. It writes its pid to `ready` there, goes on once it finds `go`, and prints what is wrong.
"""
import os
import pty
import sys
import time

d = sys.argv[1]
if len(sys.argv) == 2:
    pty.spawn([sys.executable, __file__, d, 'inside'])
    sys.exit()
with open(d + '/pid', 'w') as f:
    f.write(str(os.getpid()))
os.rename(d + '/pid', d + '/ready')
while not os.path.exists(d + '/go'):
    time.sleep(0.02)
bad = []
if not all(os.isatty(n) for n in (0, 1, 2)):
    bad.append('no terminal')
if os.getsid(0) != os.getpid():
    bad.append('no session')
try:
    tty = os.open('/dev/tty', os.O_RDWR)
    if os.tcgetpgrp(tty) != os.getpgrp():
        bad.append('not in the foreground')
except OSError as error:
    bad.append('no controlling terminal: %s' % error)
print('bad: %r' % bad if bad else 'good', flush=True)
time.sleep(1)
