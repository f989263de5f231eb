"""Time decode steps: ``python -m studies.cpu_decoding.speed SOURCE STORE STEPS REPEATS`` prints JSON lines.

In CPU seconds of one thread, so that what else the machine does matters less than by the clock.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from accuracy.linear import set_weight_cache
from studies.cpu_decoding.modes import CACHED, FLOAT, FLOAT_AGAIN, SPEED_MODES, UNPACKED, GreedyDecoding, Mode

Row = dict[str, str | float]


def measure_speed(source: Path, store: Path, *, steps: int, repeats: int) -> Iterator[list[Row]]:
    """Decode with every mode in turn, again and again, so that a slow minute is slow for all.

    Args:
        source: The unquantised model.
        store: Its store.
        steps: Decode steps timed together, after a prefill that is not.
        repeats: How often each mode has its turn.

    Yields:
        The rows of one repeat: tokens per CPU second, and the ratio to the float model in the same repeat.
    """
    plain, cached, unpacked = (Mode(name).load(source, store) for name in (FLOAT, CACHED, UNPACKED))
    # A run at one width dequantises once; here every width stays cached, so that none is fresh at each of its turns.
    set_weight_cache(cached.model, True, max_bytes=sys.maxsize)
    models = {FLOAT: plain, FLOAT_AGAIN: plain, CACHED: cached, UNPACKED: unpacked}
    for repeat in range(repeats):
        first = repeat % len(SPEED_MODES)
        found = {}
        # Another mode goes first each time, so that none always has the same share of what varies slowly.
        for mode in (*SPEED_MODES[first:], *SPEED_MODES[:first]):
            found[mode] = steps / _decode_cpu_s(GreedyDecoding(models[mode.name], mode.bits), steps)
        yield [
            {
                "mode": mode.name,
                "weight_bits": mode.bits,
                "repeat": repeat,
                "tokens_per_cpu_s": found[mode],
                "ratio_to_float": found[mode] / found[SPEED_MODES[0]],
            }
            for mode in SPEED_MODES
        ]


def _decode_cpu_s(decoding: GreedyDecoding, steps: int) -> float:
    begin = time.process_time()
    for _ in range(steps):
        decoding.step()
    return time.process_time() - begin


def main(source: str, store: str, steps: str, repeats: str) -> None:
    """Print one line for each mode of each repeat."""
    torch.set_num_threads(1)
    for rows in measure_speed(Path(source), Path(store), steps=int(steps), repeats=int(repeats)):
        for row in rows:
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
