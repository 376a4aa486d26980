#!/usr/bin/env bash
# Everything that only a machine with a GPU can show, in one command.
#
#   bench/gpu_check.sh pack     builds what a bare machine needs into build/gpu (under 60 MiB): programs for sm_90 with
#                               the CUDA runtime inside, and the few libraries they load
#   bench/gpu_check.sh          runs the checks, with build/gpu if it is there, else with what it can build
#
# Each step says pass, FAIL or skip and the next one goes on. Ends with a table, and with gpu_check.json, bench.json,
# bench.csv, roofline.svg and the logs in $OUT (or bench/results/). Exit code 1 when a step failed. On a machine with 16
# cores it takes about 8 minutes.
#
#   GPU_CHECK_SECONDS=540       all of it; later steps are left out when time is short
#   GPU_CHECK_STEPS="a b"       only these: equality nccl merges large memcheck racecheck bench endtoend experts
#   GPU_CHECK_DEVICE=cpu        a rehearsal without a GPU: the CPU takes its part, and bench is quick
#   GPU_CHECK_LAYERS=32         layers of the 8B shape merged end to end (default: as many as fit into the RAM disk)
#   GPU_CHECK_EXPERT_LAYERS=8   layers of 384 experts each (default: as many as fit, at most 8, or 1 when time is short)
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
root=$PWD
gpu=$root/build/gpu
export PATH=$PATH:/usr/local/cuda/bin

build() { # build ARCHS: configures and builds into build/gpu-build
    cmake -S "$root" -B "$root/build/gpu-build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_FLAGS_RELEASE=-O3 -DWM_CUDA=ON \
        -DWM_CUDA_ARCHS="$1" -DCMAKE_CUDA_FLAGS=--resource-usage &&
        cmake --build "$root/build/gpu-build" --parallel "$(nproc)" \
            --target warpmerge_cli device_equality nccl_ranks make_checkpoint plain_copy \
            2>&1 | tee -a "$root/build/gpu-build/build.log" # what is not compiled again was said earlier
}

# What ptxas said of each kernel, the last time: registers, stack and spills (cuobjdump is not part of every toolkit).
registers() {
    awk '/Compiling entry function/ { split($0, quoted, "\047"); kernel = quoted[4] "\t" quoted[2] }
         /bytes stack frame/ { stack[kernel] = $1 " bytes stack, " $5 " and " $9 " spilled" }
         /Used [0-9]+ registers/ { sub(/.*Used /, ""); used[kernel] = $1 }
         END { for (kernel in used) printf "%3d registers, %s\t%s\n", used[kernel], stack[kernel], kernel }' \
        "$root/build/gpu-build/build.log" | sort -k7 | { c++filt 2>/dev/null || cat; }
}

pack() {
    build "${WM_CUDA_ARCHS:-90}" || exit 1
    rm -rf "$gpu"
    mkdir -p "$gpu/lib"
    for program in warpmerge make_checkpoint plain_copy tests/device/device_equality tests/device/nccl_ranks; do
        cp "$root/build/gpu-build/$program" "$gpu/" || exit 1
        strip "$gpu/${program##*/}"
        # Everything but the C library, which every machine has (built here with an older one than it runs with).
        ldd "$gpu/${program##*/}" | awk '$3 ~ /^\// && $1 !~ /^(libc|libm|libpthread|libdl|librt)\./ { print $3 }' |
            xargs -r cp -Lut "$gpu/lib"
    done
    registers >"$gpu/registers.txt"
    [ -s "$gpu/registers.txt" ] || { echo "nobody said how many registers the kernels use"; exit 1; }
    du -sh "$gpu"
    [ "$(du -sm "$gpu" | cut -f1)" -lt 60 ] || { echo "build/gpu is over 60 MiB"; exit 1; }
}

case ${1:-} in
pack)
    pack
    exit 0
    ;;
"") ;;
*)
    echo "usage: bench/gpu_check.sh [pack]" >&2
    exit 2
    ;;
esac

# ---- on the machine --------------------------------------------------------------------------------------------

