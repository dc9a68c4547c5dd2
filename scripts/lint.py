#!/usr/bin/env python3
"""Runs clang-tidy (checks: .clang-tidy) over every C++ source of ours that a configured build folder compiles.

    scripts/lint.py --build build [-j N] [FILE ...]

Three things make this finish in minutes on two cores, where clang-tidy by itself takes an hour:
- The build's precompiled header is GCC's, which clang cannot read; so this makes one of its own with clang.
- Nearly all the time goes into libtorch's headers, whatever the size of the file that includes them; so the
  sources of a folder are read as one translation unit. Where two of them define the same private name, the unit
  is split until it compiles.
- Flags are the union of those in compile_commands.json, so that one precompiled header serves all.
Exit status: 0 clean, 1 findings, 2 cannot run.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def stop(message):
    print(f"lint: {message}", file=sys.stderr)
    sys.exit(2)


def read_database(build):
    """Sources of ours -> whether they use libtorch; and the flags of all of them together."""
    database = build / "compile_commands.json"
    if not database.exists():
        stop(f"no {database}; configure first: cmake -G Ninja -B {build}")
    sources, flags = {}, {}
    for entry in json.loads(database.read_text()):
        file = pathlib.Path(entry["file"]).resolve()
        words = shlex.split(entry["command"])
        # Of sources that compile together the build knows only the file that includes them.
        together = "Unity" in file.parts
        files = re.findall(r'#include "(.*)"', file.read_text()) if together else [file]
        ours = [f for f in map(pathlib.Path, files)
                if f.is_relative_to(ROOT) and not f.is_relative_to(build) and f.suffix == ".cc"]
        if not ours:
            continue
        sources.update({f: "-include" in words for f in ours})
        for i, word in enumerate(words):
            if word == "-isystem":
                flags[("-isystem", words[i + 1])] = None
            elif word.startswith(("-D", "-I", "-std=")) or word == "-fopenmp":
                flags[(word,)] = None
    return sources, [word for group in flags for word in group]


PRELUDE = "#include <torch/torch.h>\n#include <algorithm>\n#include <map>\n#include <string>\n#include <vector>\n"


def patched_vector(folder):
    """A std::vector without C++20's constexpr, which makes clang instantiate its members where it is named.

    libtorch 1.13 names std::vector<c10::IValue> before IValue is complete; GCC and newer libtorch are fine.
    """
    search = subprocess.run(["clang++", "-E", "-x", "c++", "-v", os.devnull], capture_output=True, text=True).stderr
    for line in search.splitlines():
        bits = pathlib.Path(line.strip()) / "bits"
        if line.startswith(" /") and (bits / "stl_vector.h").exists():
            break
    else:
        stop("found no libstdc++ headers in clang's search path")
    overlay = folder / "overlay" / "bits"
    overlay.mkdir(parents=True, exist_ok=True)
    (overlay / "stl_vector.h").write_text((bits / "stl_vector.h").read_text().replace("_GLIBCXX20_CONSTEXPR", ""))
    tail = (bits / "vector.tcc").read_text()
    split = tail.rindex("template<", 0, tail.index("vector<bool, _Alloc>::"))
    (overlay / "vector.tcc").write_text(tail[:split].replace("_GLIBCXX20_CONSTEXPR", "") + tail[split:])
    return ["-isystem", str(overlay.parent)]


class Linter:
    def __init__(self, folder, flags):
        self.folder = folder
        self.flags = flags
        self.torch_flags = []

    def prepare_torch(self):
        header, compiled = self.folder / "prelude.h", self.folder / "prelude.pch"
        header.write_text(PRELUDE)
        for extra in (lambda: [], lambda: patched_vector(self.folder)):
            more = extra()
            command = ["clang++", *more, *self.flags, "-x", "c++-header", str(header), "-o", str(compiled)]
            made = subprocess.run(command, capture_output=True, text=True)
            if made.returncode == 0:
                self.torch_flags = [*more, "-include-pch", str(compiled)]
                return
        stop("clang cannot compile libtorch's headers:\n" + made.stderr[-3000:])

    def unit(self, name, files):
        path = self.folder / f"{name}.cc"
        path.write_text("".join(f'#include "{file}"\n' for file in files))
        return path

    def arguments(self, torch):
        return [*(self.torch_flags if torch else []), *self.flags]

    def split(self, name, files, torch):
        """Units of `files` that compile, as (name, files); a single file is kept whatever it does."""
        if len(files) > 1:
            path = self.unit(name, files)
            command = ["clang++", "-fsyntax-only", "-w", *self.arguments(torch), str(path)]
            if subprocess.run(command, capture_output=True).returncode != 0:
                half = len(files) // 2
                return self.split(name + "a", files[:half], torch) + self.split(name + "b", files[half:], torch)
        return [(name, files)]

    def run(self, name, files, torch):
        found = False
        for part, members in self.split(name, files, torch):
            # A source that stands alone is named itself, so that checks on main files see it as one.
            target = members[0] if len(members) == 1 else self.unit(part, members)
            start = time.monotonic()
            command = ["clang-tidy", "--quiet", f"--config-file={ROOT / '.clang-tidy'}", str(target), "--"]
            done = subprocess.run([*command, *self.arguments(torch)], capture_output=True, text=True)
            seconds = time.monotonic() - start
            clean = done.returncode == 0 and not done.stdout.strip()
            # In one piece, so that units that run side by side do not mix their lines.
            report = "" if clean else ": findings\n" + (done.stdout or done.stderr)
            print(f"lint: {part}: {len(members)} files, {seconds:.0f} s{report}", flush=True)
            found = found or not clean
        return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build", help="a configured build folder (default: build)")
    parser.add_argument("-j", type=int, default=os.cpu_count(), help="clang-tidy processes at once")
    parser.add_argument("files", nargs="*", help="only these sources")
    options = parser.parse_args()
    for tool in ("clang++", "clang-tidy"):
        if not shutil.which(tool):
            stop(f"{tool} is missing; scripts/setup.sh --dev installs it")
    build = pathlib.Path(options.build).resolve()
    sources, flags = read_database(build)
    only = {pathlib.Path(file).resolve() for file in options.files}
    if only - sources.keys():
        stop(f"not compiled in {build}: {', '.join(map(str, only - sources.keys()))}")
    groups = {}
    for file in sorted(only or sources):
        kind = "test" if file.stem.endswith("_test") else "lib"
        name = "_".join(file.parent.relative_to(ROOT).parts) + "_" + kind
        groups.setdefault((name, sources[file]), []).append(file)

    folder = build / "lint"
    folder.mkdir(exist_ok=True)
    linter = Linter(folder, flags)
    start = time.monotonic()
    if any(torch for _, torch in groups):
        linter.prepare_torch()
    # The largest first, so that no core waits for one long unit at the end.
    jobs = sorted(groups.items(), key=lambda item: (-item[0][1], -len(item[1])))
    with concurrent.futures.ThreadPoolExecutor(max(1, options.j)) as pool:
        found = any(list(pool.map(lambda job: linter.run(job[0][0], job[1], job[0][1]), jobs)))
    count = sum(map(len, groups.values()))
    print(f"lint: {count} files in {time.monotonic() - start:.0f} s, {'findings above' if found else 'clean'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
