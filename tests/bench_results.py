"""Made-up results of the bench, from latencies in ms, for tests of what is said of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from rt_avsac.bench_compare import block_medians
from rt_avsac.latency import Series


def series(values_ms: np.ndarray) -> Series:
    made = Series()
    for index, value in enumerate(values_ms):
        made.add(round(value * 1e6), index + 1000)
    return made


def result(values_ms: np.ndarray, stage: str = "total", others: float = 0.0) -> dict[str, Any]:
    ms = {stage: series(values_ms).summary() | {"blocks": block_medians(values_ms.tolist())}}
    machine = {"cpu": "a", "gpu": "", "system": "s", "cpus": 2, "others_cpus": others, "versions": {"numpy": "1"}}
    measured = {"ms": ms, "throughput_fps": 30.0, "drops": 0}
    return {
        "bench": "rt-avsac",
        "model": "m",
        "machine": machine,
        "engines": {"torch:fp32": {"precision": "fp32", "threads": 1}},
        "memory_mb": {"peak": 100.0},
        "loads": {"single_stream": {"torch:fp32": measured}},
    }
