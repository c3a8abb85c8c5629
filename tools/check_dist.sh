#!/usr/bin/env bash
# Installs the wheel, then the sdist, of dist/ into an empty environment and runs the demo there.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/venv"
pip() { "$place/venv/bin/python" -m pip "$@"; }

for file in "$root"/dist/realdataexp-*.whl "$root"/dist/realdataexp-*.tar.gz; do
  began=$SECONDS
  pip install -q --force-reinstall $([[ $file == *.whl ]] || echo --no-deps) -c constraints.txt "$file"
  took=$((SECONDS - began))
  mkdir "$place/empty"
  (
    cd "$place/empty"
    "$place/venv/bin/realdataexp" run demo --quiet --out demo \
      --set simulation.n_steps=20 --set experiment.replications=4 >said
    for name in result.json report.html plot.svg estimates.parquet; do test -s "demo/$name"; done
    grep -q 'id="plotly"' demo/report.html || { echo "$file: its page has no charts" >&2; exit 1; }
    size=$(stat -c %s demo/report.html)
    test "$size" -le 1500000 || { echo "$file: its page has $size bytes" >&2; exit 1; }
    echo "report.html: $size bytes"
  )
  rm -r "$place/empty"
  echo "$(basename "$file"): installed in $took s, ran the demo"
done
size() { du -sm "$@" 2>/dev/null | awk '{n += $1} END {print n + 0}'; }
packages=$(echo "$place"/venv/lib/python*/site-packages)
echo "the environment: $(size "$packages") MB, of which PyTorch $(size "$packages"/torch "$packages"/nvidia "$packages"/triton) MB"
