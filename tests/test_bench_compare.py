"""Comparing two results of the bench: noise is no move, a change is, and what is no result is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt_avsac import cli
from rt_avsac.bench_compare import block_medians, differences, moves, others, read_result, standard_error
from rt_avsac.bench_compare import text as moves_text
from tests.bench_results import result


def p50_moves(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any]]:
    return [move for move in moves(old, new)[0] if move["what"] == "p50"]


def test_noise_is_not_a_move_but_a_change_is() -> None:
    random = np.random.default_rng(0)
    old = result(10 + random.normal(0, 1, 1000))
    assert moves(old, result(10 + random.normal(0, 1, 1000)))[0] == []
    (slower,) = p50_moves(old, result(12 + random.normal(0, 1, 1000)))
    assert slower["ratio"] == pytest.approx(1.2, abs=0.02)
    assert slower["fails"]
    (faster,) = p50_moves(old, result(8 + random.normal(0, 1, 1000)))
    assert not faster["worse"]
    # the same change, drowned in drift
    drift = np.repeat(random.normal(0, 4, 8), 125)
    old, new = result(10 + drift + random.normal(0, 1, 1000)), result(11 - drift + random.normal(0, 1, 1000))
    assert p50_moves(old, new) == []
    # a quarter slower, drowned in stalls of a sixth of the windows
    stalls = np.where(np.arange(1000) % 250 < 42, 60, 0)
    (slower,) = p50_moves(*(result(middle + stalls + random.normal(0, 1, 1000)) for middle in (10, 12.5)))
    assert slower["fails"]


def test_drift_is_noise_and_a_few_stalls_are_not() -> None:
    blocks = (10 + np.random.default_rng(0).normal(0, 1, 32)).tolist()
    mixed = standard_error({"blocks": blocks})
    assert standard_error({"blocks": sorted(blocks)}) > 2 * mixed
    assert standard_error({"blocks": [90.0, *blocks[1:30], 90.0, 90.0]}) < 2 * mixed
    assert standard_error({"blocks": [], "noise": 3.0}) == 3.0
    assert block_medians([1.0] * 15) == []
    assert block_medians([1.0, 2.0] * 32) == [1.5] * 32


@pytest.mark.parametrize(("p50", "moved"), [(15.6, False), (15.7, True)])
def test_a_median_moves_by_four_standard_errors_of_both(p50: float, moved: bool) -> None:
    old, new = result(np.full(100, 10.0)), result(np.full(100, 10.0))
    for each in (old, new):
        total(each).update(blocks=[], noise=1.0)
    total(new)["p50"] = p50
    assert bool(p50_moves(old, new)) is moved


@pytest.mark.parametrize(
    ("machine", "busy"),
    [
        ({"cpus": 8, "others_cpus": 0.7}, False),
        ({"cpus": 8, "others_cpus": 0.9}, True),
        ({"cpus": 8, "load_before": 3.9}, False),  # all that an older result has
        ({"cpus": 8, "load_before": 4.1}, True),
        ({"cpus": 8, "others_cpus": 0.7, "load_before": 4.1}, False),
        ({}, False),
    ],
)
def test_others_are_busy_by_their_share_of_all_cores(machine: dict[str, float], busy: bool) -> None:
    assert others({"machine": machine}) is busy


def test_drops_are_counted_against_frames() -> None:
    values = np.full(1000, 10.0)
    for drops, moved in ((19, []), (21, ["drops"])):
        new = result(values)
        new["loads"]["single_stream"]["torch:fp32"]["drops"] = drops
        assert [move["what"] for move in moves(result(values), new)[0]] == moved


def test_memory_is_compared_engine_by_engine_and_of_all_only_where_they_are_the_same() -> None:
    values = np.full(100, 10.0)
    old, new = result(values), result(values)
    old["process_mb"] = {"torch:fp32": 100.0}
    new["process_mb"] = {"torch:fp32": 1000.0}
    new["memory_mb"]["peak"] = 1000.0
    assert {move["what"] for move in moves(old, new)[0]} == {"memory", "memory peak"}
    new["engines"]["openvino:int8"] = {"precision": "int8", "threads": 1}
    assert {move["what"] for move in moves(old, new)[0]} == {"memory"}


def test_what_fails_and_what_is_only_told() -> None:
    random = np.random.default_rng(0)
    values = 10 + random.normal(0, 0.1, 1000)
    assert not any(move["fails"] for move in moves(result(values, "pack"), result(2 * values, "pack"))[0])
    assert moves(result(values), result(1.04 * values))[0] == []  # under the floor, however sure
    (told,) = p50_moves(result(values), result(1.4 * values, others=1.5))  # others' work does as much
    assert told["worse"]
    assert not told["fails"]
    (told,) = p50_moves(result(values, others=1.5), result(1.4 * values))
    assert not told["fails"]
    assert p50_moves(result(values, others=1.5), result(3 * values))[0]["fails"]


@pytest.mark.parametrize(
    ("what", "fails"),
    [("p90", True), ("p95", True), ("p99", True), ("max", False), ("drops", True), ("throughput", True),
     ("memory peak", False)],
)  # fmt: skip
@pytest.mark.parametrize("others", [0.0, 1.5])
def test_more_than_medians_is_compared(what: str, fails: bool, others: float) -> None:
    values = 10 + np.random.default_rng(0).normal(0, 0.1, 200)
    old, new = result(values, others=others), result(values, others=others)
    for each in (old, new):
        each["loads"]["single_stream"]["torch:fp32"]["ms"]["total"] |= {"p95": 11.0, "p99": 11.0}
    measured = new["loads"]["single_stream"]["torch:fp32"]
    if what == "drops":
        measured["drops"] = 500
    elif what == "throughput":
        measured["throughput_fps"] = 3.0
    elif what == "memory peak":
        new["memory_mb"]["peak"] = 1000.0
    else:
        measured["ms"]["total"][what] *= 10
    (move,) = moves(old, new)[0]
    assert (move["what"], move["worse"], move["fails"]) == (what, True, fails)
    (back,) = moves(new, old)[0]
    assert not back["worse"]


def test_what_fails_is_told_first_and_what_is_better_last() -> None:
    values = np.full(1000, 10.0)
    old, new = result(values), result(values)
    old["memory_mb"]["peak"] = 1000.0
    total(new)["max"] *= 10
    new["loads"]["single_stream"]["torch:fp32"]["drops"] = 500
    found, compared = moves(old, new)
    assert [move["what"] for move in found] == ["drops", "max", "memory peak"]
    *lines, last = moves_text(found, compared, []).splitlines()
    for line, verdict in zip(lines, ("FAILS", "worse, told only, x 10.00", "better, x 0.10"), strict=True):
        assert f"({verdict})" in line
    assert last.endswith(" figures compared, 1 fail")


def test_what_else_is_not_the_same_is_said() -> None:
    values = np.arange(100) + 1.0
    old, new = result(values), result(values)
    assert differences(old, new) == []
    new["model"] = "other"
    new["machine"] |= {"versions": {"numpy": "2"}, "commit": "abc", "others_cpus": 1.5}
    new["engines"] = {"torch:fp32": {"precision": "bf16", "threads": 2}, "openvino:int8": {}}
    said = "\n".join(differences(old, new))
    for part in ("model m then, other now", "numpy 1 then, 2 now", "commit none then, abc now", "1.5 of 2 cores",
                 "torch:fp32: precision fp32 then, bf16 now", "torch:fp32: threads 1 then, 2 now",
                 "engine openvino:int8 not run then, run now"):  # fmt: skip
        assert part in said


BREAKAGES: dict[str, Any] = {
    "machine": lambda table: table.pop("machine"),
    "loads": lambda table: table.pop("loads"),
    "engines": lambda table: table.update(engines=[]),
    "versions": lambda table: table["machine"].update(versions="1"),
    "noise": lambda table: total(table).update(noise=None),
    "p50": lambda table: total(table).update(p50="fast"),
    "p90": lambda table: total(table).update(p90=float("nan")),
    "max": lambda table: total(table).pop("max"),
    "n": lambda table: total(table).update(n=float("inf")),
    "blocks": lambda table: total(table).update(blocks=[None] * 32),
    "ms": lambda table: table["loads"]["single_stream"]["torch:fp32"].update(ms=[1]),
    "total": lambda table: table["loads"]["single_stream"]["torch:fp32"]["ms"].update(total="1"),
    "single_stream": lambda table: table["loads"].update(single_stream=None),
    "drops": lambda table: table["loads"]["single_stream"]["torch:fp32"].update(drops=True),
}


def total(table: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = table["loads"]["single_stream"]["torch:fp32"]["ms"]["total"]
    return row


@pytest.mark.parametrize("place", BREAKAGES)
def test_a_broken_result_is_refused_before_the_bench(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = result(np.arange(100) + 1.0)
    path = tmp_path / "old.json"
    path.write_text(json.dumps(table, indent=1))
    assert read_result(path, ["torch:fp32"]) == table
    path.write_text("bench: words\n" + json.dumps(table) + "\n")
    assert read_result(path, ["torch:fp32"]) == table
    BREAKAGES[place](table)
    path.write_text(json.dumps(table))
    assert cli.main(["bench", "--engines", "torch:fp32", "--compare", str(path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "not a result" in line
    assert place in line


def test_nothing_in_common(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = result(np.arange(100) + 1.0)
    for loads in (table["loads"], {}):
        (tmp_path / "old.json").write_text(json.dumps(table | {"loads": loads}))
        assert cli.main(["bench", "--engines", "torch:bf16", "--compare", str(tmp_path / "old.json")]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "nothing in common" in line


def test_what_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, text in enumerate(["", "{}", "[1]", "not json", '{"bench": "other"}', "\0\1", "[" * 100_000]):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        assert cli.main(["bench", "--compare", str(path)]) == 2
        assert "not a result" in capsys.readouterr().err
