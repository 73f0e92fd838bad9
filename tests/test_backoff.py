"""Pauses between attempts, and who decides that there are no more."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from rt_avsac.backoff import Backoff, HopelessError, Reopener
from rt_avsac.config import LiveSettings
from rt_avsac.errors import SourceError
from tests.waiting import until

QUICK = LiveSettings(reopen_min_s=0.001, reopen_max_s=0.002)


def test_pauses_double_up_to_the_most_with_jitter() -> None:
    backoff = Backoff(0.5, 10.0)
    for whole in (0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0):
        assert whole / 2 <= backoff.pause_s() <= whole
    backoff.reset()
    assert backoff.pause_s() <= 0.5
    many = []
    for _ in range(50):
        backoff.reset()
        many.append(backoff.pause_s())
    assert max(many) - min(many) > 0.05


def test_a_stop_cuts_a_pause_short() -> None:
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    assert Backoff(1000.0, 1000.0).wait(stop)


class Flaky:
    """An attempt that goes well as often as the list says, then ends."""

    def __init__(self, settings: LiveSettings, *outcomes: str) -> None:
        self.outcomes = list(outcomes)
        self.reopener = Reopener(settings, "camera x", self.attempt)
        self.attempts = 0

    def attempt(self) -> None:
        self.attempts += 1
        outcome = self.outcomes.pop(0) if self.outcomes else "absent"
        if outcome.startswith("ok"):
            self.reopener.ok("there")
        if outcome in ("absent", "ok, lost"):
            raise SourceError("camera x: gone")
        if outcome == "hopeless":
            raise HopelessError("camera x: never")
        if outcome == "bug":
            raise ZeroDivisionError("driver")

    def run(self) -> Reopener:
        self.reopener.start()
        until(lambda: self.reopener.join(0.01) or self.attempts > 20)
        self.reopener.stop.set()
        assert self.reopener.join(5.0)
        return self.reopener


def test_what_is_absent_at_the_start_ends_it_unless_it_may_wait() -> None:
    for policy, attempts in (("auto", 1), ("exit", 1), ("reopen", 20)):
        flaky = Flaky(replace(QUICK, on_source_loss=policy), "absent")
        reopener = flaky.run()
        assert min(flaky.attempts, 20) == attempts, policy
        assert reopener.state == "lost"
        if attempts == 1:
            with pytest.raises(SourceError, match="gone"):
                reopener.check()
        else:
            reopener.check()
            assert "opened again in" in reopener.status_text


def test_what_was_lost_is_opened_again_unless_it_is_to_exit() -> None:
    for policy, attempts in (("auto", 3), ("reopen", 3), ("exit", 1)):
        flaky = Flaky(replace(QUICK, on_source_loss=policy), "ok, lost", "bug", "ok, ended")
        reopener = flaky.run()
        assert flaky.attempts == attempts, policy
        assert reopener.state == ("ended" if attempts == 3 else "lost")


def test_what_waiting_cannot_mend_ends_it_always() -> None:
    flaky = Flaky(replace(QUICK, on_source_loss="reopen"), "ok, lost", "hopeless")
    with pytest.raises(SourceError, match="never"):
        flaky.run().check()
    assert flaky.attempts == 2
