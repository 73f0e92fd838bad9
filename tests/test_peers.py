"""benchmarks/peers.py: bad words are one line."""

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
