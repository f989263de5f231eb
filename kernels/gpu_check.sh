#!/usr/bin/env bash
# Everything a GPU must show, on a bare machine with Python, torch and triton, within eight minutes: tests and checks
# side by side (they compile, on all cores), then tuning and the benchmark, alone (they time).
#
#   kernels/gpu_check.sh [--dry-run] [OUT]      OUT is results/gpu by default
#
# Exit code 0: every part succeeded; 1: a part failed, see the summary; 2: wrong arguments; 3: no usable GPU here, and
# nothing was written. PYTHON names the interpreter (default python3). A part that fails or runs out of time does not
# stop the next one.
set -uo pipefail

# 5 + 130 + 85 + 250 = 470 s. Beside its own limit a part gets some seconds to end.
TESTS_S=130
TUNE_S=85
TUNE_MINUTES=1.2
BENCH_S=250
BENCH_MINUTES=3.9

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0"; }

dry_run=0
out=""
for argument in "$@"; do
    case "$argument" in
        --dry-run) dry_run=1 ;;
        -h | --help)
            usage
            exit 0
            ;;
        -*)
            echo "gpu_check.sh: $argument: unknown option; see --help" >&2
            exit 2
            ;;
        *)
            if [ -n "$out" ]; then
                echo "gpu_check.sh: $argument: takes one folder only; see --help" >&2
                exit 2
            fi
            out="$argument"
            ;;
    esac
done
out="${out:-results/gpu}"
case "$out" in /*) ;; *) out="$PWD/$out" ;; esac
python="${PYTHON:-python3}"
case "$python" in */*) python="$(cd "$(dirname "$python")" && pwd)/$(basename "$python")" ;; esac
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH=.
# An interpreted kernel says nothing about a GPU.
unset TRITON_INTERPRET
# A process a core: more threads of each would only take turns.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# The longest first: they compile most.
test_files() {
    find tests/gpu tests/unit/kernels -name 'test_*.py' -printf '%s %p\n' 2>/dev/null | sort -rn | cut -d ' ' -f 2-
}

# One process a file, since each compiles its own kernels. What pyproject.toml wants of pytest needs plug-ins that a
# bare machine lacks.
run_test_file() {
    "$1" -m pytest -q -o addopts= --import-mode=importlib -p no:cacheprovider -m '(gpu or not slow) and not full' "$3" \
        >"$2/$(basename "$3" .py).log" 2>&1
    local code=$?
    # 5: every test of the file was left out.
    [ "$code" = 5 ] && code=0
    [ "$code" = 0 ] || echo "$3: exit code $code, see $2/$(basename "$3" .py).log"
    return "$code"
}
export -f run_test_file

run_tests() {
    "$python" -c 'import pytest' 2>/dev/null || { echo "pytest is not installed: no tests were run"; return 1; }
    mkdir -p "$out/tests"
    test_files | timeout -k 5 "$TESTS_S" xargs -P "$(nproc 2>/dev/null || echo 4)" -I{} \
        bash -c 'run_test_file "$@"' run_test_file "$python" "$out/tests" {}
}

run_check() { timeout -k 5 "$TESTS_S" "$python" -m kernels check --csv "$out/check.csv"; }

run_tune() { timeout -k 5 "$TUNE_S" "$python" -m kernels tune --minutes "$TUNE_MINUTES" --out "$out/tuning"; }

if [ "$dry_run" = 1 ]; then
    echo "tests  at most $TESTS_S s: $(test_files | wc -l) files of tests/gpu and tests/unit/kernels, side by side"
    echo "check  at most $TESTS_S s, beside the tests: $python -m kernels check --csv $out/check.csv"
    echo "tune   at most $TUNE_S s: $python -m kernels tune --minutes $TUNE_MINUTES --out $out/tuning"
    echo "bench  at most $BENCH_S s: $python -m kernels bench --minutes $BENCH_MINUTES --out $out/bench"
    exit 0
fi

# Its last line says what is in the way; an empty one, that nothing is.
if ! found=$("$python" - 2>&1 <<'PYTHON'
import sys
try:
    import torch
except ImportError:
    sys.exit("torch is not installed for this Python; set PYTHON to another one")
if not torch.cuda.is_available():
    sys.exit("torch sees no NVIDIA GPU")
from kernels.dispatch import device_obstacle
obstacle = device_obstacle(torch.device("cuda", torch.cuda.current_device()))
if obstacle is not None:
    sys.exit(obstacle)
from kernels.bench.device import describe_device
for name, value in describe_device(torch.device("cuda", torch.cuda.current_device())).items():
    print(f"{name:<16}  {value}")
PYTHON
); then
    echo "gpu_check.sh: $(tail -n 1 <<<"$found"); nothing was run or written" >&2
    exit 3
fi
mkdir -p "$out" || exit 2
tee "$out/device.txt" <<<"$found"

status=0
summary=""
finish() {
    local part=$1 code=$2 began=$3 result="succeeded"
    [ "$code" = 0 ] || { result="failed with exit code $code" && status=1; }
    [ "$code" = 124 ] || [ "$code" = 137 ] && result="ran out of time"
    summary+="$(printf '%-6s  %s after %d s, see %s' "$part" "$result" $((SECONDS - began)) "$out/$part.log")"$'\n'
}

began=$SECONDS
run_tests >"$out/tests.log" 2>&1 &
tests=$!
run_check >"$out/check.log" 2>&1 &
check=$!
wait "$check"
finish check $? "$began"
wait "$tests"
finish tests $? "$began"
grep '^FAIL' "$out/check.log" | head -n 20
head -n 20 "$out/tests.log"

began=$SECONDS
run_tune >"$out/tune.log" 2>&1
finish tune $? "$began"

# The benchmark runs with what was just tuned.
table=$(find "$out/tuning" -maxdepth 1 -name '*.json' 2>/dev/null | head -n 1)
[ -n "$table" ] && export BITTAPER_TUNING="$table"
began=$SECONDS
# A folder of an earlier run is taken up again.
[ -f "$out/bench/state.json" ] && resume=(--resume) || resume=()
timeout -k 5 "$BENCH_S" "$python" -m kernels bench --minutes "$BENCH_MINUTES" --out "$out/bench" "${resume[@]}" \
    >"$out/bench.log" 2>&1
finish bench $? "$began"
tail -n 40 "$out/bench.log"

echo
printf '%s' "$summary" | tee "$out/summary.txt"
echo "all in $SECONDS s; results in $out"
exit "$status"
