#!/usr/bin/env bash
# Says what `make demo` left in the folder given; fails if a file is missing or empty.
set -euo pipefail
folder=${1:?which folder}
echo
echo "Made from examples/demo.yaml:"
for entry in "film.mp4|the film" "film.png|its contact sheet, a row a shot" "groups.mp4|the film's tokens, coloured by group"; do
  file=$folder/${entry%%|*}
  if [[ ! -s $file ]]; then
    echo "  $file is missing" >&2
    exit 1
  fi
  printf '  %-22s %-42s %s\n' "$file" "${entry#*|}" "$(du -h "$file" | cut -f1)"
done
echo "Watch $folder/film.mp4 with any player; write a script of your own as in docs/script.md."
