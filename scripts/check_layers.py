#!/usr/bin/env python3
"""Rejects an #include that runs against the folders' dependency graph.

The graph is stated once: the DEPS of moga_module() in src/*/CMakeLists.txt (a folder may include what it links,
directly or through others). On top of it: base and kernels never see libtorch, only the program and tests/ see
apps/, and nothing in src/ or apps/ reaches into tests/, bench/, python/ or web/.

    scripts/check_layers.py               checks the repository; exit status 1 and one line for each violation
    scripts/check_layers.py --self-test   plants violations in a copy of the graph and expects each to be found
"""
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODULE = re.compile(r"moga_module\(\s*(\w+)([^)]*)\)")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
TORCH_PREFIXES = ("torch/", "ATen/", "c10/", "caffe2/")
KEYWORDS = {"DEPS", "SYSTEM", "TEST_DEPS", "TORCH"}


class Module:
    def __init__(self, name, folder, words):
        self.name = name
        self.folder = folder  # relative to src/, such as "kernels/ref"
        self.torch = "TORCH" in words
        self.lists = {"DEPS": [], "TEST_DEPS": []}
        current = None
        for word in words:
            if word in KEYWORDS:
                current = self.lists.get(word)
            elif current is not None:
                current.append(word)


def read_graph(root):
    modules = {}
    for file in sorted((root / "src").rglob("CMakeLists.txt")):
        text = re.sub(r"#.*", "", file.read_text())
        for name, rest in MODULE.findall(text):
            modules[name] = Module(name, file.parent.relative_to(root / "src").as_posix(), rest.split())
    return modules


def closure(modules, names):
    reached, queue = set(), list(names)
    while queue:
        name = queue.pop()
        if name in modules and name not in reached:
            reached.add(name)
            queue += modules[name].lists["DEPS"]
    return reached


def graph_errors(modules):
    for module in modules.values():
        for dep in module.lists["DEPS"] + module.lists["TEST_DEPS"]:
            if dep not in modules:
                yield f"src/{module.folder}/CMakeLists.txt: links '{dep}', which is no module"
        if module.name in closure(modules, module.lists["DEPS"]):
            yield f"src/{module.folder}/CMakeLists.txt: module '{module.name}' depends on itself"
        if module.torch and (module.name == "base" or module.folder.startswith("kernels/")):
            yield f"src/{module.folder}/CMakeLists.txt: {module.folder} must do without libtorch"


def owner(modules, path):
    """The module in whose folder `path` (relative to src/) lies, or None."""
    inside = [m for m in modules.values() if path.startswith(m.folder + "/")]
    return max(inside, key=lambda m: len(m.folder), default=None)


def include_errors(modules, name, text):
    """`name`: path from the repository root; `text`: what the file holds."""
    top, _, inner = name.partition("/")
    module = owner(modules, inner) if top == "src" else None
    if top == "src" and module is None:
        yield f"{name}: no CMakeLists.txt with moga_module() owns this folder"
        return
    allowed = None
    if module is not None:
        names = module.lists["DEPS"] + [module.name]
        if name.endswith("_test.cc"):
            names = names + module.lists["TEST_DEPS"]
        allowed = closure(modules, names)
    for match in INCLUDE.finditer(text):
        mark, target = match.groups()
        place = f"{name}:{text.count(chr(10), 0, match.start(2)) + 1}"
        if target.startswith("../") or "/../" in target:
            yield f'{place}: "{target}": write the path from src/, without ..'
            continue
        if module is not None and target.startswith(TORCH_PREFIXES):
            if module.name == "base" or module.folder.startswith("kernels/"):
                yield f"{place}: {module.folder} must not include libtorch ({target})"
        if mark == "<":
            continue
        if top in ("src", "apps") and target.startswith(("tests/", "bench/", "python/", "web/")):
            yield f"{place}: {top}/ must not include {target}"
        if top == "src" and target.startswith("apps/"):
            yield f"{place}: src/ must not include {target}"
        used = owner(modules, target)
        if used is not None and allowed is not None and used.name not in allowed:
            yield (f"{place}: {module.folder} must not include {used.folder} ({target}): "
                   f"src/{module.folder}/CMakeLists.txt does not link it")


