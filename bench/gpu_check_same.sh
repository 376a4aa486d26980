# shellcheck shell=bash disable=SC2154,SC2034
# gpu_check_same.sh: the steps of bench/gpu_check.sh that compare bytes, and compute-sanitizer's. Sourced by gpu_check.sh.

# config NAME BASE: a recipe for every method over three fine-tunes in $models, as mergekit writes them.
config() {
    case $1 in
    linear | linear3) printf 'merge_method: linear\nmodels:\n' ;;
    slerp) printf 'merge_method: slerp\nbase_model: %s/ft1\nparameters: {t: 0.3}\nmodels:\n' "$models" ;;
    nuslerp) printf 'merge_method: nuslerp\nparameters: {nuslerp_flatten: false}\nmodels:\n' ;;
    task_arithmetic) printf 'merge_method: task_arithmetic\nbase_model: %s/base\nmodels:\n' "$models" ;;
    mergealign) printf 'merge_method: mergealign\nbase_model: %s/base\nmodels:\n' "$models" ;;
    ties_global)
        printf 'merge_method: ties\nbase_model: %s/base\nparameters: {density: 0.5, trim: global}\nmodels:\n' "$models"
        ;;
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
    at_most 100 "$programs/warpmerge" merge "$ram/$method.yml" "$ram/gpu" --device "$device" --no-sync --progress none --quiet "$@" &&
        diff -r "$ram/cpu" "$ram/gpu" && return 0
    echo "DIFFERENT: $method $*"
    return 1
}

# on_cpu METHOD: into $ram/cpu.
on_cpu() {
    config "$1" >"$ram/$1.yml"
    rm -rf "$ram/cpu"
    at_most 100 "$programs/warpmerge" merge "$ram/$1.yml" "$ram/cpu" --device cpu --no-sync --progress none --quiet
}

# Same bytes on CPU and GPU, in small tiles and in little memory.
merges() {
    local failed=0 n_same=0 method more
    models=$ram/small
    "$programs/make_checkpoint" tinyllama-1.1b --layers 2 --vocab 8191 --fine-tunes 3 --seed 5 --out "$models" || return 1
    for method in linear linear3 slerp nuslerp task_arithmetic ties ties_global dare_linear dare_ties mergealign; do
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
    elif [ "$(df -m --output=avail "$ram" | tail -1)" -lt 32000 ]; then
        echo "the RAM disk is too small"
        return 77
    fi
    "$programs/make_checkpoint" tinyllama-1.1b --layers 1 --vocab "$vocab" --tied --fine-tunes 3 --seed 7 \
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

pair() { # pair WORDS...: two processes of one merge, each with WORDS, in which %d is its number
    local word words=() n pids=() failed=0
    for n in 0 1; do
        words=()
        for word in "$@"; do words+=("${word//%d/$n}"); done
        at_most 100 "$programs/warpmerge" merge "$ram/$method.yml" "$ram/gpu" --device "$device" --no-sync --progress none \
            --quiet "${words[@]}" &
        pids+=($!)
    done
    for n in "${pids[@]}"; do wait "$n" || failed=1; done
    return "$failed"
}

# Several processes on one GPU: ranks, parts that do not speak, and the program as an image starts it: nothing in the
# environment but what the image sets, and a folder that cannot be written.
together() {
    local failed=0 n_same=0 method way
    models=$ram/small
    "$programs/make_checkpoint" tinyllama-1.1b --layers 2 --vocab 8191 --fine-tunes 3 --seed 5 --out "$models" || return 1
    for method in ties ties_global dare_ties; do
        on_cpu "$method" || return 1
        for way in ranks parts image; do
            rm -rf "$ram/gpu"
            case $way in
            ranks) pair --rank %d --ranks 2 --job "check-$method" ;;
            parts)
                [ "$method" != ties_global ] ||
                    "$programs/warpmerge" stats "$ram/$method.yml" "$ram/gpu" --device "$device" --quiet >/dev/null
                pair --part %d/2 --device-memory 2GiB &&
                    "$programs/warpmerge" finish "$ram/gpu" --no-sync --progress none --quiet
                ;;
            image)
                (cd / && env -i HF_HOME=/data/huggingface timeout 100 "$programs/warpmerge" merge "$ram/$method.yml" \
                    "$ram/gpu" --device "$device" --no-sync --progress none --quiet)
                ;;
            esac && diff -r "$ram/cpu" "$ram/gpu" && n_same=$((n_same + 1)) && continue
            echo "DIFFERENT: $method, $way"
            failed=$((failed + 1))
        done
    done
    echo "ranks and parts on one device, and the image's start: $n_same same, $failed different"
    return $((failed > 0))
}

