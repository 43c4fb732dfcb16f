#!/usr/bin/env bash
# A training of Amazon-3M's size on one real card, in under 8 minutes: memory, an epoch's time, checkpoints, prediction.
#
#   benchmarks/gpu/whole.sh [--rehearse] [FOLDER]
#
# Needs what levels.sh needs, 30 GiB of free memory of the host and 20 of its disk, and no network. Each stage is a process
# with a time limit of its own, so that a slow or broken one leaves the others their time; the sum of the limits is under
# 8 minutes. Each figure is printed and added to FOLDER/whole.jsonl (FOLDER: $OUT, or else this one) as it comes, and a
# table of all, in Markdown, comes last. whole.py says what the stages measure. --rehearse runs them in one process, with
# tiny sizes on a pretended accelerator, to see that the script is whole. PYTHON names another interpreter than python3,
# and TMPDIR the disk for checkpoints.
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
