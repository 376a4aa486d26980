#!/usr/bin/env bash
# What a second rank brings on this machine: one table of seconds, linear and ties.
#
#   bench/scale_ranks.sh WARPMERGE CHECKPOINTS [TRIES]
#
# CHECKPOINTS has base, ft1 and ft2 (make_checkpoint tinyllama-1.1b --out CHECKPOINTS). For each method: one process with
# one thread, one process with two threads, two ranks with one thread each, best of TRIES (3). The three take turns, so
# that a slow minute of the machine meets all of them. Outputs are written beside the checkpoints, compared, and removed.
# --direct-io on: storage and not the page cache is read, as with a model larger than memory; "SCALE_DIRECT_IO=off" reads
# what the cache has, and shows the arithmetic. Meaningful on an idle machine only: the load is printed.
set -euo pipefail

tool=$(realpath "${1:?usage: bench/scale_ranks.sh WARPMERGE CHECKPOINTS [TRIES]}")
models=$(realpath "${2:?usage: bench/scale_ranks.sh WARPMERGE CHECKPOINTS [TRIES]}")
tries=${3:-3}
direct=${SCALE_DIRECT_IO:-on}
work=$(mktemp -d "$models/scale.XXXXXX")
trap 'rm -rf "$work"' EXIT

cat >"$work/linear.yml" <<END
merge_method: linear
models:
- {model: $models/ft1, parameters: {weight: 0.6}}
- {model: $models/ft2, parameters: {weight: 0.4}}
dtype: bfloat16
END
cat >"$work/ties.yml" <<END
merge_method: ties
base_model: $models/base
parameters: {density: 0.5, weight: 1}
models:
- model: $models/ft1
- model: $models/ft2
dtype: bfloat16
END

run_one() { # run_one METHOD THREADS
    "$tool" merge "$work/$1.yml" "$work/out" --quiet --device cpu --direct-io "$direct" --threads "$2" --ranks none >/dev/null
}

run_two() { # run_two METHOD: both ranks must end well
    local other code=0
    "$tool" merge "$work/$1.yml" "$work/out" --quiet --device cpu --direct-io "$direct" --threads 1 --ranks 2 --rank 1 &
    other=$!
    "$tool" merge "$work/$1.yml" "$work/out" --quiet --device cpu --direct-io "$direct" --threads 1 --ranks 2 --rank 0 >/dev/null ||
        code=$?
    wait "$other" || code=$?
    return "$code"
}

# One way, once: its seconds go to $seconds, and the output's bytes are compared with the first one's.
measure() { # measure METHOD COMMAND...
    local began ended sum method=$1
    shift
    began=$(date +%s.%N)
    "$@"
    ended=$(date +%s.%N)
    sum=$(cat "$work"/out/*.safetensors | sha256sum)
    [ "${sums[$method]:=$sum}" = "$sum" ] || { echo "$*: other bytes" >&2 && exit 1; }
    rm -rf "$work/out"
    seconds=$(awk -v a="$began" -v b="$ended" 'BEGIN { printf "%.2f", b - a }')
}

keep_best() { # keep_best METHOD WAY
    local key=$1-$2
    if [ -z "${best[$key]:-}" ] || awk -v a="$seconds" -v b="${best[$key]}" 'BEGIN { exit !(a < b) }'; then
        best[$key]=$seconds
    fi
}

declare -A best sums
for method in linear ties; do
    for ((i = 0; i < tries; i++)); do
        measure "$method" run_one "$method" 1
        keep_best "$method" one
        measure "$method" run_one "$method" 2
        keep_best "$method" two
        measure "$method" run_two "$method"
        keep_best "$method" ranks
    done
done

echo "$(nproc) processors, load $(cut -d' ' -f1 /proc/loadavg), direct I/O $direct, best of $tries, seconds"
printf '%-8s %12s %12s %12s %22s\n' method "1 x 1 thread" "1 x 2" "2 ranks x 1" "2 ranks over 1 x 1"
for method in linear ties; do
    printf '%-8s %12s %12s %12s %21.2fx\n' "$method" "${best[$method-one]}" "${best[$method-two]}" \
        "${best[$method-ranks]}" "$(awk -v a="${best[$method-one]}" -v b="${best[$method-ranks]}" 'BEGIN { print a / b }')"
done
