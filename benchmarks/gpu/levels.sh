#!/usr/bin/env bash
# Measures sharded levels on one real card in under 8 minutes: parity of the kernels, then the speed of a training step.
#
#   benchmarks/gpu/levels.sh [--rehearse | --labels N ...]
#
# The script needs a CUDA card of 40 GiB or more, PyTorch with Triton, transformers, and the packages that cxml and its
# tests import. pytest-xdist makes the first part several times as fast. No network, DeepSpeed or Ray is needed. Results
# go to standard output; levels.py explains them. --rehearse checks the script on any machine: it runs the second part
# with tiny sizes on a fake accelerator. PYTHON names the interpreter (default: python3).
set -uo pipefail
. "$(dirname "$0")/environment.sh"

if [[ "${1:-}" == --rehearse ]]; then
    PYTHONPATH="$PYTHONPATH:$PWD/benchmarks" exec "$python" benchmarks/gpu/levels.py "$@"
fi
require_card || exit 1

# Several test processes compile kernels in parallel; the card's memory limits their number.
"$python" -c 'import xdist' 2>/dev/null && workers=(-n "$(($(nproc) < 8 ? $(nproc) : 8))") || workers=()
timeout --signal INT 200 "$python" -m pytest -p without_unused -p no:cacheprovider -q --tb short "${workers[@]}" \
    tests/optim/test_row_kernels.py tests/model/test_fused_kernels.py tests/model/test_fused_ranking.py \
    tests/parallel/test_fused_pairs.py
parity=$?
echo "parity tests: exit status $parity"

timeout --signal INT 270 env PYTHONPATH="$PYTHONPATH:$PWD/benchmarks" "$python" benchmarks/gpu/levels.py "$@"
speed=$?
exit $((parity ? parity : speed))
