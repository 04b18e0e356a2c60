"""Takes part in its own checkpoints from Python: the first is refused."""

import os
import sys
import time

import cryonaut

refusals = 1
memory = bytearray(b"\7" * (1 << 20))


def say(text):
    print(text, flush=True)


@cryonaut.callback("calm")
def calm(event):
    say(f"calm {event.name}")


@cryonaut.callback("moody")
def moody(event):
    global refusals
    say(f"moody {event.name}")
    if event is cryonaut.Event.CHECKPOINT and refusals:
        refusals -= 1
        raise cryonaut.Later("not before lunch")


gone = cryonaut.register("gone", calm)
cryonaut.unregister(gone)
cryonaut.exclude(memory)
reader, writer = os.pipe()
cryonaut.reopen(reader)
cryonaut.reopen(writer)
cryonaut.reopen(2)
cryonaut.keep(2)
try:
    cryonaut.keep(77)
    sys.exit("what was not marked was taken back")
except FileNotFoundError:
    pass
with cryonaut.critical_section():
    try:
        cryonaut.checkpoint("nowhere")
        sys.exit("a checkpoint in a critical section")
    except OSError:
        pass
say("READY")
while not os.path.exists(os.environ["VICTIM_GO"]):
    time.sleep(0.01)
# The callbacks of a new life run beside this; they come before the end.
with cryonaut.critical_section():
    pass
if cryonaut.generation():
    middle = len(memory) // 2
    if memory[middle] != 0 or memory.count(7) > 8192:
        sys.exit("memory is not left out")
    for descriptor in (reader, writer):
        try:
            os.fstat(descriptor)
            sys.exit("a descriptor is not left out")
        except OSError:
            pass
say(f"END {cryonaut.generation()}")
