"""``bittaper simulate``: one model, one NPU, one trace."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hwsim.trace import InputError, ModelShape, Schedule, Trace, read_trace, synthetic_trace
from studies.commands.options import add_json, non_negative_int, parse_overrides, parse_schedule, positive_int
from studies.common.output import print_json, print_pairs, si

if TYPE_CHECKING:
    from hwsim import RooflinePosition, SimulationResult
    from studies.common.simulation_folder import Simulation

HELP = """how fast a model runs on an NPU under a precision trace

examples:
  bittaper simulate --model vicuna-7b --npu pmpd-16k --prompt-tokens 128 --decode-tokens 256 --weight-bits 3
  bittaper simulate --model phi-1.5 --npu pmpd-4k --prompt-tokens 64 --decode-tokens 60 --schedule "p4:4>3@20"
  bittaper simulate --model path/to/config.json --npu my-npu.yaml --trace trace.jsonl --json
  bittaper simulate ... --out results/run --figures --table-format parquet
  bittaper simulate ... --out results/run --timeline --timeline-steps 100-104
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
    workload.add_argument("--schedule", metavar="S", help="a label like 'p4:4>3@40' (quoted), or schedule.json")
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
    how.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change one NPU field")
    files = parser.add_argument_group("files")
    files.add_argument(
        "--out", metavar="FOLDER", help="write result.json, tables by step, operation, switch and stall, manifest.json"
    )
    files.add_argument("--table-format", choices=["csv", "parquet"], help="of the tables (default csv)")
    files.add_argument("--figures", action="store_true", help="also draw them into the folder")
    files.add_argument("--figure-format", choices=["svg", "png"], help="(default svg)")
    files.add_argument(
        "--timeline",
        nargs="?",
        const="",
        metavar="FILE",
        help="write a Chrome trace (opens in ui.perfetto.dev); without FILE, timeline.json in the folder",
    )
    files.add_argument(
        "--timeline-steps", metavar="FIRST-LAST", help="show these decode steps tile by tile in the timeline"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Simulate, write what was asked for, and print."""
    from hwsim import SimulationOptions, load_npu, load_shape, roofline_position, simulate
    from studies.common.simulation_folder import Simulation

    timeline = _check_files(args)
    window = _step_range(args.timeline_steps)
    npu = load_npu(args.npu, parse_overrides(args.set))
    shape = load_shape(args.model)
    options = SimulationOptions(
        mode=args.mode, engine=args.engine, allow_model_mismatch=args.allow_model_mismatch, exact=args.exact
    )
    trace = workload_trace(args, shape)
    result = simulate(npu, shape, trace, options)
    position = roofline_position(npu, shape, trace, result)
    simulation = Simulation(npu, shape, trace, options, result, position)
    files = _write(args, simulation, timeline, window)
    if args.json:
        print_json(simulation.numbers())
        return
    _print_text(args, result, position)
    for file in files:
        print(f"wrote {file}")


def _check_files(args: argparse.Namespace) -> Path | None:
    """Refuse contradicting file options before anything is simulated; returns the timeline's path, if there is one."""
    from hwsim.tables import check_destination
    from studies.common.simulation_folder import TIMELINE_FILE

    if args.out is None:
        for option, given in (
            ("--figures", args.figures),
            ("--table-format", args.table_format),
            ("--figure-format", args.figure_format),
            ("--timeline without a FILE", args.timeline == ""),
        ):
            if given:
                raise InputError(f"{option} needs --out FOLDER, which the files go to")
    else:
        check_destination(args.out, args.table_format or "csv")
    if args.figure_format and not args.figures:
        raise InputError(f"--figure-format {args.figure_format} needs --figures")
    if args.timeline_steps and args.timeline is None:
        raise InputError(f"--timeline-steps {args.timeline_steps} needs --timeline")
    if args.timeline is not None and args.mode != "realistic":
        raise InputError(f"--timeline with --mode {args.mode}: needs realistic; the analytic mode has no instructions")
    if args.timeline is None:
        return None
    return Path(args.timeline) if args.timeline else Path(args.out) / TIMELINE_FILE


def _step_range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, last = text.partition("-")
    if not (first.isdigit() and (last.isdigit() or text == first)):
        raise InputError(f"--timeline-steps {text}: must be FIRST-LAST, for example 100-104, or one step")
    return int(first), int(last or first)


def _write(
    args: argparse.Namespace, simulation: Simulation, timeline: Path | None, window: tuple[int, int] | None
) -> list[Path]:
    """Write tables, figures, timeline and manifest as asked; returns what was written."""
    from hwsim import write_tables, write_timeline
    from hwsim.timeline import window_rows
    from studies.common.simulation_folder import write_figures, write_manifest

    files: list[Path] = []
    rows = [] if window is None else window_rows(simulation.result, *window)
    if args.out is not None:
        folder = Path(args.out)
        files += write_tables(
            simulation.result, folder, table_format=args.table_format or "csv", roofline=simulation.position
        )
        if args.figures:
            files += write_figures(simulation, folder, [args.figure_format or "svg"])
    if timeline is not None:
        write_timeline(timeline, simulation.npu, simulation.result, window=rows)
        files.append(timeline)
    if args.out is not None:
        files.append(write_manifest(simulation, Path(args.out), files))
    return files


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
        return parse_schedule(args.schedule)
    if args.weight_bits is None:
        raise InputError("--weight-bits is missing; give it, or a --schedule")
    for name in ("weight_bits", "prefill_weight_bits"):
        bits = getattr(args, name)
        if bits is not None and not (1 <= bits <= 8 or bits == 16):
            raise InputError(f"--{name.replace('_', '-')} = {bits}: must be 1..8 (nested planes) or 16 (unquantised)")
    return Schedule.uniform(args.weight_bits, args.prefill_weight_bits)


_REASONS = {
    "tile": "its loads",
    "slot": "a free buffer",
    "input": "earlier results",
    "product": "products",
    "mark": "new keys and values",
}


def _unit_text(result: SimulationResult, unit: str) -> str:
    """Busy share of a unit, and what it waits for most."""
    text = f"{result.utilisation[unit]:.1%}"
    stalls = {} if result.stall_cycles is None else result.stall_cycles.get(unit, {})
    waits = {reason: cycles for reason, cycles in stalls.items() if reason in _REASONS}
    if not waits:
        return text
    reason = max(waits, key=lambda name: waits[name])
    share = waits[reason] / result.cycles
    return text if share < 0.001 else f"{text}, waits for {_REASONS[reason]} {share:.1%}"


def _print_text(args: argparse.Namespace, result: SimulationResult, position: RooflinePosition) -> None:
    print(f"{args.model} on {args.npu} ({result.mode}, {result.engine} engine)")
    if result.model_mismatch:
        print(f"the trace was made by another model than {args.model}: its precisions are replayed, not its text")
    pairs = {"prefill": si(result.prefill_s, "s"), "time to first token": si(result.ttft_s, "s")}
    if result.decode_tokens_per_s is not None:
        pairs |= {
            "decoding speed": f"{result.decode_tokens_per_s:,.2f} tokens/s",
            "mean decode bits": f"{result.mean_decode_bits:.3f} over {result.decode_steps} steps",
            "speed per bandwidth": f"{position.tokens_per_s_per_gb_per_s:.3g} tokens/s per GB/s",
        }
    pairs |= {
        "end to end": si(result.e2e_s, "s"),
        "cycles": f"{result.cycles:,}",
        "off-chip traffic": si(result.dram_bytes, "B"),
        "energy": si(result.energy_j, "J"),
        "area": f"{result.area_mm2:.2f} mm2",
    }
    if len(result.switches):
        pairs["precision switches"] = f"{len(result.switches)}, together {result.switch_cycles:,} cycles"
    for phase in position.phases:
        reached = "" if phase.share_of_bound is None else f", {phase.share_of_bound:.1%} of the bound"
        pairs[f"{phase.phase} intensity"] = f"{phase.macs_per_byte:.3g} MACs/B, {phase.side}-bound side{reached}"
    pairs["ridge point"] = f"{position.ridge_macs_per_byte:.3g} MACs/B"
    pairs |= {f"busy {unit}": _unit_text(result, unit) for unit in result.utilisation}
    print_pairs(pairs)
