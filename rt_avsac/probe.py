"""A few windows, and how a compiled network differs from torch fp32 on them and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rt_avsac.model.avsac import Avsac

Window = tuple[np.ndarray, np.ndarray]
Run = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]


def windows(image_size: int, num_samples: int, count: int = 4, seed: int = 0) -> list[Window]:
    """Seeded (image uint8 [1, S, S, 3], audio float32 [1, n]): blotches of colour, and tones in noise."""
    random = np.random.default_rng(seed)
    places = np.linspace(0, 6, image_size)
    nodes = np.arange(7)
    time_s = np.arange(num_samples) / 16_000
    made = []
    for _ in range(count):
        coarse = random.uniform(0, 255, (7, 7, 3))
        rows = np.apply_along_axis(lambda line: np.interp(places, nodes, line), 0, coarse)
        image = np.apply_along_axis(lambda line: np.interp(places, nodes, line), 1, rows).astype(np.uint8)
        tone = np.sin(2 * np.pi * random.uniform(200, 2000) * time_s) * np.exp(-random.uniform(0, 4) * time_s)
        audio = 0.2 * tone + 0.02 * random.standard_normal(num_samples)
        made.append((image[None], audio[None].astype(np.float32)))
    return made


def demo_windows(image_size: int, num_samples: int, count: int = 6, every: int = 30) -> list[Window]:
    """One window a second of the demo clip that can be heard; made-up ones where the clip cannot be played."""
    from rt_avsac.config import LiveSettings
    from rt_avsac.errors import UserError
    from rt_avsac.infer import fit_audio, rms_dbfs
    from rt_avsac.scale import scale
    from rt_avsac.sources import open_sources

    settings = LiveSettings(camera="demo", realtime=False)
    found: list[Window] = []
    try:
        with open_sources(settings) as sources:
            while len(found) < count and not sources.ended:
                window = sources.next(1.0)
                if window is None or window.frame.index % every != every - 1:
                    continue
                if rms_dbfs(window.audio) >= settings.silence_dbfs:
                    audio = np.ascontiguousarray(fit_audio(window.audio, num_samples))
                    found.append((scale(window.frame.image, image_size)[None], audio[None]))
    except (ImportError, UserError):
        pass
    return found or windows(image_size, num_samples, count)


def deviation(net: Avsac, run: Run, probes: list[Window]) -> dict[str, float]:
    """Of the sounding map against torch fp32: SNR in dB, greatest difference, IoU of the masks at 0.5.

    ModelError where an output, of the network or of the engine, is no finite number.
    """
    import torch

    from rt_avsac.errors import ModelError
    from rt_avsac.model.avsac import Deployed

    reference = Deployed(net).eval()
    noise = power = worst = 0.0
    both = either = 0
    for image, audio in probes:
        with torch.inference_mode():
            expected = [output.numpy() for output in reference(torch.tensor(image), torch.tensor(audio))]
        if not all(np.isfinite(output).all() for output in expected):
            raise ModelError("model: its outputs are no finite numbers in fp32; its weights are damaged")
        outputs = run(image, audio)
        if not all(np.isfinite(output).all() for output in outputs):
            raise ModelError("engine: its outputs are no finite numbers, torch's in fp32 are; ask another precision")
        got, wanted = outputs[0], expected[0]
        noise += float(np.square(got - wanted, dtype=np.float64).sum())
        power += float(np.square(wanted, dtype=np.float64).sum())
        worst = max(worst, float(np.abs(got - wanted).max()))
        both += int(((got >= 0.5) & (wanted >= 0.5)).sum())
        either += int(((got >= 0.5) | (wanted >= 0.5)).sum())
    snr = 10 * float(np.log10(power / max(noise, 1e-20)))
    return {"snr_db": round(snr, 2), "max_abs": round(worst, 7), "mask_iou": round(both / either, 5) if either else 1.0}


def time_runs(runs: dict[str, Run], probe: Window, rounds: int = 15) -> dict[str, float]:
    """Median ms of each, interleaved so that drift hits all alike; three rounds of warm-up."""
    times: dict[str, list[int]] = {key: [] for key in runs}
    for index in range(rounds + 3):
        for key, run in runs.items():
            started: Any = time.perf_counter_ns()
            run(*probe)
            if index >= 3:
                times[key].append(time.perf_counter_ns() - started)
    return {key: round(float(np.median(values)) / 1e6, 3) for key, values in times.items()}
