"""What a program in a container may try on the kernel and on those who enter: T01, T08, T16 to T19, T22, T52."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from pathlib import Path

from attacker import PYTHON, Link, Target, attack, escaped_if

# whoever enters the container is looked at, and what can be opened of it is opened for writing
_POLLER = """
import os, sys, time
mine = {(s.st_dev, s.st_ino) for s in map(os.stat, ('/bin/busybox', '/proc/self/exe'))}
met, tries = set(), 0
print('up', flush=True)
while not os.path.exists('/tmp/end'):
    for pid in [name for name in os.listdir('/proc') if name.isdigit() and int(name) not in (1, os.getpid())]:
        if pid not in met:
            met.add(pid)
            print('met', pid, flush=True)
        try:
            held = os.open(f'/proc/{pid}/exe', os.O_PATH)
        except OSError:
            tries += 1
            continue
        status = os.fstat(held)
        if (status.st_dev, status.st_ino) not in mine:
            for _ in range(20):
                try:
                    os.close(os.open(f'/proc/self/fd/{held}', os.O_WRONLY))
                    print('WRITABLE', os.readlink(f'/proc/self/fd/{held}'), flush=True)
                except OSError:
                    tries += 1
        os.close(held)
        try:
            foreign = (lambda s: (s.st_dev, s.st_ino) not in mine)(os.stat(f'/proc/{pid}/exe'))
        except OSError:
            continue
        for part in ('environ', 'mem', 'fd/0', 'fd/3', 'fd/5', 'cwd', 'root'):
            try:
                os.close(os.open(f'/proc/{pid}/{part}', os.O_RDONLY))
                if foreign and (lambda s: (s.st_dev, s.st_ino) not in mine)(os.stat(f'/proc/{pid}/exe')):
                    print('READABLE', part, flush=True)
            except OSError:
                tries += 1
