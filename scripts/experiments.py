#!/usr/bin/env python3
"""Experiments on the toy model: from full attention to attention over groups (docs/experiments.md).

    scripts/experiments.py [--out out/experiments] [--steps N] [--films 24] [--report] [VARIANT ...]

Trains the toy transformer with full attention (examples/training/experiments/base.yaml), converts it, and fine-tunes
every variant on the same films, noise and order (finetune.yaml), so that the losses of two variants differ by nothing
but the variant. Writes results.json and gap.svg and prints a table. Whatever is finished is not done again: run the same command
after an interruption. About 25 minutes on one H100; many hours on a CPU.
"""
import argparse
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "examples/training/experiments"


def variant(what, kind="moga", groups=4, router="random", form="switch", weight=0.01):
    return {"what": what, "kind": kind, "groups": groups, "router": router, "form": form, "weight": weight}


VARIANTS = {
    "full": variant("full attention goes on", kind="full"),
    "random": variant("M = 4, random routers"),
    "kmeans": variant("M = 4, k-means routers", router="kmeans"),
    "m1": variant("M = 1", groups=1),
    "m2": variant("M = 2", groups=2),
    "m8": variant("M = 8", groups=8),
    "m16": variant("M = 16", groups=16),
    "static": variant("static groups alone", kind="static"),
    "dynamic": variant("routed groups alone, random routers", kind="dynamic"),
    "dynamic_kmeans": variant("routed groups alone, k-means routers", kind="dynamic", router="kmeans"),
    "no_balance": variant("alpha 0", weight=0.0),
    "no_balance_kmeans": variant("alpha 0, k-means routers", weight=0.0, router="kmeans"),
    "switch_0.1": variant("switch form, alpha 0.1", weight=0.1),
    "paper_0.01": variant("paper's form, alpha 0.01", form="paper"),
    "paper_0.1": variant("paper's form, alpha 0.1", form="paper", weight=0.1),
}


class Runner:
    def __init__(self, options):
        self.out = pathlib.Path(options.out).resolve()
        self.moga = os.environ.get("MOGA", str(ROOT / "build/bin/moga"))
        self.steps = options.steps
        self.base_steps = options.base_steps
        self.films = options.films

    def call(self, log, *arguments):
        log = self.out / "logs" / f"{log}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a", encoding="utf-8") as file:
            code = subprocess.call([self.moga, *map(str, arguments)], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
        if code != 0:
            raise RuntimeError(f"moga {' '.join(map(str, arguments))}: ended with {code}, see {log}")

    def once(self, name, action):
        """Runs `action` unless its mark says that it was finished before."""
        mark = self.out / "done" / name
        if not mark.exists():
            action()
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()

    def train(self, name, config, **changes):
        text = (CONFIGS / config).read_text(encoding="utf-8")
        # One cache: films are encoded once for all runs.
        keys = {"work": str(self.out / "work" / name), "cache": str(self.out / "cache"), **changes}
        kept = [line for line in text.splitlines() if line.split(":")[0] not in keys]
        steps = self.base_steps if config == "base.yaml" else self.steps
        if steps is not None:
            kept = [replace_steps(line, steps) for line in kept]
        file = self.out / "configs" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(kept + [f"{key}: {json.dumps(value)}" for key, value in keys.items()]) + "\n")
        self.call(name, "train", file)

    def base(self):
        folder = self.out / "base"
        folder.mkdir(parents=True, exist_ok=True)
        for file in (ROOT / "assets/toy").iterdir():
            if file.name not in ("dit.safetensors", "moga.json"):
                shutil.copy(file, folder)
        set_kind(ROOT / "assets/toy/moga.json", folder / "moga.json", "full")
        self.train("base", "base.yaml", model=str(folder))

    def start(self, groups, router):
        """A converted model; its distance to full attention goes to distance_*.json."""
        name = f"start_m{groups}_{router}"

        def convert():
            report = self.out / f"distance_m{groups}_{router}.json"
            with open(report, "w", encoding="utf-8") as file, open(self.out / "logs" / f"{name}.log", "w") as log:
                subprocess.run(
                    [self.moga, "convert", self.out / "base", "-o", self.out / name, "--groups", str(groups), "--windows",
                     "2x2", "--router", router, "--calibration", "toy", "--frames", "33", "--clips", "4", "--json"],
                    stdout=file, stderr=log, check=True, cwd=ROOT)
            shutil.copy(self.out / "base/judge.safetensors", self.out / name)

        self.once(name, convert)
        return self.out / name

    def run(self, name):
        v = VARIANTS[name]
        start = self.out / "base" if v["kind"] == "full" else self.start(v["groups"], v["router"])
        model = self.out / "models" / name

        def tune():
            shutil.rmtree(model, ignore_errors=True)
            shutil.copytree(start, model)
            set_kind(start / "moga.json", model / "moga.json", v["kind"])
            self.train(name, "finetune.yaml", model=str(model), start_from=str(start), balance_form=v["form"],
                       balance_weight=v["weight"])

        self.once(f"run_{name}", tune)
        if self.films > 0:
            report = self.out / f"marks_{name}.json"

            def judge():
                with open(report, "w", encoding="utf-8") as file, open(self.out / "logs" / f"{name}.log", "a") as log:
                    subprocess.run(
                        [self.moga, "eval", "toy", "--model", model, "--films", str(self.films), "--vae-films", "0",
                         "--work", self.out / "work" / name / "eval", "--json"],
                        stdout=file, stderr=log, check=True, cwd=ROOT)

            self.once(f"marks_{name}", judge)


