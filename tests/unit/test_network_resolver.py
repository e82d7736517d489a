"""The resolver of a sandbox, over real sockets of the loopback device, with servers of the test's own behind it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from test_network_dns import question, read, values

from corten.network import dns
from corten.network.resolver import Budget, Resolver, Server, Zone

NAMES = {"web": ["10.0.0.2", "fd00::2"], "all": [f"10.1.0.{last}" for last in range(1, 120)], "plain": ["10.0.0.9"]}
REVERSE = {"10.0.0.2": ["web.back"]}


def bound(kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    sock.setblocking(False)
    return sock


def bound_pair() -> tuple[socket.socket, socket.socket]:
    """UDP and TCP on one port: another test may have one half of a pair that is found at random."""
    while True:
        datagrams = bound(socket.SOCK_DGRAM)
        streams = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            streams.bind(datagrams.getsockname())
        except OSError:
            datagrams.close()
            streams.close()
            continue
        return datagrams, streams


class Outside(asyncio.DatagramProtocol):
    """A server of the world: UDP and TCP on one port, what it answers is the test's."""

    def __init__(self, behave: Callable[[bytes], bytes]) -> None:
        self.behave = behave
        self.asked: list[bytes] = []
        self.reached = asyncio.Event()

    def connection_made(self, transport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr) -> None:
        self.asked.append(data)
        self.reached.set()
        answer = self.behave(data)
        if answer:
            self.transport.sendto(answer, addr)

    async def stream(self, reader, writer) -> None:
        data = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
        self.asked.append(data)
        answer = self.behave(data)
        writer.write(len(answer).to_bytes(2) + answer)
        writer.close()


def says(address: str, code: int = 0) -> Callable[[bytes], bytes]:
    def behave(data: bytes) -> bytes:
        query = dns.parse(data)
        return dns.refuse(query, code) if code else dns.answer(query, [address])

    return behave


@asynccontextmanager
async def outside(behave: Callable[[bytes], bytes]):
    loop = asyncio.get_running_loop()
    datagrams, listener = bound_pair()
    port = datagrams.getsockname()[1]
    transport, server = await loop.create_datagram_endpoint(lambda: Outside(behave), sock=datagrams)
    streams = await asyncio.start_server(server.stream, sock=listener)
    try:
        yield Server("127.0.0.1", port), server
    finally:
        transport.close()
        streams.close()


class Client(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr) -> None:
        self.answers.put_nowait(data)


class Asked:
    """A resolver and who asks it."""

    def __init__(self, datagrams: tuple, stream: tuple) -> None:
        self.address, self.stream_address = datagrams, stream

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        self.transport, self.client = await loop.create_datagram_endpoint(Client, remote_addr=self.address)
        return self

    async def __aexit__(self, *_):
        self.transport.close()

    async def udp(self, data: bytes) -> bytes:
        self.transport.sendto(data)
        return await asyncio.wait_for(self.client.answers.get(), 10)

    async def tcp(self, *questions: bytes) -> list[bytes]:
        reader, writer = await asyncio.open_connection(*self.stream_address)
        found = []
        try:
            for data in questions:
                writer.write(len(data).to_bytes(2) + data)
                found.append(await reader.readexactly(int.from_bytes(await reader.readexactly(2))))
        finally:
            writer.close()
        return found


def resolve(
    work: Callable[[Asked], Awaitable[None]],
    *servers: Server,
    budget: Budget | None = None,
    timeout_s: float = 4.0,
    inside: Callable[[int, int], socket.socket] = lambda family, kind: socket.socket(family, kind),
) -> Awaitable[None]:
    async def run() -> None:
        zone = Zone(NAMES.get, lambda address: REVERSE.get(address, ()), lambda: servers, inside)
        resolver = Resolver(zone, budget or Budget(), timeout_s=timeout_s)
        datagrams, stream = bound(socket.SOCK_DGRAM), bound(socket.SOCK_STREAM)
        places = datagrams.getsockname(), stream.getsockname()
        await resolver.open(datagrams, stream)
        try:
            async with Asked(*places) as asked:
                await work(asked)
        finally:
            resolver.close()

    return run()


def test_names_of_containers():
    async def scenario(asked):
        assert values(await asked.udp(question("web"))) == ["10.0.0.2"]
        assert values(await asked.udp(question("WEB", dns.AAAA))) == ["fd00::2"]
        assert values(await asked.udp(question("2.0.0.10.in-addr.arpa", dns.PTR))) == ["web.back"]
        assert read(await asked.udp(question("nobody")))["code"] == dns.NAME_ERROR

    asyncio.run(resolve(scenario))


@pytest.mark.parametrize("kind", [dns.AAAA, 15, 16, 33, 65])
def test_what_a_container_does_not_have_is_not_asked_outside(kind):
    async def scenario():
        async with outside(says("192.0.2.1")) as (server, other):

            async def work(asked):
                answer = read(await asked.udp(question("plain", kind)))
                assert (answer["code"], answer["records"]) == (dns.NO_ERROR, [])
                assert not other.asked

            await resolve(work, server)

    asyncio.run(scenario())


def test_addresses_come_in_changing_order():
    async def scenario(asked):
        orders = set()
        for _ in range(5):
            [answer] = await asked.tcp(question("all"))
            assert sorted(values(answer)) == sorted(NAMES["all"])
            orders.add(tuple(values(answer)))
        assert len(orders) > 1

    asyncio.run(resolve(scenario))


def test_long_answers_need_tcp():
    async def scenario(asked):
        cut = await asked.udp(question("all"))
        assert len(cut) <= 512
        assert read(cut)["flags"] & 0x0200
        whole, again = await asked.tcp(question("all"), question("web"))
        assert len(values(whole)) == len(NAMES["all"])
        assert values(again) == ["10.0.0.2"]

    asyncio.run(resolve(scenario))


