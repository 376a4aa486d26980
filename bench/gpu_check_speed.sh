# shellcheck shell=bash disable=SC2154,SC2034
# gpu_check_speed.sh: the steps of bench/gpu_check.sh that take time: end to end, experts, kernels, PyTorch. Sourced by
# gpu_check.sh; what the numbers say is read by gpu_check_rows.py.

room_mb() { # of the RAM disk, with memory left for the programs
    local free_mb memory_mb
    free_mb=$(df -m --output=avail "$ram" | tail -1)
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
    at_most 300 "$programs/warpmerge" merge "$ram/$1.yml" "$ram/out" --device "$2" --memory 8GiB --no-sync \
        --progress none --json >"$out/e2e_${name}_$2.json" 2>"$out/e2e_${name}_$2.log"
}

# The 8B shape in $models, once; the number of layers in $n_layers.
make_8b() {
    models=$ram/big
    [ -d "$models" ] && return 0
    n_layers=${GPU_CHECK_LAYERS:-$(layers)}
    if [ "$n_layers" -lt 1 ]; then
        row "$1" none "" "" "" "the RAM disk is too small"
        return 1
    fi
    run "$1_models" 150 "$programs/make_checkpoint" llama-3-8b --layers "$n_layers" --fine-tunes 3 --seed 9 --out "$models"
}

endtoend() {
    local method where places
    places=$device
    [ "$device" = cpu ] || places="$device cpu"
    make_8b e2e || return
    for method in linear3 ties; do
        config "$method" >"$ram/$method.yml"
        for where in $places; do
            if [ "$(left)" -lt 20 ]; then
                row "e2e_${method}_$where" none "" "" "" "$(left) s left"
            elif merge_once "$method" "$where"; then
                rows_of "e2e_${method}_$where" python3 "$root/bench/gpu_check_rows.py" merge \
                    "$out/e2e_${method}_$where.json" "e2e_${method}_$where" "$n_layers layers"
            else
                row "e2e_${method}_$where" missed "" "" "" "$(tail -n 1 "$out/e2e_${method}_$where.log")"
            fi
        done
    done
    rm -rf "$ram/big" "$ram/out"
}

# A mixture of experts, and the same bytes in large tensors: layers of Qwen3-30B-A3B, whose 384 experts have 1.6 M elements
# each, and of a model with one expert that is as large as all of them. What many tensors cost shows in the ratio.
experts() {
    local n layout method turn
    n=$(($(room_mb) / 5 / 1260))
    [ "$n" -le 8 ] || n=8
    [ "$n" -le 1 ] || [ "$(left)" -ge 200 ] || n=1
    n=${GPU_CHECK_EXPERT_LAYERS:-$n}
    [ "$n" -ge 1 ] || {
        row experts none "" "" "" "the RAM disk is too small"
        return
    }
    models=$ram/experts
    for layout in experts large; do
        # shellcheck disable=SC2046 # options or none
        run "${layout}_models" 150 "$programs/make_checkpoint" qwen3-30b-a3b --layers "$n" --vocab 8192 --fine-tunes 3 --seed 9 \
            --out "$models" $([ $layout = experts ] || echo --experts 1 --experts-per-token 1 --intermediate 98304) || {
            rm -rf "$models"
            return
        }
        for method in linear3 ties; do
            config "$method" >"$ram/$method.yml"
            for turn in 1 2 3; do # the best of them counts: the first one also meets the RAM disk's fresh pages
                [ "$turn" -eq 1 ] || [ "$(left)" -ge 15 ] || break
                merge_once "$method" "$device" "${layout}_${method}_$turn" || {
                    row "experts_$method" missed "" 1.15 ratio "$(tail -n 1 "$out/e2e_${layout}_${method}_${turn}_$device.log")"
                    break
                }
            done
        done
        rm -rf "$models" "$ram/out"
    done
    rows_of experts python3 "$root/bench/gpu_check_rows.py" experts "$out" "$device" $((384 * n))
}

# Rows of what was measured until then, when time ran out.
bench() {
    local began=$SECONDS code method
    rm -f "$out/bench.json"
    # shellcheck disable=SC2086 # an option or none
    at_most "${GPU_CHECK_BENCH_SECONDS:-200}" "$programs/warpmerge" bench --json --device "$device" $quick --dir "$ram" --csv "$out/bench.csv" \
        --svg "$out/roofline.svg" >"$out/bench.json.tmp" 2>"$out/bench.log"
    code=$?
    [ ! -s "$out/bench.json.tmp" ] || mv "$out/bench.json.tmp" "$out/bench.json"
    rm -f "$out/bench.json.tmp"
    if [ $code -eq 124 ] && [ -s "$out/bench.json" ]; then
        row bench none "" "" "" "stopped after $((SECONDS - began)) s; what it measured until then follows"
    else
        judge bench $code $((SECONDS - began))
    fi
    rows_of bench_rows python3 "$root/bench/gpu_check_rows.py" bench "$out/bench.json"
    for method in linear3 ties; do
        if [[ " $steps " != *" endtoend "* ]]; then
            continue
        elif [ ! -e "$out/e2e_${method}_$device.json" ]; then
            row "e2e_share_$method" none "" 80 % "not merged: no time, or no room"
        else
            rows_of "e2e_share_$method" python3 "$root/bench/gpu_check_rows.py" share \
                "$out/bench.json" "$out/e2e_${method}_$device.json" "e2e_share_$method"
        fi
    done
}

peer() { # peer METHOD ARGUMENTS...
    local method=$1 base
    shift
    base="--device $device"
    [ "$method" = linear3 ] || base="--base $models/base --device $device"
    # shellcheck disable=SC2086 # two words or none
    at_most 200 python3 "$root/bench/torch_peer.py" "${method%3}" --out "$ram/peer" $base "$@" \
        "$models/ft1:0.5" "$models/ft2:0.4" "$models/ft3:0.3"
}

# PyTorch on the same files: its values in fp32 are ours, bit for bit, and its time in one run.
peers() {
    local method
    python3 -c 'import torch, safetensors' 2>/dev/null || {
        row peer none "" "" "" "no PyTorch and safetensors here"
        return
    }
    make_8b peer || return
    for method in linear3 ties; do
        config "$method" >"$ram/$method.yml"
        if [ "$(left)" -lt 40 ]; then
            row "peer_$method" none "" "" "" "$(left) s left"
            continue
        fi
        merge_once "$method" "$device" "peer_$method" || {
            row "values_$method" missed "" 0 elements "$(tail -n 1 "$out/e2e_peer_${method}_$device.log")"
            continue
        }
        peer "$method" --check "$ram/out" >"$out/check_$method.json" 2>"$out/check_$method.log"
        rows_of "values_$method" python3 "$root/bench/gpu_check_rows.py" values "$out/check_$method.json" "values_$method"
        rm -rf "$ram/out" "$ram/peer"
        peer "$method" >"$out/peer_$method.json" 2>"$out/peer_$method.log"
        rows_of "peer_$method" python3 "$root/bench/gpu_check_rows.py" peer "$out/peer_$method.json" \
            "$out/e2e_peer_${method}_$device.json" "peer_$method"
        rm -rf "$ram/peer"
    done
    rm -rf "$models"
}
