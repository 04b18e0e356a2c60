"""A program with one descriptor of nearly every kind; says whether all of them are still what they were.

Arguments: a directory of its own. It makes `ready` there, goes on once it finds `go`, and prints what is wrong.
"""
import ctypes
import fcntl
import os
import select
import signal
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
d = sys.argv[1]
os.chdir('/')
out = os.open(d + '/log', os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
os.write(out, b'before\n')
rd = os.open(d + '/data', os.O_RDWR | os.O_CREAT, 0o600); os.write(rd, b'0123456789'); os.lseek(rd, 4, 0)
dupd = os.dup(rd)
null = os.open('/dev/null', os.O_RDWR)
dirfd = os.open(d, os.O_RDONLY | os.O_DIRECTORY)
path = os.open(d + '/data', os.O_PATH)
r, w = os.pipe(); os.write(w, b'in flight'); fcntl.fcntl(w, 1031, 1 << 18)
hr, hw = os.pipe(); os.write(hw, b'left'); os.close(hw)
gr, gw = os.pipe(); os.close(gr)
os.mkfifo(d + '/fifo')
ff = os.open(d + '/fifo', os.O_RDWR); os.write(ff, b'fifo data')
ev = os.eventfd(5, os.EFD_NONBLOCK); es = os.eventfd(3, os.EFD_SEMAPHORE)
tf = libc.timerfd_create(1, 0)
class ts(ctypes.Structure): _fields_ = [('s', ctypes.c_long), ('n', ctypes.c_long)]
class its(ctypes.Structure): _fields_ = [('i', ts), ('v', ts)]
libc.timerfd_settime(tf, 0, ctypes.byref(its(ts(0, 0), ts(3, 0))), None)
mask = ctypes.c_ulong(1 << (signal.SIGUSR1 - 1))
sf = libc.signalfd(-1, ctypes.byref(mask), 0)
ep = select.epoll(); ep.register(ev, select.EPOLLIN); ep.register(tf, select.EPOLLIN)
t = os.dup(r); ep.register(t, select.EPOLLIN); os.close(t)       # closed number
ep2 = select.epoll(); ep2.register(ep.fileno(), select.EPOLLIN)
many = [os.eventfd(i) for i in range(300)]
child = os.fork()
if child == 0:
    while True:
        time.sleep(1)
        if not os.path.exists(d + '/go'): continue
        os.lseek(rd, 7, 0)   # shared position
        os._exit(0)
open(d + '/ready', 'w').write('x')
t0 = time.monotonic()
while not os.path.exists(d + '/go'): time.sleep(0.02)
res = []
def check(name, got, want): res.append((name, got == want, got))
os.waitpid(child, 0)
check('shared position after child', os.lseek(rd, 0, 1), 7)
check('dup shares', os.lseek(dupd, 0, 1), 7)
os.write(out, b'after\n')
check('pipe', os.read(r, 100), b'in flight')
check('pipe size', fcntl.fcntl(r, 1032), 1 << 18)
check('half open', (os.read(hr, 10), os.read(hr, 10)), (b'left', b''))
try: signal.signal(signal.SIGPIPE, signal.SIG_IGN); os.write(gw, b'x'); check('broken', 'written', 'EPIPE')
except BrokenPipeError: check('broken', 'EPIPE', 'EPIPE')
check('fifo', os.read(ff, 100), b'fifo data')
check('epoll', sorted(fd for fd, _ in ep.poll(0)), sorted([ev, tf] if time.monotonic() - t0 > 3 else [ev]))
check('nested', [fd for fd, _ in ep2.poll(0)], [ep.fileno()])
check('eventfd', os.eventfd_read(ev), 5)
check('semaphore', (os.eventfd_read(es), os.eventfd_read(es)), (1, 1))
check('dir', sorted(os.listdir(dirfd))[0], 'data')
check('path', os.readlink('/proc/self/fd/%d' % path), d + '/data')
check('many', [os.eventfd_read(f) for f in many[1:]], list(range(1, len(many))))
s = time.monotonic(); os.read(tf, 8); check('timer', time.monotonic() - t0 < 4.5, True)
check('sig', open('/proc/self/fdinfo/%d' % sf).read().count('0000000000000200'), 1)
bad = [x for x in res if not x[1]]
print('bad: %r' % bad if bad else 'good %d' % len(res), flush=True)