def check(root, files):
    modules = read_graph(root)
    errors = list(graph_errors(modules))
    for name in files:
        errors += include_errors(modules, name, (root / name).read_text(errors="replace"))
    return errors


def our_files():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.h", "*.cc", "*.cpp", "*.cu", "*.cuh"],
        cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).exists()]


PLANTED = [  # file, line, part of the message that must come back (None: allowed)
    ("src/base/a.h", '#include "model/dit.h"', "base must not include model"),
    ("src/base/b.h", "#include <torch/torch.h>", "must not include libtorch"),
    ("src/kernels/ref/a.cc", "#include <ATen/ATen.h>", "must not include libtorch"),
    ("src/kernels/ref/b.cc", '#include "attention/groups.h"', "kernels/ref must not include attention"),
    ("src/attention/a.cc", '#include "model/dit.h"', "attention must not include model"),
    ("src/attention/b.cc", '  #  include "../model/dit.h"', "without .."),
    ("src/attention/c.cc", '#include "kernels/ref/a.h"', None),
    ("src/attention/d_test.cc", '#include "io/files.h"', None),
    ("src/attention/d.cc", '#include "io/files.h"', "attention must not include io"),
    ("src/model/a.cc", '#include "base/error.h"', None),
    ("src/model/b.cc", '#include "apps/moga/commands.h"', "must not include apps"),
    ("src/model/c.cc", '#include "tests/helper.h"', "must not include tests"),
    ("src/orphan/a.cc", "#include <vector>", "owns this folder"),
    ("apps/moga/a.cc", '#include "model/dit.h"', None),
]


def self_test():
    graph = {
        "base": "moga_module(base SYSTEM fmt::fmt)",
        "kernels/ref": "moga_module(kernels_ref DEPS base)",
        "io": "moga_module(io TORCH DEPS base)",
        "attention": "moga_module(attention TORCH DEPS kernels_ref\n  base TEST_DEPS io)",
        "model": "moga_module(model TORCH DEPS attention io)  # DEPS evaluation",
    }
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in graph.items():
            (root / "src" / name).mkdir(parents=True)
            (root / "src" / name / "CMakeLists.txt").write_text(text + "\n")
        for name, line, expected in PLANTED:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("// a file\n" + line + "\n")
            errors = check(root, [name])
            right = not errors if expected is None else len(errors) == 1 and expected in errors[0]
            if right and expected and "owns" not in expected and ":2:" not in errors[0]:
                right = False
            if not right:
                failures.append(f"{name}: {line}: expected {expected}, found {errors}")
        (root / "src/io/CMakeLists.txt").write_text("moga_module(io TORCH DEPS base model)\n")
        if not any("depends on itself" in error for error in check(root, [])):
            failures.append("a cycle io <-> model went unnoticed")
        (root / "src/io/CMakeLists.txt").write_text("moga_module(io TORCH DEPS nothing)\n")
        if not any("is no module" in error for error in check(root, [])):
            failures.append("an unknown DEPS name went unnoticed")
        (root / "src/base/CMakeLists.txt").write_text("moga_module(base TORCH)\n")
        if not any("do without libtorch" in error for error in check(root, [])):
            failures.append("libtorch in base went unnoticed")
    for failure in failures:
        print(f"check_layers self-test: {failure}")
    print(f"check_layers self-test: {len(PLANTED) + 3} cases, {len(failures)} failed")
    return 1 if failures else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    if sys.argv[1:]:
        print(__doc__)
        return 2
    files = our_files()
    errors = check(ROOT, files)
    for error in errors:
        print(error)
    print(f"check_layers: {len(files)} files, {len(errors)} violations")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
