#!/usr/bin/env bash
# Installs what MoGA needs from Debian (12 or newer), as root or through sudo. Safe to run again: when all is
# there it changes nothing and uses no network.
#
#   scripts/setup.sh            what is needed to build, test and run
#   scripts/setup.sh --dev      the same and the tools that CI uses (clang-format, clang-tidy)
#   scripts/setup.sh --check    only list what is missing; exit status 1 if anything is
#   scripts/setup.sh --list     only print the names of the packages
set -euo pipefail

# One line a package: its name, then what it is for.
packages() {
  cat <<'LIST'
g++                           the C++20 compiler
cmake                         configures the build
ninja-build                   runs the build
make                          runs "make demo", "make test"
git                           versions
pkg-config                    finds FFmpeg and sentencepiece
python3                       the repository's own checks
libtorch-dev                  tensors, autograd, optimisers
libgloo-dev                   libtorch's distributed headers include it
libopenblas-openmp-dev        BLAS for development
libopenblas0-openmp           the fast BLAS, on libtorch's own OpenMP threads
libdnnl-dev                   oneDNN, as libtorch uses it: matrix products on CPUs
libavcodec-dev                FFmpeg: codecs
libavformat-dev               FFmpeg: containers
libavutil-dev                 FFmpeg: basics
libswscale-dev                FFmpeg: pixel formats
libopencv-core-dev            OpenCV: arrays
libopencv-imgproc-dev         OpenCV: drawing
libopencv-imgcodecs-dev       OpenCV: PNG files
libcurl4-openssl-dev          HTTP, for captioning endpoints
ffmpeg                        tests: odd videos (HDR, variable rate, interlaced)
libopencv-dnn-dev             OpenCV: networks from ONNX files
libtesseract-dev              OCR: subtitles and watermarks
tesseract-ocr-eng             OCR: English data
libsentencepiece-dev          text tokenizers
nlohmann-json3-dev            JSON
libyaml-cpp-dev               YAML
libcli11-dev                  the command line
libspdlog-dev                 logging
libfmt-dev                    text formatting
libgtest-dev                  tests
libgmock-dev                  tests: matchers
libhwy-dev                    portable SIMD
libbenchmark-dev              benchmark programs
LIST
  if [[ $dev == 1 ]]; then
    cat <<'LIST'
clang-format                  CI: the format check
clang-tidy                    CI: the linter
clang                         CI: compiles the fuzz programs
libclang-rt-dev               CI: libFuzzer and the sanitizers
LIST
  fi
}

dev=0 mode=install
for argument in "$@"; do
  case $argument in
    --dev) dev=1 ;;
    --check) mode=check ;;
    --list) mode=list ;;
    -h | --help) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) echo "setup: unknown option '$argument'; try --help" >&2; exit 2 ;;
  esac
done
if [[ $mode == list ]]; then
  packages | awk '{print $1}'
  exit 0
fi

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "setup: this is not a Debian system; install the counterparts of these packages and run cmake:" >&2
  packages >&2
  exit 1
fi

present() {
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

missing=()
while read -r package purpose; do
  if ! present "$package"; then
    missing+=("$package")
    printf 'setup: missing  %-26s %s\n' "$package" "$purpose"
  fi
done < <(packages)

# libtorch loads libblas.so.3, an alternative: with the reference BLAS behind it, it is ten times slower or more.
alternative=libblas.so.3-$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo "$(uname -m)-linux-gnu")
wanted_blas() { update-alternatives --list "$alternative" 2>/dev/null | grep openblas-openmp || true; }
current_blas() { update-alternatives --query "$alternative" 2>/dev/null | sed -n 's/^Value: //p'; }
blas_wrong() {
  local wanted
  wanted=$(wanted_blas)
  [[ -n $wanted && $(current_blas) != "$wanted" ]]
}
if blas_wrong; then
  echo "setup: BLAS is $(current_blas), should be $(wanted_blas)"
fi

if [[ $mode == check ]]; then
  if [[ ${#missing[@]} -gt 0 ]] || blas_wrong; then
    exit 1
  fi
  echo "setup: all is there"
  exit 0
fi
if [[ ${#missing[@]} -eq 0 ]] && ! blas_wrong; then
  echo "setup: all is there, nothing to install"
  exit 0
fi

as_root=()
if [[ $(id -u) != 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "setup: needs root (or sudo) to run: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

if [[ ${#missing[@]} -gt 0 ]]; then
  apt_install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -q --no-install-recommends -o Dpkg::Use-Pty=0 "$@"
  }
  echo "setup: installing ${#missing[@]} packages with apt-get"
  # The package lists may be empty (a fresh container) or older than the mirror: then fetch them and try once more.
  if ! apt-cache show "${missing[@]}" >/dev/null 2>&1 || ! apt_install "${missing[@]}"; then
    "${as_root[@]}" apt-get update -q
    apt_install "${missing[@]}"
  fi
fi
if blas_wrong; then
  "${as_root[@]}" update-alternatives --set "$alternative" "$(wanted_blas)"
fi
echo "setup: done"
