#!/bin/sh
# Submits a merge as a job array, and the job that finishes the output once all parts are done.
#
#   submit-array.sh [--stats] PARTS CONFIG OUT [OPTION...]
#
# --stats first runs the pass that methods with whole-model statistics need (ties with trim: global). Site options go
# into the .sbatch files or into Slurm's own variables (SBATCH_PARTITION, SBATCH_ACCOUNT, ...).
set -eu
first=
stats=false
if [ "${1:-}" = --stats ]; then
    stats=true
    shift
fi
case ${1:-} in
'' | *[!0-9]* | 0*) set -- ;;
esac
if [ $# -lt 3 ]; then
    echo "usage: submit-array.sh [--stats] PARTS CONFIG OUT [OPTION...]" >&2
    exit 2
fi
parts=$1
out=$3
shift
here=$(cd "$(dirname "$0")" && pwd)

# With several clusters sbatch answers "ID;CLUSTER".
if $stats; then
    first=$(sbatch --parsable "$here/step.sbatch" stats "$@")
    first=--dependency=afterok:${first%%;*}
fi
array=$(sbatch --parsable ${first:+"$first" --kill-on-invalid-dep=yes} --array="0-$((parts - 1))" \
    "$here/merge-array.sbatch" "$parts" "$@")
sbatch --dependency="afterok:${array%%;*}" --kill-on-invalid-dep=yes "$here/step.sbatch" finish "$out"
