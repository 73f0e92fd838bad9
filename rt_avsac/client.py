"""What a robot imports: MaskSubscriber, the newest mask at any moment (numpy and pyzmq only).

with MaskSubscriber("tcp://127.0.0.1:5555") as masks:
    message = masks.latest(max_age_ms=200)
    for item in message.objects:
        print(item.label, item.bbox, item.mask.sum())
"""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Iterator
from types import TracebackType

import zmq

from rt_avsac import address as addresses
from rt_avsac import keys
from rt_avsac.clock import Clock
from rt_avsac.errors import UserError
from rt_avsac.header import MessageError
from rt_avsac.messages import (
    MAX_PAYLOAD_BYTES,
    InfoMessage,
    MaskMessage,
    Message,
    PreviewMessage,
    StatusMessage,
    decode,
    topic,
)

RETRY_MS = 2000  # after the publisher refused this client
RECEIVE_QUEUE = 8  # messages; the receiver thread empties it at once
MAX_SOURCES = 256  # whose sessions are remembered
_EVENTS = {
    int(zmq.EVENT_HANDSHAKE_SUCCEEDED): "connected",
    int(zmq.EVENT_DISCONNECTED): "the connection was lost",
    int(zmq.EVENT_CLOSED): "not connected: nobody listens there; does the publisher run?",
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "refused: the publisher does not list this client's public key",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "refused: only one of the two sides uses keys",
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "refused: keys on one side only, or another server's public key",
}


class StaleError(TimeoutError):
    """There is no mask, or none as young as asked. The message says why, as far as it is known."""


