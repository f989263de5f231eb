"""What must hold of a new unit: nothing changes without it, both engines agree, and no bound is beaten."""

import hwsim
from hwsim.simulation import EngineName
from hwsim.trace import Schedule, synthetic_trace

shape = hwsim.load_shape("phi-1.5")
trace = synthetic_trace(shape, Schedule.from_label("p4:4>3@3"), prompt_tokens=96, decode_tokens=6)


def npu(stored_share: float, bytes_per_cycle: int) -> hwsim.NpuConfig:
    unit = {"stored_share": stored_share, "bytes_per_cycle": bytes_per_cycle}
    return hwsim.load_npu("pmpd-4k", {"decompressor": unit})


def run(design: hwsim.NpuConfig, engine: EngineName = "events") -> hwsim.SimulationResult:
    return hwsim.simulate(design, shape, trace, hwsim.SimulationOptions(engine=engine))


plain = run(hwsim.load_npu("pmpd-4k"))
assert run(npu(1.0, 1 << 20)).cycles == plain.cycles, "a unit that stores all and never holds up changes nothing"

cycles = {}
for share in (0.9, 0.6):
    for rate in (16, 24, 1 << 20):
        design = npu(share, rate)
        result = run(design)
        cycles[share, rate] = result.cycles
        assert result.cycles == run(design, "fast").cycles, "both engines agree to the cycle"
        assert result.cycles >= hwsim.roofline_cycles(design, shape, trace), "nothing beats the roofline"
        stored, planes = result.bytes_by_kind["weights"], plain.bytes_by_kind["weights"]
        assert share * planes <= stored <= share * planes * 1.01, "the bytes of planes shrink by the share"
    assert cycles[share, 16] >= cycles[share, 24] >= cycles[share, 1 << 20], "a slower unit is never faster"
assert cycles[0.6, 1 << 20] < cycles[0.9, 1 << 20] < plain.cycles, "less to read is faster while the bus limits"

designs = [npu(0.9, 24), npu(0.6, 24)]
grid = hwsim.evaluate_grid(designs, shape, [Schedule.from_label("p4:4>3@3")], prompt_tokens=96, decode_tokens=6)
assert [int(grid.decode_cycles[row, 0] + grid.prefill_cycles[row, 0]) for row in (0, 1)] == [
    cycles[0.9, 24],
    cycles[0.6, 24],
], "a grid tells designs apart by the new unit"
print(f"{plain.cycles / cycles[0.6, 1 << 20]:.2f} times as fast with planes at 60%")
