# Everything a newcomer types. `make` alone lists it. One build folder, build/; programs land in build/bin/.
BUILD := build
JOBS ?= $(shell nproc)
CONFIGURE := cmake -G Ninja -B $(BUILD) -DCMAKE_BUILD_TYPE=Release

# As many tests at a time as there are cores: half a second of each is loading libraries, on one thread.
TEST_JOBS ?= $(JOBS)

.DEFAULT_GOAL := help
.PHONY: help setup build demo test bench format lint clean

help: ## this list
	@echo "MoGA: multi-shot films with Mixture-of-Groups Attention. Targets:"
	@sed -n 's/^\([a-z]*\):[^#]*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## install the Debian packages that are missing (as root or through sudo)
	@scripts/setup.sh

# The real work stands in recipes and not in prerequisites, because ninja knows best what is out of date.
$(BUILD)/build.ninja: CMakeLists.txt cmake/dependencies.cmake cmake/moga_module.cmake
	$(CONFIGURE)
	@touch $@

build: setup ## set up, configure and build everything
	@$(MAKE) --no-print-directory $(BUILD)/build.ninja
	ninja -C $(BUILD) -j $(JOBS)

demo: setup ## build the program and make a film: out/demo/film.mp4
	@$(MAKE) --no-print-directory $(BUILD)/build.ninja
	ninja -C $(BUILD) -j $(JOBS) moga
	@mkdir -p out/demo
	$(BUILD)/bin/moga generate examples/demo.yaml -o out/demo/film.mp4 --groups
	@scripts/report_demo.sh out/demo

test: build ## build everything and run all tests
	cd $(BUILD) && ctest --output-on-failure -j $(TEST_JOBS)

bench: setup ## build the benchmark programs and print their tables
	@$(MAKE) --no-print-directory $(BUILD)/build.ninja
	ninja -C $(BUILD) -j $(JOBS) bench_attention bench_step bench_train bench_processes
	$(BUILD)/bin/bench_attention
	$(BUILD)/bin/bench_step
	$(BUILD)/bin/bench_train
	$(BUILD)/bin/bench_processes

format: ## rewrite our C++ files in the house style (clang-format)
	@command -v clang-format >/dev/null || scripts/setup.sh --dev
	git ls-files -z --cached --others --exclude-standard '*.h' '*.cc' '*.cpp' | xargs -0 clang-format -i

lint: ## check format, folder layers and clang-tidy
	@scripts/setup.sh --dev
	@$(MAKE) --no-print-directory $(BUILD)/build.ninja
	scripts/check_format.sh
	scripts/check_layers.py
	scripts/lint.py --build $(BUILD) -j $(JOBS)

clean: ## remove what was built and generated
	rm -rf $(BUILD) out
