#!/bin/sh
# An environment of their own for what speed.py compares with: their dependencies and ours need not agree.
# Usage: benchmarks/peers/install.sh [FOLDER]      (default: .venv-peers)
set -eu
folder=${1:-.venv-peers}
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install onnxruntime==1.31.1 onnx==1.23.2 numpy==2.4.6 sympy==1.14.0
