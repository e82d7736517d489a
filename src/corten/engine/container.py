"""The container as the engine remembers it: one record, its states and the transitions between them."""

from __future__ import annotations

import enum

from msgspec import Struct, field

from corten.dockerapi.container import ContainerConfig, HostConfig
from corten.engine.endpoint import Endpoint
from corten.engine.mount_points import MountPoint
from corten.errors import Conflict

ZERO_TIME_NS = -62135596800 * 10**9  # Go's zero time, 0001-01-01T00:00:00Z


class Status(enum.StrEnum):
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


# from -> to; the one place that says which changes of state exist
TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.CREATED: frozenset({Status.RUNNING, Status.EXITED, Status.REMOVING}),
    Status.RUNNING: frozenset({Status.PAUSED, Status.RESTARTING, Status.EXITED}),
    Status.PAUSED: frozenset({Status.RUNNING, Status.EXITED, Status.RESTARTING}),
    Status.RESTARTING: frozenset({Status.RUNNING, Status.EXITED, Status.REMOVING}),
    Status.EXITED: frozenset({Status.RUNNING, Status.RESTARTING, Status.REMOVING, Status.EXITED}),
    Status.REMOVING: frozenset({Status.DEAD}),
    Status.DEAD: frozenset({Status.REMOVING}),
}


class HealthLogEntry(Struct, frozen=True):
    """Times are nanoseconds since the epoch."""

    start_ns: int
    end_ns: int
    exit_code: int
    output: str


class State(Struct, kw_only=True):
    """Times are nanoseconds since the epoch; ``ZERO_TIME_NS`` stands for never."""

    status: Status = Status.CREATED
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_ns: int = ZERO_TIME_NS
    finished_ns: int = ZERO_TIME_NS
    restart_count: int = 0
    stopped_by_user: bool = False


class IdMaps(Struct, frozen=True):
    """The maps of a user namespace, as the runtime specification has them; false without one."""

    uids: list[dict[str, int]] = []
    gids: list[dict[str, int]] = []

    def __bool__(self) -> bool:
        return bool(self.uids)


class Container(Struct, kw_only=True, eq=False):
    """All that survives a restart of the daemon."""

    id: str
    name: str
    created_ns: int
    image_id: str
    config: ContainerConfig
    host_config: HostConfig
    driver: str
    state: State = field(default_factory=State)
    mount_points: list[MountPoint] = field(default_factory=list)
    platform: str = "linux"
    log_path: str = ""
    warnings: list[str] = field(default_factory=list)
    networks: dict[str, Endpoint] = field(default_factory=dict)
    # while it runs in a user namespace of its own
    id_maps: IdMaps = IdMaps()
    # SELinux's, of the program and of its files; "" without
    process_label: str = ""
    mount_label: str = ""

    @property
    def status(self) -> Status:
        return self.state.status

    @property
    def is_running(self) -> bool:
        """The program lives, frozen or not."""
        return self.state.status in (Status.RUNNING, Status.PAUSED)

    @property
    def command(self) -> list[str]:
        """Entry point and arguments as they will be executed."""
        return as_list(self.config.entrypoint) + as_list(self.config.cmd)

    @property
    def image_ids(self) -> set[str]:
        """The image it was made of, and those that are mounted in it."""
        return {self.image_id} | self.mounted_image_ids

    @property
    def mounted_image_ids(self) -> set[str]:
        return {point.image_id for point in self.mount_points if point.type == "image"}

    def become(self, status: Status) -> None:
        """Change the state.

        Errors: Conflict for a transition that does not exist.
        """
        if status not in TRANSITIONS[self.state.status]:
            raise Conflict(f"container {self.id} is {self.state.status}: it cannot become {status}")
        self.state.status = status


def as_list(command: list[str] | str | None) -> list[str]:
    """Docker accepts a bare string where it documents a list."""
    if command is None:
        return []
    return [command] if isinstance(command, str) else list(command)
