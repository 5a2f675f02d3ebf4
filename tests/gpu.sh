#!/usr/bin/env bash
# What `make gpu` does: this machine's own Python, and what it lacks out of .wheels/, in a folder that is removed.
#   bash tests/gpu.sh [PYTHON]      with REHEARSE=1 on a CPU
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
export GPU_CHECK_BEGAN=$(date +%s)
export MPLBACKEND=Agg HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYDEVD_DISABLE_FILE_VALIDATION=1

if [ -z "${REHEARSE:-}" ] && ! "$python" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' 2>/dev/null; then
    if compgen -G '/dev/nvidia[0-9]*' >/dev/null; then
        echo "there is a GPU, and this Python's PyTorch cannot use it:"
        "$python" -c 'import torch; torch.cuda.init()'
        exit 1
    fi
    echo "no GPU here: nothing was checked, nothing is stored (REHEARSE=1 rehearses the check on a CPU)"
    exit 0
fi

NEEDS='import papermill, ipykernel, pydantic, optuna, pooch, distributed'
if ! "$python" -c "$NEEDS" 2>/dev/null; then
    if ! compgen -G '.wheels/*.whl' >/dev/null; then
        echo "papermill and its kin are missing, and .wheels/ is empty: run 'make gpu-wheels' where there is a network"
        exit 1
    fi
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --target "$site" .wheels/*.whl
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
    "$python" -c "$NEEDS"
fi
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" "$python" -m msa_paper.benchmark.gpu ${REHEARSE:+--rehearse}
