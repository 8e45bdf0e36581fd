#!/bin/sh
# An environment of their own for what speed.py compares with: their dependencies and ours need not agree.
# Usage: benchmarks/peers/install.sh [FOLDER]      (default: .venv-peers; about 6 GB, most of it torch's CUDA)
set -eu
folder=${1:-.venv-peers}
here=$(dirname "$0")
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install --no-deps -r "$here/requirements.txt"
# One import each: a peer that cannot be loaded is an error here, not in the middle of a measurement.
for script in quantize_static nncf_ptq modelopt_ptq; do
    "$folder/bin/python" "$here/$script.py" --help >/dev/null
done
echo "the peers are in $folder"
