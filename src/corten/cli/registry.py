"""Every command: its names, the module that is imported when it is used, and its line in the help.

A module of ``corten.cli.commands`` is imported only when one of its commands runs: ``corten ps`` does not pay for the
options of ``corten run``.
"""

from __future__ import annotations

# name -> (module, attribute, summary)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "container attach": ("container_streams", "ATTACH", "Connect this terminal to a running container's program"),
    "container commit": ("image_make", "COMMIT", "Make an image of what a container has changed"),
    "container cp": ("copy", "COPY", "Copy files between a container and this machine"),
    "container create": ("container_run", "CREATE", "Make a container without starting it"),
    "container diff": ("container", "DIFF", "List what a container has added, changed and deleted"),
    "container exec": ("container_exec", "EXEC", "Run a command in a running container"),
    "container export": ("copy", "EXPORT", "Write a container's files as a tar archive"),
    "container inspect": ("inspect", "CONTAINER", "Show everything known of containers"),
    "container kill": ("container", "KILL", "Send a signal to containers"),
    "container logs": ("container_streams", "LOGS", "Show what a container's program has written"),
    "container ls": ("container_list", "LIST", "List containers"),
    "container pause": ("container", "PAUSE", "Freeze all processes of containers"),
    "container port": ("container", "PORT", "List the published ports of a container"),
    "container prune": ("prune", "CONTAINER", "Remove all stopped containers"),
    "container rename": ("container", "RENAME", "Give a container another name"),
    "container restart": ("container", "RESTART", "Stop and start containers"),
    "container rm": ("container", "REMOVE", "Remove containers"),
    "container run": ("container_run", "RUN", "Make a container of an image and run a program in it"),
    "container start": ("container_streams", "START", "Start stopped containers"),
    "container stats": ("stats", "STATS", "Watch what containers use of CPU, memory, network and disks"),
    "container stop": ("container", "STOP", "Stop running containers"),
    "container top": ("container", "TOP", "List the processes of a container"),
    "container unpause": ("container", "UNPAUSE", "Thaw all processes of containers"),
    "container update": ("container_update", "UPDATE", "Change limits of containers while they run"),
    "container wait": ("container", "WAIT", "Wait until containers stop and print their exit codes"),
    "image history": ("image", "HISTORY", "Show how an image was made, step by step"),
    "image import": ("image_make", "IMPORT", "Make an image of a file system in a tar archive or a directory"),
    "image inspect": ("inspect", "IMAGE", "Show everything known of images"),
    "image load": ("image_make", "LOAD", "Take in images from an archive"),
    "image ls": ("image", "LIST", "List images"),
    "image prune": ("prune", "IMAGE", "Remove images that nothing uses"),
    "image pull": ("image_transfer", "PULL", "Get an image from a registry"),
    "image push": ("image_transfer", "PUSH", "Send an image to a registry"),
    "image rm": ("image", "REMOVE", "Remove images, or names of images"),
    "image save": ("image_make", "SAVE", "Write images to an archive"),
    "image tag": ("image", "TAG", "Give an image a further name"),
    "network connect": ("network", "CONNECT", "Connect a container to a network"),
    "network create": ("network", "CREATE", "Make a network"),
    "network disconnect": ("network", "DISCONNECT", "Take a container out of a network"),
    "network inspect": ("inspect", "NETWORK", "Show everything known of networks"),
    "network ls": ("network", "LIST", "List networks"),
    "network prune": ("prune", "NETWORK", "Remove networks that nothing uses"),
    "network rm": ("network", "REMOVE", "Remove networks"),
    "system check": ("system_check", "CHECK", "Find damaged, lost and forgotten content, and repair it"),
    "system df": ("disk_usage", "DISK_USAGE", "Show how much space images, containers and volumes take"),
    "system events": ("system", "EVENTS", "Show what happens, as it happens"),
    "system info": ("system", "INFO", "Show the daemon's configuration and its host"),
    "system mirrors": ("system_mirrors", "MIRRORS", "Show or change the mirrors of Docker Hub"),
    "system prune": ("prune", "SYSTEM", "Remove everything that nothing uses"),
    "volume create": ("volume", "CREATE", "Make a volume"),
    "volume inspect": ("inspect", "VOLUME", "Show everything known of volumes"),
    "volume ls": ("volume", "LIST", "List volumes"),
    "volume prune": ("prune", "VOLUME", "Remove volumes that nothing uses"),
    "volume rm": ("volume", "REMOVE", "Remove volumes"),
    "manifest annotate": ("manifest", "ANNOTATE", "Say what platform an image of a manifest list is for"),
    "manifest create": ("manifest", "CREATE", "Make a manifest list of images in registries"),
    "manifest inspect": ("manifest", "INSPECT", "Show a manifest or manifest list"),
    "manifest push": ("manifest", "PUSH", "Send a manifest list to its registry"),
    "manifest rm": ("manifest", "REMOVE", "Remove manifest lists that were made here"),
    "builder build": ("build", "BUILD", "Make an image as a Dockerfile says"),
    "builder du": ("builder", "USED", "Show what the builds' cache takes"),
    "builder history inspect": ("builder_history", "INSPECT", "Show how a build was asked for and what it used"),
    "builder history logs": ("builder_history", "LOGS", "Show what a build has said"),
    "builder history ls": ("builder_history", "HISTORY", "List the builds of this daemon"),
    "builder history rm": ("builder_history", "FORGET", "Remove builds from the history"),
    "builder prune": ("builder", "PRUNE", "Remove what builds have kept for later ones"),
    "registry gc": ("registry_server", "COLLECT", "Delete what no image of a registry needs"),
    "registry serve": ("registry_server", "SERVE", "Serve a registry from a directory of this machine"),
    "copy": ("manifest", "COPY", "Copy an image from one registry to another"),
    "login": ("login", "LOGIN", "Log in to a registry"),
    "logout": ("login", "LOGOUT", "Forget the credentials of a registry"),
    "search": ("image_transfer", "SEARCH", "Search for images on Docker Hub or another host"),
    "inspect": ("inspect", "ANY", "Show everything known of containers, images, networks or volumes"),
    "xray": ("xray", "XRAY", "Show what a container, or this host, is made of"),
    "version": ("system", "VERSION", "Show the versions of this command and of the daemon"),
    "daemon": ("system", "DAEMON", "Run the daemon in the foreground (the same as cortend)"),
    "completion": ("completion", "COMPLETION", "Print a script that completes commands in a shell"),
}

