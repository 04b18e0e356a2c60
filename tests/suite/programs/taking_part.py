"""Takes part in its own checkpoints from Python, in the way that its first argument says."""

import atexit
import os
import sys
import threading
import time


def say(text):
    os.write(1, (text + "\n").encode())


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)


@atexit.register
def late():
    """Registered before cryonaut is there, so that it runs after what that does at the end."""
    if what == "end":
        say("ENDING")
        wait_for("go-on")


import cryonaut  # noqa: E402

what = sys.argv[1]
go = os.environ["VICTIM_GO"]
steps = 0


def tell(name):
    cryonaut.register(name, lambda event: say(f"{name} {event.name}"))


def threads():
    """Critical sections of several threads, with a number that is odd while any of them is in one."""
    lock = threading.Lock()

    def work():
        global steps
        while not os.path.exists(go):
            for _ in range(100):
                with cryonaut.critical_section(), lock:
                    steps += 1
                    steps += 1

    @cryonaut.callback("even")
    def even(event):
        if event is cryonaut.Event.CHECKPOINT and steps % 2:
            raise cryonaut.Never("a checkpoint in a critical section")
        say(f"even {event.name}")

    all_threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in all_threads:
        thread.start()
    say("READY")
    for thread in all_threads:
        thread.join()


def fork():
    """A child has its parent's callbacks no longer, and may have its own."""
    tell("parent")
    child = os.fork()
    if child == 0:
        tell("child")
        say("READY")
        wait_for(go)
        # An end as any: not os._exit, so that what is to be done at the end is.
        sys.exit(0)
    wait_for(go)
    if os.waitpid(child, 0) != (child, 0):
        sys.exit("the child")


def end():
    """Comes to its end; its callbacks are not told any more."""
    tell("gone")
    say("READY")


{"threads": threads, "fork": fork, "end": end}[what]()
if what != "end":
    say("END")