step_of() { # step_of FUNCTION: its output is the log, its exit code the verdict
    local began=$SECONDS
    "$1" >"$out/$1.log" 2>&1
    judge "$1" $? $((SECONDS - began))
    rm -rf "$ram/small" "$ram/large" "$ram/cpu" "$ram/gpu"
}

has_sanitizer() { # has_sanitizer STEP
    command -v compute-sanitizer >/dev/null && return 0
    row "$1" none "" "" "" "no compute-sanitizer here"
    return 1
}

# A tool slows kernels down by an order or two: a part of the grid (every 151st case, every 31st where nobody waits), and
# the engine with one merge of each family: groups of small tensors, tiles that stay, tiles that are streamed.
every() {
    if [ "$limit" -gt 0 ]; then echo 151; else echo 31; fi
}

checked_merges() { # checked_merges TOOL METHODS...
    local tool=$1 method more failed=0 n=0
    shift
    models=$ram/small
    "$programs/make_checkpoint" tinyllama-1.1b --layers 1 --vocab 1023 --fine-tunes 3 --seed 5 --out "$models" || return 1
    for method in "$@"; do
        config "$method" >"$ram/$method.yml"
        for more in "" "--tile 256KiB --device-memory 256MiB"; do
            rm -rf "$ram/gpu"
            # shellcheck disable=SC2086 # options
            at_most 60 compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 5 "$programs/warpmerge" merge \
                "$ram/$method.yml" "$ram/gpu" --device "$device" --no-sync --progress none --quiet $more ||
                { failed=$((failed + 1)) && echo "FAILED: $method $more"; }
            n=$((n + 1))
        done
    done
    echo "$tool: $n merges, $failed failed"
    return $((failed > 0))
}

memcheck_merges() {
    checked_merges memcheck linear3 slerp nuslerp task_arithmetic ties dare_ties mergealign
}

synccheck() {
    has_sanitizer synccheck || return
    run synccheck 40 compute-sanitizer --tool synccheck --error-exitcode 9 --print-limit 5 "$programs/device_equality" \
        --every $(($(every) * 2))
}

memcheck() {
    has_sanitizer memcheck || return
    run memcheck 60 compute-sanitizer --tool memcheck --error-exitcode 9 --print-limit 5 "$programs/device_equality" \
        --every "$(every)"
    if [ "$(left)" -ge 100 ]; then step_of memcheck_merges; else row memcheck_merges none "" "" "" "$(left) s left"; fi
}

# The kernels that share memory between threads: statistics, and groups.
racecheck() {
    local names=() name
    has_sanitizer racecheck || return
    for name in gram coarse fine ties_kernel cut whole_ l1_ guess_kernel chain_ choose_ signs_ group; do
        names+=(--kernel-name "kns=$name")
    done
    run racecheck 60 compute-sanitizer --tool racecheck --error-exitcode 9 --print-limit 5 "${names[@]}" \
        "$programs/device_equality" --every $(($(every) + 60))
}

nccl_library() { # PyTorch's, or else the system's: NCCL is too large to be carried
    python3 -c 'import nvidia.nccl as nccl; print(list(nccl.__path__)[0] + "/lib/libnccl.so.2")' 2>/dev/null
}

