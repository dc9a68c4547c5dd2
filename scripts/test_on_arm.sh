#!/usr/bin/env bash
# Compiles the CPU kernels and their tests for 64-bit Arm (NEON) and runs them in an emulator, on any Debian 12
# machine. Needs root for the packages, or runs apt-get through sudo. Slow: an emulator has no vector units.
#
#   scripts/test_on_arm.sh [FOLDER] [GTEST_FILTER]
#
#   FOLDER        where objects and the test program go (default build-arm in the repository)
#   GTEST_FILTER  which tests to run (default: all)
set -euo pipefail
[[ ${1:-} =~ ^(-h|--help)$ ]] && { sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "$0"; exit 0; }

cd "$(dirname "$0")/.."
folder=${1:-build-arm}
filter=${2:-*}

packages=(g++-aarch64-linux-gnu qemu-user-static libhwy-dev:arm64 libgtest-dev:arm64 libgmock-dev:arm64
          libfmt-dev:arm64 libgomp1:arm64)
if ! dpkg -s "${packages[@]}" >/dev/null 2>&1; then
  root=$([[ $(id -u) == 0 ]] || echo sudo)
  $root dpkg --add-architecture arm64
  $root apt-get update -q
  $root apt-get install -qq -y --no-install-recommends "${packages[@]}"
fi

mkdir -p "$folder"
rm -f "$folder"/*.o
sources=(src/kernels/cpu/*.cc src/kernels/ref/*.cc)
flags=(-std=c++20 -O2 -fopenmp -Isrc -DHWY_SHARED_DEFINE -Wall -Wextra -Werror)
printf '%s\n' "${sources[@]}" | xargs -P "$(nproc)" -I{} sh -c \
  'out=$1/$(echo "$2" | tr / _).o; shift; aarch64-linux-gnu-g++ "$@" -c -o "$out"' \
  sh "$folder" {} "${flags[@]}"
aarch64-linux-gnu-g++ -fopenmp -o "$folder/kernels_test" "$folder"/*.o -lhwy -lgmock -lgtest -lgtest_main -lfmt
qemu-aarch64-static "$folder/kernels_test" --gtest_filter="$filter"
