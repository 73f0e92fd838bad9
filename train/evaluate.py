"""`python -m train.evaluate MODEL --data DATA`: the published measures and the listening protocol, on a checkpoint or
a compiled engine. Tables on stdout and one JSON line last; with --out also report.json, charts, and a page of masks.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_avsac.cli import guarded
from rt_avsac.errors import UserError
from rt_avsac.infer import fit_audio
from rt_avsac.parser import Parser
from rt_avsac.scale import scale
from train.classes import CLASSES, IGNORE
from train.items import MUTED, ORIGINAL, EvalItem
from train.log import span
from train.page import Examples, write_page
from train.predictor import Predictor, open_predictor
from train.report import Report, as_json, check_writable, goals_of, one_line, tables, write
from train.scores import Scores, plain, resized
from train.shares import ShareScore
from train.sheets import write_sheets

KINDS = ("composed", "avsbench_s4", "avsbench_ms3", "avsbench_avss")
SAY_EVERY_S = 5.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class EvalSet:
    """What is judged: `num` items (or fewer), and the classes of their masks."""

    items: Iterator[EvalItem]
    num: int
    classes: tuple[str, ...]


def open_set(kind: str, data: Path, split: str, num: int, seed: int, size: int) -> EvalSet:
    """`num` 0 = all there are; `size`: the network's picture side. UserError when the data cannot be had."""
    if kind == "composed":
        from train.compose import evaluation_items

        num = num or 500
        return EvalSet(evaluation_items(data, seed, num, split), num, CLASSES)
    from train.avsbench import AvsBench
    from train.avsbench_items import avsbench_items

    bench = AvsBench(kind.removeprefix("avsbench_"), data, split)  # type: ignore[arg-type]
    total = len(bench.labelled)
    return EvalSet(avsbench_items(bench, num, seed, size), min(num or total, total), bench.classes)


def judge(
    predictor: Predictor, eval_set: EvalSet, num_shares: int, examples: Examples, say: Say
) -> tuple[Scores, ShareScore]:
    """Every item once; the audio share on the first `num_shares` of them. UserError when there are no items."""
    about = predictor.about
    named = len(about.classes) > 2 and about.classes == eval_set.classes
    if len(about.classes) > 2 and not named:
        say("evaluate: the model's classes are not those of the data; only its masks are judged")
    scores, shares = Scores(eval_set.classes, named), ShareScore(predictor)
    began = said = time.monotonic()
    done = 0
    for item in eval_set.items:
        image = scale(item.image, about.image_size)
        names = list(item.conditions)
        sounds = [fitted(item.conditions[name], about.num_audio_samples) for name in names]
        judged = scores.add(item, dict(zip(names, predictor(image, sounds), strict=True)))
        examples.add(judged)
        if done < num_shares and MUTED in names:
            truth = resized(item.mask_by_condition[ORIGINAL], image.shape[0], image.shape[1], nearest=True)
            audio, silence = sounds[names.index(ORIGINAL)], sounds[names.index(MUTED)]
            shares.add(image, audio, silence, (truth != 0) & (truth != IGNORE), truth != IGNORE)
        done += 1
        now = time.monotonic()
        if now - said > SAY_EVERY_S:
            said = now
            left_s = (now - began) / done * (eval_set.num - done)
            say(f"evaluate: {done}/{eval_set.num}, {span(left_s)} left")
    if not done:
        raise UserError("evaluation: no items in this split; check --data and --split")
    return scores, shares


def fitted(audio: NDArray[np.float32], num_samples: int) -> NDArray[np.float32]:
    """A waveform of the model's length; a log-mel patch as it is."""
    return np.ascontiguousarray(fit_audio(audio, num_samples)) if audio.ndim == 1 else audio


