"""Peers: how many times faster is fast enough, and bad words in one line."""

from __future__ import annotations

import pytest

from benchmarks import peers
from rt_avsac import cli


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--rounds", "0"], "'0' is no number of rounds"),
        (["--rounds=-1"], "'-1' is no number of rounds"),
        (["--only-edge", "--model", "nosuch"], "model nosuch: no such file"),
        (["--only-edge", "--precisions", "fp9"], "fp9"),
        (["--only-edge", "--device", "cuda"], "sees no NVIDIA GPU"),
    ],
)
def test_bad_words_of_the_peers(
    words: list[str], part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.guarded("peers", words, peers.main) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert part in line


@pytest.mark.parametrize(
    ("int8_ms", "paper_ms", "device", "passed"),
    [
        (10.0, 150.0, "cpu", True),
        (10.1, 150.0, "cpu", False),  # 3.96 times eager
        (10.0, 149.9, "cpu", False),  # 14.99 times the paper's
        (10.0, None, "cpu", True),
        (10.0, 150.0, "cuda", False),  # eager is not slow there
        (8.0, 150.0, "cuda", True),
    ],
)
def test_how_fast_is_fast_enough(int8_ms: float, paper_ms: float | None, device: str, passed: bool) -> None:
    """Of several compiled networks the best is held to it."""
    p50_ms = {peers.EAGER: 40.0, "edge, openvino bf16": 20.0, "edge, openvino int8": int8_ms}
    if paper_ms is not None:
        p50_ms[peers.PAPER] = paper_ms
    ratios, found = peers.judge(p50_ms, device)
    assert found is passed
    assert ratios["eager / edge, openvino bf16"] == 2.0
    assert ("AVSAC, paper / edge, openvino int8" in ratios) is (paper_ms is not None)
