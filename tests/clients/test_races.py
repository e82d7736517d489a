"""Many clients at one container: only answers that are defined, no deadlock, and what is told afterwards is true."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from daemons import ApiConnection, Daemon

pytestmark = [pytest.mark.needs("docker", "busybox")]

CLIENTS = 8
SLEEPER = {"Image": "busybox", "Cmd": ["sleep", "1000"], "StopSignal": "SIGKILL", "HostConfig": {"NetworkMode": "none"}}
# operations and every status that they may have while others work at the same container
OPERATIONS: dict[tuple[str, str], set[int]] = {
    ("POST", "/containers/box/start"): {204, 304, 404, 409},
    ("POST", "/containers/box/stop?t=0"): {204, 304, 404, 409},
    ("POST", "/containers/box/restart?t=0"): {204, 404, 409},
    ("POST", "/containers/box/kill"): {204, 404, 409},
    ("POST", "/containers/box/pause"): {204, 404, 409},
    ("POST", "/containers/box/unpause"): {204, 404, 409},
    ("POST", "/containers/box/rename?name=box"): {204, 400, 404, 409},
    ("DELETE", "/containers/box"): {204, 404, 409},
    ("DELETE", "/containers/box?force=1"): {204, 404, 409},
    ("GET", "/containers/box/json"): {200, 404},
    ("GET", "/containers/json?all=1"): {200},
    ("GET", "/containers/box/top"): {200, 404, 409},
    ("POST", "/containers/box/update"): {200, 404, 409},
    ("POST", "/containers/create?name=box"): {201, 409},
}


def ask(daemon: Daemon, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    status, answer = daemon.request(method, path, body)
    return status, json.loads(answer) if answer else None


def together(tasks: list[Callable[[], Any]]) -> list[Any]:
    """The results of all, begun at the same moment."""
    gate = threading.Barrier(len(tasks))

    def begin(task: Callable[[], Any]) -> Any:
        gate.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(begin, tasks))


def create(daemon: Daemon, name: str, **more: Any) -> str:
    document = {**SLEEPER, **more, "HostConfig": {**SLEEPER["HostConfig"], **more.get("HostConfig", {})}}
    status, answer = ask(daemon, "POST", f"/containers/create?name={name}", document)
    assert status == 201, answer
    return answer["Id"]


@pytest.mark.parametrize("seed", range(3))
def test_everything_at_once(daemon: Daemon, seed: int) -> None:
    def work(number: int) -> Counter[tuple[str, int]]:
        chance, seen = random.Random(seed * CLIENTS + number), Counter()
        for _ in range(40):
            (method, path), allowed = chance.choice(list(OPERATIONS.items()))
            body = SLEEPER if "create" in path else {"CpuShares": 512} if "update" in path else None
            status, answer = ask(daemon, method, path, body)
            assert status in allowed, (method, path, status, answer)
            seen[path, status] += 1
        return seen

    create(daemon, "box")
    seen: Counter[tuple[str, int]] = sum(
        together([lambda number=number: work(number) for number in range(CLIENTS)]), Counter()
    )
    assert sum(seen.values()) == CLIENTS * 40
    rows = ask(daemon, "GET", "/containers/json?all=1")[1]
    assert len(rows) <= 1
    for row in rows:
        state = ask(daemon, "GET", f"/containers/{row['Id']}/json")[1]["State"]
        assert state["Running"] == (state["Pid"] > 0 and Path(f"/proc/{state['Pid']}").exists()), state
    assert ask(daemon, "DELETE", "/containers/box?force=1")[0] in (204, 404)
    assert ask(daemon, "GET", "/containers/json?all=1")[1] == []


def test_a_restart_removes_nothing_and_an_end_does(daemon: Daemon) -> None:
    identifier = create(daemon, "box", HostConfig={"AutoRemove": True})
    ask(daemon, "POST", "/containers/box/start")
    assert set(together([lambda: ask(daemon, "POST", "/containers/box/restart?t=0")[0]] * CLIENTS)) == {204}
    document = ask(daemon, "GET", "/containers/box/json")[1]
    assert document["Id"] == identifier
    assert document["HostConfig"]["AutoRemove"] is True
    assert document["State"]["Running"] is True
    status, answer = ask(daemon, "POST", "/containers/box/stop?t=0")
    assert status == 204, answer
    ask(daemon, "POST", f"/containers/{identifier}/wait?condition=removed")
    assert ask(daemon, "GET", "/containers/box/json")[0] == 404


def test_a_name_is_given_once(daemon: Daemon) -> None:
    wanted = [lambda: ask(daemon, "POST", "/containers/create?name=only", SLEEPER) for _ in range(CLIENTS)]
    answers = together(wanted)
    [(_, made)] = [answer for answer in answers if answer[0] == 201]
    told = {answer["message"] for status, answer in answers if status == 409}
    assert told == {
        f'Conflict. The container name "/only" is already in use by container "{made["Id"]}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    }
    assert len(answers) == CLIENTS


def test_names_are_swapped_and_contended(daemon: Daemon) -> None:
    first, second = create(daemon, "first"), create(daemon, "second")
    for name, other in (("first", "third"), ("second", "first"), ("third", "second")):
        assert ask(daemon, "POST", f"/containers/{name}/rename?name={other}")[0] == 204
    assert ask(daemon, "GET", "/containers/first/json")[1]["Id"] == second
    assert ask(daemon, "GET", "/containers/second/json")[1]["Id"] == first
    tries = [lambda who=who: ask(daemon, "POST", f"/containers/{who}/rename?name=wanted")[0] for who in (first, second)]
    assert sorted(together(tries)) == [204, 409]


def test_a_start_and_a_stop_count_once(daemon: Daemon) -> None:
    identifier = create(daemon, "box")
    for what in ("start", "stop?t=0"):
        statuses = together([lambda what=what: ask(daemon, "POST", f"/containers/box/{what}")[0]] * CLIENTS)
        if what == "start":
            assert sorted(statuses) == [204, *[304] * (CLIENTS - 1)]
        else:  # one that was asked while it still ran has done it too
            assert set(statuses) <= {204, 304}
            assert 204 in statuses
        assert ask(daemon, "POST", f"/containers/box/{what}")[0] == 304
    actions = actions_of(daemon, identifier)
    assert actions.count("start") == actions.count("die") == 1


def actions_of(daemon: Daemon, identifier: str) -> list[str]:
    """What has happened to a container, in order."""
    filters = json.dumps({"container": [identifier]})
    _, answer = daemon.request("GET", f"/events?since=0&until={time.time():.9f}&filters={quote(filters)}")
    return [json.loads(line)["Action"] for line in answer.splitlines()]


def test_what_runs_is_removed_by_force_only_and_once(daemon: Daemon) -> None:
    identifier = create(daemon, "box")
    ask(daemon, "POST", "/containers/box/start")
    status, answer = ask(daemon, "DELETE", "/containers/box")
    assert status == 409
    assert "container is running: stop the container before removing or force remove" in answer["message"]
    answers = together([lambda: ask(daemon, "DELETE", f"/containers/{identifier}?force=1")] * CLIENTS)
    statuses = Counter(status for status, _ in answers)
    assert statuses[204] == 1
    assert set(statuses) <= {204, 404, 409}
    told = {answer["message"] for status, answer in answers if status == 409}
    assert told <= {f"removal of container {identifier} is already in progress"}
    assert actions_of(daemon, identifier).count("destroy") == 1


@pytest.mark.parametrize("condition", ["not-running", "next-exit", "removed"])
def test_all_who_wait_are_told(daemon: Daemon, condition: str) -> None:
    host = {"AutoRemove": condition == "removed"}
    create(daemon, "box", Cmd=["sh", "-c", "read line; exit 7"], OpenStdin=True, StdinOnce=True, HostConfig=host)
    done = threading.Barrier(CLIENTS + 1)

    def wait() -> Any:
        connection = ApiConnection(daemon.socket)
        connection.request("POST", f"/containers/box/wait?condition={condition}")
        response = connection.getresponse()  # the head comes when the wait is registered
        done.wait()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer["StatusCode"]

    with ThreadPoolExecutor(CLIENTS) as pool:
        if condition == "not-running":  # of one that does not run yet it would be told at once
            ask(daemon, "POST", "/containers/box/start")
        waiting = [pool.submit(wait) for _ in range(CLIENTS)]
        done.wait()
        if condition != "not-running":
            ask(daemon, "POST", "/containers/box/start")
        daemon.docker("attach", "--no-stdin=false", "box", input="\n", check=False)
        assert [each.result(30) for each in waiting] == [(200, 7)] * CLIENTS
    assert ask(daemon, "GET", "/containers/box/json")[0] == (404 if condition == "removed" else 200)


def test_programs_come_and_go_while_it_ends(daemon: Daemon) -> None:
    """Execs that are made while their container stops end with a status, none hangs."""
    create(daemon, "box")
    ask(daemon, "POST", "/containers/box/start")

    def execute() -> set[int]:
        seen = set()
        for _ in range(10):
            status, answer = ask(daemon, "POST", "/containers/box/exec", {"Cmd": ["true"], "AttachStdout": True})
            seen.add(status)
            if status == 201:
                seen.add(daemon.request("POST", f"/exec/{answer['Id']}/start", {"Detach": False})[0])
        return seen

    def stop() -> set[int]:
        return {ask(daemon, "POST", "/containers/box/stop?t=0")[0]}

    *seen, stopped = together([*[execute] * (CLIENTS - 1), stop])
    assert stopped == {204}
    assert set().union(*seen) <= {200, 201, 400, 404, 409}
