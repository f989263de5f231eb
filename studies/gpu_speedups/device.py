"""Tables 3 and 6 for a measured device: what ``bittaper kernels bench`` found, under the paper's weights of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from hwsim import load_shape
from hwsim.trace import InputError
from studies.gpu_speedups.paper import FULL_PRECISION_BITS, REPRESENTATIVES, Mixture

CACHES = ("cold", "warm")
_LINEAR_COLUMNS = {"device", "operation", "N", "K", "M", "weight_bits", "decoder", "l2_state", "p50_us", "status"}
_DECODE_COLUMNS = {"device", "model", "run", "p50_us", "decode_tokens_per_s", "status"}
US_PER_S = 1e6


def device_tables(folders: Sequence[Path], mixtures: Mapping[str, Mixture]) -> dict[str, pd.DataFrame]:
    """``device_table3`` and ``device_table6`` of every folder.

    Table 3 stands there twice: with a cold L2 cache, as in a model, and with a warm one, as one layer timed again and
    again. PMPD is weighted as the paper's: by the share of steps at each width. A model is left out of a table where a
    width of it was not measured.

    Raises:
        InputError: If a folder holds no such results, or results of other columns.
    """
    layers: list[dict[str, object]] = []
    steps: list[dict[str, object]] = []
    for folder in folders:
        linears = _read(folder, "linears", _LINEAR_COLUMNS)
        linears = linears[(linears["operation"] == "linear") & (linears["M"] == 1)]
        decode = _read(folder, "decode", _DECODE_COLUMNS)
        for mixture in mixtures.values():
            layers += _layers(linears, mixture)
            steps += _end_to_end(decode, mixture)
    if not layers and not steps:
        raise InputError(
            f"{', '.join(map(str, folders))}: no model was measured at fp16 and both of its widths; "
            "run bittaper kernels bench to its end, or with --resume"
        )
    return {"device_table3": pd.DataFrame(layers), "device_table6": pd.DataFrame(steps)}


def _read(folder: Path, name: str, columns: set[str]) -> pd.DataFrame:
    path = folder / f"{name}.csv"
    if not path.is_file():
        raise InputError(f"{path}: missing; --measured takes a folder that bittaper kernels bench wrote")
    table = pd.read_csv(path)
    if missing := sorted(columns - set(table.columns)):
        raise InputError(f"{path}: has no column {missing[0]}; write it with this version of bittaper kernels bench")
    return table[table["status"] == "ok"]


def _layers(linears: pd.DataFrame, mixture: Mixture) -> list[dict[str, object]]:
    shapes = {name: (N, K) for name, N, K in load_shape(mixture.model).block_linears()}
    rows: list[dict[str, object]] = []
    for what, layer in REPRESENTATIVES.items():
        N, K = shapes[layer]
        for cache in CACHES:
            found = linears[(linears["N"] == N) & (linears["K"] == K) & (linears["l2_state"] == cache)]
            # Free codebooks a row, as the paper's stores have; half precision has no decoder.
            codebooks = found[(found["decoder"] == "permute") | (found["weight_bits"] == FULL_PRECISION_BITS)]
            time = {int(row["weight_bits"]): float(row["p50_us"]) for _, row in codebooks.iterrows()}
            rows += _speedups(
                {"device": _device(codebooks), "model": mixture.model, "what": what, "l2_state": cache}, time, mixture
            )
    return rows


def _end_to_end(decode: pd.DataFrame, mixture: Mixture) -> list[dict[str, object]]:
    found = decode[decode["model"] == mixture.model]
    uniform = found[found["run"].astype(str).str.fullmatch(r"\d+")]
    time = {int(row["run"]): US_PER_S / float(row["decode_tokens_per_s"]) for _, row in uniform.iterrows()}
    return _speedups({"device": _device(found), "model": mixture.model}, time, mixture)


def _speedups(labels: dict[str, object], time_us: Mapping[int, float], mixture: Mixture) -> list[dict[str, object]]:
    """One row, or none where a width is missing."""
    widths = (FULL_PRECISION_BITS, mixture.high_bits, mixture.low_bits)
    if any(bits not in time_us for bits in widths):
        return []
    full, high, low = (time_us[bits] for bits in widths)
    return [
        {
            **labels,
            "high_bits": mixture.high_bits,
            "low_bits": mixture.low_bits,
            "mean_decode_bits": mixture.mean_decode_bits,
            "fp16_us": full,
            "high_us": high,
            "low_us": low,
            "baseline_h": full / high,
            "pmpd": full / mixture.mix(high, low),
        }
    ]


def _device(rows: pd.DataFrame) -> str:
    return "" if rows.empty else str(rows["device"].iloc[-1])
