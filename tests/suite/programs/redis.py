"""A Redis server and clients that count, until the file $VICTIM_GO is there; over TCP and over a unix socket.

Each client adds to a counter of its own and to one of all, many commands at a time: whatever is lost, done twice or answered to
the wrong client is noticed at once. Others wait for what is put in a list, and for what is published. The server saves its data
by a child every now and then.
"""

import os
import socket
import subprocess
import sys
import time

PORT = int(sys.argv[1])
AT_ONCE = 100


class Connection:
    """Speaks the protocol of Redis by itself."""

    def __init__(self, unix):
        if unix:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect("redis.sock")
        else:
            self.socket = socket.create_connection(("127.0.0.1", PORT))
        self.stream = self.socket.makefile("rb", buffering=700)

    def send(self, *commands):
        parts = []
        for command in commands:
            parts.append(b"*%d\r\n" % len(command))
            parts.extend(b"$%d\r\n%s\r\n" % (len(word), word) for word in command)
        self.socket.sendall(b"".join(parts))

    def answer(self):
        line = self.stream.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        if kind == b"$":
            return None if rest == b"-1" else self.stream.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.answer() for _ in range(int(rest))]
        raise RuntimeError(f"the server says {line!r}")

    def ask(self, *command):
        self.send(command)
        return self.answer()


def going():
    return not os.path.exists(os.environ["VICTIM_GO"])


def count(number):
    """Adds to two counters, and puts what it has reached in a list and in a channel."""
    connection = Connection(unix=number % 2 == 0)
    own, reached, rounds = b"own:%d" % number, 0, 0
    while going():
        connection.send(*[[b"INCR", own], [b"INCR", b"all"]] * AT_ONCE)
        highest = 0
        for _ in range(AT_ONCE):
            reached += 1
            assert connection.answer() == reached
            common = connection.answer()
            assert common > highest
            highest = common
        text = b"%d" % reached
        connection.send([b"RPUSH", b"list:%d" % number, text], [b"PUBLISH", b"channel:%d" % number, text])
        connection.answer()
        assert connection.answer() == 1
        rounds += 1
        if rounds % 20 == 0:
            print("TRAFFIC", flush=True)
        if rounds % 200 == 0:
            connection.send([b"BGREWRITEAOF"])
            try:
                connection.answer()
            except RuntimeError:
                pass  # One is being written.
    connection.send([b"RPUSH", b"list:%d" % number, b"end"], [b"PUBLISH", b"channel:%d" % number, b"end"])
    assert connection.answer() >= 1 and connection.answer() == 1
    return reached


def follow(number, take):
    """Expects every number in turn; `take` gives the next."""
    wanted = 0
    while (got := take()) != b"end":
        wanted += AT_ONCE
        assert int(got) == wanted, f"{got} instead of {wanted}"
    return wanted


def popped(number):
    connection = Connection(unix=number % 2 == 1)
    return follow(number, lambda: connection.ask(b"BLPOP", b"list:%d" % number, b"0")[1])


def subscribed(number, told):
    connection = Connection(unix=number % 2 == 1)
    connection.ask(b"SUBSCRIBE", b"channel:%d" % number)
    os.close(told)
    return follow(number, lambda: connection.answer()[2])


def child(work, *arguments):
    """Runs `work` in a child, which ends with 0 if all went well and leaves its number in a file."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with open(f"{work.__name__}.{arguments[0]}", "w") as file:
                file.write(str(work(*arguments)))
            status = 0
        finally:
            sys.stderr.flush()
            if status:
                sys.excepthook(*sys.exc_info())
            os._exit(status)
    return pid


def main():
    server = subprocess.Popen(
        ["redis-server", "--port", str(PORT), "--bind", "127.0.0.1", "--unixsocket", "redis.sock", "--appendonly", "yes",
         "--save", "", "--loglevel", "warning"])
    while True:
        try:
            assert Connection(unix=True).ask(b"PING") == b"PONG"
            break
        except OSError:
            assert server.poll() is None, "the server has ended"
            time.sleep(0.05)
    clients = []
    for number in range(4):
        reading, told = os.pipe()
        clients.append(child(subscribed, number, told))
        os.close(told)
        os.read(reading, 1)  # Until it has subscribed, and closed its end.
        os.close(reading)
        clients.append(child(popped, number))
        clients.append(child(count, number))
    for pid in clients:
        assert os.waitpid(pid, 0)[1] == 0, "a client has failed"
    total = 0
    for number in range(4):
        reached = {open(f"{name}.{number}").read() for name in ("count", "popped", "subscribed")}
        assert len(reached) == 1, f"client {number}: {reached}"
        total += int(reached.pop())
    connection = Connection(unix=False)
    assert int(connection.ask(b"GET", b"all")) == total
    connection.send([b"SHUTDOWN"])
    assert server.wait() == 0
    print("the counters are right")
    print("FINAL")


main()
