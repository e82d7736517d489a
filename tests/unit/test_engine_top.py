"""``top``: arguments of ps, columns read from /proc."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from corten.engine.top import columns_of, processes
from corten.errors import InvalidParameter
from waiting import until


def titles(arguments):
    return [title for title, _ in columns_of(arguments)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "UID PID PPID C STIME TTY TIME CMD"),
        ("-ef", "UID PID PPID C STIME TTY TIME CMD"),
        ("-f -e", "UID PID PPID C STIME TTY TIME CMD"),
        ("aux", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
        ("auxww", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
        ("-e", "PID TTY TIME CMD"),
        ("ax", "PID TTY STAT TIME COMMAND"),
        ("-l", "F S UID PID PPID C PRI NI ADDR SZ WCHAN TTY TIME CMD"),
        ("-elf", "F S UID PID PPID C PRI NI ADDR SZ WCHAN STIME TTY TIME CMD"),
        ("-F", "UID PID PPID C SZ RSS PSR STIME TTY TIME CMD"),
        ("-o pid,cmd", "PID CMD"),
        ("-opid,cmd", "PID CMD"),
        ("-eo pid -o user", "PID USER"),
        ("axo pid,comm=NAME", "PID NAME"),
        ("--format pid,args", "PID COMMAND"),
        ("--format=pid", "PID"),
    ],
)
def test_layouts(arguments, expected):
    assert titles(arguments) == expected.split()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("-o pid,colour", 'unknown user-defined format specifier "colour"'),
        ("-o", "format specification must follow -o"),
        ("-o ,", "empty format list"),
        ("--forest", "unsupported option '--forest'"),
        ("-T", "unsupported option '-T'"),
        ("-", "unsupported option '-'"),
        ("auxf", "unsupported option 'auxf'"),
        ("-f -j", "conflicting format options"),
        ("-f -o pid", "conflicting format options"),
    ],
)
def test_what_is_not_understood_is_said(arguments, text):
    with pytest.raises(InvalidParameter) as caught:
        columns_of(arguments)
    assert text in str(caught.value)


@pytest.fixture
def program():
    """A process whose name and arguments are no trouble for a parser that reads from the right."""
    code = "import sys; open('/proc/self/comm', 'w').write('odd ) name ('); print(flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", code, "a ) b (", "x y"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    child.stdout.readline()
    # only then its state and memory stay as they are
    while values(child.pid, "-o s") != ["S"]:
        time.sleep(0.001)
    yield child
    child.stdin.close()
    child.wait()
    child.stdout.close()


def values(pid, arguments):
    document = processes([pid], arguments)
    assert len(document["Processes"]) == 1
    return document["Processes"][0]


def test_values_of_a_process(program):
    pid, ppid, uid, comm, args, nlwp = values(program.pid, "-o pid,ppid,uid,comm,args,nlwp")
    assert (pid, ppid, uid) == (str(program.pid), str(os.getpid()), str(os.geteuid()))
    assert comm == "odd ) name ("
    assert args.endswith("a ) b ( x y")
    assert nlwp == "1"


def test_processes_that_have_ended_are_left_out(program):
    pids = [4_000_000, program.pid]
    assert [row[0] for row in processes(pids, "-o pid")["Processes"]] == [str(program.pid)]


def test_a_zombie():
    child = subprocess.Popen(["true"])
    deadline = time.monotonic() + 5
    while values(child.pid, "-o s") != ["Z"] and time.monotonic() < deadline:
        time.sleep(0.005)
    comm, args, stat = values(child.pid, "-o comm,args,stat")
    child.wait()
    assert (comm, args, stat[0]) == ("true <defunct>", "[true] <defunct>", "Z")


def test_threads_and_sessions_show_in_the_state():
    hold = threading.Event()
    thread = threading.Thread(target=hold.wait)
    thread.start()
    try:
        assert "l" in values(os.getpid(), "-o stat")[0]
    finally:
        hold.set()
        thread.join()
    leader = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        assert "s" in values(leader.pid, "-o stat")[0]
    finally:
        leader.kill()
        leader.wait()


@pytest.mark.skipif(shutil.which("ps") is None, reason="this machine lacks: ps")
@pytest.mark.parametrize(
    "arguments",
    [
        "-ef",
        "aux",
        "-l",
        "-lf",
        "-F",
        "-j",
        "ax",
        "l",
        "j",
        "-o pid,pgid,sid,tpgid,tty,stat,ni,pri,cls,rtprio,user,group",
    ],
)
def test_ps_says_the_same(program, arguments):
    def told():
        done = subprocess.run(
            ["ps", *arguments.split(), f"-q{program.pid}"],
            capture_output=True,
            text=True,
            check=True,
            env={"LANG": "C"},
        )
        return steady([line.split() for line in done.stdout.splitlines()])

    def ours():
        document = processes([program.pid], arguments)
        rows = [" ".join(row).split() for row in document["Processes"]]
        return steady([document["Titles"], *rows])

    def steady(table):
        """Without the share of the processor, which falls from one look to the next."""
        gone = {place for place, title in enumerate(table[0]) if title in ("C", "%CPU")}
        return [[value for place, value in enumerate(row) if place not in gone] for row in table]

    until(lambda: ours() == told())  # the program may have been on its way to sleep at one of the two looks