print('tried', tries, flush=True)
"""
_LEAST_MET = 8
_MOST_EXECS = 200


def _polled(target: Target) -> str:
    """What a poller saw of those who entered its container, once it has seen some."""
    with target.running(*target.library(), "busybox", PYTHON, "-S", "-c", _POLLER) as name:
        target.wait_for(name, "up")
        for count in range(1, _MOST_EXECS + 1):
            target.docker("exec", name, "true")
            if count % 10 == 0 and target.docker("logs", name).stdout.count("met ") >= _LEAST_MET:
                break
        target.docker("exec", name, "touch", "/tmp/end")
        text = target.wait_for(name, "tried ")
    assert text.count("met ") >= _LEAST_MET, f"hardly anybody was met: {text}"
    return text


@attack("T01", "the engine's own program is overwritten through /proc/<pid>/exe")
def own_program(target: Target) -> str:
    """CVE-2019-5736."""
    image = target.image({"bin/link": Link("/proc/self/exe")})
    for words in (["/proc/self/exe"], ["/bin/link"], ["/proc/thread-self/exe", "init"]):
        done = target.run("--entrypoint", words[0], image, *words[1:])
        escaped_if(done.returncode == 0, f"{words[0]} ran something of the host")
    text = _polled(target)
    escaped_if("WRITABLE" in text, f"opened for writing: {text}")
    return "no process that enters shows a program that could be opened for writing"


@attack("T08", "control groups: the release agent, a hierarchy of one's own, the groups of others")
def groups(target: Target) -> str:
    """CVE-2022-0492, CVE-2023-25809."""
    out = target.sh(
        "mkdir /tmp/cg; for c in memory rdma devices; do mount -t cgroup -o $c none /tmp/cg && echo MOUNTED $c; done;"
        "mount -t cgroup2 none /tmp/cg && echo MOUNTED;"
        "for f in $(find /sys/fs/cgroup -type f 2>/dev/null); do (: >> $f) 2>/dev/null && echo WRITABLE $f; done;"
        "for d in $(find /sys/fs/cgroup -type d 2>/dev/null); do mkdir $d/x 2>/dev/null;"
        " test -e $d/x/cgroup.procs && echo MADE $d/x; done;"
        "mount -o remount,rw /sys/fs/cgroup && echo MOUNTED again; find /sys/fs/cgroup -type f | wc -l; echo tried"
    )
    assert "tried" in out, out
    for word in ("MOUNTED", "WRITABLE", "MADE"):
        escaped_if(word in out, next((line for line in out.splitlines() if word in line), ""))
    own = target.python(
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "for flags in (0x10000000, 0x10000000 | 0x00020000, 0x02000000):\n"
        "    print('unshared' if libc.unshare(flags) == 0 else f'refused {ctypes.get_errno()}')\n"
    )
    assert own.count("refused") == 3, own
    return "the mount is read-only and cannot be mounted again; no user namespace brings the right to"


# x86-64, i386 and x32 numbers in one table: name, number, arguments, door
_CALLS: tuple[tuple[str, int, tuple[int, ...], str], ...] = (
    ("unshare", 272, (0x10000000,), "amd64"),
    ("unshare", 310, (0x10000000,), "i386"),
    ("unshare", 0x40000000 | 272, (0x10000000,), "x32"),
    ("clone", 56, (0x10000000 | 17,), "amd64"),
    ("clone3", 435, (0, 0), "amd64"),
    ("mount", 165, (), "amd64"),
    ("mount", 21, (), "i386"),
    ("umount2", 166, (), "amd64"),
    ("pivot_root", 155, (), "amd64"),
    ("setns", 308, (0, 0), "amd64"),
    ("bpf", 321, (0, 0, 0), "amd64"),
    ("perf_event_open", 298, (), "amd64"),
    ("add_key", 248, (), "amd64"),
    ("keyctl", 250, (), "amd64"),
    ("keyctl", 288, (), "i386"),
    ("request_key", 249, (), "amd64"),
    ("userfaultfd", 323, (), "amd64"),
    ("io_uring_setup", 425, (), "amd64"),
    ("io_uring_setup", 425, (), "i386"),
    ("io_uring_setup", 0x40000000 | 425, (), "x32"),
    ("kexec_load", 246, (), "amd64"),
    ("kexec_file_load", 320, (), "amd64"),
    ("init_module", 175, (), "amd64"),
    ("finit_module", 313, (), "amd64"),
    ("delete_module", 176, (), "amd64"),
    ("fsopen", 430, (), "amd64"),
    ("fsmount", 432, (), "amd64"),
    ("move_mount", 429, (), "amd64"),
    ("open_tree", 428, (), "amd64"),
    ("mount_setattr", 442, (), "amd64"),
    ("swapon", 167, (), "amd64"),
    ("acct", 163, (), "amd64"),
    ("quotactl", 179, (), "amd64"),
    ("settimeofday", 164, (), "amd64"),
    ("clock_settime", 227, (), "amd64"),
    ("sethostname", 170, (0, 0), "amd64"),
    ("iopl", 172, (3,), "amd64"),
    ("ioperm", 173, (), "amd64"),
    ("kcmp", 312, (), "amd64"),
    ("fanotify_init", 300, (), "amd64"),
    ("syslog", 103, (3, 0, 0), "amd64"),
    ("vhangup", 153, (), "amd64"),
    ("lookup_dcookie", 212, (), "amd64"),
    ("personality", 135, (0x0040000,), "amd64"),
    ("socket(AF_ALG)", 41, (38, 5, 0), "amd64"),
    ("socket(AF_VSOCK)", 41, (40, 1, 0), "amd64"),
    ("socket(AF_ALG)", 359, (38, 5, 0), "i386"),
)

# machine code in anonymous memory makes the calls: mov the arguments, enter the kernel, return eax
_CALLER = """
import ctypes, mmap, os, struct
if os.uname().machine != 'x86_64':
    print('end'); raise SystemExit
def code(number, arguments, door):
    filled = (*arguments, 0, 0, 0, 0, 0, 0)
    if door == 'i386':
        body = b'\\x53'  # push rbx
        for load, value in zip((b'\\xbb', b'\\xb9', b'\\xba', b'\\xbe', b'\\xbf'), filled):
            body += load + struct.pack('<I', value & 0xffffffff)
        return body + b'\\xb8' + struct.pack('<I', number) + b'\\xcd\\x80\\x5b\\xc3'
    body = b''
    loads = (b'\\x48\\xbf', b'\\x48\\xbe', b'\\x48\\xba', b'\\x49\\xba', b'\\x49\\xb8', b'\\x49\\xb9')
    for load, value in zip(loads, filled):
        body += load + struct.pack('<Q', value)
    return body + b'\\xb8' + struct.pack('<I', number) + b'\\x0f\\x05\\xc3'
area = mmap.mmap(-1, 4096, prot=7)
place = ctypes.addressof(ctypes.c_char.from_buffer(area))
call = ctypes.CFUNCTYPE(ctypes.c_int)(place)
def make(number, arguments, door):
    area.seek(0); area.write(code(number, arguments, door))
    return call()
