#!/usr/bin/env bash
# Measures a training of Amazon-3M's size on one real card in under 8 minutes: memory, speed, checkpoints, prediction.
#
#   benchmarks/gpu/whole.sh [--rehearse] [FOLDER]
#
# The script needs what levels.sh needs, 30 GiB of free host memory and 20 GiB of free disk, and no network. Each
# stage is a process with its own time limit, so that a slow or failing stage does not take time from the others. The
# sum of the limits is under 8 minutes. Each figure is printed and added to FOLDER/whole.jsonl immediately (default of
# FOLDER: $OUT, or else the working directory). A table of all figures in Markdown is printed at the end. whole.py
# explains the stages. --rehearse checks the script on any machine: it runs the stages in one process, with tiny sizes
# on a fake accelerator. PYTHON names the interpreter (default: python3), and TMPDIR the disk for checkpoints.
set -uo pipefail
rehearse="" stages=(rows:170 checkpoint:110 compile:110 evaluation:60)
if [[ "${1:-}" == --rehearse ]]; then
    rehearse=--rehearse stages=("rows checkpoint compile evaluation:600")
    shift
fi
results="$(realpath "${1:-${OUT:-.}}")/whole.jsonl"
. "$(dirname "$0")/environment.sh"
export PYTHONPATH="$PYTHONPATH:$PWD/benchmarks"
[[ -n "$rehearse" ]] || require_card || exit 1

failed=0
: > "$results" || exit 1
for stage in "${stages[@]}"; do
    # shellcheck disable=SC2086 # several stages are several words
    timeout --signal INT --kill-after 10 "${stage#*:}" \
        "$python" benchmarks/gpu/whole.py ${stage%:*} --results "$results" $rehearse
    status=$?
    [[ $status -eq 0 ]] || { echo "${stage%:*}: exit status $status" >&2; failed=1; }
done
"$python" benchmarks/gpu/results.py "$results"
exit "$failed"
