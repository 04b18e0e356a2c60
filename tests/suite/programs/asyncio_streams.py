"""An asyncio server, and processes with many clients of it each, over IPv4 and IPv6, until the file $VICTIM_GO is there.

Each client sends blocks and checks what comes back; a datagram goes between any two of them; programs that the server starts
sort lines for it. Who is answered wrongly says so and fails.
"""

import asyncio
import hashlib
import itertools
import os
import sys

PROCESSES = 3
CLIENTS = 8
# Some machines have no IPv6.
ADDRESSES = ["127.0.0.1", "::1"] if os.path.exists("/proc/net/if_inet6") else ["127.0.0.1"]


def going():
    return not os.path.exists(os.environ["VICTIM_GO"])


async def serve(reader, writer):
    """Answers each block with its digest and the block backwards."""
    try:
        while head := await reader.read(1):
            head += await reader.readexactly(3)
            block = await reader.readexactly(int.from_bytes(head, "big"))
            writer.write(hashlib.sha256(block).digest())
            writer.write(block[::-1])
            await writer.drain()
    finally:
        writer.close()


async def server(told, until):
    """Says at which ports it is, and serves until there is something to read."""
    servers = [await asyncio.start_server(serve, address, 0) for address in ADDRESSES]
    os.write(told, b" ".join(b"%d" % server.sockets[0].getsockname()[1] for server in servers))
    rounds = 0
    while going():
        rounds += 1
        lines = [hashlib.sha256(b"%d/%d" % (rounds, line)).hexdigest() for line in range(300)]
        sorting = await asyncio.create_subprocess_exec(
            "sort", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env={"LC_ALL": "C"})
        out, _ = await sorting.communicate("\n".join(lines).encode() + b"\n")
        assert sorting.returncode == 0 and out.decode().split() == sorted(lines)
        await asyncio.sleep(0.01)
    await asyncio.get_running_loop().run_in_executor(None, os.read, until, 1)
    for server in servers:
        server.close()


async def client(number, address, port):
    reader, writer = await asyncio.open_connection(address, port, limit=1 << 14)
    rounds = 0
    state = hashlib.sha256(b"client %d" % number).digest()
    while going():
        block = state * (1 + (number * 7919 + rounds * 104729) % 6000)
        writer.write(len(block).to_bytes(4, "big") + block)
        await writer.drain()
        answer = await asyncio.wait_for(reader.readexactly(32 + len(block)), 600)
        assert answer[:32] == hashlib.sha256(block).digest(), "the digest is wrong"
        assert answer[32:] == block[::-1], "the block is wrong"
        state = hashlib.sha256(state + answer[:32]).digest()
        rounds += 1
        if rounds % 20 == 0:
            print("TRAFFIC", flush=True)
    writer.close()
    await writer.wait_closed()
    assert rounds > 0


class Echo(asyncio.DatagramProtocol):
    """Sends each datagram back."""

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)


class Ask(asyncio.DatagramProtocol):
    """Keeps what comes back."""

    def __init__(self):
        self.answers = asyncio.Queue()

    def datagram_received(self, data, address):
        self.answers.put_nowait(data)


async def datagrams():
    """One at a time, which has no reason to be lost."""
    loop = asyncio.get_running_loop()
    echo, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    ask, protocol = await loop.create_datagram_endpoint(Ask, remote_addr=echo.get_extra_info("sockname"))
    number = 0
    while going():
        number += 1
        ask.sendto(b"%d" % number)
        assert await asyncio.wait_for(protocol.answers.get(), 600) == b"%d" % number
        await asyncio.sleep(0)
    ask.close()
    echo.close()


async def clients(process, ports):
    places = itertools.cycle(zip(ADDRESSES, ports))
    numbers = range(process * CLIENTS, (process + 1) * CLIENTS)
    await asyncio.gather(datagrams(), *(client(number, *place) for number, place in zip(numbers, places)))


def child(work, *arguments):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            asyncio.run(work(*arguments))
            status = 0
        finally:
            if status:
                sys.excepthook(*sys.exc_info())
                sys.stderr.flush()
            os._exit(status)
    return pid


def main():
    said, told = os.pipe()
    until, end = os.pipe()
    serving = child(server, told, until)
    ports = [int(port) for port in os.read(said, 100).split()]
    for pid in [child(clients, process, ports) for process in range(PROCESSES)]:
        assert os.waitpid(pid, 0)[1] == 0, "a client has failed"
    os.write(end, b".")
    assert os.waitpid(serving, 0)[1] == 0, "the server has failed"
    print("the answers are right")
    print("FINAL")


main()
