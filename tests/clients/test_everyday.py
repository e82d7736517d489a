"""Days of work with docker, command by command: dockerd and we print the same and leave with the same code.

``DIFFERENT`` and ``DONE_OTHERWISE`` list what is not the same, with the reason.  Of what a runtime says only the exit
code counts, and capitals do not: dockerd has since made its messages begin with small letters.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from test_as_dockerd import masked

from daemons import Daemon, Dockerd, Engine

pytestmark = [pytest.mark.needs("docker", "dockerd", "busybox")]

DAYS = {
    "volumes": """
        volume ls
        volume create day-plain
        volume create --label kind=day --label empty day-labelled
        volume create -d local -o type=tmpfs -o device=tmpfs -o o=size=1m day-tmpfs
        volume create -o type=tmpfs -o device=tmpfs day-plain
        volume ls
        volume ls -q
        volume ls --filter label=kind
        volume ls --filter label=kind=other
        volume ls --filter dangling=true --format '{{.Name}} {{.Driver}} {{.Label "kind"}}'
        volume ls --filter name=tmp
        volume ls --filter nosuch=x
        volume inspect -f "{{.Name}} {{.Driver}} {{.Scope}} {{.Labels}} {{.Options}}" day-labelled day-tmpfs
        volume inspect day-missing
        run --rm -v day-plain:/v busybox sh -c "echo kept > /v/file; ls -la /v | cut -c 1-10"
        run --rm -v day-plain:/v:ro busybox sh -c "cat /v/file; touch /v/other"
        run --rm -v day-tmpfs:/v busybox sh -c "df -k /v | tail -1; touch /v/gone"
        run --rm -v day-tmpfs:/v busybox ls /v
        run --rm --mount type=volume,source=day-new,target=/bin2,volume-label=a=b busybox ls -d /bin2
        volume inspect -f "{{json .Labels}}" day-new
        run --rm -v /anonymous busybox sh -c "grep -c /anonymous /proc/mounts"
        create --name day-user -v day-plain:/v:ro -v /anonymous busybox
        ps -a --filter volume=day-plain --format "{{.Names}}"
        volume ls -q --filter dangling=false --filter name=day
        volume rm day-plain
        rm -v day-user
        volume rm day-plain day-new day-missing
        volume rm -f day-missing
        volume rm day-labelled day-tmpfs
        volume ls -q
    """,
    "a container's life": """
        create --name day -l kind=day -e A=b -w /tmp -h box --stop-timeout 1 busybox sh -c "echo began; exec sleep 1000"
        ps -a --format "{{.Names}}|{{.Image}}|{{.State}}|{{.Status}}|{{.Ports}}|{{.LocalVolumes}}|{{.Size}}"
        start day
        ps --format "table {{.Names}}\t{{.Label \\"kind\\"}}\t{{.Command}}"
        ps --no-trunc --format "{{.Command}}"
        ps -q --filter name=^day$ --filter status=running
        ps --filter ancestor=busybox --filter label=kind=day --format "{{.Names}}"
        ps --filter exited=0
        ps --filter health=none --format "{{.Names}}"
        ps --filter since=nosuch
        ps --filter status=nonsense
        inspect -f "{{.Name}} {{.State.Status}} {{.State.Running}} {{.State.Paused}} {{.State.OOMKilled}}" day
        inspect -f "{{.Config.Hostname}} {{.Config.WorkingDir}} {{json .Config.Env}} {{.Config.StopTimeout}}" day
        inspect -f "{{json .HostConfig.RestartPolicy}} {{json .HostConfig.LogConfig}} {{.HostConfig.ShmSize}}" day
        inspect --type image day
        inspect --type container busybox
        inspect -f "{{.NoSuchField}}" day
        exec day sh -c "hostname; pwd; echo $A"
        exec -e A=c day sh -c "echo $A"
        exec -d day touch /made
        exec -i day cat
        exec -u 1000:1000 day id
        exec -u nosuchuser day id
        exec day nosuchcommand
        exec -w /etc day cat group
        top day -o args
        top day -o nosuchcolumn
        stats --no-stream --format "{{.Name}} {{.PIDs}}" day
        pause day
        pause day
        ps --format "{{.Names}} {{.State}}"
        exec day true
        unpause day
        unpause day
        update --memory 64m --memory-swap 128m --cpu-shares 512 --pids-limit 50 day
        update --memory 1k day
        update --restart nonsense day
        inspect -f "{{with .HostConfig}}{{.Memory}} {{.MemorySwap}} {{.CpuShares}} {{.PidsLimit}}{{end}}" day
        exec day cat /sys/fs/cgroup/pids/pids.max
        rename day night
        rename night night
        rename night -bad-
        logs night
        logs --since 1h --until 0s night
        logs --tail nonsense night
        restart -t 0 night
        logs night
        kill -s 0 night
        kill -s HUP night
        rm night
        stop -t 0 night
        stop night
        wait night
        kill night
        ps -a --filter exited=137 --format "{{.Names}} {{.State}}"
        diff night
        logs night
        exec night true
        top night
        stats --no-stream night
        attach night
        start -a -i nosuch
        commit -m "a day" -a "somebody" -c "CMD echo committed" -c "ENV DAY=1" night day/image:1
        run --rm day/image:1
        inspect -f "{{json .Config.Cmd}} {{json .Config.Env}} {{.Author}} {{.Comment}}" day/image:1
        rm night
        rm night
        rmi day/image:1
    """,
    "files": """
        create --name day busybox sh -c "exec sleep 1000"
        cp {tmp}/tree day:/copied
        cp {tmp}/tree/. day:/copied/inner
        cp {tmp}/tree/file day:/tmp/renamed
        cp {tmp}/tree/file day:/tmp
        cp {tmp}/tree/file day:/tmp/
        cp {tmp}/tree/file day:/nosuch/
        cp {tmp}/tree day:/tmp/renamed
        cp {tmp}/missing day:/tmp
        cp day:/nosuch {tmp}
        cp day:/copied {tmp}/back
        cp day:/copied/. {tmp}/flat
        cp -L day:/copied/link {tmp}/followed
        cp day:/copied/link {tmp}/link
        cp a:/b c:/d
        cp {tmp}/tree {tmp}/elsewhere
        start day
        cp -a {tmp}/tree day:/archived
        exec day sh -c "cd /; find copied archived tmp | sort; cat copied/sub/deep; ls -l copied/link | tail -c 9"
        diff day
        export -o {tmp}/day.tar day
        import -c "CMD cat /copied/file" -c "LABEL a=b" -m imported {tmp}/day.tar day/imported
        inspect -f "{{json .Config.Cmd}} {{json .Config.Labels}} {{.Comment}}" day/imported
        run --rm day/imported
        run --rm --read-only -v {tmp}/tree:/t:ro busybox sh -c "cat /t/file; touch /t/x"
        run --rm --mount type=bind,source={tmp}/tree,target=/t,readonly busybox cat /t/sub/deep
        run --rm --mount type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770 busybox stat -c %a /t
        run --rm --volumes-from day busybox true
        rm -f day
        rmi day/imported
    """,
    "images": """
        images --no-trunc busybox
        images --digests busybox
        images -q busybox
        images --filter dangling=true
        images --filter reference=busy* --format "{{.Repository}} {{.Tag}}"
        images --filter label=nosuch
        images --filter before=nosuch
        images nosuch
        image ls -a busybox
        history busybox
        history -q busybox
        history --no-trunc busybox
        tag busybox day/one
        tag busybox day/one:2
        tag busybox example.com:5000/day/one:3
        tag busybox UPPER
        tag busybox day/one:in/valid
        images day/one
        images --format "{{.Repository}}:{{.Tag}}" --filter reference=*/one:2
        images "day/*"
        save -o {tmp}/one.tar day/one:2
        rmi day/one:2
        load -i {tmp}/one.tar
        load -q -i {tmp}/one.tar
        load -i {tmp}/tree/file
        load -i {tmp}/missing
        run --rm day/one:2 echo loaded
        create --name day day/one:2
        rmi day/one:2
        rmi day/one
        rmi example.com:5000/day/one:3
        rmi nosuch:tag
        rm day
        image prune -f
        run --rm --pull never nosuchimage true
        create --pull never nosuchimage
    """,
    "looking around": """
        info -f "{{.Driver}} {{.OSType}} {{.NCPU}} {{.MemTotal}} {{.Swarm.LocalNodeState}}"
        info -f "{{.LoggingDriver}} {{.CgroupDriver}} {{.CgroupVersion}} {{.MemoryLimit}} {{.SwapLimit}}"
        info -f "{{.IPv4Forwarding}} {{.ExperimentalBuild}} {{.OomKillDisable}}"
        info -f "{{.Containers}} {{.ContainersRunning}} {{.Architecture}} {{.KernelVersion}}"
        version -f "{{.Server.Os}}/{{.Server.Arch}} {{.Client.Version}}"
        network ls --filter name=none
        network ls --filter driver=host --format "{{.Name}} {{.Scope}}"
        network inspect -f "{{.Name}} {{.Driver}} {{.Internal}} {{.EnableIPv6}} {{json .Options}}" none host
        network inspect nosuch
        network rm none
        network prune -f
        run --rm --network none busybox ip -o link
        run --rm -d --network none --name day busybox sleep 1000
        inspect -f "{{json .HostConfig.NetworkMode}} {{json .HostConfig.AutoRemove}}" day
        network disconnect none nosuch
        rm -f day
        system df
        system df --format "{{.Type}} {{.TotalCount}} {{.Active}}"
        container prune -f
        volume prune -f
        system prune -f
        builder prune -f
        events --since 1s --until 0s --filter type=plugin
        events --filter nosuch=1 --until 0s
        plugin ls
        plugin inspect nosuch
        plugin rm nosuch
        node ls
        service ls
        secret ls
        config ls
        swarm leave
        stack ls
        swarm ca
        node inspect self
        logout example.com:5000
    """,
    "one after the other": """
        run --name day busybox echo said
        start day
        start -a day
        logs day
        logs -f day
        wait day
        inspect -f "{{.State.ExitCode}} {{.State.Error}} {{.RestartCount}}" day
        rm day
        run --name day -d --restart on-failure:2 busybox sh -c "echo again; exit 3"
        wait day
        logs --tail 1 day
        rm -f day
        run --rm --init busybox sh -c "echo $$ | grep -vx 1 | wc -l"
        run --rm --entrypoint sh busybox -c "echo entry"
        run --rm --entrypoint nosuch busybox
        run --rm -a stdout busybox sh -c "echo out; echo err >&2"
        run --rm -a stderr busybox sh -c "echo out; echo err >&2"
        run --rm -i busybox cat
        run --rm -e DAY busybox env
        run --rm --env-file {tmp}/missing busybox env
        run --rm --env-file {tmp}/env busybox env
        run --rm --cap-add SYS_TIME --cap-drop mknod busybox grep CapEff /proc/self/status
        run --rm --tmpfs /t:size=2m,mode=700 busybox sh -c "stat -c %a /t; df -k /t | tail -1"
        run --rm --pid host busybox sh -c "test $$ != 1 && echo not first"
        run --rm --ipc none busybox sh -c "ls -d /dev/shm | wc -l"
        run --rm --log-driver none busybox echo not kept
        run --name day --log-driver none -d busybox sleep 1000
        logs day
        run --rm --pid container:day busybox sh -c "ps -o comm | grep -cx sleep"
        run --rm --network container:day busybox sh -c "ls /sys/class/net"
        run --rm --cidfile {tmp}/cid busybox true
        run --rm --cidfile {tmp}/cid busybox true
        rm -f day
        run -d --name day --health-cmd "exit 0" --health-interval 1h busybox sleep 1000
        inspect -f "{{json .Config.Healthcheck}}" day
        rm -f day
        run -d -t --name day busybox sh -c "test -t 1 && echo terminal; exec sleep 1000"
        exec -d -t day tty
        rm -f day
        run --rm --ulimit nofile=1024:512 busybox true
        run --rm --ulimit nosuch=1 busybox true
        run --rm --memory-swappiness 101 busybox true
        run --rm --label-file {tmp}/missing busybox true
        run --rm --gpus all busybox true
        run --rm --isolation hyperv busybox true
        run --rm --restart always busybox true
        run --rm -v /:/ busybox true
        run --rm -v {tmp}:/a -v {tmp}:/a busybox true
        run --rm --tmpfs relative busybox true
        run --rm --runtime nosuch busybox true
        run --rm --userns nonsense busybox true
        run --rm --cgroupns nonsense busybox true
        run --rm --uts nonsense busybox true
        run --rm --link nosuch busybox true
        run --rm --security-opt seccomp={tmp}/missing busybox true
        run --rm --device /dev/null:/dev/other:x busybox true
        run --rm --expose nonsense busybox true
        run --rm -p 1:2:3:4 busybox true
    """,
}  # fmt: skip
# the beginning of a command -> why its output is another
DIFFERENT = {
    "ps --filter since=nosuch": "the words are the same as of every other unknown container",
    "inspect --type image day": "dockerd 20.10 says it twice",
    "exec -u nosuchuser": "the step that failed is named first",
    "update --restart nonsense": "the words of later dockerds",
    "rm night": "the words of later dockerds",
    "load -i {tmp}/tree/file": "the words are our own",
    "rmi day/one": "of what was loaded the digest is known, and goes with the last tag",
    "system df": "the image host is always there",
    "run --rm --gpus": "it is refused when it is made, not when it is started",
    "run --rm --isolation": "the words of later dockerds",
    "run --rm --runtime nosuch": "the words of later dockerds",
}
# and its exit code
DONE_OTHERWISE = {
    "volume create -o type=tmpfs -o device=tmpfs day-plain": "dockerd forgets the options without a word",
    "exec day nosuchcommand": "127, as run has it and later dockerds",
    "top day -o args": "dockerd needs the column of process ids to find the processes",
    "events --filter nosuch": "dockerd ignores a filter that it does not know",
}


def commands(day: str) -> list[str]:
    return [line.strip() for line in DAYS[day].strip().splitlines()]


@pytest.fixture
def places(daemon: Daemon, dockerd: Dockerd, tmp_path: Path) -> dict[Engine, Path]:
    """A directory for each engine with the same files."""
    made: dict[Engine, Path] = {}
    for engine, name in ((dockerd, "their"), (daemon, "ours_")):
        place = tmp_path / name
        (place / "tree/sub").mkdir(parents=True)
        (place / "tree/file").write_text("a file\n")
        (place / "tree/sub/deep").write_text("deep\n")
        (place / "tree/link").symlink_to("sub/deep")
        (place / "env").write_text("# of a day\nFROM_FILE=1\nWITH_SPACE=a b\n")
        made[engine] = place
    return made


# of a client whose copy is refused while it still sends, and of ids that were cut
NOISE = re.compile(r'^time="<time>" level=error .*\n|[0-9a-f]{8,}(?=…)', re.MULTILINE)


def told(engine: Engine, line: str, place: Path) -> tuple[int, list[str], str]:
    """Exit code, lines and complaints of a command."""
    words = [word.replace("{tmp}", str(place)) for word in shlex.split(line)]
    done = engine.docker(*words, check=False, stdin=subprocess.DEVNULL, timeout=30)
    out, err = (NOISE.sub("", masked(text).replace(str(place), "{tmp}")) for text in (done.stdout, done.stderr))
    if done.returncode in (126, 127):
        return done.returncode, [], ""
    # changes come in any order
    return done.returncode, sorted(out.splitlines()) if line.startswith("diff ") else out.splitlines(), err.lower()


def is_listed(line: str, reasons: dict[str, str]) -> bool:
    return any(line.startswith(beginning) for beginning in reasons)


@pytest.mark.parametrize("day", DAYS)
def test_a_day(daemon: Daemon, dockerd: Dockerd, places: dict[Engine, Path], day: str, subtests) -> None:
    try:
        for line in commands(day):
            with subtests.test(line):
                theirs, ours = (told(engine, line, place) for engine, place in places.items())
                if is_listed(line, DONE_OTHERWISE):
                    continue
                assert ours[0] == theirs[0], (theirs, ours)
                if not is_listed(line, DIFFERENT):
                    assert ours == theirs
    finally:
        for engine in places:
            engine.remove_containers()
            engine.request("POST", '/v1.42/volumes/prune?filters={"all":["1"]}')


def test_every_reason_is_of_a_command() -> None:
    every = [line for day in DAYS for line in commands(day)]
    assert len(every) > 200
    for beginning in (*DIFFERENT, *DONE_OTHERWISE):
        assert any(line.startswith(beginning) for line in every), beginning
