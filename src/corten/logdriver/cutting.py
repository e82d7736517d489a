"""What the writers have in common: output is cut into pieces, a piece becomes entries."""

from __future__ import annotations

from abc import ABC, abstractmethod

from corten.logdriver.lines import LineCutter, Piece


class CuttingWriter(ABC):
    """Cuts what each stream brings; ``put`` takes the pieces."""

    def __init__(self) -> None:
        self._cutters = {"stdout": LineCutter(), "stderr": LineCutter()}
        self._dropped = 0

    @property
    def dropped(self) -> int:
        return self._dropped

    @abstractmethod
    def put(self, stream: str, pieces: list[Piece]) -> None:
        """Write pieces.  Errors: OSError; what was lost is in ``dropped`` then."""

    @abstractmethod
    def rotate(self) -> None:
        """Begin a new file now."""

    @abstractmethod
    def close(self) -> None: ...

    def write(self, stream: str, data: bytes, moment_ns: int) -> None:
        pieces = self._cutters[stream].feed(data, moment_ns)
        if pieces:
            self.put(stream, pieces)

    def finish(self, moment_ns: int) -> None:
        for stream, cutter in self._cutters.items():
            pieces = cutter.finish(moment_ns)
            if pieces:
                self.put(stream, pieces)
