"""Publisher on real sockets: late joiners, slow and unlisted subscribers, addresses that cannot be had."""

from __future__ import annotations

import fcntl
import logging
import socket as sockets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import zmq
from wire_samples import info, masks, preview, status, wait_until

from rt_avsac.client import MaskSubscriber
from rt_avsac.errors import AddressError, UserError
from rt_avsac.keys import read_public, read_secret, write_pairs
from rt_avsac.messages import StatusMessage, decode
from rt_avsac.publish import Publisher

ANY_PORT = "tcp://127.0.0.1:0"
NEVER_READS = """
import sys, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.linger, socket.rcvhwm = 0, 1
socket.subscribe(b"")
socket.connect(sys.argv[1])
socket.poll(20000) and print("joined", flush=True)
sys.stdin.read()
"""


Subscribe = Callable[..., "zmq.Socket[bytes]"]


@pytest.fixture
def subscribe() -> Iterator[Subscribe]:
    """Makes plain SUB sockets."""
    made = []
    with zmq.Context() as context:

        def make(endpoint: str, prefix: bytes = b"", **options: bytes) -> zmq.Socket[bytes]:
            socket = context.socket(zmq.SUB)
            made.append(socket)
            socket.linger, socket.rcvtimeo = 0, 10_000
            for name, value in options.items():
                setattr(socket, name, value)
            socket.subscribe(prefix)
            socket.connect(endpoint)
            return socket

        yield make
        for socket in made:
            socket.close()


def test_late_joiners_get_the_last_info_and_status_but_no_old_mask(subscribe: Subscribe) -> None:
    with Publisher(ANY_PORT) as publisher:
        for message in (info(session="old"), info(), status(text="old"), masks(), preview(), status(text="new")):
            publisher.send(message)
        for _ in range(2):  # the second one's subscription is nothing new to the socket
            late = subscribe(publisher.endpoint, b"rtavsac/v1/cam0/")
            first, second = decode(late.recv_multipart()), decode(late.recv_multipart())
            assert (first.KIND, first.session) == ("info", info().session)
            assert isinstance(second, StatusMessage)
            assert second.text == "new"
            publisher.send(status(text="new"))
            publisher.send(masks(seq=7))
            kinds = []
            while not kinds or kinds[-1] != "masks":
                message = decode(late.recv_multipart())
                kinds.append(message.KIND)
            assert getattr(message, "seq", None) == 7


def test_what_was_sent_before_the_end_arrives(subscribe: Subscribe) -> None:
    with Publisher(ANY_PORT) as publisher:
        publisher.send(info())
        socket = subscribe(publisher.endpoint)
        assert decode(socket.recv_multipart()).KIND == "info"
        publisher.send(status(text="stopping"))
    text = ""
    while text != "stopping":
        message = decode(socket.recv_multipart())
        text = message.text if isinstance(message, StatusMessage) else ""
    with pytest.raises(RuntimeError, match="closed"):
        publisher.send(status())


def test_the_end_waits_for_nobody_and_frees_the_address() -> None:
    for _ in range(3):
        with Publisher("tcp://127.0.0.1:0") as publisher:
            endpoint = publisher.endpoint
            publisher.send(masks())
        publisher.close()
        Publisher(endpoint).close()


