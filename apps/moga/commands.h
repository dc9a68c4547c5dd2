// The subcommands. Each adds its options to the command line and a callback that does the work.
#pragma once

#include <CLI/CLI.hpp>

namespace moga {

void add_lint(CLI::App& app);
void add_plan(CLI::App& app);
void add_info(CLI::App& app);
void add_toy_films(CLI::App& app);
void add_doctor(CLI::App& app);
void add_train(CLI::App& app);
void add_generate(CLI::App& app);
void add_decode(CLI::App& app);
void add_reconstruct(CLI::App& app);
void add_groups(CLI::App& app);
void add_eval(CLI::App& app);
void add_inspect(CLI::App& app);
void add_convert(CLI::App& app);
void add_random_model(CLI::App& app);
void add_prepare(CLI::App& app);
void add_shots(CLI::App& app);

}  // namespace moga