out=${OUT:-$root/bench/results}
mkdir -p "$out"
limit=${GPU_CHECK_SECONDS:-540}
device=${GPU_CHECK_DEVICE:-cuda}
quick=
[ "$device" = cuda ] || quick=--quick
steps=${GPU_CHECK_STEPS:-equality nccl merges large memcheck racecheck bench endtoend experts}
rows=$out/gpu_check.rows
: >"$rows"
if [ ! -x "$gpu/warpmerge" ]; then
    echo "building (no build/gpu was carried here)"
    pack >"$out/build.log" 2>&1 || {
        tail -20 "$out/build.log"
        exit 1
    }
fi
export LD_LIBRARY_PATH=$gpu/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
ram=$(mktemp -d /dev/shm/gpu_check.XXXXXX 2>/dev/null) || ram=$(mktemp -d)
trap 'rm -rf "$ram"' EXIT

left() {
    echo $((limit - SECONDS))
}

# row NAME VERDICT DETAIL...
row() {
    local name=$1 verdict=$2
    shift 2
    printf '%s\t%s\t%s\n' "$name" "$verdict" "$*" >>"$rows"
    printf '%4d s  %-5s %-34s %s\n' "$SECONDS" "$verdict" "$name" "$*"
}

wanted() { # wanted STEP SECONDS: chosen, and time enough
    case " $steps " in
    *" $1 "*) ;;
    *) return 1 ;;
    esac
    [ "$(left)" -ge "$2" ] && return 0
    row "$1" skip "$(left) s left, $2 s needed"
    return 1
}

# run NAME SECONDS COMMAND...: pass when it ends with 0 in time; its last line is the detail.
run() {
    local name=$1 seconds=$2 log began code detail
    shift 2
    [ "$seconds" -le "$(left)" ] || seconds=$(left)
    log=$out/$name.log
    began=$SECONDS
    timeout "$seconds" "$@" >"$log" 2>&1
    code=$?
    detail="$(tail -n 1 "$log" | cut -c1-150) ($((SECONDS - began)) s)"
    case $code in
    0) row "$name" pass "$detail" ;;
    77) row "$name" skip "$detail" ;;
    124) row "$name" FAIL "not done after $seconds s" ;;
    *) row "$name" FAIL "exit $code: $detail" ;;
    esac
    return $code
}

judge() { # judge NAME EXIT_CODE: of a step whose log is $out/NAME.log
    local verdict=FAIL
    [ "$2" -ne 0 ] || verdict=pass
    [ "$2" -ne 77 ] || verdict=skip
    row "$1" "$verdict" "$(tail -n 1 "$out/$1.log")"
    rm -rf "$ram/small" "$ram/large" "$ram/cpu" "$ram/gpu"
}

# config NAME BASE: a recipe for every method over three fine-tunes in $models, as mergekit writes them.
config() {
    case $1 in
    linear | linear3) printf 'merge_method: linear\nmodels:\n' ;;
    slerp) printf 'merge_method: slerp\nbase_model: %s/ft1\nparameters: {t: 0.3}\nmodels:\n' "$models" ;;
    nuslerp) printf 'merge_method: nuslerp\nparameters: {nuslerp_flatten: false}\nmodels:\n' ;;
    task_arithmetic) printf 'merge_method: task_arithmetic\nbase_model: %s/base\nmodels:\n' "$models" ;;
    mergealign) printf 'merge_method: mergealign\nbase_model: %s/base\nmodels:\n' "$models" ;;
    *) printf 'merge_method: %s\nbase_model: %s/base\nparameters: {density: 0.5}\nmodels:\n' "$1" "$models" ;;
    esac
    local n=3 i
    case $1 in slerp | nuslerp | mergealign | linear) n=2 ;; esac
    for i in $(seq $n); do
        printf '  - {model: %s/ft%d, parameters: {weight: 0.%d}}\n' "$models" "$i" $((6 - i))
    done
}

# same_bytes METHOD OPTIONS...: every file of the output, the manifest included, is that of $ram/cpu.
same_bytes() {
    local method=$1
    shift
    rm -rf "$ram/gpu"
    "$gpu/warpmerge" merge "$ram/$method.yml" "$ram/gpu" --device "$device" --no-sync --progress none --quiet "$@" &&
        diff -r "$ram/cpu" "$ram/gpu" && return 0
    echo "DIFFERENT: $method $*"
    return 1
}

