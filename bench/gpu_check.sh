#!/usr/bin/env bash
# Everything that only a machine with a GPU can show, in one command.
#
#   bench/gpu_check.sh pack     makes build/gpu (under 60 MiB), for a bare machine: programs with the CUDA runtime inside,
#                               the few libraries they load, and in build/gpu/deps what building there needs
#   bench/gpu_check.sh          runs the checks: builds where there are nvcc and cmake, else takes the programs of build/gpu
#
# Each step prints met, missed or "not measured" and the next one goes on. Ends with a table, and with gpu_check.json,
# bench.json, bench.csv, roofline.svg and the logs in $OUT (or bench/results/). Exit code 0: all that was asked for was
# measured and met; 1: something was missed; 2: nothing was missed, but something was not measured; 64: wrong usage.
#
#   GPU_CHECK_SECONDS=540       all of it; later steps are left out when time is short (default: no limit)
#   GPU_CHECK_BENCH_SECONDS=200 of them for bench, which takes minutes and says what matters most first
#   GPU_CHECK_STEPS="a b"       only these: build equality nccl merges together large memcheck racecheck synccheck endtoend
#                               experts bench peer. Where one turn is too short, several; without build they take build/gpu
#   GPU_CHECK_DEVICE=cpu        a rehearsal without a GPU: the CPU takes its part, and bench is quick
#   GPU_CHECK_LAYERS=32         layers of the 8B shape merged end to end (default: as many as fit into the RAM disk)
#   GPU_CHECK_EXPERT_LAYERS=8   layers of 384 experts each (default: as many as fit, at most 8, or 1 when time is short)
#   WM_CUDA_ARCHS="80;90"       what pack compiles for (default: 80, 90 and PTX for later ones); otherwise what nvidia-smi says
# shellcheck disable=SC1091,SC2034,SC2154 # variables and steps go to and fro between the sourced files
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
root=$PWD
gpu=$root/build/gpu
export PATH=$PATH:/usr/local/cuda/bin
. "$root/bench/gpu_check_build.sh"
. "$root/bench/gpu_check_same.sh"
. "$root/bench/gpu_check_speed.sh"
all_steps="build equality nccl merges together large memcheck racecheck synccheck endtoend experts bench peer"

case ${1:-} in
pack)
    pack
    exit 0
    ;;
"") ;;
*)
    echo "usage: bench/gpu_check.sh [pack]" >&2
    exit 64
    ;;
esac

# ---- on the machine --------------------------------------------------------------------------------------------

out=${OUT:-$root/bench/results}
mkdir -p "$out"
limit=${GPU_CHECK_SECONDS:-0}
device=${GPU_CHECK_DEVICE:-cuda}
quick=
[ "$device" = cuda ] || quick=--quick
steps=${GPU_CHECK_STEPS:-$all_steps}
for step in $steps; do
    case " $all_steps " in
    *" $step "*) ;;
    *)
        echo "GPU_CHECK_STEPS: there is no step \"$step\"; there are: $all_steps" >&2
        exit 64
        ;;
    esac
done
rows=$out/gpu_check.rows
: >"$rows"
# Containers often have a /dev/shm of 64 MB, in which nothing fits.
ram=$(mktemp -d /dev/shm/gpu_check.XXXXXX 2>/dev/null) || ram=$(mktemp -d)
if [ "$(df -m --output=avail "$ram" | tail -1)" -lt 8000 ]; then
    rm -rf "$ram"
    ram=$(mktemp -d)
fi

left() { # seconds
    if [ "$limit" -gt 0 ]; then echo $((limit - SECONDS)); else echo 86400; fi
}

# row NAME VERDICT VALUE GOAL UNIT DETAIL...: VERDICT met, missed, measured (there is no goal) or none (not measured)
row() {
    local name=$1 verdict=$2 value=$3 goal=$4 unit=$5
    shift 5
    [ "$verdict" != none ] || verdict="not measured"
    printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$name" "$verdict" "$value" "$goal" "$unit" "$*" >>"$rows"
    printf '%5d s  %-12s  %-30s %8s %-8s %s\n' "$SECONDS" "$verdict" "$name" "$value" "$unit" "$*"
}