def replace_steps(line, steps):
    before, found, after = line.partition("steps:")
    if not found:
        return line
    rest = after.lstrip()
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return f"{before}steps: {steps}{rest[digits:]}"


def set_kind(source, target, kind):
    config = json.loads(source.read_text(encoding="utf-8"))
    config["dit"]["attention"]["kind"] = kind
    target.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def losses(file):
    entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {entry["step"]: entry for entry in entries}


def window(ours, full, begin, end):
    """Mean paired difference of the flow loss over steps [begin, end), and its standard error."""
    gaps = [ours[s]["flow"] - full[s]["flow"] for s in range(begin, end) if s in ours and s in full]
    if not gaps:
        return None
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((g - mean) ** 2 for g in gaps) / max(1, len(gaps) - 1))
    return [round(mean, 5), round(deviation / math.sqrt(len(gaps)), 5)]


def collect(out):
    full = losses(out / "work/full/metrics.jsonl") if (out / "done/run_full").exists() else None
    results = {}
    for name, v in VARIANTS.items():
        if not (out / "done" / f"run_{name}").exists():
            continue
        ours = losses(out / "work" / name / "metrics.jsonl")
        last = max(ours) + 1
        result = dict(v)
        tail = [ours[s] for s in sorted(ours) if s >= last - 50]
        result["flow_last_50"] = round(sum(entry["flow"] for entry in tail) / len(tail), 5)
        if full:
            spans = [(0, 5), (20, 40), (90, 110), (last - 100, last)]
            result["gap"] = {f"{a}-{b}": window(ours, full, a, b) for a, b in spans if a >= 0}
        if "occupancy_least" in tail[-1]:
            for key in ("occupancy_least", "occupancy_most", "balance"):
                result[key] = round(sum(entry[key] for entry in tail) / len(tail), 4)
        marks = out / f"marks_{name}.json"
        if (out / f"done/marks_{name}").exists():
            result["marks"] = json.loads(marks.read_text(encoding="utf-8"))
        results[name] = result
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def plot(out):
    """gap.svg: flow loss above full attention's, means of 20 steps, on a logarithmic scale."""
    if not (out / "done/run_full").exists():
        return
    full = losses(out / "work/full/metrics.jsonl")
    width, height, left, top = 720, 360, 56, 16
    low, high, last = math.log10(5e-3), math.log10(0.6), max(full) + 1
    x = lambda step: left + (width - left - 230) * step / last
    y = lambda gap: top + (height - top - 40) * (high - math.log10(gap)) / (high - low)
    colours = ["#1b6ca8", "#d1495b", "#2e933c", "#8f5db7", "#e08e1b", "#4f4f4f", "#17a2a2", "#a0522d"]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
             f'<rect width="{width}" height="{height}" fill="white"/>']
    for tick in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
        parts.append(f'<path d="M{left} {y(tick):.1f}H{x(last):.1f}" stroke="#ddd"/>'
                     f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in range(0, last + 1, 100):
        parts.append(f'<text x="{x(tick):.1f}" y="{height - 22}" text-anchor="middle">{tick}</text>')
    parts.append(f'<text x="{x(last / 2):.1f}" y="{height - 6}" text-anchor="middle">'
                 "step of fine-tuning (flow loss above that of full attention)</text>")
    shown = [name for name in ("dynamic_kmeans", "static", "random", "kmeans", "m16", "m2", "no_balance", "m1")
             if (out / f"done/run_{name}").exists()]
    ends = []
    for name, colour in zip(shown, colours):
        ours = losses(out / "work" / name / "metrics.jsonl")
        means = [(a + 10, window(ours, full, a, a + 20)[0]) for a in range(0, max(ours) - 18, 20)]
        if not means:  # fewer than 20 steps
            continue
        points = " ".join(f"{x(step):.1f},{y(max(gap, 5e-3)):.1f}" for step, gap in means)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        ends.append((y(max(means[-1][1], 5e-3)), VARIANTS[name]["what"], colour))
    below = 0
    for end, what, colour in sorted(ends):  # labels that do not lie on each other
        below = max(end, below + 13)
        parts.append(f'<text x="{x(last) + 6:.1f}" y="{below + 4:.1f}" fill="{colour}">{what}</text>')
    (out / "gap.svg").write_text("\n".join(parts + ["</svg>"]) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"default: all of {', '.join(VARIANTS)}")
    parser.add_argument("--out", default="out/experiments", help="folder for models, logs and results")
    parser.add_argument("--base-steps", type=int, help="steps of each stage of the base model (default: the config's)")
    parser.add_argument("--steps", type=int, help="steps of each fine-tuning (default: the config's)")
    parser.add_argument("--films", type=int, default=24, help="films that are generated and judged; 0: none")
    parser.add_argument("--report", action="store_true", help="run nothing, report what is there")
    options = parser.parse_args()
    unknown = set(options.variants) - set(VARIANTS)
    if unknown:
        parser.error(f"unknown variant {', '.join(sorted(unknown))}; known: {', '.join(VARIANTS)}")
    names = options.variants or list(VARIANTS)
    runner = Runner(options)
    if not options.report:
        runner.once("base", runner.base)
        for done, name in enumerate(names, 1):
            runner.run(name)
            print(f"{done} of {len(names)}: {names[done - 1]}", file=sys.stderr, flush=True)
    plot(runner.out)
    for name, result in collect(runner.out).items():
        gaps = "  ".join(f"{span}: {gap[0]:+.4f}" for span, gap in result.get("gap", {}).items() if gap)
        print(f"{name:>18}  flow {result['flow_last_50']:.4f}  {gaps}")


if __name__ == "__main__":
    main()
