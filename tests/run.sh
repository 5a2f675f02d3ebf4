#!/usr/bin/env bash
# What `make test` does, in the environment that it has set up. Whatever is drawn or run goes into a scratch folder.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cp -r figures "$scratch/figures"
export MSA_PAPER_FIGURES="$scratch/figures" MSA_PAPER_RUNS="$scratch/runs"
state() { git status --porcelain; git diff | git hash-object --stdin; }

echo "== notebooks are clean and exported"
before=$(state)
nbdev_clean
nbdev_export
if [ "$(state)" != "$before" ]; then git status --porcelain; echo "run nbdev_clean and nbdev_export, and commit what they change"; exit 1; fi
if [ -n "${CI:-}" ] && [ -n "$before" ] && [ -n "$(git status --porcelain)" ]; then git status --porcelain; echo "the tree is not clean"; exit 1; fi

echo "== notebooks run"
nbdev_test --n_workers 2 --timing

echo "== tests"
python -m pytest -q -ra --durations=15 -n 2 --dist loadfile tests   # two cores, a file at a time

if [ "$(state)" != "$before" ]; then git status --porcelain; git diff --stat; echo "the tests have changed the tree"; exit 1; fi
