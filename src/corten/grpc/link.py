"""One HTTP/2 connection that carries gRPC: bytes in and out of h2, events to streams, flow control, limits.

Each stream has a window of its own, and what nobody takes stays within it.  The connection's window is given back at
once, so that a call nobody reads holds up no other one; what the streams hold together has a limit of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary, WeakSet

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from corten.grpc import metadata
from corten.grpc.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PREFACE,
    PUSH_PROMISE,
    Frame,
    FrameCutter,
    Run,
    window_update,
)
from corten.grpc.framing import MAX_MESSAGE
from corten.grpc.metadata import Headers
from corten.grpc.status import Code, GrpcError, of_reset
from corten.grpc.stream import Stream

logger = logging.getLogger(__name__)

_WRITE_BUFFER = 1 << 20
_MAX_ANSWERS = 16 << 20  # bytes that a peer has not read, beyond which it is cut off
_LARGEST_FRAME = 1 << 18
_HEADER_BYTES = 1 << 18  # patterns of files go as metadata
_INITIAL_WINDOW = 65_535  # RFC 9113, section 6.9.2
_FAREWELL_S = 5.0
_COUNTED_EVERY = 1 << 20
_BURST = 128  # frames that are taken in before others get their turn
_RUN_COST = 16  # messages of a run that cost as much as one frame alone
_GATHERED = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """message_bytes: one message; stream_window: bytes that a peer may send before somebody takes them;
    streams: at once on a connection; held_bytes: of all streams together; all_held_bytes: of all connections together
    """

    message_bytes: int = MAX_MESSAGE
    stream_window: int = 4 << 20
    streams: int = 256
    held_bytes: int = 128 << 20
    all_held_bytes: int = 192 << 20


DEFAULT_LIMITS = Limits()
_links: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakSet[Link]] = WeakKeyDictionary()  # connections of a loop


class Link(asyncio.Protocol):
    """The protocol of a transport.  ``closed`` is done when the connection has ended.

    heard: when the other side has said something last, in the loop's time
    """

    is_client = False

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.heard = self._loop.time()
        self.transport: asyncio.Transport
        self._streams: dict[int, Stream] = {}
        self._cutter = FrameCutter(0 if self.is_client else PREFACE, _LARGEST_FRAME)
        self._arrived: deque[bytes] = deque()
        self._frames: Iterator[Frame | Run] = iter(())  # of what has been taken from there
        self._is_behind = False  # frames wait for the next turn of the loop
        self._holds_up = False  # and the other side, therefore
        self._is_within_headers = False
        self._window = _INITIAL_WINDOW + 2 * limits.stream_window  # bytes that the other side may send
        self._owed = 0  # of them, to be given back
        self._uncounted = 0  # bytes since what is held was added up
        self._is_paused = False
        self._broken: GrpcError | None = None
        self._pending = b""  # to be handed over at the end of this turn of the loop
        self._unsent = 0  # bytes of calls among them
        self._is_flush_due = False
        config = H2Configuration(
            client_side=self.is_client,
            header_encoding=None,
            # what is sent is made here, in lower case and checked by ``metadata``
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self._h2 = H2Connection(config)
        # they count from the first byte on: a peer that does not acknowledge them is bound by them all the same
        self._h2.local_settings = Settings(
            client=self.is_client,
            initial_values={
                SettingCodes.INITIAL_WINDOW_SIZE: limits.stream_window,
                SettingCodes.MAX_FRAME_SIZE: _LARGEST_FRAME,
                SettingCodes.MAX_CONCURRENT_STREAMS: limits.streams,
                SettingCodes.MAX_HEADER_LIST_SIZE: _HEADER_BYTES,
                SettingCodes.ENABLE_PUSH: 0,
            },
        )
        _links.setdefault(self._loop, WeakSet()).add(self)
        self._h2.max_inbound_frame_size = _LARGEST_FRAME
        self._h2.decoder.max_header_list_size = _HEADER_BYTES

    # -- transport ----------------------------------------------------------------------------------------------------

    def attach(self, transport: asyncio.Transport, early: bytes = b"") -> None:
        """Take over a transport whose other side speaks HTTP/2 from now on; ``early`` has come already."""
        transport.set_protocol(self)
        self.connection_made(transport)
        if early:
            self.data_received(early)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(2 * self.limits.stream_window)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.heard = self._loop.time()
        self._arrived.append(data)
        if not self._is_behind:
            self._take_arrived()

    def _take_arrived(self) -> None:
        """Take in what has come, a burst of frames at a time: many small ones must not keep the loop to themselves."""
        self._is_behind = False
        left = _BURST
        try:
            while self._broken is None and left > 0 and (found := self._next_frame()) is not None:
                if isinstance(found, Run):
                    left -= 1 + len(found.messages) // _RUN_COST
                    self._take_run(found)
                else:
                    left -= 1
                    self._take_frame(found)
        except (ProtocolError, ValueError, IndexError) as error:
            with contextlib.suppress(ProtocolError):  # unless h2 has done so already
                self._h2.close_connection(ErrorCodes.PROTOCOL_ERROR)
            self._break(GrpcError(Code.INTERNAL, f"the other side violates HTTP/2: {error or type(error).__name__}"))
            return
        if self._broken is not None:
            self._arrived.clear()
            return
        self._give_back_connection()
        self.flush()
        if self.transport.get_write_buffer_size() > _MAX_ANSWERS:
            self._fail_all(GrpcError(Code.RESOURCE_EXHAUSTED, "the other side does not read its answers"))
            self.transport.abort()
        else:
            self._go_on_later(is_behind=left <= 0)

    def _next_frame(self) -> Frame | Run | None:
        while (frame := next(self._frames, None)) is None and self._arrived:
            self._frames = self._cutter.feed(self._arrived.popleft())
        return frame

    def _go_on_later(self, *, is_behind: bool) -> None:
        self._is_behind = is_behind
        if is_behind:
            self._loop.call_soon(self._take_arrived)
        if is_behind != self._holds_up and not self.transport.is_closing():
            self._holds_up = is_behind
            if is_behind:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail_all(GrpcError(Code.UNAVAILABLE, "the connection has ended"))
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._make_room()

    def flush(self) -> None:
        """Have handed over what h2 wants to send: all of one turn of the loop at once, an answer with its status."""
        if self._is_flush_due:
            return
        self._is_flush_due = True
        self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._is_flush_due = False
        self._unsent = 0
        data = self._pending + self._h2.data_to_send()
        self._pending = b""
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def _write(self, frame: bytes) -> None:
        """A frame of our own, after what h2 wants to send."""
        self._pending += self._h2.data_to_send() + frame
        self.flush()

    def close(self) -> None:
        """Say goodbye; every call ends."""
        if self._broken is None and not self.transport.is_closing():
            with contextlib.suppress(ProtocolError):
                self._h2.close_connection()
        self._break(GrpcError(Code.UNAVAILABLE, "the connection was closed"))

    def check(self) -> None:
        """Looked at from time to time.  Reading goes on, so the end of the connection is seen without."""

    def abort(self) -> None:
        self.transport.abort()

    def _break(self, error: GrpcError) -> None:
        self._fail_all(error)
        self._flush_now()
        self.transport.close()
        self._loop.call_later(_FAREWELL_S, self.transport.abort)  # it may not read any more

    def _fail_all(self, error: GrpcError) -> None:
        if self._broken is None:
            self._broken = error
        for stream in list(self._streams.values()):
            stream.fail(error)
            self.stream_failed(stream)
        self._streams.clear()

    def _make_room(self) -> None:
        for stream in list(self._streams.values()):
            stream.make_room()

    # -- what has come ------------------------------------------------------------------------------------------------

    def _dispatch(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            self._data(event)
        elif isinstance(event, RequestReceived):
            self.request(event.stream_id or 0, event.headers or [], ended=event.stream_ended is not None)
        elif isinstance(event, ResponseReceived):
            self._with(event.stream_id, lambda stream: self.response(stream, metadata.decode(event.headers or [])))
        elif isinstance(event, TrailersReceived):
            self._with(event.stream_id, lambda stream: stream.tell_trailers(metadata.decode(event.headers or [])))
        elif isinstance(event, StreamEnded):
            self._with(event.stream_id, self._ended)
        elif isinstance(event, StreamReset):
            self._reset(event)
        elif isinstance(event, WindowUpdated):
            if event.stream_id:
                self._with(event.stream_id, Stream.make_room)
            else:
                self._make_room()
        elif isinstance(event, RemoteSettingsChanged):
            self._make_room()
        elif isinstance(event, ConnectionTerminated):
            self._break(GrpcError(Code.UNAVAILABLE, f"the other side says goodbye (error code {event.error_code})"))

    def _with(self, stream_id: int | None, work: Callable[[Stream], None]) -> None:
        stream = self._streams.get(stream_id or 0)
        if stream is not None:
            work(stream)

    def _take_frame(self, frame: Frame) -> None:
        if not self._take_data(frame):
            for event in self._h2.receive_data(bytes(frame.whole)):
                self._dispatch(event)

    def _take_run(self, run: Run) -> None:
        """Whole messages, unless they are data of a message that began before, or must be refused one by one."""
        stream = self._streams.get(run.stream)
        if self._is_within_headers or stream is None or not stream.takes_messages(run.messages):
            self._frames = itertools.chain(run.frames(), self._frames)
        elif self._is_allowed(stream, run.size):
            stream.feed_messages(run.messages)
            self._count_held(run.size)
            stream.give_back()

    def _is_allowed(self, stream: Stream, size: int) -> bool:
        """Count data against the windows; the connection ends for too many."""
        self._window -= size
        self._owed += size
        if stream.count(size) and self._window >= 0:
            return True
        self._break(GrpcError(Code.INTERNAL, "the other side sends more than its window"))
        return False

    def _take_data(self, frame: Frame) -> bool:
        """Plain data of a call, past h2, which knows nothing of them or of the windows that they take."""
        if frame.kind != DATA:
            if frame.kind in (HEADERS, PUSH_PROMISE, CONTINUATION):
                self._is_within_headers = not frame.flags & END_HEADERS
            return False
        stream = self._streams.get(frame.stream)
        if frame.flags or self._is_within_headers or stream is None or not stream.takes_data:
            return False
        if self._is_allowed(stream, len(frame.payload)):
            self._feed(stream, frame.payload)
            stream.give_back()
        return True

    def _data(self, event: DataReceived) -> None:
        """Data that end their stream, or are padded."""
        size, stream_id = event.flow_controlled_length or 0, event.stream_id or 0
        with contextlib.suppress(ProtocolError):
            self._h2.acknowledge_received_data(size, stream_id)
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._feed(stream, event.data or b"")

    def _feed(self, stream: Stream, data: bytes | memoryview) -> None:
        try:
            stream.feed(data)
        except GrpcError as error:
            self.fail_stream(stream, error)
            return
        self._count_held(len(data))

    def _count_held(self, size: int) -> None:
        self._uncounted += size
        if self._uncounted < _COUNTED_EVERY:
            return
        self._uncounted = 0
        if self.held > self.limits.held_bytes:
            self._cut_off()
        links = _links[self._loop]
        if sum(link.held for link in links) > self.limits.all_held_bytes:
            max(links, key=lambda link: link.held)._cut_off()

    @property
    def held(self) -> int:
        """Bytes that have come and nobody has taken."""
        return sum(stream.buffered for stream in self._streams.values())

    def _cut_off(self) -> None:
        self._break(GrpcError(Code.RESOURCE_EXHAUSTED, "the connection's calls hold too much that nobody takes"))

    def _ended(self, stream: Stream) -> None:
        stream.end_there()
        self.forget_if_done(stream)

    def _reset(self, event: StreamReset) -> None:
        stream = self._streams.pop(event.stream_id or 0, None)
        if stream is not None:
            stream.fail(of_reset(int(event.error_code or 0)))
            self.stream_failed(stream)

    def _give_back_connection(self) -> None:
        if self._owed >= self.limits.stream_window // 2:
            self._write(window_update(0, self._owed))
            self._window += self._owed
            self._owed = 0

    # -- what is sent -------------------------------------------------------------------------------------------------

    def give_back(self, stream_id: int, size: int) -> None:
        """A stream's window grows again."""
        self._write(window_update(stream_id, size))

    def room(self, stream_id: int) -> int:
        """Bytes of data that may be sent on a stream now."""
        if self._is_paused:
            return 0
        return min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)

    def send_data(self, stream_id: int, data: bytes, *, last: bool) -> None:
        self._h2.send_data(stream_id, data, end_stream=last)
        self._unsent += len(data)
        if self._unsent >= _GATHERED:
            self._flush_now()  # which tells whether the other side keeps up
        else:
            self.flush()

    def send_headers(self, stream_id: int, headers: Headers, *, last: bool = False) -> None:
        self._h2.send_headers(stream_id, headers, end_stream=last)
        self.flush()

    def reset(self, stream: Stream, code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """End a stream without more words; nothing when it has ended."""
        if self._streams.pop(stream.id, None) is None or self._broken is not None:
            return
        with contextlib.suppress(ProtocolError):
            self._h2.reset_stream(stream.id, code)
            self.flush()

    def forget_if_done(self, stream: Stream) -> None:
        """A stream that has ended on both sides takes no more."""
        if stream.ended_here and stream.ended_there:
            self._streams.pop(stream.id, None)

    # -- roles --------------------------------------------------------------------------------------------------------

    def request(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        """A client has begun a call."""

    def response(self, stream: Stream, headers: dict[str, list[str]]) -> None:
        """A server has answered with its headers."""

    def stream_failed(self, stream: Stream) -> None:
        """Nobody will read what this stream's call still does."""

    def fail_stream(self, stream: Stream, error: GrpcError) -> None:
        """What has come on a stream cannot be taken."""
        raise NotImplementedError
