#!/usr/bin/env bash
# Shows that MoGA configures and builds against Debian 13's newer libraries (GCC 14, libtorch 2.6, FFmpeg 7,
# OpenCV 4.10, yaml-cpp 0.8), in a Debian 13 root made with debootstrap. The root (about 3 GB) and its build
# folder are kept, so a second run only builds what changed. Needs root, or runs itself through sudo.
#
#   scripts/test_on_trixie.sh [--run-tests] [--prepare] [--targets "A B"] [FOLDER]
#
#   FOLDER        where the Debian 13 root lives (default .sysroot-trixie in the repository)
#   --prepare     make the root and install its packages, but do not build
#   --run-tests   run ctest there after the build
#   --targets T   build only these targets (default: everything)
#   MOGA_MIRROR   the Debian mirror (default: debootstrap's own)
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
arguments=("$@")
root= tests=0 prepare=0 targets=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --run-tests) tests=1 ;;
    --prepare) prepare=1 ;;
    --targets) shift; read -ra targets <<<"${1:?--targets needs a list}" ;;
    -h | --help) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    -*) echo "test_on_trixie: unknown option '$1'; try --help" >&2; exit 2 ;;
    *) root=$1 ;;
  esac
  shift
done
root=$(realpath -m "${root:-$repository/.sysroot-trixie}")

if [[ $(id -u) != 0 ]]; then
  exec sudo MOGA_MIRROR="${MOGA_MIRROR:-}" "$0" "${arguments[@]}"
fi
# A mount namespace of our own: /proc and /dev of the root vanish with this process, however it ends.
if [[ ${MOGA_TRIXIE_UNSHARED:-} != 1 ]]; then
  MOGA_TRIXIE_UNSHARED=1 exec unshare --mount "$0" "${arguments[@]}"
fi

if [[ ! -e $root/.bootstrapped ]]; then
  if ! command -v debootstrap >/dev/null; then
    echo "test_on_trixie: installing debootstrap"
    apt-get install -y -q --no-install-recommends debootstrap ||
      { apt-get update -q && apt-get install -y -q --no-install-recommends debootstrap; }
  fi
  echo "test_on_trixie: making a Debian 13 root in $root"
  debootstrap --variant=minbase trixie "$root" ${MOGA_MIRROR:+"$MOGA_MIRROR"}
  touch "$root/.bootstrapped"
fi
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
cp /etc/resolv.conf "$root/etc/resolv.conf"
inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 chroot "$root" "$@"; }

# A copy of the working tree: tracked and new files, without what git ignores. Files that did not change are left alone,
# so that ninja there rebuilds only what changed; the others are new as of now, whatever their times were here.
inside mkdir -p /src/moga /src/incoming
(cd "$repository" && git -c safe.directory="$repository" ls-files -z --cached --others --exclude-standard |
  while IFS= read -r -d '' file; do [[ -f $file ]] && printf '%s\0' "$file"; done |
  tar --null -T - -cf -) | tar -xf - -C "$root/src/incoming"
for path in "$root"/src/moga/* "$root"/src/moga/.[!.]*; do
  name=$(basename "$path")
  if [[ $name != build && -e $path && ! -e $root/src/incoming/$name ]]; then rm -rf "$path"; fi
done
inside sh -c '
  set -e
  cd /src/incoming
  find . -type f | while IFS= read -r file; do
    if ! cmp -s "$file" "/src/moga/$file"; then mkdir -p "/src/moga/$(dirname "$file")" && cp "$file" "/src/moga/$file"; fi
  done
  cd /src/moga
  find . -path ./build -prune -o -type f -print | while IFS= read -r file; do
    [ -e "/src/incoming/$file" ] || rm "$file"
  done
  rm -rf /src/incoming'

inside /src/moga/scripts/setup.sh
if [[ $prepare == 1 ]]; then
  echo "test_on_trixie: the root is ready in $root"
  exit 0
fi
inside sh -c 'set -e
  cd /src/moga
  g++ --version | head -1
  dpkg-query -W -f "\${Package} \${Version}\n" libtorch-dev libavcodec-dev libopencv-core-dev libyaml-cpp-dev
  cmake -G Ninja -B build -DCMAKE_BUILD_TYPE=Release -DMOGA_WERROR=ON .
  ninja -C build -k 0 "$@"' sh "${targets[@]}"
if [[ $tests == 1 ]]; then
  inside sh -c 'cd /src/moga/build && ctest --output-on-failure -j1'
fi
echo "test_on_trixie: passed"
