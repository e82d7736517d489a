"""The commands of ``corten-oci``, a module each.  Source: runtime-spec runtime.md, "Operations"; runc(8).

A module has ``arguments(command)``, which declares its command line, and ``run(call)``, whose answer is the exit code.
Only that of the command that was called is imported: callers run many of these for each container, and importing is
what most of them take their time for.
"""

from __future__ import annotations

# name -> what --help says of it
COMMANDS = {
    "create": "make a container, which waits for start",
    "run": "make and start a container",
    "start": "run the program of a created container",
    "state": "print a container's state",
    "kill": "send a signal to a container's first process",
    "delete": "delete a container that is stopped or was never started",
    "exec": "run a program in a container",
    "list": "list containers",
    "ps": "list a container's processes",
    "pause": "suspend all processes",
    "resume": "resume all processes",
    "update": "change a container's limits",
    "events": "print statistics, and each time that memory ran out",
    "spec": "write a config.json to start from",
    "checkpoint": "write the state of a running container to a directory, and end it (needs criu)",
    "restore": "make a container that goes on where a checkpoint was made (needs criu)",
    "features": "print what the runtime supports",
}