# on_cpu METHOD: into $ram/cpu.
on_cpu() {
    config "$1" >"$ram/$1.yml"
    rm -rf "$ram/cpu"
    "$gpu/warpmerge" merge "$ram/$1.yml" "$ram/cpu" --device cpu --no-sync --progress none --quiet
}

# Same bytes on CPU and GPU, in small tiles and in little memory.
merges() {
    local failed=0 n_same=0 method more
    models=$ram/small
    "$gpu/make_checkpoint" tinyllama-1.1b --layers 2 --vocab 8191 --fine-tunes 3 --seed 5 --out "$models" || return 1
    for method in linear linear3 slerp nuslerp task_arithmetic ties dare_linear dare_ties mergealign; do
        on_cpu "$method" || return 1
        for more in "" "--tile 256KiB" "--device-memory 256MiB" "--verify-sample 100"; do
            # shellcheck disable=SC2086 # options
            if same_bytes "$method" $more; then n_same=$((n_same + 1)); else failed=$((failed + 1)); fi
        done
    done
    echo "$n_same merges same, $failed different"
    return $((failed > 0))
}

# The same with a tensor of more than 2^31 elements and 2^32 bytes: resident on the GPU, for ties streamed.
large() {
    local failed=0 n_same=0 method more vocab=1100000
    models=$ram/large
    if [ "$device" != cuda ]; then
        vocab=9001
    elif [ "$(df -m --output=avail /dev/shm | tail -1)" -lt 32000 ]; then
        echo "the RAM disk is too small"
        return 77
    fi
    "$gpu/make_checkpoint" tinyllama-1.1b --layers 1 --vocab "$vocab" --tied --fine-tunes 3 --seed 7 \
        --out "$models" || return 1
    for method in slerp ties dare_ties; do
        on_cpu "$method" || return 1
        more=
        [ "$method" != ties ] || more="--device-memory 2GiB"
        # shellcheck disable=SC2086 # options
        if same_bytes "$method" $more; then n_same=$((n_same + 1)); else failed=$((failed + 1)); fi
    done
    echo "$n_same merges of $vocab x 2048 same, $failed different"
    return $((failed > 0))
}

sanitizer() { # sanitizer TOOL EVERY: on a part of the grid, since it slows kernels down by an order or two
    if command -v compute-sanitizer >/dev/null; then
        run "$1" 50 compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 5 "$gpu/device_equality" --every "$2"
    else
        row "$1" skip "no compute-sanitizer here"
    fi
}

nccl_library() { # PyTorch's, or else the system's: NCCL is too large to be carried
    python3 -c 'import nvidia.nccl as nccl; print(list(nccl.__path__)[0] + "/lib/libnccl.so.2")' 2>/dev/null
}

number() { # number FILE KEY: of a JSON file's top level
    python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$1" "$2" 2>/dev/null || echo 0
}

room_mb() { # of the RAM disk, with memory left for the programs
    local free_mb memory_mb
    free_mb=$(df -m --output=avail /dev/shm | tail -1)
    memory_mb=$(($(awk '/MemAvailable/ { print $2 }' /proc/meminfo) / 1024 - 12000))
    [ "$memory_mb" -ge "$free_mb" ] || free_mb=$memory_mb
    echo "$free_mb"
}

# The largest number of layers of an 8B shape (2.1 GB, 0.44 GB a layer) of which base, three fine-tunes and two outputs
# fit.
layers() {
    local n
    n=$((($(room_mb) / 5 - 2150) / 440))
    [ "$n" -le 32 ] || n=32
    echo "$n"
}

merge_once() { # merge_once METHOD DEVICE [NAME]: writes $out/e2e_NAME_DEVICE.json; NAME is METHOD if not given
    local name=${3:-$1}
    rm -rf "$ram/out"
    timeout "$(left)" "$gpu/warpmerge" merge "$ram/$1.yml" "$ram/out" --device "$2" --memory 8GiB --no-sync \
        --progress none --json >"$out/e2e_${name}_$2.json" 2>"$out/e2e_${name}_$2.log"
}