GROUPS: dict[str, str] = {
    "builder": "Build images and manage the builds' cache",
    "builder history": "Look at what was built",
    "container": "Manage containers",
    "image": "Manage images",
    "network": "Manage networks",
    "manifest": "Manage manifests and manifest lists in registries",
    "registry": "Run a registry of one's own",
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
    **{f"{name}": f"image {name}" for name in ("history", "import", "load", "pull", "push", "save", "tag")},
    "build": "builder build",
    "image build": "builder build",
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
    "network list": "network ls",
    "network remove": "network rm",
    "volume list": "volume ls",
    "volume remove": "volume rm",
}

COMMON = ("run", "exec", "ps", "build", "images", "pull", "push", "logs", "version", "info")


def canonical(name: str) -> str:
    """The name in ``COMMANDS``, or nothing."""
    if name in COMMANDS:
        return name
    return ALIASES.get(name, "")


def group_of(words: list[str]) -> str:
    """The longest name of a group that ``words`` begin with, or nothing."""
    return next((name for count in (2, 1) if (name := " ".join(words[:count])) in GROUPS), "")


def members(group: str) -> list[tuple[str, str]]:
    """(word, summary) of a group's commands and of the groups in it."""
    prefix = f"{group} "
    names = {**{name: COMMANDS[name][2] for name in COMMANDS}, **GROUPS}
    return sorted(
        (name.removeprefix(prefix), summary)
        for name, summary in names.items()
        if name.startswith(prefix) and " " not in name.removeprefix(prefix)
    )


def find(words: list[str]) -> tuple[str, list[str]]:
    """The longest name of a command at the start of ``words``, and what follows it; ("", words) when there is none."""
    for count in (3, 2, 1):
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
