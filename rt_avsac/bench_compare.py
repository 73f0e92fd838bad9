"""What moved beyond noise between two bench results."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rt_avsac.errors import UserError

SIGMAS = 4.0  # of the two medians' standard errors together
MIN_SHARE = 0.03  # smaller moves are never worth a word
SAME = ("cpu", "gpu", "system")


def read_result(path: str | Path) -> dict[str, Any]:
    """The JSON of an earlier bench: its --out file, or a log whose last line it is. UserError else."""
    try:
        text = Path(path).read_text("utf-8")
        table = json.loads(text.strip().splitlines()[-1])
        if table["bench"] != "rt-avsac" or not isinstance(table["loads"], dict):
            raise ValueError("not a bench result")
        return dict(table)
    except OSError as error:
        raise UserError(f"bench --compare {path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"bench --compare {path}: not a result of `rt-avsac bench`: {error}") from None


def moves(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any]]:
    """p50 of every load, engine and stage that both have and that differ beyond noise; slower first."""
    found = []
    for load, engines in new["loads"].items():
        for engine, measured in engines.items():
            before = old["loads"].get(load, {}).get(engine, {}).get("ms", {})
            for stage, now in measured["ms"].items():
                then = before.get(stage, {})
                if not (then.get("p50") and now.get("p50")):
                    continue
                change = now["p50"] - then["p50"]
                noise = math.hypot(now["noise"], then["noise"])
                if abs(change) > max(SIGMAS * noise, MIN_SHARE * then["p50"]):
                    found.append(
                        {
                            "load": load,
                            "engine": engine,
                            "stage": stage,
                            "old_p50": then["p50"],
                            "new_p50": now["p50"],
                            "ratio": round(now["p50"] / then["p50"], 4),
                        }
                    )
    return sorted(found, key=lambda move: -move["ratio"])


def other_machine(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What makes the two incomparable, in words; "" when nothing does."""
    differ = [
        f"{key} {old['machine'].get(key)!r} then, {new['machine'].get(key)!r} now"
        for key in SAME
        if old["machine"].get(key) != new["machine"].get(key)
    ]
    return "; ".join(differ)


def text(found: list[dict[str, Any]]) -> str:
    if not found:
        return "nothing moved beyond noise"
    return "\n".join(
        f"{move['load']}, {move['engine']}, {move['stage']}: p50 {move['old_p50']:.3f} → {move['new_p50']:.3f} ms "
        f"({'slower' if move['ratio'] > 1 else 'faster'}, x {move['ratio']:.2f})"
        for move in found
    )
