#!/bin/sh
# Trains the voice again: DATA is a folder with the 324 recordings named in kerstin.md, RUN a new
# folder. Two processes of one thread each. Its three stretches took three hours on two shared
# processor cores; on a GPU give more --steps and a larger --hidden.
#
#   sh kerstin.sh DATA RUN
set -eu
torchrun --nproc-per-node 2 -m wavernn_fast train "$1" -o "$2/first" --held-out 12 --hidden 256 \
  --steps 6500 --batch 64 --lr 1.5e-3 --lr-warmup 300 --ema 0.999 --seed 1 --threads 1 \
  --device cpu --log-every 50 --valid-every 250 --save-every 250
torchrun --nproc-per-node 2 -m wavernn_fast train "$1" -o "$2/second" --held-out 12 \
  --from "$2/first" --steps 1350 --batch 64 --lr 8e-4 --lr-warmup 150 --ema 0.998 --seed 2 \
  --threads 1 --device cpu --log-every 50 --valid-every 250 --save-every 250
torchrun --nproc-per-node 2 -m wavernn_fast train "$1" -o "$2/third" --held-out 12 \
  --from "$2/second" --steps 2550 --batch 64 --lr 8e-4 --lr-warmup 150 --ema 0.998 --seed 3 \
  --threads 1 --device cpu --log-every 50 --valid-every 250 --save-every 250
wavernn-fast convert "$2/third/model.safetensors" -o kerstin.safetensors --dtype fp16
