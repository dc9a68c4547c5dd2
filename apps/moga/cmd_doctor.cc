// moga doctor: is this machine set up well?
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "commands.h"
#include "pipeline/machine_report.h"

namespace moga {
namespace {

struct DoctorOptions {
  bool json = false;
  double seconds = 0.3;
};

void run_doctor(const DoctorOptions& options) {
  const MachineFacts facts = gather_machine_facts(options.seconds);
  const std::vector<MachineFinding> findings = judge_machine(facts);
  if (options.json) {
    fmt::print("{}\n", machine_report_json(facts, findings).dump(2));
  } else {
    fmt::print("{}", machine_report_text(findings));
  }
  std::fflush(stdout);
  std::vector<std::string> broken;
  for (const MachineFinding& finding : findings) {
    if (finding.health == Health::kBroken) {
      broken.push_back(finding.name);
    }
  }
  MOGA_CHECK(broken.empty(), "doctor: broken: {}", fmt::join(broken, ", "));
}

}  // namespace

void add_doctor(CLI::App& app) {
  auto options = std::make_shared<DoctorOptions>();
  CLI::App* command = app.add_subcommand("doctor",
                                         "Show the CPU, threads, BLAS and its speed, libtorch, GPU and video "
                                         "encoders, what is wrong with each and "
                                         "what helps. Exit status 0 unless something is broken.");
  command->add_flag("--json", options->json, "Print one JSON object instead of the table");
  command
      ->add_option("--seconds", options->seconds,
                   "How long to time matrix products for the SGEMM rate; 0 leaves it out")
      ->check(CLI::Range(0.0, 60.0))
      ->capture_default_str();
  command->callback([options] { run_doctor(*options); });
}

}  // namespace moga
