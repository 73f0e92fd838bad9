"""What sounds, and where: ten lines for a robot. Needs numpy and pyzmq only."""

import sys

from rt_avsac.client import MaskSubscriber

with MaskSubscriber(sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5555") as masks:
    for message in masks:
        found = [f"{item.label} {item.mask.sum()} px at {item.bbox}" for item in message.objects]
        print(f"{masks.age_ms(message):6.1f} ms old:", ", ".join(found) or "silence", flush=True)
