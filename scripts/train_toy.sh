#!/usr/bin/env bash
# Trains the toy model that is shipped in assets/toy, from nothing: tokenizer, VAE, judge, diffusion transformer.
#
#   scripts/train_toy.sh [FOLDER]     the model goes to out/toy/model; FOLDER, if given, gets a copy at the end
#
# Every step is seeded and continues where it was stopped: run the same command again after an interruption. With a
# CUDA libtorch it takes the batches in examples/training/toy (about ten minutes on one H200); without, those in
# examples/training/toy_cpu where they differ (see docs/toy.md for what that costs on two cores).
set -euo pipefail
cd "$(dirname "$0")/.."
moga=build/bin/moga
[ -x "$moga" ] || make build

recipe() {
  local cpu=examples/training/toy_cpu/$1.yaml
  if [ -f "$cpu" ] && ! "$moga" doctor --json --seconds 0 | grep -q '"sees_gpu": true'; then
    echo "$cpu"
  else
    echo "examples/training/toy/$1.yaml"
  fi
}

for step in tokenizer vae vae_decoder vae_long judge dit vae_polish; do
  done_mark=out/toy/work/$step.done
  if [ -f "$done_mark" ]; then
    echo "$step: done before"
    continue
  fi
  config=$(recipe "$step")
  echo "== $step ($config)"
  "$moga" train "$config"
  mkdir -p out/toy/work
  touch "$done_mark"
done

"$moga" eval toy --model out/toy/model
if [ $# -ge 1 ]; then
  mkdir -p "$1"
  cp out/toy/model/* "$1"/
  echo "copied to $1"
fi
