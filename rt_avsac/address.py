"""Addresses of ZeroMQ sockets: tcp://host:port and ipc://path, checked, bound and explained (stdlib and zmq)."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket as sockets
from typing import IO

import zmq

from rt_avsac.errors import AddressError, BadAddressError

MAX_IPC_BYTES = 107  # of a Unix socket's path
_TCP = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.%a-z]+\]|[^\[\]:/\s;]+):(?P<port>[0-9]{1,5}|\*)")
_IPC = re.compile(r"ipc://(?P<path>[^\0]+)")
_REASONS = {
    errno.EADDRINUSE: "taken by another program; stop that one, or choose another address",
    errno.EADDRNOTAVAIL: "not an address of this machine; use 127.0.0.1, or * for all of its addresses",
    errno.ENODEV: "not an address of this machine; use 127.0.0.1, or * for all of its addresses",
    errno.EACCES: "not allowed for this user; choose a port from 1024 on, or a folder of yours",
    errno.ENAMETOOLONG: f"longer than the {MAX_IPC_BYTES} bytes that a socket's path can have; choose a shorter path",
    errno.ENOENT: "no such folder; create it, or choose another path",
}


class Lock:
    """Keeps an ipc path ours: a second bind of one silently steals it. The .lock file stays (removing it races)."""

    def __init__(self, address: str) -> None:
        """Lock `address`; AddressError if another program has it. Nothing to do for tcp and nameless ipc."""
        import fcntl  # not on Windows, where there is no ipc either

        path = address.removeprefix("ipc://")
        self._file: IO[bytes] | None = None
        if path == address or path == "*" or path.startswith("@"):
            return
        if len(os.fsencode(path)) > MAX_IPC_BYTES:
            raise _refused(address, errno.ENAMETOOLONG)
        try:
            self._file = open(path + ".lock", "ab")  # noqa: SIM115 (held until close)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise _refused(address, errno.EADDRINUSE if error.errno == errno.EWOULDBLOCK else error.errno) from None
        if _listened(path):  # by a program that knows no lock
            self.close()
            raise _refused(address, errno.EADDRINUSE)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def bind(socket: zmq.Socket[bytes], address: str) -> str:
    """Bind → the endpoint (with the real port for 0 or *). AddressError: taken, not ours, not an address."""
    host, port = _split(address)
    if host == "localhost":  # libzmq looks up no names for a bind
        address = f"tcp://127.0.0.1:{port}"
    try:
        socket.ipv6 = host.startswith("[")
        socket.bind(address)
    except zmq.ZMQError as error:
        raise _refused(address, error.errno, error.strerror) from None
    return str(socket.getsockopt_string(zmq.LAST_ENDPOINT))


def connect(socket: zmq.Socket[bytes], address: str) -> None:
    """Connect (in the background); AddressError for what is not an address to connect to."""
    host, port = _split(address)
    if host == "*" or port in ("*", "0") or address == "ipc://*":
        raise BadAddressError(f"address {address}: asked to connect to a wildcard; name the publisher's host and port")
    try:
        socket.ipv6 = host.startswith("[")
        socket.connect(address)
    except zmq.ZMQError as error:
        raise _refused(address, error.errno, error.strerror) from None


def is_open(address: str) -> bool:
    """Whether other machines can reach it."""
    host = _split(address)[0]
    if host in ("", "localhost", "lo"):
        return False
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # * or a network interface
        return True


def _split(address: str) -> tuple[str, str]:
    """Host and port of tcp, two empty strings for ipc; AddressError for anything else."""
    found = _TCP.fullmatch(address)
    if found and (found["port"] == "*" or int(found["port"]) < 65536):
        return found["host"], found["port"]
    if not _IPC.fullmatch(address):
        raise BadAddressError(f"address {address!a}: asked tcp://HOST:PORT or ipc://PATH, such as tcp://127.0.0.1:5555")
    return "", ""


def _listened(path: str) -> bool:
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:  # nobody there, no socket, or a path that bind will refuse with its reason
            return False
        return True


def _refused(address: str, number: int | None, text: str = "") -> AddressError:
    reason = _REASONS.get(number or 0) or f"cannot be used: {text or os.strerror(number or 0)}"
    return AddressError(f"address {address}: {reason}")
