"""The networks of the field beside ours, same machine, same run, interleaved: batch 1, 224 px, one thread.

    python -m benchmarks.peers --rounds 20

AVSegFormer-shaped baseline and AVSAC as in the paper (random weights: speed does not ask for them) and AVSAC edge in
torch eager fp32 (on a GPU without TF32), then AVSAC edge as compiled here. A table, then one JSON line; exit code 1 if
the edge model is not 15 times faster than the paper's, or the compiled one not 4 times (on a GPU 5) faster than eager.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rt_avsac import machine
from rt_avsac.cli import guarded
from rt_avsac.compile import cached_bundle
from rt_avsac.config import LiveSettings, override
from rt_avsac.engines import open_engine
from rt_avsac.errors import ModelError, UserError
from rt_avsac.latency import Series, table
from rt_avsac.model_path import find
from rt_avsac.parser import Parser
from rt_avsac.probe import windows

CONFIGS = Path(__file__).parent.parent / "configs"
EAGER, PAPER = "edge, torch eager fp32", "AVSAC, paper"
PEERS = {"baseline (AVSegFormer-shaped)": "avsegformer_pvt_ms3.toml", PAPER: "avsac_pvt_ms3.toml"}
MUST_PAPER = 15.0
MUST_EAGER = {"cpu": 4.0, "cuda": 5.0}
PRECISIONS = {"cpu": "fp32,bf16,int8", "cuda": "fp32,fp16,bf16"}
WARM_UP_RUNS = 30  # of the small networks, as `rt-avsac bench`; one run of a big one takes a second
Run = Callable[[np.ndarray, np.ndarray], Any]


def eager(net: Any, device: str) -> Run:
    import torch

    from rt_avsac.model.avsac import Deployed

    deployed = Deployed(net).eval().to(device)

    def run(image: np.ndarray, audio: np.ndarray) -> None:
        with torch.inference_mode():
            for output in deployed(torch.from_numpy(image).to(device), torch.from_numpy(audio).to(device)):
                output.cpu()  # the answer is had when it is here

    return run


def peer(config: str, device: str) -> tuple[Run, int]:
    """The network of a training config, random weights → (run, parameters)."""
    from rt_avsac.model.avsac import Avsac
    from train.settings import read_run

    settings = replace(read_run(CONFIGS / config, {}).model, image_size=224)
    net = Avsac(settings).eval()
    return eager(net, device), sum(parameter.numel() for parameter in net.parameters())


def judge(p50_ms: dict[str, float], device: str) -> tuple[dict[str, float], bool]:
    """By network → how many times as fast which is as which, and whether that is as much as it must be.

    The best compiled one is held to eager, and to the paper's where that was run.
    """
    eager_ms = p50_ms[EAGER]
    peers_ms = {name: ms for name, ms in p50_ms.items() if name in PEERS}
    compiled_ms = {name: ms for name, ms in p50_ms.items() if name not in (EAGER, *PEERS)}
    best = min(compiled_ms, key=lambda name: compiled_ms[name])
    ratios = {f"eager / {name}": eager_ms / ms for name, ms in compiled_ms.items()}
    for name, ms in peers_ms.items():
        ratios |= {f"{name} / edge eager": ms / eager_ms, f"{name} / {best}": ms / compiled_ms[best]}
    passed = ratios[f"eager / {best}"] >= MUST_EAGER[device]
    if PAPER in peers_ms:
        passed &= ratios[f"{PAPER} / {best}"] >= MUST_PAPER
    return {name: round(ratio, 2) for name, ratio in ratios.items()}, passed


def rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds; give 1 or more")
    return int(text)


def main(words: Sequence[str]) -> int:
    parser = Parser(prog="peers", description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=rounds, default=20, help="of the big networks; the small ones run tenfold")
    parser.add_argument("--model", default="avsac-edge")
    parser.add_argument(
        "--precisions", default="", help=f"of the edge model, compiled for openvino or cuda {PRECISIONS}"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of all of them [cpu]")
    parser.add_argument("--only-edge", action="store_true", help="leave the big networks out")
    args = parser.parse(words)
    import torch

    from rt_avsac.model.checkpoint import load

    if args.device == "cuda":
        if not torch.cuda.is_available():
            raise UserError("--device cuda: torch sees no NVIDIA GPU here; give --device cpu")
        # fp32 as it says: torch would round convolutions to TF32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    precisions = args.precisions or PRECISIONS[args.device]
    torch.set_num_threads(1)
    about = machine.describe()
    checkpoint = find(args.model)
    net, _ = load(checkpoint)
    runs: dict[str, Run] = {EAGER: eager(net, args.device)}
    parameters = {EAGER: sum(parameter.numel() for parameter in net.parameters())}
    many = set(runs)
    backend = "cuda" if args.device == "cuda" else "openvino"
    for precision in precisions.split(","):
        asked = LiveSettings(model=args.model, device=args.device)
        settings = override(asked, {"backend": backend, "precision": precision.strip()}, "--precisions")
        try:
            engine = open_engine(cached_bundle(checkpoint, settings, print), settings)
        except ModelError as error:
            print(f"left out: {error}")
            continue
        name = f"edge, {backend} {engine.precision}"
        runs[name] = lambda image, audio, engine=engine: engine.run(image[0], audio[0])
        many.add(name)
    if len(runs) == 1:
        raise UserError(f"--precisions {precisions}: none of them runs here; see the lines above")
    for name, config in {} if args.only_edge else PEERS.items():
        runs[name], parameters[name] = peer(config, args.device)
        print(f"{name}: {parameters[name] / 1e6:.1f} M parameters")
    probes = windows(224, 15_600)
    series = {name: Series() for name in runs}
    for number in range(args.rounds + 1):
        for name, run in runs.items():
            for _ in range((10 if number else WARM_UP_RUNS) if name in many else 1):
                image, audio = probes[number % len(probes)]
                began = time.perf_counter_ns()
                run(image, audio)
                if number:  # the first round warms up
                    series[name].add(time.perf_counter_ns() - began, number)
    rows = {name: each.summary() for name, each in series.items()}
    print(table(rows))
    ratios, passed = judge({name: row["p50"] for name, row in rows.items()}, args.device)
    for name, ratio in ratios.items():
        print(f"{name}: {ratio}x")
    about |= {"load_before": about["load_average"], "load_average": round(os.getloadavg()[0], 2)}
    result = {"bench": "peers", "passed": passed, "ratios": ratios, "ms": rows, "parameters": parameters}
    result |= {"device": args.device, "tf32": False, "must_eager": MUST_EAGER[args.device], "rounds": args.rounds}
    result |= {"image_size": 224, "threads": torch.get_num_threads()}
    print(json.dumps(result | {"machine": about}))
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(guarded("peers", None, main))
