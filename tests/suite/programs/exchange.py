"""Servers and clients over unix sockets in one job: asyncio streams, datagrams, multiprocessing with queues and a manager.

What is printed depends on every byte that went over a socket, and on nothing else.
"""

import asyncio
import hashlib
import multiprocessing
import multiprocessing.connection
import os
import socket
import sys

ROUNDS = int(sys.argv[1])
CLIENTS = 6


async def serve(reader, writer):
    """Answers each block with its digest and the block backwards."""
    while True:
        head = await reader.read(4)
        if not head:
            break
        while len(head) < 4:
            head += await reader.readexactly(4 - len(head))
        block = await reader.readexactly(int.from_bytes(head, "big"))
        writer.write(hashlib.sha256(block).digest() + block[::-1])
        await writer.drain()
    writer.close()


async def client(number):
    reader, writer = await asyncio.open_unix_connection("exchange.sock")
    state = hashlib.sha256(b"client %d" % number).digest()
    for round in range(ROUNDS):
        block = state * (1 + (number * 7919 + round * 104729) % 3000)
        writer.write(len(block).to_bytes(4, "big") + block)
        await writer.drain()
        answer = await reader.readexactly(32 + len(block))
        assert answer[32:] == block[::-1]
        state = hashlib.sha256(state + answer).digest()
    writer.close()
    await writer.wait_closed()
    return state.hex()


async def streams():
    server = await asyncio.start_unix_server(serve, "exchange.sock")
    for number, state in enumerate(await asyncio.gather(*(client(number) for number in range(CLIENTS)))):
        print("stream", number, state)
    server.close()
    os.unlink("exchange.sock")


def worker(connection, number):
    """Sums what it is sent, in another process."""
    state = hashlib.sha256()
    while (block := connection.recv()) is not None:
        state.update(block)
        connection.send((number, len(block), state.hexdigest()))
    connection.close()


def processes():
    pairs = []
    for number in range(3):
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=worker, args=(theirs, number))
        process.start()
        theirs.close()
        pairs.append((ours, process))
    last = {}
    for round in range(ROUNDS):
        for number, (ours, _) in enumerate(pairs):
            ours.send(bytes([round % 251, number]) * (1 + round * 37 % 20000))
        for ours, _ in pairs:
            number, length, state = ours.recv()
            last[number] = (length, state)
    for ours, process in pairs:
        ours.send(None)
        process.join()
    for number in sorted(last):
        print("process", number, *last[number])


def datagrams():
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    child = os.fork()
    if child == 0:
        one.close()
        while message := other.recv(70000):
            other.send(hashlib.sha256(message).digest())
        os._exit(0)
    other.close()
    state = b"start"
    for round in range(ROUNDS):
        one.send(state * (1 + round % 1500))
        state = hashlib.sha256(state + one.recv(100)).digest()
    one.send(b"")
    os.waitpid(child, 0)
    print("datagrams", state.hex())


asyncio.run(streams())
datagrams()
processes()
