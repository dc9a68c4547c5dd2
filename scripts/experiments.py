#!/usr/bin/env python3
"""Fine-tunes a toy model with full attention to attention over groups, in many ways, and compares them.

    scripts/experiments.py [--out out/experiments] [--steps 1500] [--base-steps 3000] [--seeds 1,2] [--small] [NAME ...]

From one model with full attention (trained first, with `--base-steps`), each experiment converts it (moga convert),
trains it on with the same budget (moga train) and measures the flow loss on held-out films at fixed noise levels.
NAMEs choose experiments (all: `--list`). Everything is seeded, and the same command goes on where it was stopped.
It writes OUT/results.json and prints the table of docs/experiments.md.
"""

import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INTERRUPTED = 75  # moga train's code after a signal

def films_of(frames):
    """Toy films of one length, with shots of at least eight frames."""
    return {"min_frames": frames, "max_frames": frames, "min_shots": 2, "max_shots": min(4, frames // 8),
            "min_shot_frames": 8}


def experiments():
    """Name -> what differs from the usual: M = 4, random routers, switch form, alpha 0.1, both kinds of groups."""
    runs = {"full": {"kind": "full"}, "usual": {}, "kmeans": {"router": "kmeans"}}
    for alpha in (0, 0.01):
        runs[f"alpha {alpha}"] = {"alpha": alpha}
    runs["paper form"] = {"form": "paper"}
    for groups in (1, 2, 8, 16):
        runs[f"M={groups}"] = {"groups": groups}
    runs["routed alone"] = {"kind": "dynamic"}
    runs["static alone"] = {"kind": "static"}
    return runs


def moga(options, *arguments):
    code = subprocess.run([options.moga, *map(str, arguments)], cwd=ROOT, check=False).returncode
    if code == INTERRUPTED:
        sys.exit(code)
    if code != 0:
        sys.exit(f"experiments: moga {' '.join(map(str, arguments))} ended with {code}")


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def copy_parts(source, target):
    """The frozen parts as links; the transformer and the configuration as files of their own."""
    target.mkdir(parents=True, exist_ok=True)
    for part in ("vae.safetensors", "text.safetensors", "tokenizer.model"):
        if not (target / part).exists():
            (target / part).symlink_to((source / part).resolve())


def training(options, out, seed, steps, rate, model, start):
    films = films_of(options.frames)
    latent_frames = (options.frames - 1) // 4 + 1
    return {
        "kind": "dit", "model": str(model), "start_from": str(start) if start else "", "work": str(out / "work"),
        "cache": str(options.out / "cache"), "seed": seed, "precision": options.precision,
        "noise_shift": 2, "ema": 0.995, "checkpoint_every": 250, "log_every": 10,
        "data": {"seed": 2000000, "films": options.films, "toy": films},
        "validation": {"every": max(1, steps // 5), "films": options.measured, "latent_frames": latent_frames,
                       "data": {"seed": 900000000, "films": options.measured, "toy": films}},
        "stages": [{"steps": steps, "batch": options.batch, "learning_rate": rate, "warmup": steps // 20,
                    "final_rate": 0.1, "latent_frames": latent_frames}],
    }


def finish(options, out, config):
    """Trains unless that is done; returns the metrics' lines."""
    if not (out / "done").exists():
        write_json(out / "train.json", config)
        moga(options, "train", out / "train.json")
        moga(options, "train", "--plot", out / "work")
        (out / "done").touch()
    return [json.loads(line) for line in (out / "work/metrics.jsonl").read_text().splitlines()]


def set_attention(model, kind):
    config = json.loads((model / "moga.json").read_text())
    config["dit"]["attention"]["kind"] = kind
    write_json(model / "moga.json", config)


def base_model(options):
    """The toy's VAE, tokenizer and text encoder with a transformer of full attention, trained from nothing."""
    model = options.out / "base/model"
    toy = ROOT / "assets/toy"
    copy_parts(toy, model)
    if not (model / "moga.json").exists():
        write_json(model / "moga.json", json.loads((toy / "moga.json").read_text()))
        set_attention(model, "full")
        if options.small:
            config = json.loads((model / "moga.json").read_text())
            config["dit"].update(dim=96, ffn_dim=256, heads=4, layers=4)
            write_json(model / "moga.json", config)
    finish(options, options.out / "base", training(options, options.out / "base", 1, options.base_steps, 8e-4, model, None))
    return model


def run(options, base, name, change, seed):
    out = options.out / f"{name.replace(' ', '-')}-{seed}"
    model = out / "model"
    kind = change.get("kind", "moga")
    if not (model / "moga.json").exists():
        if kind in ("full", "static"):
            copy_parts(base, model)
            (model / "dit.safetensors").write_bytes((base / "dit.safetensors").read_bytes())
            write_json(model / "moga.json", json.loads((base / "moga.json").read_text()))
        else:
            moga(options, "convert", base, "-o", model, "--groups", change.get("groups", 4), "--temporal-group", 4,
                 "--router", change.get("router", "random"), "--calibration", "toy", "--frames", options.frames,
                 "--seed", seed)
        set_attention(model, kind)
    config = training(options, out, seed, options.steps, 2e-4, model, model)
    config["balance_form"] = change.get("form", "switch")
    config["balance_weight"] = change.get("alpha", 0.1)
    lines = finish(options, out, config)
    validation = [line for line in lines if "validation" in line]
    steps = [line for line in lines if "loss" in line]
    mean = lambda line: sum(line["validation"].values()) / len(line["validation"])
    last = steps[-1]
    return {"name": name, "seed": seed, "steps": options.steps,
            "curve": [[line["step"] + 1, mean(line)] for line in validation],
            "loss": mean(validation[-1]), "sparsity": last.get("sparsity", 0), "balance": last.get("balance"),
            "least": min(min(row) for row in last["occupancy"]) if "occupancy" in last else None,
            "most": max(max(row) for row in last["occupancy"]) if "occupancy" in last else None}


def table(results):
    full = {r["seed"]: r["loss"] for r in results if r["name"] == "full"}
    print("| experiment | seed | validation loss | gap to full | sparsity | least used group | most used |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for r in results:
        gap = f"{r['loss'] - full[r['seed']]:+.4f}" if r["seed"] in full else ""
        share = lambda value: "" if value is None else f"{100 * value:.1f} %"
        print(f"| {r['name']} | {r['seed']} | {r['loss']:.4f} | {gap} | {share(r['sparsity'])} | {share(r['least'])} | "
              f"{share(r['most'])} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/experiments"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--base-steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--films", type=int, default=4000)
    parser.add_argument("--frames", type=int, default=33, help="of a film")
    parser.add_argument("--measured", type=int, default=32, help="films of the validation loss")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--moga", type=pathlib.Path, default=ROOT / "build/bin/moga", help="the program")
    parser.add_argument("--small", action="store_true", help="four blocks of width 96 instead of the toy's: for CPUs")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    options.out = options.out.resolve()
    known = experiments()
    if options.list:
        print("\n".join(known))
        return
    for name in options.names:
        if name not in known:
            sys.exit(f"experiments: no experiment is called '{name}'; there are {', '.join(known)}")
    base = base_model(options)
    results = []
    for seed in map(int, options.seeds.split(",")):
        for name in options.names or known:
            results.append(run(options, base, name, known[name], seed))
            write_json(options.out / "results.json", results)
    table(results)


if __name__ == "__main__":
    main()
