# Sourced by the scripts beside this one: sets the working directory, the interpreter and its environment.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python="${PYTHON:-python3}"
export PYTHONPATH="$PWD:$PWD/benchmarks/gpu${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1

require_card() {
    "$python" -c 'import torch, triton; assert torch.cuda.is_available(), "PyTorch sees no CUDA card; --rehearse needs none"'
}
