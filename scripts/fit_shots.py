#!/usr/bin/env python3
"""Fits the weights of src/data/transition_evidence.cc: a logistic regression a kind of transition.

    build/bin/bench_shots --seed 1 --evidence 1.txt && build/bin/bench_shots --seed 2 --evidence 2.txt
    cat 1.txt 2.txt > evidence.txt && scripts/fit_shots.py evidence.txt

Prints the constants and how the candidates are told apart. Needs nothing but Python.
"""
import math
import sys

NAMES = {"cut": "kCutWeights", "dissolve": "kLineWeights", "wipe": "kFrontWeights"}
RIDGE = 1.0
# A false transition costs more than a missed one: what is taken off the constants.
CAUTION = {"cut": 0.0, "dissolve": 0.5, "wipe": 0.5}


def solve(matrix, vector):
    """Gaussian elimination with pivoting."""
    n = len(vector)
    rows = [list(row) + [value] for row, value in zip(matrix, vector)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(i + 1, n):
            factor = rows[r][i] / rows[i][i]
            for c in range(i, n + 1):
                rows[r][c] -= factor * rows[i][c]
    result = [0.0] * n
    for i in reversed(range(n)):
        result[i] = (rows[i][n] - sum(rows[i][c] * result[c] for c in range(i + 1, n))) / rows[i][i]
    return result


def dot(weights, numbers):
    return weights[0] + sum(w * x for w, x in zip(weights[1:], numbers))


def fit(samples):
    """Newton's method on standardised numbers; returns weights for the numbers as they are."""
    count = len(samples[0][1])
    means = [sum(x[i] for _, x in samples) / len(samples) for i in range(count)]
    scales = [max(1e-9, math.sqrt(sum((x[i] - means[i]) ** 2 for _, x in samples) / len(samples))) for i in range(count)]
    rows = [(y, [1.0] + [(x[i] - means[i]) / scales[i] for i in range(count)]) for y, x in samples]
    weights = [0.0] * (count + 1)
    for _ in range(30):
        gradient = [RIDGE * w if i else 0.0 for i, w in enumerate(weights)]
        hessian = [[RIDGE if i == j and i else 0.0 for j in range(count + 1)] for i in range(count + 1)]
        for y, x in rows:
            p = 1 / (1 + math.exp(-max(-30.0, min(30.0, sum(w * v for w, v in zip(weights, x))))))
            for i in range(count + 1):
                gradient[i] += (p - y) * x[i]
                factor = p * (1 - p) * x[i]
                for j in range(count + 1):
                    hessian[i][j] += factor * x[j]
        for i in range(count + 1):
            hessian[i][i] += 1e-9
        change = solve(hessian, gradient)
        weights = [w - c for w, c in zip(weights, change)]
        if max(abs(c) for c in change) < 1e-8:
            break
    plain = [w / s for w, s in zip(weights[1:], scales)]
    return [weights[0] - sum(p * m for p, m in zip(plain, means))] + plain


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    samples = {}
    with open(sys.argv[1]) as file:
        for line in file:
            kind, label, *numbers = line.split()
            samples.setdefault(kind, []).append((int(label), [float(n) for n in numbers]))
    for kind, name in NAMES.items():
        if kind not in samples:
            continue
        weights = fit(samples[kind])
        weights[0] -= CAUTION[kind]
        wrong = {0: 0, 1: 0}
        for label, numbers in samples[kind]:
            wrong[label] += (dot(weights, numbers) > 0) != bool(label)
        total = {label: sum(1 for s in samples[kind] if s[0] == label) for label in (0, 1)}
        print(f"// {kind}: {total[1]} true, {wrong[1]} of them missed; {total[0]} false, {wrong[0]} of them taken")
        print(f"constexpr std::array<double, {len(weights)}> {name} = {{")
        print("    " + ", ".join(f"{w:.4f}" for w in weights) + "};")
    return 0


if __name__ == "__main__":
    sys.exit(main())
