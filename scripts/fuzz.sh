#!/usr/bin/env bash
# Fuzzes what reads strangers' files (safetensors headers, pickles, film scripts) with clang's libFuzzer under the
# address and undefined-behaviour sanitizers. A crash is kept in build-fuzz/ and ends with status 1.
#
#   scripts/fuzz.sh [SECONDS]       each program for so long (default: 60), side by side
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
[[ $seconds =~ ^[0-9]+$ ]] || { sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
cmake -G Ninja -B build-fuzz -DMOGA_FUZZ=ON -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=None . >/dev/null
ninja -C build-fuzz
failed=0
declare -A running
for name in safetensors pickle script; do
  mkdir -p "build-fuzz/corpus/$name"  # what a run finds is the next run's start
  "build-fuzz/bin/fuzz_$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=8192 -print_final_stats=1 \
    -artifact_prefix="build-fuzz/crash_${name}_" "build-fuzz/corpus/$name" "tests/fuzz/corpus/$name" \
    >"build-fuzz/$name.log" 2>&1 &
  running[$name]=$!
done
for name in "${!running[@]}"; do
  if wait "${running[$name]}"; then
    echo "fuzz_$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "build-fuzz/$name.log") inputs in $seconds s, no crash"
  else
    tail -n 40 "build-fuzz/$name.log"
    echo "fuzz_$name: failed; the input is build-fuzz/crash_${name}_*" >&2
    failed=1
  fi
done
exit $failed
