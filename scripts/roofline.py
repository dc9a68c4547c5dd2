#!/usr/bin/env python3
"""Draws the roofline pictures of docs/performance.md from a benchmark run.

    build/bin/bench_attention --benchmark_out=run.json --benchmark_out_format=json
    scripts/roofline.py run.json docs/images/roofline.svg
    bench_cuda --frames 20,40,120,371 --groups 5,10,20 --json layer.json
    scripts/roofline.py layer.json docs/images/roofline_gpu.svg

The roof is the lower of the measured peak and the measured copy rate times FLOPs a byte; a point is a case, and
a line joins the lengths of film at which a case was measured.
"""
import json
import math
import sys

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 760, 420, 70, 50, 20, 20


def cpu_run(run):
    cases = [b for b in run["benchmarks"]
             if "flops_per_byte" in b and b.get("aggregate_name", "mean") == "mean"]
    # The best that the run saw anywhere, as its ratios have it.
    peak, sgemm = (max(b["gflops"] / b[ratio] for b in cases) for ratio in ("of_fma_peak", "of_sgemm"))
    return {
        "unit": "GFLOP/s",
        "peak": (peak, "FMA peak"),
        "product": (sgemm, "SGEMM"),
        "copy": float(run["context"]["copy_gbs"]),
        "series": {b["name"].split("/min_time")[0]: [(b["flops_per_byte"], b["gflops"])] for b in cases},
    }


def gpu_run(run):
    series = {}
    for row in run["rows"]:
        if row["what"] == "layer" and row["pass"] == "forward":
            moved = 4 * row["tokens"] * 12 * 128 * 2  # q, k, v and out, once each, in bfloat16
            series.setdefault(row["case"], []).append((row["pflop"] * 1e15 / moved, row["tflops"]))
    return {
        "unit": "TFLOP/s",
        "peak": (run["gemm_8192_bf16_tflops"], "product of 8192^3"),
        "product": None,
        "copy": run["copy_gb_per_s"] / 1000,
        "series": series,
    }


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1]) as file:
        run = json.load(file)
    chart = gpu_run(run) if "rows" in run else cpu_run(run)
    peak, copy, unit = chart["peak"][0], chart["copy"], chart["unit"]
    points = [point for case in chart["series"].values() for point in case]
    low_x = 1.0
    high_x = 2 ** math.ceil(math.log2(max(p[0] for p in points) * 1.5))
    low_y = 2 ** math.floor(math.log2(min(copy, peak / 16)))
    high_y = 2 ** math.ceil(math.log2(peak * 1.2))

    def x(value):
        return LEFT + (math.log(value / low_x) / math.log(high_x / low_x)) * (WIDTH - LEFT - RIGHT)

    def y(value):
        return HEIGHT - BOTTOM - (math.log(value / low_y) / math.log(high_y / low_y)) * (HEIGHT - BOTTOM - TOP)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
           'font-size="12">', f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']

    def line(x1, y1, x2, y2, style):
        out.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>')

    def text(at_x, at_y, words, style=""):
        out.append(f'<text x="{at_x:.1f}" y="{at_y:.1f}" {style}>{words}</text>')

    tick = low_x
    while tick <= high_x:
        line(x(tick), y(low_y), x(tick), y(high_y), 'stroke="#eee"')
        text(x(tick), HEIGHT - BOTTOM + 16, f"{tick:g}", 'text-anchor="middle"')
        tick *= 4
    tick = low_y
    while tick <= high_y:
        line(x(low_x), y(tick), x(high_x), y(tick), 'stroke="#eee"')
        text(LEFT - 6, y(tick) + 4, f"{tick:g}", 'text-anchor="end"')
        tick *= 2
    ridge = peak / copy
    start = max(low_x, low_y / copy)
    line(x(start), y(start * copy), x(ridge), y(peak), 'stroke="#333" stroke-width="2"')
    line(x(ridge), y(peak), x(high_x), y(peak), 'stroke="#333" stroke-width="2"')
    text(x(ridge) + 6, y(peak) - 6, f"{chart['peak'][1]} {peak:.0f} {unit}")
    if chart["product"] is not None:
        rate, name = chart["product"]
        line(x(rate / copy), y(rate), x(high_x), y(rate), 'stroke="#999" stroke-dasharray="5 4"')
        text(x(rate / copy) + 6, y(rate) + 14, f"{name} {rate:.0f}", 'fill="#666"')
    text(x(start) + 30, y(start * copy) - 14, f"memory {copy * 1000 if unit == 'TFLOP/s' else copy:.0f} GB/s")
    colours = ["#1b6ca8", "#c0392b", "#27795b", "#8e44ad", "#d35400", "#555", "#16a085", "#b7950b", "#2c3e50", "#a04000"]
    for i, (name, case) in enumerate(chart["series"].items()):
        colour = colours[i % len(colours)]
        for one, other in zip(case, case[1:]):
            line(x(one[0]), y(one[1]), x(other[0]), y(other[1]), f'stroke="{colour}"')
        for intensity, rate in case:
            out.append(f'<circle cx="{x(intensity):.1f}" cy="{y(rate):.1f}" r="4" fill="{colour}"/>')
        rates = ", ".join(f"{rate:.0f}" for _, rate in case)
        text((LEFT + WIDTH) / 2, y(low_y) - 12 - 15 * (len(chart["series"]) - 1 - i), f"{name}: {rates}",
             f'fill="{colour}"')
    text((LEFT + WIDTH) / 2, HEIGHT - 12, "FLOPs a byte of q, k, v and out", 'text-anchor="middle"')
    text(16, HEIGHT / 2, unit, f'text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2})"')
    out.append("</svg>")
    with open(sys.argv[2], "w") as file:
        file.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