peer() { # peer METHOD ARGUMENTS...
    local method=$1 base
    shift
    base="--device $device"
    [ "$method" = linear3 ] || base="--base $models/base --device $device"
    # shellcheck disable=SC2086 # two words or none
    timeout "$(left)" python3 "$root/bench/torch_peer.py" "${method%3}" --out "$ram/peer" $base "$@" \
        "$models/ft1:0.5" "$models/ft2:0.4" "$models/ft3:0.3"
}

# What the wires and the memory allow: every input byte goes to the device once, and every byte is copied once between
# the RAM disk and a buffer.
share() { # share METHOD
    local line
    line=$(python3 - "$out/bench.json" "$out/e2e_$1_$device.json" <<'PY'
import json, sys
bench, merge = (json.load(open(f)) for f in sys.argv[1:3])
rate = {c["id"]: c["bytes_per_second"] for c in bench["ceilings"]}
wire = merge["bytes_read"] / rate["h2d"] if "h2d" in rate else 0
copy = 2 * (merge["bytes_read"] + merge["bytes_written"]) / rate["host_copy"]
share = max(wire, copy) / merge["seconds"]
print("%s\t%.0f %% of the limit: host to device %.2f s, host copy %.2f s, merge %.2f s; wanted 80 %%" % (
    "pass" if share >= 0.8 or "h2d" not in rate else "FAIL", 100 * share, wire, copy, merge["seconds"]))
PY
) 2>/dev/null && row "e2e_share_$1" "${line%%	*}" "${line#*	}"
}

endtoend() {
    local n method where places ours theirs has_torch=false
    python3 -c 'import torch, safetensors' 2>/dev/null && has_torch=true
    places=$device
    [ "$device" = cpu ] || places="$device cpu"
    models=$ram/big
    n=${GPU_CHECK_LAYERS:-$(layers)}
    [ "$n" -ge 1 ] || {
        row endtoend skip "the RAM disk is too small"
        return
    }
    run e2e_models 150 "$gpu/make_checkpoint" llama-3-8b --layers "$n" --fine-tunes 3 --seed 9 --out "$models" || return
    for method in linear3 ties; do
        config "$method" >"$ram/$method.yml"
        for where in $places; do
            if [ "$(left)" -lt 20 ]; then
                row "e2e_${method}_$where" skip "$(left) s left"
                continue
            fi
            if merge_once "$method" "$where"; then
                row "e2e_${method}_$where" pass "$n layers, $(python3 - "$out/e2e_${method}_$where.json" <<'PY'
import json, sys
j = json.load(open(sys.argv[1]))
moved = j["bytes_read"] + j["bytes_written"]
print("%.2f s, read %.1f GB, %.2f GB/s in, %.2f GB/s in and out, limited by %s" % (
    j["seconds"], j["bytes_read"] / 1e9, j["bytes_read"] / j["seconds"] / 1e9, moved / j["seconds"] / 1e9, j["limiter"]))
PY
)"
            else
                row "e2e_${method}_$where" FAIL "$(tail -n 1 "$out/e2e_${method}_$where.log")"
            fi
            # The peer's values in fp32 are ours, bit for bit: linear of three and the task-vector family.
            if $has_torch && [ "$where" = "$device" ] && [ "$(left)" -ge 40 ]; then
                if peer "$method" --check "$ram/out" >"$out/check_$method.json" 2>"$out/check_$method.log" &&
                    [ "$(number "$out/check_$method.json" n_different)" = 0 ]; then
                    row "values_$method" pass "$(number "$out/check_$method.json" n_elements) elements equal PyTorch's in fp32"
                else
                    row "values_$method" FAIL "$(tail -n 1 "$out/check_$method.json" "$out/check_$method.log" | tr '\n' ' ')"
                fi
            fi
        done
        rm -rf "$ram/out"
        share "$method"
        if ! $has_torch; then
            row "peer_$method" skip "no PyTorch here"
        elif [ "$(left)" -ge 40 ] && peer "$method" >"$out/peer_$method.json" 2>"$out/peer_$method.log"; then
            ours=$(number "$out/e2e_${method}_$device.json" seconds)
            theirs=$(number "$out/peer_$method.json" seconds)
            row "peer_$method" pass "PyTorch on the GPU $(printf %.2f "$theirs") s: $(awk "BEGIN { print ($ours > 0) ? sprintf(\"%.2f\", $theirs / $ours) : \"?\" }") times ours"
        else
            row "peer_$method" FAIL "$(left) s left; $(tail -n 1 "$out/peer_$method.log" 2>/dev/null)"
        fi
        rm -rf "$ram/peer"
    done
    rm -rf "$models"
}