# shellcheck disable=SC2317 # the steps call it, from a file of their own
rows_of() { # rows_of NAME COMMAND...: the command prints rows; a step of their own when it cannot
    local step=$1 name verdict value goal unit detail
    shift
    if "$@" >"$ram/new.rows" 2>"$out/$step.rows.log"; then
        while IFS='|' read -r name verdict value goal unit detail; do
            row "$name" "$verdict" "$value" "$goal" "$unit" "$detail"
        done <"$ram/new.rows"
    else
        row "$step" missed "" "" "" "$(tail -n 1 "$out/$step.rows.log")"
    fi
}

wanted() { # wanted STEP SECONDS: chosen, and time enough
    case " $steps " in
    *" $1 "*) ;;
    *) return 1 ;;
    esac
    [ "$(left)" -ge "$2" ] && return 0
    row "$1" none "" "" "" "$(left) s left, $2 s needed"
    return 1
}

# at_most SECONDS COMMAND...: so long where there is a limit; an hour, for what hangs, where there is none
at_most() {
    local seconds=$1
    shift
    if [ "$limit" -le 0 ]; then seconds=3600; fi
    [ "$seconds" -le "$(left)" ] || seconds=$(left)
    [ "$seconds" -ge 1 ] || seconds=1
    timeout -k 10 "$seconds" "$@"
}

# run NAME SECONDS COMMAND...: met when it ends with 0 in time; its last line is the detail.
run() {
    local name=$1 seconds=$2 began=$SECONDS
    shift 2
    at_most "$seconds" "$@" >"$out/$name.log" 2>&1
    judge "$name" $? $((SECONDS - began))
}

judge() { # judge NAME EXIT_CODE SECONDS: of a step whose log is $out/NAME.log
    local detail
    detail=$(tail -n 1 "$out/$1.log" | tr '|\t' '  ' | cut -c1-150)
    # A sandbox may not let compute-sanitizer at the device: that says nothing about the kernels.
    if [ "$2" -ne 0 ] && grep -q '^=* *Error: *Device not supported' "$out/$1.log"; then
        row "$1" none "" "" "" "compute-sanitizer: device not supported"
        return "$2"
    fi
    case $2 in
    0) row "$1" met "$3" "" s "$detail" ;;
    77) row "$1" none "" "" "" "$detail" ;;
    124 | 137) row "$1" missed "$3" "" s "not done in time: $detail" ;;
    *) row "$1" missed "$3" "" s "exit $2: $detail" ;;
    esac
    return "$2"
}

# shellcheck disable=SC2317 # the trap calls it
finish() {
    local code
    python3 "$root/bench/gpu_check_rows.py" table "$rows" "$out/gpu_check.json" "$SECONDS" "$device" "$steps" "$all_steps"
    code=$?
    # Few files: the logs and the end-to-end results go into one.
    (cd "$out" && find . -maxdepth 1 \( -name '*.log' -o -name '*.rows' -o -name 'e2e_*.json' -o -name 'peer_*.json' \
        -o -name 'check_*.json' \) -print0 | tar --null -czf gpu_check_logs.tgz --remove-files -T -)
    rm -rf "$ram"
    exit "$code"
}
trap finish EXIT # a run that is cut off says what it saw until then
trap 'exit 1' INT TERM

tools
if [[ " $steps " == *" build "* ]] || [ ! -x "$gpu/warpmerge" ]; then
    build_here
fi
if [ ! -x "$programs/warpmerge" ]; then
    row programs missed "" "" "" "none were carried in build/gpu (bench/gpu_check.sh pack), and none could be built"
    exit 1
fi
if [ "$programs" = "$gpu" ] && [ "$(state_of_sources)" != "$(cat "$gpu/sources.txt" 2>/dev/null)" ]; then
    row programs missed "" "" "" "those of build/gpu were made from other sources than these (bench/gpu_check.sh pack)"
fi
# Without persistence mode the driver lets go of a GPU that nobody has open, and the next program starts it anew.
{ exec 9<>/dev/nvidia0; } 2>/dev/null
wanted equality 20 && run equality 120 "$programs/device_equality"
wanted memcheck 40 && memcheck
wanted racecheck 40 && racecheck
wanted synccheck 20 && synccheck
wanted merges 30 && step_of merges
wanted together 30 && step_of together
wanted large 60 && step_of large
wanted nccl 20 && run nccl 60 env WM_NCCL_LIBRARY="$(nccl_library)" "$programs/nccl_ranks"
wanted endtoend 60 && endtoend
wanted experts 50 && experts
wanted bench 60 && bench
wanted peer 60 && peers
exit 0
