"""MaskSubscriber on real sockets: the newest mask, what is too old, lost, garbage, and restarts."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from wire_samples import info, masks, preview, status, wait_until

from rt_avsac.client import MaskSubscriber, StaleError
from rt_avsac.clock import Clock
from rt_avsac.errors import AddressError, UserError
from rt_avsac.messages import MaskMessage
from rt_avsac.publish import Publisher

ANY_PORT = "tcp://127.0.0.1:0"


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher(ANY_PORT) as made:
        made.send(info())
        made.send(status())
        yield made


@pytest.fixture
def client(publisher: Publisher) -> Iterator[MaskSubscriber]:
    with MaskSubscriber(publisher.endpoint) as made:
        wait_until(lambda: made.status and made.info)
        yield made


def newest(client: MaskSubscriber) -> int | None:
    try:
        return client.latest(60_000).seq
    except StaleError:
        return None


def aged(ms: float, seq: int = 1) -> MaskMessage:
    """A mask message of a picture taken `ms` ago."""
    message = masks(seq)
    return dataclasses.replace(
        message, t=dataclasses.replace(message.t, video_ns=time.monotonic_ns() - round(ms * 1e6))
    )


def test_latest_is_the_newest_mask_again_and_again(publisher: Publisher, client: MaskSubscriber) -> None:
    with pytest.raises(StaleError, match="no mask yet"):
        client.latest(1000)
    sent = masks(5, 2)
    publisher.send(sent)
    wait_until(lambda: client.skipped == 0 and client.recv(10))
    for _ in range(2):
        got = client.latest(10_000)
        assert got.seq == 5
        assert [item.label for item in got.objects] == ["dog", "dog"]
        assert (got.objects[1].mask == sent.objects[1].mask).all()


def test_too_old_is_an_error_that_says_how_old(publisher: Publisher, client: MaskSubscriber) -> None:
    publisher.send(aged(5000))
    client.recv(10)
    with pytest.raises(StaleError, match=r"50\d\d ms old .* asked at most 1000 ms"):
        client.latest(1000)
    assert client.latest(60_000).seq == 1
    assert issubclass(StaleError, TimeoutError)


def test_a_mask_grows_old_by_itself(publisher: Publisher, client: MaskSubscriber) -> None:
    ahead = Clock("monotonic@elsewhere", Clock.here().realtime_offset_ns + 3600 * 1_000_000_000)
    publisher.send(masks(clock=ahead))  # taken in an hour, by its wall clock
    assert client.age_ms(client.recv(10)) < 0

    def too_old() -> bool:
        try:
            client.latest(50)
        except StaleError:
            return True
        return False

    wait_until(too_old)


def test_recv_gives_every_mask_once_and_the_newest_of_many(publisher: Publisher, client: MaskSubscriber) -> None:
    for seq in range(3):
        publisher.send(masks(seq))
        assert client.recv(10).seq == seq
    with pytest.raises(StaleError, match=r"no new mask within 0\.01 s"):
        client.recv(0.01)
    for seq in range(3, 9):
        publisher.send(masks(seq))
    wait_until(lambda: newest(client) == 8)
    assert client.recv(10).seq == 8
    assert (client.skipped, client.dropped) == (5, 0)


def test_iteration_ends_with_close(publisher: Publisher, client: MaskSubscriber) -> None:
    seen: list[int] = []
    reader = threading.Thread(target=lambda: [seen.append(message.seq) for message in client])
    reader.start()
    publisher.send(masks(1))
    wait_until(lambda: seen)
    client.close()
    reader.join(10)
    assert not reader.is_alive()
    assert seen == [1]
    with pytest.raises(StaleError, match="closed"):
        client.recv(1)


def test_gaps_of_seq_are_drops(publisher: Publisher, client: MaskSubscriber) -> None:
    for seq in (100, 101, 105, 106, 116):
        publisher.send(masks(seq, 0))
        client.recv(10)
    assert client.dropped == 3 + 9


def test_a_restart_is_noticed_and_what_was_said_before_it_is_void(publisher: Publisher, client: MaskSubscriber) -> None:
    publisher.send(masks(500))
    client.recv(10)
    publisher.send(status(session="after"))
    wait_until(lambda: client.restarts)
    assert client.status is not None
    assert client.status.session == "after"
    assert client.info is None
    with pytest.raises(StaleError, match="no mask yet"):
        client.latest(60_000)
    publisher.send(masks(0, session="after"))
    assert client.recv(10).session == "after"
    assert (client.restarts, client.dropped) == (1, 0)


def test_a_publisher_that_comes_late_or_comes_again_is_connected_to() -> None:
    with Publisher(ANY_PORT) as publisher:
        endpoint = publisher.endpoint
    with MaskSubscriber(endpoint, stale_after_s=0.2) as client:
        wait_until(lambda: "nobody listens" in client.link)
        assert client.stale
        for session in ("one", "two"):
            with Publisher(endpoint) as publisher:
                publisher.send(info(session=session))
                wait_until(lambda: client.info and client.info.session == session)  # noqa: B023
                publisher.send(masks(session=session))
                assert client.recv(10).session == session
                assert not client.stale
            wait_until(lambda: client.stale)
        assert client.restarts == 1


def test_stale_is_silence_not_emptiness(publisher: Publisher) -> None:
    with MaskSubscriber(publisher.endpoint, stale_after_s=0.3) as client:
        wait_until(lambda: not client.stale)
        wait_until(lambda: client.stale)
        publisher.send(masks(count=0))
        assert client.recv(10).objects == ()
        assert not client.stale


def test_sources_are_filtered_whole(publisher: Publisher) -> None:
    for source in ("cam1", "cam10"):
        publisher.send(info(source=source))
    for asked in ("cam1", "cam1/"):
        with MaskSubscriber(publisher.endpoint, source=asked) as client:
            wait_until(lambda: client.info)
            for seq, source in enumerate(("cam1", "cam10", "cam0", "cam1")):
                publisher.send(masks(seq, source=source))
            wait_until(lambda: newest(client) == 3)
            assert (client.latest().source, client.dropped, client.skipped) == ("cam1", 2, 1)
    with pytest.raises(UserError, match="source"):
        MaskSubscriber(publisher.endpoint, source="cam 1")


def test_previews_come_when_wanted(publisher: Publisher, client: MaskSubscriber) -> None:
    with (
        MaskSubscriber(publisher.endpoint, preview=False) as without,
        MaskSubscriber(publisher.endpoint, source="cam0", preview=False) as named,
    ):
        wait_until(lambda: without.status and named.status)
        publisher.send(preview(77))
        publisher.send(masks(77))
        for subscriber in (client, without, named):
            assert subscriber.recv(10).seq == 77
        assert client.preview is not None
        assert (client.preview.seq, client.preview.jpeg) == (77, preview().jpeg)
        assert (without.preview, named.preview) == (None, None)


def test_clocks_of_this_machine_another_one_and_none(publisher: Publisher, client: MaskSubscriber) -> None:
    assert client.clock_offset_ns == 0
    here = Clock.here()
    publisher.send(masks(1, clock=Clock("monotonic@elsewhere", here.realtime_offset_ns + 60_000_000_000)))
    client.recv(10)
    assert client.clock_offset_ns == pytest.approx(60_000_000_000, abs=1_000_000_000)
    publisher.send(dataclasses.replace(aged(99_000), clock=Clock("media", 0)))
    assert client.age_ms(client.recv(10)) == 0
    assert client.clock_offset_ns is None
    assert client.latest(10_000).seq == 1


def test_garbage_is_counted_and_explained_and_does_no_harm() -> None:
    with zmq.Context() as context, context.socket(zmq.XPUB) as stranger:
        stranger.linger = 0
        port = stranger.bind_to_random_port("tcp://127.0.0.1")
        with MaskSubscriber(f"tcp://127.0.0.1:{port}") as client:
            assert stranger.recv() == b"\x01rtavsac/v1/"
            good = masks(3).encode()
            garbage = ([good[0]], [*good[:2], b""], [good[0], b"{}", b""], [b"rtavsac/v1/", b"\x00" * 70_000, b""])
            for parts in (*garbage, [*good, b"part four"]):
                stranger.send_multipart(parts)
            assert client.recv(10).seq == 3
            assert client.refused == len(garbage)
            stranger.send_multipart([good[0], good[1].replace(b'"version":1', b'"version":2'), good[2]])
            wait_until(lambda: client.refused > len(garbage))
            with pytest.raises(StaleError, match="version: this reader knows 1, got 2"):
                client.recv(0.01)


def test_any_thread_may_receive(publisher: Publisher, client: MaskSubscriber) -> None:
    taken: list[int] = []
    threads = [threading.Thread(target=lambda: [taken.append(item.seq) for item in client]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for seq in range(200):
        publisher.send(masks(seq, 0))
        wait_until(lambda: seq in taken)  # noqa: B023
    client.close()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(200))


@pytest.mark.parametrize("wrong", ["", "tcp://127.0.0.1", "http://127.0.0.1:5555", "tcp://*:5555", "tcp://127.0.0.1:0"])
def test_wrong_addresses_are_one_line(wrong: str) -> None:
    with pytest.raises(AddressError, match="address"):
        MaskSubscriber(wrong)


def test_wrong_keys_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="server_public_key is empty"):
        MaskSubscriber("tcp://127.0.0.1:5555", client_key="client.key_secret")
    with pytest.raises(UserError, match=r"cannot be read: No such file"):
        MaskSubscriber("tcp://127.0.0.1:5555", client_key=str(tmp_path / "none"), server_public_key="x" * 40)


def test_it_needs_numpy_and_pyzmq_only() -> None:
    forbidden = {"torch", "cv2", "av", "sounddevice", "openvino", "scipy", "soxr", "safetensors", "matplotlib", "train"}
    for module in ("rt_avsac.client", "rt_avsac.publish"):
        code = f"import sys, {module}; print(*sys.modules)"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert "zmq" in loaded
        assert not forbidden & {name.partition(".")[0] for name in loaded}
    code = "import sys, rt_avsac.messages; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not (forbidden | {"zmq"}) & {name.partition(".")[0] for name in loaded}
