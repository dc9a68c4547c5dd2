#!/usr/bin/env bash
# Fails, with a diff-like listing, if a C++ file of ours is not in the house style. `make format` mends it.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -d '' -t files < <(git ls-files -z --cached --others --exclude-standard '*.h' '*.cc' '*.cpp')
if [[ ${#files[@]} -eq 0 ]]; then
  echo "check_format: git lists no C++ files here" >&2
  exit 1
fi
clang-format --dry-run -Werror "${files[@]}"
echo "check_format: ${#files[@]} files in the house style"
