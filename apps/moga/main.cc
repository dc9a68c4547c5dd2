// moga: the command line. Subcommands fill request structs and call the libraries; errors become one line.
#include <ATen/Parallel.h>

#include <cstdio>
#include <cstdlib>
#include <exception>

#include "base/error.h"
#include "base/log.h"
#include "base/threads.h"
#include "commands.h"
#include "distributed/communicator.h"
#include "distributed/launcher.h"

namespace {

constexpr int kExitBadInput = 2;
constexpr int kExitBug = 70;

int run(int argc, char** argv) {
  moga::init_logging();
  moga::init_threads();
  at::set_num_threads(moga::thread_count());

  CLI::App app{"Mixture-of-Groups Attention: long multi-shot films from scripts"};
  app.require_subcommand(1);
  app.set_version_flag("--version", "moga " MOGA_VERSION);
  moga::add_lint(app);
  moga::add_plan(app);
  moga::add_info(app);
  moga::add_toy_films(app);
  moga::add_doctor(app);
  moga::add_train(app);
  moga::add_generate(app);
  moga::add_decode(app);
  moga::add_reconstruct(app);
  moga::add_groups(app);
  moga::add_eval(app);
  moga::add_inspect(app);
  moga::add_convert(app);
  moga::add_random_model(app);
  moga::add_prepare(app);
  moga::add_shots(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::RuntimeError& ended) {  // a subcommand that worked but chose its exit code
    return ended.get_exit_code();
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : kExitBadInput;
  }
  return 0;
}

// One of several processes leaves it to the one that started them to say it once.
void report(const char* kind, const char* message, bool by_peer) {
  if (!moga::tell_launcher(message, by_peer)) {
    fmt::print(stderr, "moga: {}{}\n", kind, message);
  }
}

}  // namespace

int main(int argc, char** argv) {
  moga::tune_runtime(argv);
  try {
    return run(argc, argv);
  } catch (const moga::PeerError& error) {
    report("error: ", error.what(), /*by_peer=*/true);
    std::fflush(nullptr);
    std::_Exit(kExitBadInput);  // threads may still wait for the lost rank
  } catch (const moga::Error& error) {
    report("error: ", error.what(), /*by_peer=*/false);
    return kExitBadInput;
  } catch (const std::exception& error) {
    if (const auto shortage = moga::memory_shortage(error)) {
      const std::string advice = fmt::format(
          "{}; `moga plan` says what a film or a training step needs. Less do smaller or shorter films, "
          "`--vae-tiling`, `--processes` on several GPUs, and in training `recompute: true` or a smaller "
          "batch",
          *shortage);
      report("error: ", advice.c_str(), /*by_peer=*/false);
      return kExitBadInput;
    }
    report("internal error, please report it with the command you ran: ", error.what(), /*by_peer=*/false);
    return kExitBug;
  }
}
