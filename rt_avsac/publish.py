"""Publisher: messages out over ZeroMQ, to any number of subscribers, without ever waiting for one of them."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from types import TracebackType

import zmq
from zmq.utils import z85

from rt_avsac import address, keys
from rt_avsac.errors import UserError
from rt_avsac.messages import Message

SEND_QUEUE = 8  # messages per subscriber; what does not fit is lost to that one alone
HAND_OVER_QUEUE = 16  # messages between `send` and the thread
MAX_SUBSCRIPTION_BYTES = 4096  # nothing longer comes from a subscriber
CLOSE_MS = 200  # for the last messages to leave; longer than that nobody is waited for
RESEND_S = 0.02  # pause between two answers to late joiners, however many of them there are
KEPT = (b"/info/", b"/status/")

_log = logging.getLogger(__name__)


class Publisher:
    """Binds in the constructor; its thread owns the XPUB socket and answers late joiners with the last info and status.

    `endpoint`: the bound address, with the real port for tcp://…:0. `drops`: messages that never left (the thread did
    not keep up); what a slow subscriber loses shows in its own gaps of `seq`. Masks are never sent twice. AddressError:
    taken, not of this machine, or not an address. UserError: keys. With `server_key` only `allowed_clients` connect.
    """

    def __init__(self, bind: str, *, server_key: str = "", allowed_clients: str = "") -> None:
        if bool(server_key) != bool(allowed_clients):
            missing = "allowed_clients" if server_key else "server_key"
            raise UserError(f"publisher {bind}: server_key and allowed_clients belong together; {missing} is empty")
        self._allowed = keys.read_allowed(allowed_clients) if server_key else frozenset()
        secret = keys.read_secret(server_key)[1] if server_key else b""
        self.drops = 0
        self.refused = 0  # connections of clients that are not allowed
        self._refused_keys: set[bytes] = set()
        self._mutex = threading.Lock()
        self._closed = False
        self._lock = address.Lock(bind)
        self._context = zmq.Context()
        self._door: zmq.Socket[bytes] | None = None
        try:
            if server_key:  # before the bind: without somebody at this door libzmq lets everybody in
                self._door = self._context.socket(zmq.REP)
                self._door.bind("inproc://zeromq.zap.01")
            self._out = self._open_out(secret)
            self.endpoint = address.bind(self._out, bind)
        except BaseException:
            self._context.destroy(linger=0)
            self._lock.close()
            raise
        if address.is_open(bind) and not server_key:
            _log.warning(
                "%s: anybody on the network can watch; `rt-avsac keygen` makes keys against that", self.endpoint
            )
        self._inbox, self._hand_over = self._context.socket(zmq.PAIR), self._context.socket(zmq.PAIR)
        for socket in (self._inbox, self._hand_over):
            socket.hwm = HAND_OVER_QUEUE
            socket.linger = 0
        self._inbox.bind("inproc://messages")
        self._hand_over.connect("inproc://messages")
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def _open_out(self, secret: bytes) -> zmq.Socket[bytes]:
        out = self._context.socket(zmq.XPUB)
        out.sndhwm = SEND_QUEUE
        out.linger = 0
        out.maxmsgsize = MAX_SUBSCRIPTION_BYTES
        out.xpub_verbose = True  # every subscription is heard of, also the second one of the same topic
        out.tcp_keepalive = 1  # so that robots that vanished are forgotten
        out.tcp_keepalive_idle = 30
        if secret:
            out.curve_server = True
            out.curve_secretkey = secret
            out.zap_domain = b"rt-avsac"
        return out

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def send(self, message: Message) -> None:
        """Hand `message` over; never blocks, any thread. ValueError for one that cannot be encoded."""
        parts = message.encode()
        with self._mutex:
            if self._closed:
                raise RuntimeError(f"publisher {self.endpoint}: closed")
            try:
                self._hand_over.send_multipart(parts, zmq.NOBLOCK)
            except zmq.Again:
                self.drops += 1

    def close(self) -> None:
        """Send what was handed over, then let go of the address."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            self._hand_over.sndtimeo = 1000  # the thread makes room at once, if it is alive
            with contextlib.suppress(zmq.Again):
                self._hand_over.send(b"")  # the word that ends it
        self._thread.join()
        self._hand_over.close()
        self._context.term()
        self._lock.close()

    def _run(self) -> None:
        """Until an empty message comes. The only user of every socket but `_hand_over`."""
        poller = zmq.Poller()
        for socket in (self._inbox, self._out, self._door):
            if socket is not None:
                poller.register(socket, zmq.POLLIN)
        kept: dict[bytes, list[bytes]] = {}
        joined, answered = False, 0.0
        try:
            while True:
                wait_ms = max(1000 * (answered + RESEND_S - time.monotonic()), 0) if joined else None
                ready = dict(poller.poll(None if wait_ms is None else math.ceil(wait_ms)))
                if self._door in ready and self._door is not None:
                    self._admit(self._door)
                if self._out in ready:
                    joined |= self._out.recv()[:1] == b"\x01"
                if self._inbox in ready:
                    parts = self._inbox.recv_multipart()
                    if len(parts) == 1:
                        return
                    if parts[0].endswith(KEPT):
                        kept[parts[0]] = parts
                    self._out.send_multipart(parts, zmq.NOBLOCK)  # XPUB drops, it does not block
                if joined and time.monotonic() >= answered + RESEND_S:
                    joined, answered = False, time.monotonic()
                    for _, parts in sorted(kept.items()):  # info before status
                        self._out.send_multipart(parts, zmq.NOBLOCK)
        finally:
            self._out.close(linger=CLOSE_MS)
            self._inbox.close()
            if self._door is not None:
                self._door.close(linger=0)

    def _admit(self, door: zmq.Socket[bytes]) -> None:
        """Answer libzmq's question (ZAP, RFC 27) whether a client with this public key may connect."""
        version, request, _, peer, _, mechanism, *credentials = door.recv_multipart()
        key = z85.encode(credentials[0]) if mechanism == b"CURVE" and credentials else b""
        listed = key in self._allowed
        if not listed:
            self.refused += 1
            if key not in self._refused_keys and len(self._refused_keys) < 64:  # it tries again and again
                self._refused_keys.add(key)
                _log.warning("%s: refused a client at %s: %s is not listed", self.endpoint, peer.decode(), key.decode())
        answer = (b"200", b"OK") if listed else (b"400", b"not listed")
        door.send_multipart([version, request, *answer, b"", b""])