def evaluate(predictor: Predictor, args: argparse.Namespace, say: Say) -> tuple[Report, Examples]:
    """All measures of one model on one set."""
    began = time.monotonic()
    eval_set = open_set(args.kind, args.data, args.split, args.num, args.seed, predictor.about.image_size)
    examples = Examples(eval_set.classes, *((args.examples, args.examples // 2) if args.out else (0, 0)))
    scores, shares = judge(predictor, eval_set, args.shares, examples, say)
    groups, by_class, semantic = scores.results()
    data: dict[str, Any] = {
        "path": args.data.name or str(args.data),
        "kind": args.kind,
        "split": args.split,
        "seed": args.seed,
        "num_items": groups["all"].masks.num_frames,
        "wall_s": round(time.monotonic() - began, 1),
    }
    strangers = {
        label: {"num_frames": len(alarms), "false_alarm": float(np.mean(alarms))}
        for label, alarms in sorted(scores.strangers.items())
    }
    return Report(predictor.about, data, groups, by_class, semantic, shares.result(), strangers), examples


def show_clips(predictor: Predictor, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Contact sheets of the clips in --videos; a line for each on stdout."""
    rows = []
    for result in write_sheets(predictor, args.videos, args.out / "clips", args.frames):
        heard = ", ".join(f"{name} {value:.2f}" for name, value in result.heard.items())
        found = ", ".join(f"{name} {count}/{result.num_frames}" for name, count in result.objects.items()) or "nothing"
        print(
            f"{result.clip}: sounding area {result.area:.3f} (in silence {result.area_muted:.3f}); "
            f"hears {heard}; masks {found}"
        )
        rows.append(plain(result))
    return rows


def parser() -> Parser:
    made = Parser(prog="python -m train.evaluate", description=__doc__, allow_abbrev=False)
    made.add_argument("model", metavar="MODEL", help="checkpoint (.safetensors), engine bundle, or a shipped name")
    made.add_argument("--data", type=Path, metavar="PATH", help="data folder, mapping file, or AVSBench folder")
    made.add_argument("--kind", choices=KINDS, default="composed", help="what --data is [composed]")
    made.add_argument("--split", default="val", help="[val]")
    made.add_argument("--num", type=int, default=500, help="items at most; 0 = all (composed: 500) [500]")
    made.add_argument("--seed", type=int, default=0, help="of the composed scenes and of noise [0]")
    made.add_argument("--shares", type=int, default=100, help="items for the audio share, 0 = none [100]")
    made.add_argument("--out", type=Path, metavar="DIR", help="write report.json, charts and index.html there")
    made.add_argument("--examples", type=int, default=24, help="example masks on the page [24]")
    made.add_argument("--videos", type=Path, metavar="DIR", help="contact sheets of these clips; needs --out")
    made.add_argument("--frames", type=int, default=12, help="frames of each contact sheet [12]")
    made.add_argument("--check", action="store_true", help="exit code 1 unless every goal is met")
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="[auto]")
    made.add_argument("--threads", type=int, default=0, help="on the CPU; 0 = as many as there are [0]")
    made.add_argument("-v", "--verbose", action="store_true", help="errors with their traceback")
    return made


def run(args: argparse.Namespace) -> int:
    """→ exit code."""
    if args.data is None and args.videos is None:
        raise UserError("evaluation: nothing to judge; give --data PATH, --videos DIR, or both")
    if args.videos and not args.out:
        raise UserError("option --videos: asked without --out; say where the contact sheets go")
    if args.check and (args.kind != "composed" or args.data is None):
        raise UserError("option --check: the goals are for composed scenes; give --data without another --kind")
    if args.num < 0 or args.examples < 0 or args.frames < 1:
        raise UserError("evaluation: --num and --examples must be at least 0, --frames at least 1")

    if args.out:
        check_writable(args.out)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    predictor = open_predictor(args.model, args.device, args.threads)
    met, clips = True, list[dict[str, Any]]()
    try:
        about = predictor.about
        print(f"{about.name} {about.sha256[:12]} ({about.backend}, {about.precision})\n")
        if args.videos:
            clips = show_clips(predictor, args)
            write(args.out / "clips.json", json.dumps(clips, indent=1).encode())
            print(f"\ncontact sheets: {args.out / 'clips'}\n")
        if args.data is None:
            print(json.dumps({"model": about.name, "sha256": about.sha256, "clips": clips}))
            return 0
        report, examples = evaluate(predictor, args, say)
        print("\n\n".join(table.text() for table in tables(report)))
        if args.out:
            write(args.out / "report.json", json.dumps(as_json(report), indent=1).encode())
            print(f"\npage: {write_page(report, examples, args.out, [clip['clip'] for clip in clips])}")
        met = all(goal["met"] for goal in goals_of(report))
        print(f"\n{one_line(report)}", flush=True)
    finally:
        predictor.close()
    return 1 if args.check and not met else 0


def main(argv: list[str] | None = None) -> int:
    return guarded("python -m train.evaluate", argv, lambda words: run(parser().parse(words)))


if __name__ == "__main__":
    sys.exit(main())
