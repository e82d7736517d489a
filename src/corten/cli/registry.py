"""Every command: its names, the module that is imported when it is used, and its line in the help.

A module of ``corten.cli.commands`` is imported only when one of its commands runs: ``corten ps`` does not pay for the
options of ``corten run``.
"""

from __future__ import annotations

# name -> (module, attribute, summary)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "container attach": (
        "container_streams",
        "ATTACH",
        "Attach local standard input, output, and error streams to a running container",
    ),
    "container commit": ("image_make", "COMMIT", "Create a new image from a container's changes"),
    "container cp": ("copy", "COPY", "Copy files/folders between a container and the local filesystem"),
    "container create": ("container_run", "CREATE", "Create a new container"),
    "container diff": ("container", "DIFF", "Inspect changes to files or directories on a container's filesystem"),
    "container exec": ("container_exec", "EXEC", "Execute a command in a running container"),
    "container export": ("copy", "EXPORT", "Export a container's filesystem as a tar archive"),
    "container inspect": ("inspect", "CONTAINER", "Display detailed information on one or more containers"),
    "container kill": ("container", "KILL", "Kill one or more running containers"),
    "container logs": ("container_streams", "LOGS", "Fetch the logs of a container"),
    "container ls": ("container_list", "LIST", "List containers"),
    "container pause": ("container", "PAUSE", "Pause all processes within one or more containers"),
    "container port": ("container", "PORT", "List port mappings or a specific mapping for the container"),
    "container prune": ("prune", "CONTAINER", "Remove all stopped containers"),
    "container rename": ("container", "RENAME", "Rename a container"),
    "container restart": ("container", "RESTART", "Restart one or more containers"),
    "container rm": ("container", "REMOVE", "Remove one or more containers"),
    "container run": ("container_run", "RUN", "Create and run a new container from an image"),
    "container start": ("container_streams", "START", "Start one or more stopped containers"),
    "container stats": ("stats", "STATS", "Display a live stream of container(s) resource usage statistics"),
    "container stop": ("container", "STOP", "Stop one or more running containers"),
    "container top": ("container", "TOP", "Display the running processes of a container"),
    "container unpause": ("container", "UNPAUSE", "Unpause all processes within one or more containers"),
    "container update": ("container_update", "UPDATE", "Update configuration of one or more containers"),
    "container wait": ("container", "WAIT", "Block until one or more containers stop, then print their exit codes"),
    "image history": ("image", "HISTORY", "Show the history of an image"),
    "image import": ("image_make", "IMPORT", "Import the contents from a tarball to create a filesystem image"),
    "image inspect": ("inspect", "IMAGE", "Display detailed information on one or more images"),
    "image load": ("image_make", "LOAD", "Load an image from a tar archive or STDIN"),
    "image ls": ("image", "LIST", "List images"),
    "image prune": ("prune", "IMAGE", "Remove unused images"),
    "image rm": ("image", "REMOVE", "Remove one or more images"),
    "image save": (
        "image_make",
        "SAVE",
        "Save one or more images to a tar archive (streamed to STDOUT by default)",
    ),
    "image tag": ("image", "TAG", "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE"),
    "system df": ("disk_usage", "DISK_USAGE", "Show disk usage"),
    "system events": ("system", "EVENTS", "Get real time events from the server"),
    "system info": ("system", "INFO", "Display system-wide information"),
    "system prune": ("prune", "SYSTEM", "Remove unused data"),
    "volume create": ("volume", "CREATE", "Create a volume"),
    "volume inspect": ("inspect", "VOLUME", "Display detailed information on one or more volumes"),
    "volume ls": ("volume", "LIST", "List volumes"),
    "volume prune": ("prune", "VOLUME", "Remove unused local volumes"),
    "volume rm": ("volume", "REMOVE", "Remove one or more volumes"),
    "inspect": ("inspect", "ANY", "Return low-level information on Corten objects"),
    "version": ("system", "VERSION", "Show the Corten version information"),
    "daemon": ("system", "DAEMON", "Run the Corten daemon in the foreground (the same as cortend)"),
    "completion": ("completion", "COMPLETION", "Print a script that completes corten's commands in your shell"),
}

GROUPS: dict[str, str] = {
    "container": "Manage containers",
    "image": "Manage images",
    "system": "Manage Corten",
    "volume": "Manage volumes",
}

# other names for a command; those of one word are the usual ones
ALIASES: dict[str, str] = {
    **{
        name.split()[1]: name
        for name in COMMANDS
        if name.startswith("container ") and name not in ("container ls", "container inspect", "container prune")
    },
    **{f"{name}": f"image {name}" for name in ("history", "import", "load", "save", "tag")},
    "ps": "container ls",
    "images": "image ls",
    "rmi": "image rm",
    "events": "system events",
    "info": "system info",
    "container ps": "container ls",
    "container list": "container ls",
    "container remove": "container rm",
    "image list": "image ls",
    "image remove": "image rm",
    "volume list": "volume ls",
    "volume remove": "volume rm",
}

COMMON = ("run", "exec", "ps", "images", "logs", "version", "info")


def canonical(name: str) -> str:
    """The name in ``COMMANDS``, or nothing."""
    if name in COMMANDS:
        return name
    return ALIASES.get(name, "")


def find(words: list[str]) -> tuple[str, list[str]]:
    """The longest name of a command at the start of ``words``, and what follows it; ("", words) when there is none."""
    for count in (2, 1):
        name = " ".join(words[:count])
        if len(words) >= count and canonical(name):
            return name, words[count:]
    return "", words


def names_of(name: str) -> list[str]:
    """All names of the command that ``name`` is one of, for the help."""
    whole = canonical(name)
    return sorted((whole, *(alias for alias, target in ALIASES.items() if target == whole)), key=_by_length)


def _by_length(name: str) -> tuple[int, str]:
    return (-name.count(" "), name)


def summary_of(name: str) -> str:
    """Its line in the help."""
    return COMMANDS[canonical(name)][2]
