"""``bittaper simulate``: one model, one NPU, one trace."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from hwsim.trace import InputError, Schedule, Trace, read_schedule, read_trace, synthetic_trace
from studies.commands.options import add_json, non_negative_int, parse_overrides, positive_int
from studies.common.output import print_json, print_pairs, si

if TYPE_CHECKING:
    from hwsim import ModelShape, SimulationResult

HELP = """how fast a model runs on an NPU under a precision trace

examples:
  bittaper simulate --model vicuna-7b --npu pmpd-16k --prompt-tokens 128 --decode-tokens 256 --weight-bits 3
  bittaper simulate --model phi-1.5 --npu pmpd-4k --prompt-tokens 64 --decode-tokens 60 --schedule schedule.json
  bittaper simulate --model path/to/config.json --npu my-npu.yaml --trace trace.jsonl --json
  bittaper simulate ... --timeline timeline.json
  bittaper simulate ... --set memory.bandwidth_bytes_per_s=16e9 --set matrix.macs=1024
"""


_WHAT_A_TRACE_SAYS = (
    "prompt_tokens",
    "decode_tokens",
    "weight_bits",
    "prefill_weight_bits",
    "schedule",
    "kv_bits",
    "lm_head_bits",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--model", required=True, help="a named shape, a config.json, or a folder with one")
    parser.add_argument("--npu", required=True, help="a named NPU or a YAML file")
    workload = parser.add_argument_group("workload (a trace, or lengths with bits or a schedule)")
    workload.add_argument("--trace", help="trace.jsonl as written by bittaper trace or evaluate")
    workload.add_argument("--prompt-tokens", type=positive_int, metavar="P", help="prompt length")
    workload.add_argument("--decode-tokens", type=non_negative_int, metavar="S", help="decode steps")
    workload.add_argument("--weight-bits", type=int, metavar="B", help="bits per weight in decode (and prefill)")
    workload.add_argument("--prefill-weight-bits", type=int, metavar="B", help="bits per weight in the prefill")
    workload.add_argument("--schedule", metavar="FILE", help="schedule.json")
    workload.add_argument("--kv-bits", type=positive_int, help="bits of a stored key or value (default 16)")
    workload.add_argument("--lm-head-bits", type=positive_int, help="bits of an lm_head weight (default 16)")
    workload.add_argument(
        "--allow-model-mismatch", action="store_true", help="replay a trace of another model, labelled so"
    )
    how = parser.add_argument_group("simulation")
    how.add_argument("--mode", default="realistic", choices=["realistic", "pmpd-analytic"], help="(default realistic)")
    how.add_argument(
        "--engine", default="events", choices=["events", "fast"], help="(default events); fast gives the same cycles"
    )
    how.add_argument("--exact", action="store_true", help="event engine without memo: simulate every stage anew")
    how.add_argument("--timeline", metavar="FILE", help="also write a Chrome trace (opens in ui.perfetto.dev)")
    how.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change one NPU field")
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Simulate and print."""
    from hwsim import SimulationOptions, load_npu, load_shape, simulate, write_timeline

    npu = load_npu(args.npu, parse_overrides(args.set))
    shape = load_shape(args.model)
    options = SimulationOptions(
        mode=args.mode, engine=args.engine, allow_model_mismatch=args.allow_model_mismatch, exact=args.exact
    )
    trace = workload_trace(args, shape)
    result = simulate(npu, shape, trace, options)
    if args.timeline is not None:
        write_timeline(args.timeline, npu, shape, trace, result)
    if args.json:
        print_json(result.to_json_dict())
    else:
        _print_text(args, result)
        if args.timeline is not None:
            print(f"timeline: {args.timeline}")


def workload_trace(args: argparse.Namespace, shape: ModelShape) -> Trace:
    """The trace that the arguments name or describe.

    Raises:
        InputError: If they contradict each other or leave something open.
    """
    if args.trace is not None:
        for name in _WHAT_A_TRACE_SAYS:
            if getattr(args, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} contradicts --trace, which says it; leave one out")
        return read_trace(args.trace)
    for name in ("prompt_tokens", "decode_tokens"):
        if getattr(args, name) is None:
            raise InputError(f"--{name.replace('_', '-')} is missing; give it, or a --trace")
    return synthetic_trace(
        shape,
        _schedule(args),
        prompt_tokens=args.prompt_tokens,
        decode_tokens=args.decode_tokens,
        kv_bits=args.kv_bits or 16,
        lm_head_bits=args.lm_head_bits or 16,
    )


def _schedule(args: argparse.Namespace) -> Schedule:
    if args.schedule is not None:
        for name in ("weight_bits", "prefill_weight_bits"):
            if getattr(args, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} contradicts --schedule, which says it; leave one out")
        return read_schedule(args.schedule)
    if args.weight_bits is None:
        raise InputError("--weight-bits is missing; give it, or a --schedule")
    for name in ("weight_bits", "prefill_weight_bits"):
        bits = getattr(args, name)
        if bits is not None and not (1 <= bits <= 8 or bits == 16):
            raise InputError(f"--{name.replace('_', '-')} = {bits}: must be 1..8 (nested planes) or 16 (unquantised)")
    return Schedule.uniform(args.weight_bits, args.prefill_weight_bits)


def _print_text(args: argparse.Namespace, result: SimulationResult) -> None:
    print(f"{args.model} on {args.npu} ({result.mode}, {result.engine} engine)")
    if result.model_mismatch:
        print(f"the trace was made by another model than {args.model}: its precisions are replayed, not its text")
    pairs = {"prefill": si(result.prefill_s, "s"), "time to first token": si(result.ttft_s, "s")}
    if result.decode_tokens_per_s is not None:
        pairs |= {
            "decoding speed": f"{result.decode_tokens_per_s:,.2f} tokens/s",
            "mean decode bits": f"{result.mean_decode_bits:.3f} over {result.decode_steps} steps",
        }
    pairs |= {
        "end to end": si(result.e2e_s, "s"),
        "cycles": f"{result.cycles:,}",
        "off-chip traffic": si(result.dram_bytes, "B"),
        "energy": si(result.energy_j, "J"),
        "area": f"{result.area_mm2:.2f} mm2",
    }
    pairs |= {f"busy {unit}": f"{share:.1%}" for unit, share in result.utilisation.items()}
    print_pairs(pairs)
