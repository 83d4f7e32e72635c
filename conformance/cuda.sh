#!/bin/sh
# Run on one GPU what shows that the package works there, and write conformance/CUDA.md and its receipt:
#
#     conformance/cuda.sh [SECONDS]     (default: 600)
#
# Install the package with timm, torchvision and transformers first: pip install -e '.[all,dev]'
# More options: python -m conformance.cuda_run --help
set -eu
cd "$(dirname "$0")/.."
exec "${PYTHON:-python}" -m conformance.cuda_run "$@"
