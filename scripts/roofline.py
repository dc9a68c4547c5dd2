#!/usr/bin/env python3
"""Draws the roofline picture of docs/performance.md from a benchmark run.

    build/bin/bench_attention --benchmark_format=json > run.json
    scripts/roofline.py run.json docs/images/roofline.svg

The roof is the lower of the measured FMA peak and measured copy rate times FLOPs a byte; a point is a case.
"""
import json
import math
import sys

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 760, 420, 70, 50, 20, 20


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1]) as file:
        run = json.load(file)
    context = run["context"]
    # The best that the run saw anywhere, as its ratios have it.
    peak = max(b["gflops"] / b["of_fma_peak"] for b in run["benchmarks"] if "of_fma_peak" in b)
    sgemm = max(b["gflops"] / b["of_sgemm"] for b in run["benchmarks"] if "of_sgemm" in b)
    copy = float(context["copy_gbs"])
    points = [(b["flops_per_byte"], b["gflops"], b["name"].split("/min_time")[0]) for b in run["benchmarks"]
              if "flops_per_byte" in b]
    low_x, high_x = 1.0, 2 ** math.ceil(math.log2(max(p[0] for p in points) * 1.5))
    low_y, high_y = 2 ** math.floor(math.log2(copy)), 2 ** math.ceil(math.log2(peak * 1.2))

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
    line(x(sgemm / copy), y(sgemm), x(high_x), y(sgemm), 'stroke="#999" stroke-dasharray="5 4"')
    text(x(ridge) + 6, y(peak) - 6, f"FMA peak {peak:.0f} GFLOP/s")
    text(x(sgemm / copy) + 6, y(sgemm) + 14, f"SGEMM {sgemm:.0f}", 'fill="#666"')
    text(x(start) + 30, y(start * copy) - 14, f"memory {copy:.0f} GB/s")
    colours = ["#1b6ca8", "#c0392b", "#27795b", "#8e44ad", "#d35400", "#555", "#16a085", "#b7950b", "#2c3e50", "#a04000"]
    for i, (intensity, rate, name) in enumerate(points):
        colour = colours[i % len(colours)]
        out.append(f'<circle cx="{x(intensity):.1f}" cy="{y(rate):.1f}" r="4" fill="{colour}"/>')
        text((LEFT + WIDTH) / 2, y(low_y) - 12 - 15 * (len(points) - 1 - i), f"{name}: {rate:.0f}", f'fill="{colour}"')
    text((LEFT + WIDTH) / 2, HEIGHT - 12, "FLOPs a byte of q, k, v and out", 'text-anchor="middle"')
    text(16, HEIGHT / 2, "GFLOP/s", f'text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2})"')
    out.append("</svg>")
    with open(sys.argv[2], "w") as file:
        file.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