def test_a_subscriber_that_never_reads_costs_nothing() -> None:
    picture = preview()
    picture = type(picture)(**{name: getattr(picture, name) for name in picture.__slots__} | {"jpeg": bytes(300_000)})
    command = [sys.executable, "-c", NEVER_READS]
    with Publisher(ANY_PORT) as publisher:
        publisher.send(status())
        with (
            subprocess.Popen([*command, publisher.endpoint], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as frozen,
            MaskSubscriber(publisher.endpoint, source="cam0", preview=False) as healthy,
        ):
            assert frozen.stdout is not None
            assert frozen.stdout.readline() == b"joined\n"
            memory = psutil.Process()
            sizes = []
            for seq in range(1000):  # 300 MB
                publisher.send(masks(seq, 0))
                publisher.send(picture)
                assert healthy.recv(10).seq == seq
                sizes.append(memory.memory_info().rss)
            assert sizes[-1] - sizes[100] < 8 << 20
            assert (healthy.dropped, publisher.drops) == (0, 0)
            frozen.communicate()


def test_only_listed_clients_receive(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pairs(tmp_path / "mine")
    write_pairs(tmp_path / "foreign")
    ours, theirs = tmp_path / "mine", tmp_path / "foreign"
    server = str(ours / "server.key")
    keys = {"server_key": str(ours / "server.key_secret"), "allowed_clients": str(ours / "allowed_clients")}
    with (
        Publisher(ANY_PORT, **keys) as publisher,
        MaskSubscriber(publisher.endpoint, client_key=str(ours / "client.key_secret"), server_public_key=server) as ok,
        MaskSubscriber(
            publisher.endpoint, client_key=str(theirs / "client.key_secret"), server_public_key=server
        ) as unlisted,
        MaskSubscriber(publisher.endpoint) as plain,
        MaskSubscriber(
            publisher.endpoint,
            client_key=str(ours / "client.key_secret"),
            server_public_key=str(theirs / "server.key"),
        ) as misled,
    ):
        publisher.send(status())
        wait_until(lambda: ok.status)
        wait_until(lambda: "list" in unlisted.link and "refused" in plain.link and "refused" in misled.link)
        for seq in range(30):
            publisher.send(masks(seq))
            assert ok.recv(10).seq == seq
        for refused in (unlisted, plain, misled):
            assert refused.stale
            assert (refused.status, refused.refused) == (None, 0)
            with pytest.raises(TimeoutError, match="refused"):
                refused.latest()
        assert publisher.refused >= 1
    assert [record.message for record in caplog.records if "is not listed" in record.message]


def test_a_client_that_is_listed_after_a_restart_gets_in(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    write_pairs(tmp_path, ("robot",))
    secret = str(tmp_path / "server.key_secret")
    with Publisher(ANY_PORT, server_key=secret, allowed_clients=str(tmp_path / "client.key")) as publisher:
        endpoint = publisher.endpoint
        robot = MaskSubscriber(
            endpoint, client_key=str(tmp_path / "robot.key_secret"), server_public_key=str(tmp_path / "server.key")
        )
        wait_until(lambda: "list" in robot.link)
    with robot, Publisher(endpoint, server_key=secret, allowed_clients=str(tmp_path / "allowed_clients")) as publisher:
        publisher.send(status())
        wait_until(lambda: robot.status)
        assert robot.link == "connected"


def test_a_secret_socket_stays_secret(tmp_path: Path, subscribe: Subscribe) -> None:
    """libzmq itself, with the right server key and a key pair made up on the spot."""
    write_pairs(tmp_path)
    keys = {"server_key": str(tmp_path / "server.key_secret"), "allowed_clients": str(tmp_path / "client.key")}
    server = read_public(tmp_path / "server.key")
    with Publisher(ANY_PORT, **keys) as publisher:
        made = []
        for public, secret in (zmq.curve_keypair(), read_secret(tmp_path / "client.key_secret")):
            curve = {"curve_serverkey": server, "curve_publickey": public, "curve_secretkey": secret}
            made.append(subscribe(publisher.endpoint, **curve))
        stranger, known = made
        wait_until(lambda: publisher.refused)
        wait_until(lambda: known.poll(50), doing=lambda: publisher.send(status()))
        assert not stranger.poll(100)


@pytest.mark.parametrize(
    ("bind", "reason"),
    [
        ("tcp://127.0.0.1", "asked tcp://HOST:PORT"),
        ("tcp://127.0.0.1:65536", "asked tcp://HOST:PORT"),
        ("127.0.0.1:5555", "asked tcp://HOST:PORT"),
        ("udp://127.0.0.1:5555", "asked tcp://HOST:PORT"),
        ("inproc://masks", "asked tcp://HOST:PORT"),
        ("", "asked tcp://HOST:PORT"),
        ("tcp://192.0.2.1:5555", "not an address of this machine"),
        ("tcp://nowhere:5555", "not an address of this machine"),
        ("ipc:///no/such/folder/masks", "no such folder"),
        ("ipc:///tmp/" + "x" * 107, "107"),
    ],
)
def test_addresses_that_cannot_be_had_are_one_line(bind: str, reason: str) -> None:
    with pytest.raises(AddressError, match=reason) as raised:
        Publisher(bind)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == (2 if reason.startswith("asked") else 4)


def test_a_taken_port_is_one_line() -> None:
    with sockets.create_server(("127.0.0.1", 0)) as other, pytest.raises(AddressError, match="taken"):
        Publisher(f"tcp://127.0.0.1:{other.getsockname()[1]}")
    with Publisher(ANY_PORT) as publisher, pytest.raises(AddressError, match="taken"):
        Publisher(publisher.endpoint)


def test_an_ipc_path_is_not_stolen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with Publisher("ipc://masks") as publisher:
        publisher.send(status())
        with pytest.raises(AddressError, match="taken"):
            Publisher("ipc://masks")
        with MaskSubscriber("ipc://masks") as first:
            wait_until(lambda: first.status)
    with open("masks.lock") as lock:  # one that is about to bind
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(AddressError, match="taken"):
            Publisher("ipc://masks")
    with sockets.socket(sockets.AF_UNIX) as crashed:
        crashed.bind("masks2")  # what a killed program leaves
    Publisher("ipc://masks2").close()
    with sockets.socket(sockets.AF_UNIX) as other:
        other.bind("masks3")
        other.listen()
        with pytest.raises(AddressError, match="taken"):
            Publisher("ipc://masks3")


def test_wildcards_have_a_real_endpoint() -> None:
    for bind in ("tcp://127.0.0.1:*", "tcp://localhost:0", "ipc://*"):
        with Publisher(bind) as publisher, MaskSubscriber(publisher.endpoint) as joined:
            publisher.send(status())
            wait_until(lambda: joined.status)


def test_an_open_bind_without_keys_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pairs(tmp_path)
    keys = {"server_key": str(tmp_path / "server.key_secret"), "allowed_clients": str(tmp_path / "client.key")}
    caplog.set_level(logging.WARNING)
    Publisher("tcp://*:0", **keys).close()
    Publisher("tcp://127.0.0.2:0").close()
    assert caplog.records == []
    Publisher("tcp://*:0").close()
    assert "keygen" in caplog.records[0].message


def test_one_key_without_the_other_is_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    with pytest.raises(UserError, match="allowed_clients is empty"):
        Publisher(ANY_PORT, server_key=str(tmp_path / "server.key_secret"))
    with pytest.raises(UserError, match="server_key is empty"):
        Publisher(ANY_PORT, allowed_clients=str(tmp_path / "allowed_clients"))


def test_any_thread_may_send() -> None:
    with Publisher(ANY_PORT) as publisher, MaskSubscriber(publisher.endpoint) as client:
        publisher.send(status())
        wait_until(lambda: client.status)
        sources = [f"cam{number}" for number in range(4)]
        threads = [
            threading.Thread(
                target=lambda name=source: [publisher.send(masks(seq, 0, source=name)) for seq in range(50)]
            )
            for source in sources
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: client.recv(10).source == "end", doing=lambda: publisher.send(masks(99, 0, source="end")))
        assert client.refused == 0
