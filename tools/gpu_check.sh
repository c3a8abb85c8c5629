#!/bin/sh
# What a GPU must show, in less than 8 minutes: that it answers as the CPU does, and how fast it is.
#   tools/gpu_check.sh OUT [PART ...]
# Writes OUT/conformance.txt, OUT/gpu.json and OUT/gpu.md. PYTHON names the interpreter, which needs
# this package's dependencies and pytest; nothing is downloaded. Without a GPU all is small.
set -u
cd "$(dirname "$0")/.."
out=${1:?folder for the results}
shift
mkdir -p "$out"
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
"${PYTHON:-python3}" -m pytest -q -rs -p no:cacheprovider tests/test_device_conformance.py \
    tests/test_device.py >"$out/conformance.txt" 2>&1
conforms=$?
tail -n 15 "$out/conformance.txt"
"${PYTHON:-python3}" tools/gpu_check.py "$@" --out "$out"
is_measured=$?
exit $((conforms || is_measured))