# A mixture of experts, and the same bytes in large tensors: layers of Qwen3-30B-A3B, whose 384 experts have 1.6 M elements
# each, and of a model with one expert that is as large as all of them. What many tensors cost shows in the ratio.
experts() {
    local n layout method turn name verdict detail
    n=$(($(room_mb) / 5 / 1260))
    [ "$n" -le 8 ] || n=8
    [ "$n" -le 1 ] || [ "$(left)" -ge 200 ] || n=1
    n=${GPU_CHECK_EXPERT_LAYERS:-$n}
    [ "$n" -ge 1 ] || {
        row experts skip "the RAM disk is too small"
        return
    }
    models=$ram/experts
    for layout in experts large; do
        # shellcheck disable=SC2046 # options or none
        run "${layout}_models" 150 "$gpu/make_checkpoint" qwen3-30b-a3b --layers "$n" --vocab 8192 --fine-tunes 3 --seed 9 \
            --out "$models" $([ $layout = experts ] || echo --experts 1 --experts-per-token 1 --intermediate 98304) || return
        for method in linear3 ties; do
            config "$method" >"$ram/$method.yml"
            for turn in 1 2 3; do # the best of them counts: the first one also meets the RAM disk's fresh pages
                [ "$turn" -eq 1 ] || [ "$(left)" -ge 15 ] || break
                merge_once "$method" "$device" "${layout}_${method}_$turn" || {
                    row "experts_$method" FAIL "$(tail -n 1 "$out/e2e_${layout}_${method}_${turn}_$device.log")"
                    break
                }
            done
        done
        rm -rf "$models" "$ram/out"
    done
    python3 - "$out" "$device" $((384 * n)) <<'PY' >"$ram/experts.rows" 2>"$out/experts.log" || row experts FAIL "$(tail -n 1 "$out/experts.log")"
import glob, json, sys
out, device, n = sys.argv[1:4]
for method in "linear3", "ties":
    best = {}
    for layout in "experts", "large":
        turns = [json.load(open(f)) for f in glob.glob("%s/e2e_%s_%s_?_%s.json" % (out, layout, method, device))]
        best[layout] = min(turns, key=lambda j: j["seconds"])
    few, many = best["large"], best["experts"]
    # Per byte: routers and the rest of a layer differ by half a thousandth.
    ratio = (many["seconds"] / many["bytes_read"]) / (few["seconds"] / few["bytes_read"])
    print("experts_%s\t%s\tratio %.2f, wanted 1.15: %s experts %.2f s, the same in large tensors %.2f s (%.1f GB read)" % (
        method, "pass" if ratio <= 1.15 else "FAIL", ratio, n, many["seconds"], few["seconds"], many["bytes_read"] / 1e9))
PY
    while IFS=$'\t' read -r name verdict detail; do
        row "$name" "$verdict" "$detail"
    done <"$ram/experts.rows"
}