class MaskSubscriber:
    """A receiver thread and one slot: whatever the robot's pace, it gets the newest mask, never a queue of old ones.

    `source`: only this camera's messages; "" = all. `client_key`: the secret key file of `rt-avsac keygen`,
    `server_public_key`: the publisher's key file or its 40 characters; both or none. `preview=False` leaves the
    pictures of a named source on the publisher's side. All methods may be called from any thread. AddressError and
    UserError for what cannot work; a publisher that is not there (yet) is no error, it is connected to when it comes.
    """

    def __init__(
        self,
        address: str,
        *,
        source: str = "",
        client_key: str = "",
        server_public_key: str = "",
        preview: bool = True,
        stale_after_s: float = 3.0,
    ) -> None:
        if bool(client_key) != bool(server_public_key):
            missing = "server_public_key" if client_key else "client_key"
            raise UserError(f"subscriber {address}: client_key and server_public_key go together; {missing} is empty")
        self.address = address
        self.stale_after_s = stale_after_s
        self.dropped = 0  # masks that never arrived, by gaps of seq
        self.skipped = 0  # masks that arrived and were replaced by a newer one before `recv` took them
        self.restarts = 0  # of the publisher
        self.refused = 0  # messages that were none; `refused_text` says why the last one was not
        self.refused_text = ""
        self._preview_wanted = preview
        self._condition = threading.Condition()
        self._closed = False
        self._link = "not connected yet"
        self._mask: MaskMessage | None = None
        self._mask_ns = 0  # arrival
        self._fresh = False  # not taken by `recv` yet
        self._heard_ns: int | None = None  # arrival of anything
        self._clock: Clock | None = None
        self._status: StatusMessage | None = None
        self._info: InfoMessage | None = None
        self._preview: PreviewMessage | None = None
        self._sessions: dict[str, tuple[str, int]] = {}  # source: session, last seq

        self._context = zmq.Context()
        try:
            self._socket = self._context.socket(zmq.SUB)
            self._socket.rcvhwm = RECEIVE_QUEUE
            self._socket.linger = 0
            self._socket.maxmsgsize = MAX_PAYLOAD_BYTES + 4096
            self._socket.reconnect_ivl_max = 1000
            self._socket.heartbeat_ivl = 1000  # a machine that vanished closes no connection
            self._socket.heartbeat_timeout = 5000
            if client_key:
                self._socket.curve_publickey, self._socket.curve_secretkey = keys.read_secret(client_key)
                self._socket.curve_serverkey = keys.read_public(server_public_key)
            for prefix in _topics(source, preview):
                self._socket.subscribe(prefix)
            self._monitor = self._socket.get_monitor_socket(sum(_EVENTS))
            self._stop, self._stopped = self._context.socket(zmq.PAIR), self._context.socket(zmq.PAIR)
            self._stopped.bind("inproc://stop")
            self._stop.connect("inproc://stop")
            addresses.connect(self._socket, address)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._thread = threading.Thread(target=self._run, name="mask-subscriber", daemon=True)
        self._thread.start()

    def __enter__(self) -> MaskSubscriber:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        with self._condition:
            if self._closed:
                return
            self._closed = True
            self._condition.notify_all()
        self._stop.send(b"")
        self._thread.join()
        self._stop.close(linger=0)
        self._context.term()

    def latest(self, max_age_ms: float = 500.0) -> MaskMessage:
        """The newest mask, at once, also if seen before. StaleError: none yet, or its picture is older than that."""
        with self._condition:
            mask, arrived_ns = self._mask, self._mask_ns
            if mask is None:
                raise StaleError(self._why("no mask yet"))
            waited_ms = (time.monotonic_ns() - arrived_ns) / 1e6
            age_ms = max(self.age_ms(mask), waited_ms)
            if age_ms > max_age_ms:
                ages = f"{age_ms:.0f} ms old ({waited_ms:.0f} ms since it arrived), asked at most {max_age_ms:.0f} ms"
                raise StaleError(self._why(f"the newest mask is {ages}"))
            return mask

    def recv(self, timeout_s: float | None = None) -> MaskMessage:
        """The newest mask that `recv` has not returned yet, waiting for one. StaleError after the timeout."""
        mask = self._take(timeout_s)
        if mask is None:
            raise StaleError(self._why("closed" if self._closed else f"no new mask within {timeout_s} s"))
        return mask

    def __iter__(self) -> Iterator[MaskMessage]:
        """Each next newest mask, until `close`."""
        while (mask := self._take(None)) is not None:
            yield mask

    def age_ms(self, mask: MaskMessage) -> float:
        """Time since its picture was taken; between two machines as good as their wall clocks agree.

        0 for a publisher whose clock is no real time (a file played as fast as it goes).
        """
        offset_ns = mask.clock.offset_ns()
        return 0.0 if offset_ns is None else (time.monotonic_ns() - mask.t.video_ns - offset_ns) / 1e6

    @property
    def stale(self) -> bool:
        """Nothing was heard for `stale_after_s` (a living publisher says something every second), or never."""
        with self._condition:
            return self._heard_ns is None or time.monotonic_ns() - self._heard_ns > self.stale_after_s * 1e9

    @property
    def clock_offset_ns(self) -> int | None:
        """Publisher's time + this = time.monotonic_ns() here: 0 on one machine; None if unknown or not real time."""
        clock = self._clock
        return None if clock is None else clock.offset_ns()

    @property
    def link(self) -> str:
        """What is known about the connection, in words; "connected" if it stands."""
        return self._link

    @property
    def status(self) -> StatusMessage | None:
        """The last one of the publisher's present session; so are `info` and `preview`."""
        return self._status

    @property
    def info(self) -> InfoMessage | None:
        return self._info

    @property
    def preview(self) -> PreviewMessage | None:
        return self._preview

    def _why(self, what: str) -> str:
        refused = f"; {self.refused} messages refused, last: {self.refused_text}" if self.refused else ""
        status = f"; publisher says {self._status.state}: {self._status.text}" if self._status else ""
        return f"{self.address}: {what}; {self._link}{status}{refused}"

    def _take(self, timeout_s: float | None) -> MaskMessage | None:
        with self._condition:
            self._condition.wait_for(lambda: self._fresh or self._closed, timeout_s)
            if not self._fresh or self._closed:
                return None
            self._fresh = False
            return self._mask

    def _run(self) -> None:
        """The only user of the sockets, but for `_stop`."""
        poller = zmq.Poller()
        for socket in (self._socket, self._monitor, self._stopped):
            poller.register(socket, zmq.POLLIN)
        while True:
            given_up = self._link.startswith("refused")  # libzmq does not try again, but keys can be put right
            ready = dict(poller.poll(RETRY_MS if given_up else None))
            if self._stopped in ready:
                break
            if given_up and not ready:
                with contextlib.suppress(zmq.ZMQError):
                    self._socket.disconnect(self.address)
                self._socket.connect(self.address)
            if self._monitor in ready:
                (number,) = struct.unpack_from("=H", self._monitor.recv_multipart()[0])
                if number != zmq.EVENT_DISCONNECTED or self._link == "connected":  # else it was refused: better known
                    self._link = _EVENTS.get(number, self._link)
            if self._socket in ready:
                self._receive(self._socket.recv_multipart())
        self._socket.disable_monitor()
        for socket in (self._monitor, self._socket, self._stopped):
            socket.close(linger=0)

    def _receive(self, parts: list[bytes]) -> None:
        if not self._preview_wanted and parts[0].endswith(b"/preview/"):
            return
        try:
            message = decode(parts)
        except MessageError as error:
            with self._condition:
                self.refused += 1
                self.refused_text = str(error)
            return
        with self._condition:
            self._store(message, time.monotonic_ns())
            self._condition.notify_all()

    def _store(self, message: Message, now_ns: int) -> None:
        session, seq = self._sessions.get(message.source, (message.session, -1))
        if session != message.session:  # what the old one said is void
            self.restarts += 1
            seq = -1
            self._forget(message.source)
        self._heard_ns, self._clock = now_ns, message.clock
        if isinstance(message, MaskMessage):
            if seq >= 0:
                self.dropped += max(message.seq - seq - 1, 0)
            seq = message.seq
            self.skipped += self._fresh
            self._mask, self._mask_ns, self._fresh = message, now_ns, True
        elif isinstance(message, StatusMessage):
            self._status = message
        elif isinstance(message, InfoMessage):
            self._info = message
        else:
            self._preview = message
        if len(self._sessions) >= MAX_SOURCES and message.source not in self._sessions:
            self._sessions.clear()
        self._sessions[message.source] = (message.session, seq)

    def _forget(self, source: str) -> None:
        for name in ("_mask", "_status", "_info", "_preview"):
            kept = getattr(self, name)
            if kept is not None and kept.source == source:
                setattr(self, name, None)
        self._fresh = self._fresh and self._mask is not None


def _topics(source: str, preview: bool) -> list[bytes]:
    """What to subscribe to. ZeroMQ matches beginnings, so every one ends with '/': cam1 also begins cam10."""
    if not source:
        return [b"rtavsac/v1/"]
    try:
        named = [topic(source.removesuffix("/"), kind).encode() for kind in ("masks", "status", "info", "preview")]
    except MessageError as error:
        raise UserError(f"subscriber: {error}") from None
    return named if preview else named[:3]