@pytest.mark.parametrize("way", ["udp", "tcp"])
def test_everything_else_is_asked_outside(way):
    async def scenario():
        async with outside(says("192.0.2.1")) as (server, other):

            async def work(asked):
                data = question("example.org", number=99)
                answer = await asked.udp(data) if way == "udp" else (await asked.tcp(data))[0]
                assert (read(answer)["number"], values(answer)) == (99, ["192.0.2.1"])
                assert [dns.parse(seen).name for seen in other.asked] == ["example.org"]

            await resolve(work, server)

    asyncio.run(scenario())


def test_the_number_outside_is_another_each_time():
    async def scenario():
        async with outside(says("192.0.2.1")) as (server, other):

            async def work(asked):
                for _ in range(8):
                    await asked.udp(question("example.org", number=1))
                numbers = {data[:2] for data in other.asked}
                assert len(numbers) > 4, "who guesses an answer must guess its number"

            await resolve(work, server)

    asyncio.run(scenario())


def test_the_next_server_is_asked_when_one_does_not_know():
    async def scenario():
        async with outside(says("", dns.SERVER_FAILURE)) as (bad, _), outside(says("192.0.2.1")) as (good, _):

            async def work(asked):
                assert values(await asked.udp(question("example.org"))) == ["192.0.2.1"]

            await resolve(work, bad, good)

    asyncio.run(scenario())


def test_a_name_that_does_not_exist_is_final():
    async def scenario():
        async with outside(says("", dns.NAME_ERROR)) as (first, _), outside(says("192.0.2.1")) as (second, other):

            async def work(asked):
                assert read(await asked.udp(question("nosuch.invalid")))["code"] == dns.NAME_ERROR
                assert not other.asked

            await resolve(work, first, second)

    asyncio.run(scenario())


@pytest.mark.parametrize("wrong", ["silent", "number", "question", "short"])
def test_what_is_no_answer_is_waited_past(wrong):
    """Silence, and messages that somebody else could have sent: the client is told that it failed."""

    def behave(data: bytes) -> bytes:
        query = dns.parse(data)
        return {
            "silent": b"",
            "number": dns.with_number(dns.answer(query, ["6.6.6.6"]), (query.number + 1) & 0xFFFF),
            "question": dns.with_number(dns.answer(dns.parse(question("evil")), ["6.6.6.6"]), query.number),
            "short": dns.answer(query, ["6.6.6.6"])[:9],
        }[wrong]

    async def scenario():
        async with outside(behave) as (server, other):

            async def work(asked):
                assert read(await asked.udp(question("example.org")))["code"] == dns.SERVER_FAILURE
                assert len(other.asked) == 2, "it is tried twice"

            await resolve(work, server, timeout_s=0.1)

    asyncio.run(scenario())


def test_nobody_listens_outside():
    async def scenario(asked):
        assert read(await asked.udp(question("example.org")))["code"] == dns.SERVER_FAILURE

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asyncio.run(resolve(scenario, Server("127.0.0.1", port), Server("not an address", 53)))


def test_servers_of_the_sandbox_are_asked_from_inside():
    made = []

    def inside(family: int, kind: int) -> socket.socket:
        made.append(kind)
        return socket.socket(family, kind)

    async def scenario():
        async with outside(says("192.0.2.1")) as (server, _):

            async def work(asked):
                assert values(await asked.udp(question("example.org"))) == ["192.0.2.1"]
                assert values((await asked.tcp(question("example.org")))[0]) == ["192.0.2.1"]
                assert made == [socket.SOCK_DGRAM, socket.SOCK_STREAM]

            await resolve(work, Server(server.address, server.port, inside=True), inside=inside)

    asyncio.run(scenario())


def test_so_many_may_be_on_their_way():
    budget = Budget(2)

    async def scenario():
        async with outside(lambda data: b"") as (server, other):

            async def work(asked):
                for number in range(5):
                    asked.transport.sendto(question("example.org", number=number))
                codes = [read(await asyncio.wait_for(asked.client.answers.get(), 10)) for _ in range(5)]
                assert {answer["code"] for answer in codes} == {dns.SERVER_FAILURE}
                assert len({data[:2] for data in other.asked}) <= 4, "two questions, each tried twice"
                # those of containers are answered all the same, and what was taken has come back
                assert values(await asked.udp(question("web"))) == ["10.0.0.2"]
                assert budget.take()
                assert budget.take()
                assert not budget.take()

            await resolve(work, server, budget=budget, timeout_s=0.2)

    asyncio.run(scenario())


def test_broken_questions_and_other_operations():
    async def scenario(asked):
        assert read(await asked.udp(question("web")[:-3]))["code"] == dns.FORMAT_ERROR
        assert read(await asked.udp(question("web", flags=0x2800)))["code"] == dns.NOT_IMPLEMENTED
        asked.transport.sendto(b"x")
        assert values(await asked.udp(question("web"))) == ["10.0.0.2"], "too short for any answer, and forgotten"
        with pytest.raises(asyncio.IncompleteReadError):
            await asked.tcp(b"x")

    asyncio.run(resolve(scenario))


def test_closing_ends_what_is_under_way():
    async def scenario():
        async with outside(lambda data: b"") as (server, other):

            async def work(asked):
                asked.transport.sendto(question("example.org"))
                asking = asyncio.ensure_future(asked.tcp(question("example.org")))
                await other.reached.wait()
                asking.cancel()

            await resolve(work, server, timeout_s=600)
        await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            await asyncio.wait([task], timeout=5)
        assert not [task for task in left if not task.done()]

    asyncio.run(scenario())