bench_rows() { # the figures that are asked for, out of bench.json
    python3 - "$out/bench.json" <<'PY'
import json, sys
j = json.load(open(sys.argv[1]))
rows = [r for r in j["kernels"] if r["dtype"] == "BF16"]
large = [r for r in rows if r["n_elems"] >= 16 << 20]
def worst(words, parts, goal):
    some = [r for r in large if r["kernel"].split(",")[0] in words and r["part"] in parts]
    if not some:
        return
    low = min(some, key=lambda r: r["copy_share"])
    print("bench_%s\t%s\tfrom %.0f %% of copy (%s, %s, %d MiB), wanted %.0f %%" % (
        parts[0].replace(" ", "_"), "pass" if low["copy_share"] >= goal else "FAIL", 100 * low["copy_share"], low["kernel"],
        low["part"], low["tensor_bytes"] >> 20, 100 * goal))
worst(("linear", "task_arithmetic", "dare_linear", "dare_ties", "ties"), ("combine",), 0.90)
worst(("slerp", "nuslerp", "ties", "dare_ties"), ("gram", "kth coarse", "kth fine", "l1"), 0.85)
def whole(kernel, part, size):
    return next((r["cold"]["seconds"] for r in large if r["kernel"] == kernel and r["part"] == part and r["tensor_bytes"] == size), None)
size = max(r["tensor_bytes"] for r in large) if large else 0
a, b = whole("ties, 3 models, density 0.5", "whole", size), whole("linear, 3 models", "combine", size)
if a and b:
    print("bench_ties_to_linear\t%s\tTIES, everything included, takes %.2f times linear on 3 models, wanted 2.2" % (
        "pass" if a <= 2.2 * b else "FAIL", a / b))
for c in j["ceilings"]:
    print("ceiling_%s\tpass\t%.1f GB/s, %s" % (c["id"], c["bytes_per_second"] / 1e9, c["what"]))
PY
}

bench() {
    local log=$out/bench.log began=$SECONDS name verdict detail
    # shellcheck disable=SC2086 # an option or none
    if timeout "$(($(left) < 220 ? $(left) : 220))" "$gpu/warpmerge" bench --json --device "$device" $quick --dir "$ram" \
        --csv "$out/bench.csv" --svg "$out/roofline.svg" >"$out/bench.json" 2>"$log"; then
        row bench pass "$((SECONDS - began)) s"
        bench_rows >"$ram/bench.rows" && while IFS=$'\t' read -r name verdict detail; do
            row "$name" "$verdict" "$detail"
        done <"$ram/bench.rows"
    else
        row bench FAIL "$(tail -n 1 "$log")"
    fi
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "no nvidia-smi"
wanted equality 20 && run equality 120 "$gpu/device_equality"
wanted nccl 20 && run nccl 60 env WM_NCCL_LIBRARY="$(nccl_library)" "$gpu/nccl_ranks"
if wanted merges 30; then
    merges >"$out/merges.log" 2>&1
    judge merges $?
fi
if wanted large 60; then
    large >"$out/large.log" 2>&1
    judge large $?
fi
wanted memcheck 40 && sanitizer memcheck 151
wanted racecheck 40 && sanitizer racecheck 211
wanted bench 60 && bench
wanted endtoend 60 && endtoend
wanted experts 50 && experts

echo
python3 - "$rows" "$out/gpu_check.json" "$SECONDS" <<'PY'
import json, subprocess, sys
rows = [line.rstrip("\n").split("\t") for line in open(sys.argv[1])]
width = max((len(r[0]) for r in rows), default=4)
for name, verdict, detail in rows:
    print("%-*s  %-4s  %s" % (width, name, verdict, detail))
gpu = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True,
                     text=True).stdout.strip() if __import__("shutil").which("nvidia-smi") else ""
json.dump({"schema": "warpmerge-gpu-check", "schema_version": 1, "gpu": gpu, "seconds": int(sys.argv[3]),
           "steps": [{"name": n, "verdict": v, "detail": d} for n, v, d in rows]}, open(sys.argv[2], "w"), indent=1)
bad = sum(v == "FAIL" for _, v, _ in rows)
print("%d steps, %d failed, %s s" % (len(rows), bad, sys.argv[3]))
sys.exit(bad > 0)
PY
code=$?
# Few files: the logs and the end-to-end results go into one.
(cd "$out" && find . -maxdepth 1 \( -name '*.log' -o -name '*.rows' -o -name 'e2e_*.json' -o -name 'peer_*.json' \
    -o -name 'check_*.json' \) -print0 | tar --null -czf gpu_check_logs.tgz --remove-files -T -)
exit $code
