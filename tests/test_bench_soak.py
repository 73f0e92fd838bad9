"""The bench's soak: memory that grows is told from memory that settles."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from rt_avsac import cli
from rt_avsac.bench_soak import Trend, soak
from rt_avsac.config import LiveSettings


def test_a_short_soak(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--model", str(checkpoint), "--engines", "torch:fp32", "--soak", str(3 / 3600)]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    found = json.loads(lines[-1])
    assert "too short to tell" in lines[0]  # 3 s
    assert found["growth_mb_per_hour"] is found["gained_mb"] is None
    assert found["masks"] > 0
    assert len(found["memory_mb"]) == len(found["at_hours"]) == len(found["p50_ms"]) > 5
    assert all(most >= middle > 0 for most, middle in zip(found["max_ms"], found["p50_ms"], strict=True))
    assert json.loads((tmp_path / "out" / "soak.json").read_text()) == found
    assert (tmp_path / "out" / "soak.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("gain_mb", "settles", "grows"), [(0.02, False, False), (0.5, False, True), (0.5, True, False)]
)
def test_memory_that_grows(
    gain_mb: float, settles: bool, grows: bool, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `gain_mb` at every look, for ever or only in the beginning; 1 MB in all is no growth, however fast it came."""
    looks = itertools.count()
    memory = {"resident": 100.0}

    def memory_mb() -> dict[str, float]:
        memory["resident"] += 0.0 if settles and next(looks) > 4 else gain_mb
        return memory

    monkeypatch.setattr("rt_avsac.machine.memory_mb", memory_mb)
    settings = LiveSettings(model=str(checkpoint), backend="torch", precision="fp32")
    said: list[str] = []
    monkeypatch.setattr("rt_avsac.bench_soak.SAY_S", 0.5)
    monkeypatch.setattr("rt_avsac.bench_soak.MIN_HOURS", 1 / 3600)
    assert soak(settings, 3 / 3600, said.append)["grows"] is grows
    assert any("min left" in line for line in said)


def test_growth_is_that_of_memory_that_has_settled() -> None:
    """In MB an hour and MB in all, not of the first tenth; none of few looks or a few minutes."""
    trend = Trend(20.0)
    trend.hours = [minute / 60 for minute in range(1, 61)]
    trend.memory_mb = [100 + 12 * hour - (50 if hour <= 0.1 else 0) for hour in trend.hours]
    assert trend.growth() == pytest.approx((12.0, 12 * 53 / 60))
    for hours in (trend.hours[:9], [hour / 7 for hour in trend.hours]):
        short = Trend(20.0, hours=hours, memory_mb=trend.memory_mb[: len(hours)])
        assert short.growth() is None


@pytest.mark.parametrize(("grows", "code"), [(False, 0), (True, 1)])
def test_growth_is_the_exit_code(
    grows: bool, code: int, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"masks": 9, "fps": 30.0, "growth_mb_per_hour": 9.5, "grows": grows}
    monkeypatch.setattr("rt_avsac.bench.soak", lambda *_: found)
    assert cli.main(["bench", "--model", str(checkpoint), "--soak", "1"]) == code
    assert "memory grows 9.5 MB an hour" in capsys.readouterr().out
