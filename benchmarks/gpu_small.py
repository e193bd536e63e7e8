"""One short run of the persistent kernel, for the sanitizer and the profiler.

compute-sanitizer --tool memcheck python benchmarks/gpu_small.py
"""

from __future__ import annotations

import argparse

import gpu_embedded
import gpu_models
import gpu_residual

from wavernn_fast.config import ModelConfig


def model(options: argparse.Namespace) -> ModelConfig:
    """Of the core that is asked for: conditioned, but for a dual model that is not to be."""
    if options.core == "residual":
        return gpu_residual.model(options.hidden, "512 labels, mu-law undone")
    if options.core == "embedded":
        return gpu_embedded.model(f"{options.hidden},48", 512)
    return gpu_models.dual(options.hidden, options.conditioned)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "emu"))
    parser.add_argument("--core", default="dual", choices=("dual", "residual", "embedded"))
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--runs", type=int, default=1, help="calls of the engine")
    parser.add_argument("--conditioned", action="store_true")
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--exchanges", type=int, default=0, help="0: the planner's choice")
    parser.add_argument("--cluster", type=int, default=0, help="blocks of a cluster; 0: none")
    parser.add_argument("--streams", type=int, default=1, help="side by side, in fp16")
    parser.add_argument("--sparse", action="store_true", help="a model of which 80 %% is zero")
    options = parser.parse_args()
    kind = gpu_models.Voice if options.streams == 1 else gpu_models.Crowd
    many = {} if options.streams == 1 else {"streams": options.streams}
    voice = kind(
        model(options),
        density=0.2 if options.sparse else 1.0,
        device=options.device,
        dtype=options.dtype,
        exact=options.exact,
        exchanges=options.exchanges,
        cluster=options.cluster,
        **many,
    )
    for _ in range(options.runs):
        labels, _ = voice.run(options.steps)
    print(f"{options.runs} x {options.steps} steps, last samples {labels[-4:].tolist()}")
    print(voice.engine.describe())


if __name__ == "__main__":
    main()