print('control', make(39, (), 'amd64') == os.getpid(), flush=True)
for name, number, arguments, door in CALLS:
    child = os.fork()
    if child == 0:
        got = make(number, arguments, door)
        if name == 'clone' and got == 0: os._exit(0)
        print(name, door, got, flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status: print(name, door, 'signal', status, flush=True)
print('end')
"""


@attack("T16", "system calls that reach the kernel's newest corners, through all three doors")
def system_calls(target: Target) -> str:
    """CVE-2026-31431 and others."""
    out = target.python(f"CALLS = {_CALLS!r}\n{_CALLER}")
    assert "end" in out, out
    if os.uname().machine != "x86_64":
        return "the calls of this test are those of amd64"
    assert "control True" in out, out
    rows = [line.split() for line in out.splitlines() if line not in ("end", "control True")]
    assert len(rows) >= len(_CALLS), out
    # EPERM and ENOSYS are the filter's answers; EINVAL or EFAULT mean that the kernel has looked at the arguments
    through = [row for row in rows if row[-2] != "signal" and int(row[-1]) not in (-1, -38)]
    escaped_if(through, f"reached the kernel: {through}")
    return f"{len(_CALLS)} calls answered by the filter; `Seccomp: 2`"


@attack("T17", "files of the host by their handles")
def handles(target: Target) -> str:
    """The "shocker" attack: open_by_handle_at with CAP_DAC_READ_SEARCH."""
    program = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "place = os.open('/etc/hosts', os.O_RDONLY)\n"  # a bind mount: it lies on the host's file system
        "class Handle(ctypes.Structure):\n"
        "    _fields_ = [('size', ctypes.c_uint), ('kind', ctypes.c_int), ('data', ctypes.c_ubyte * 128)]\n"
        "for inode in (2, 64, 128, 256):\n"
        "    handle = Handle(8, 1, (ctypes.c_ubyte * 128)(*inode.to_bytes(8, 'little')))\n"
        "    got = libc.syscall(304 if os.uname().machine == 'x86_64' else 265, place, ctypes.byref(handle), 0)\n"
        "    print('OPENED' if got >= 0 else f'refused {ctypes.get_errno()}')\n"
    )
    out = target.python(program)
    escaped_if("OPENED" in out, "a handle of the host was opened")
    assert out.count("refused 1") == 4, out
    return "refused: the call is unlocked by DAC_READ_SEARCH only, which nobody has"


@attack("T18", "keys typed into the caller's terminal, and the memory of those who enter")
def terminal(target: Target) -> str:
    """TIOCSTI; /proc/<pid>/{mem,environ,fd} of an engine's helper."""
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    program = (
        "import fcntl\n"
        "for fd in (0, 1, 2):\n"
        "    for byte in b'evil':\n"
        "        try: fcntl.ioctl(fd, 0x5412, bytes([byte])); print('typed')\n"
        "        except OSError as error: print('refused', error.errno)\n"
        "print('tried')\n"
    )
    try:
        words = ["docker", "-H", target.engine.host, "run", "--rm", "-it", *target.flags, *target.library(), "busybox"]
        client = subprocess.Popen(
            [*words, PYTHON, "-S", "-c", program], stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        output = b""
        deadline = time.monotonic() + 30
        while client.poll() is None or select.select([master], [], [], 0)[0]:
            assert time.monotonic() < deadline, output
            if select.select([master], [], [], 0.1)[0]:
                output += os.read(master, 4096)
        fcntl.fcntl(slave, fcntl.F_SETFL, os.O_NONBLOCK)
        typed = b""
        with contextlib.suppress(BlockingIOError):
            typed = os.read(slave, 100)
    finally:
        os.close(master)
        os.close(slave)
    assert b"tried" in output, output
    escaped_if(typed, f"in the caller's terminal now: {typed!r}")
    text = _polled(target)
    escaped_if("READABLE" in text, f"of a process that enters: {text}")
    return "the terminal is the container's own; those who enter cannot be looked at"


@attack("T19", "the kernel's files: what tells about the host, and what changes it")
def kernel_files(target: Target) -> str:
    """GHSA-jq35-85cj-fj4p, GHSA-6fw5-f8r9-fgfm and others."""
    out = target.sh(
        "for f in kcore keys timer_list sched_debug latency_stats interrupts; do"
        " test -e /proc/$f && echo $f $(head -c 10 /proc/$f 2>/dev/null | wc -c); done;"
        "for d in /proc/acpi /proc/scsi /proc/asound /sys/firmware /sys/devices/virtual/powercap; do"
        " test -d $d && echo $d $(ls -A $d | wc -l); done;"
        "find /proc/sys /sys /proc/irq /proc/bus /proc/fs -type f 2>/dev/null > /tmp/all;"
        "echo /proc/sysrq-trigger >> /tmp/all;"
        "{ while read -r f; do true >> $f && echo WRITABLE $f; done < /tmp/all; } 2>/dev/null;"
        "mount -o remount,rw /proc/sys && echo WRITABLE again; umount /proc/kcore && echo WRITABLE unmasked;"
        "echo checked $(wc -l < /tmp/all)"
    )
    assert int(out.rpartition("checked ")[2].split()[0]) > 500, out
    escaped_if("WRITABLE" in out, next((line for line in out.splitlines() if "WRITABLE" in line), ""))
    told = [line for line in out.splitlines() if line.split()[-1:] and line.split()[-1] not in ("0",)]
    leaks = [line for line in told if not line.startswith(("checked", "mount", "umount"))]
    escaped_if(leaks, f"told about the host: {leaks}")
    return f"masked files are empty; none of {out.rpartition('checked ')[2].split()[0]} files can be opened for writing"


@attack("T22", "devices of the host through nodes of one's own")
def devices(target: Target) -> str:
    disk = next((path.read_text().strip() for path in sorted(Path("/sys/block").glob("*/dev"))), "7:0").split(":")
    nodes = (
        f"mknod /tmp/disk b {disk[0]} {disk[1]}; mknod /tmp/mem c 1 1; mknod /tmp/kmsg c 1 11; mknod /tmp/fuse c 10 229"
    )
    look = (
        "i=0; until test -e /tmp/fuse || [ $i = 50 ]; do i=$((i+1)); sleep 0.1; done;"
        " for n in disk mem kmsg fuse; do test -e /tmp/$n || echo NONODE $n;"
        " head -c 1 /tmp/$n >/dev/null 2>/tmp/why && echo OPENED $n; grep -o 'not permitted' /tmp/why; done; echo tried"
    )
    with target.running("busybox", "sh", "-c", f"{nodes}; sleep 120") as name:
        out = ""
        for change in (None, ["update", "--memory", "64m", "--memory-swap", "64m", name], ["restart", "-t", "0", name]):
            if change:
                target.docker(*change, check=True)
            out += target.docker("exec", name, "sh", "-c", look).stdout
    assert out.count("tried") == 3, out
    assert "NONODE" not in out, out
    escaped_if("OPENED" in out, f"a device of the host can be read: {out}")
    escaped_if(out.count("not permitted") < 12, f"not the device rules refuse: {out}")
    return "nodes can be made and none can be opened, also after update and restart"


@attack("T52", "the host's processes, memory and disk are used up")
def exhaustion(target: Target) -> str:
    bomb = "echo up; (while :; do sleep 100 & done) 2>/dev/null; echo full; while :; do sleep 1; done"
    with target.running("--pids-limit", "100", "-m", "128m", "busybox", "sh", "-c", bomb) as name:
        target.wait_for(name, "up")
        deadline = time.monotonic() + 20
        while not _is_full(target, name):
            assert time.monotonic() < deadline, "the bomb did not go off"
            time.sleep(0.1)
        for _ in range(20):
            subprocess.run(["true"], check=True)
        escaped_if(name not in target.docker("ps", "--format", "{{.Names}}", timeout=10).stdout, "ps does not work")
        target.docker("kill", name, timeout=20, check=True)
    hog = target.run("-m", "32m", "--memory-swap", "32m", "busybox", "sh", "-c", "x=a; while :; do x=$x$x; done")
    escaped_if(hog.returncode != 137, f"a memory hog ended with {hog.returncode}")
    flood = f"i=0; while [ $i -lt 20000 ]; do echo {'a' * 32}; i=$((i+1)); done; echo flooded; sleep 60"
    capped = ["--log-opt", "max-size=64k", "--log-opt", "max-file=2"]
    with target.running(*capped, "busybox", "sh", "-c", flood) as name:
        target.wait_for(name, "flooded")
        path = target.engine.inspect(name)["LogPath"]
        size = sum(file.stat().st_size for file in Path(path).parent.glob("*-json.log*"))
    escaped_if(size > 4 * 64 * 1024, f"the log has {size} bytes")
    return "pids, memory and logs stop at their limits; the host forks, and the engine answers"


def _is_full(target: Target, name: str) -> bool:
    """Whether the container has as many processes as it may."""
    pid = target.engine.inspect(name)["State"]["Pid"]
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for top in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup"):
            current = Path(f"{top}{path}/pids.current")
            if controllers in ("pids", "") and current.exists():
                return int(current.read_text()) >= 95
    return False
