#include "pipeline/machine_report.h"

#include <algorithm>

#include "base/error.h"

namespace moga {
namespace {

// Below this, a core is not running vector code. A reference BLAS gives 1 to 4 GFLOP/s a core; OpenBLAS gives
// 20 on the slowest AVX2 machine that we know of, and half of that when another program shares the core.
constexpr double kSlowGflopsPerThread = 8.0;

constexpr const char* kBlasRemedy =
    "apt-get install libopenblas0-openmp && update-alternatives --set libblas.so.3-$(uname -m)-linux-gnu "
    "/usr/lib/$(uname -m)-linux-gnu/openblas-openmp/libblas.so.3";

bool contains(const std::vector<std::string>& list, const std::string& word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

std::string or_none(const std::vector<std::string>& names) {
  return names.empty() ? "none" : fmt::format("{}", fmt::join(names, " "));
}

const char* threading_name(MachineFacts::Threading threading) {
  switch (threading) {
    case MachineFacts::Threading::kSequential:
      return "sequential";
    case MachineFacts::Threading::kPthreads:
      return "pthreads";
    case MachineFacts::Threading::kOpenMP:
      return "OpenMP";
  }
  return "unknown";
}

const char* health_name(Health health) {
  return health == Health::kOk ? "ok" : health == Health::kWarning ? "warning" : "broken";
}

MachineFinding judge_features(const MachineFacts& facts) {
  MachineFinding finding{"CPU features", or_none(facts.cpu_features), Health::kOk, ""};
  const bool x86 = contains(facts.cpu_features, "avx2") && contains(facts.cpu_features, "fma");
  if (!x86 && !contains(facts.cpu_features, "asimd")) {
    finding.health = Health::kWarning;
    finding.remedy =
        "without AVX2 and FMA everything runs several times slower; in a virtual machine, pass the "
        "host's CPU model through";
  }
  return finding;
}

MachineFinding judge_threads(const MachineFacts& facts) {
  MachineFinding finding{"Threads",
                         fmt::format("{} cores; OpenMP {}, libtorch {}, OpenCV {}", facts.cores,
                                     facts.openmp_threads, facts.torch_threads, facts.opencv_threads),
                         Health::kOk, ""};
  if (facts.cores == 1) {
    finding.health = Health::kWarning;
    finding.remedy = "only one core may be used: give the machine or container more, or unset MOGA_THREADS";
  } else if (facts.openmp_threads < facts.cores || facts.torch_threads < facts.cores) {
    finding.health = Health::kWarning;
    finding.remedy = "a pool is smaller than the cores: unset OMP_NUM_THREADS and OMP_THREAD_LIMIT";
  }
  return finding;
}

MachineFinding judge_blas(const MachineFacts& facts) {
  const MachineFacts::Blas& blas = facts.blas;
  const std::string library = blas.library.empty() ? "inside libtorch" : blas.library;
  if (blas.is_openblas) {
    MachineFinding finding{"BLAS",
                           fmt::format("{} ({}; {}, {} threads)", library, blas.config,
                                       threading_name(blas.threading), blas.threads),
                           Health::kOk, ""};
    if (blas.threading != MachineFacts::Threading::kOpenMP) {
      finding.health = Health::kWarning;
      finding.remedy = fmt::format(
          "its threads compete with libtorch's OpenMP threads; use the OpenMP build: {}", kBlasRemedy);
    } else if (blas.threads < facts.cores) {
      finding.health = Health::kWarning;
      finding.remedy = "it uses fewer threads than there are cores: unset OPENBLAS_NUM_THREADS";
    }
    return finding;
  }
  MachineFinding finding{"BLAS", library, Health::kOk, ""};
  const std::string name = blas.library.substr(blas.library.rfind('/') + 1);
  if (name.starts_with("libblas.so") && blas.library.find("atlas") == std::string::npos &&
      blas.library.find("blis") == std::string::npos && blas.library.find("mkl") == std::string::npos) {
    finding.value += " (reference BLAS)";
    finding.health = Health::kWarning;
    finding.remedy = fmt::format("it is ten times slower than OpenBLAS, or more: {}", kBlasRemedy);
  }
  return finding;
}

MachineFinding judge_rate(const MachineFacts& facts) {
  MachineFinding finding{"SGEMM", fmt::format("{:.1f} GFLOP/s", facts.sgemm_gflops), Health::kOk, ""};
  if (facts.sgemm_gflops < kSlowGflopsPerThread * std::max(1, facts.torch_threads)) {
    finding.health = Health::kWarning;
    finding.remedy = fmt::format(
        "below {} GFLOP/s a thread: other programs are busy, or the BLAS has no vector code for this CPU",
        kSlowGflopsPerThread);
  }
  return finding;
}

MachineFinding judge_gpu(const MachineFacts& facts) {
  MachineFinding finding{"GPU", facts.gpus.empty() ? "none: everything runs on the CPU" : or_none(facts.gpus),
                         Health::kOk, ""};
  if (facts.torch_sees_gpu && facts.gpus.empty()) {
    finding.value = "seen by libtorch";
  } else if (!facts.gpus.empty() && !facts.torch_sees_gpu) {
    finding.health = Health::kWarning;
    finding.remedy =
        "this libtorch cannot use it (Debian's is for CPUs): build with a CUDA libtorch, "
        "cmake -DCMAKE_PREFIX_PATH=/path/to/libtorch";
  }
  return finding;
}

MachineFinding judge_h264(const MachineFacts& facts) {
  MachineFinding finding{"H.264 encoders", or_none(facts.encoders.h264), Health::kOk, ""};
  if (facts.encoders.h264.empty()) {
    finding.health = Health::kBroken;
    finding.remedy = "films cannot be written; install an FFmpeg with libx264 (Debian: libavcodec-extra)";
  } else if (!contains(facts.encoders.h264, "libx264")) {
    finding.health = Health::kWarning;
    finding.remedy =
        "no libx264: films may look different on other machines; install an FFmpeg that has it "
        "(Debian: libavcodec-extra)";
  }
  return finding;
}

}  // namespace

std::vector<MachineFinding> judge_machine(const MachineFacts& facts) {
  std::vector<MachineFinding> findings;
  findings.push_back({"CPU", facts.cpu_model.empty() ? "unknown model" : facts.cpu_model, Health::kOk, ""});
  findings.push_back(judge_features(facts));
  findings.push_back({"Kernels", facts.kernel_target, Health::kOk, ""});
  findings.push_back({"Layers",
                      facts.products.empty() ? "products by the BLAS" : "products by " + facts.products,
                      Health::kOk, ""});
  findings.push_back(judge_threads(facts));
  findings.push_back(judge_blas(facts));
  if (facts.sgemm_gflops > 0.0) {
    findings.push_back(judge_rate(facts));
  }
  findings.push_back({"libtorch", facts.torch_version, Health::kOk, ""});
  findings.push_back(judge_gpu(facts));
  findings.push_back({"FFmpeg", facts.ffmpeg, Health::kOk, ""});
  findings.push_back(judge_h264(facts));
  // Nothing needs these two yet, so their absence is no fault.
  findings.push_back({"HEVC encoders", or_none(facts.encoders.hevc), Health::kOk, ""});
  findings.push_back({"AV1 encoders", or_none(facts.encoders.av1), Health::kOk, ""});
  return findings;
}

nlohmann::ordered_json machine_report_json(const MachineFacts& facts,
                                           const std::vector<MachineFinding>& findings) {
  nlohmann::ordered_json report;
  report["healthy"] = std::none_of(findings.begin(), findings.end(), [](const MachineFinding& finding) {
    return finding.health != Health::kOk;
  });
  report["cpu"] = {{"model", facts.cpu_model}, {"features", facts.cpu_features}, {"cores", facts.cores}};
  report["kernels"] = {{"target", facts.kernel_target}, {"products", facts.products}};
  report["threads"] = {{"openmp", facts.openmp_threads},
                       {"torch", facts.torch_threads},
                       {"opencv", facts.opencv_threads},
                       {"blas", facts.blas.threads}};
  report["blas"] = {{"library", facts.blas.library},
                    {"openblas", facts.blas.is_openblas},
                    {"config", facts.blas.config},
                    {"threading", threading_name(facts.blas.threading)}};
  report["sgemm_gflops"] = facts.sgemm_gflops;
  report["torch"] = {{"version", facts.torch_version}, {"sees_gpu", facts.torch_sees_gpu}};
  report["gpus"] = facts.gpus;
  report["ffmpeg"] = {{"version", facts.ffmpeg},
                      {"h264", facts.encoders.h264},
                      {"hevc", facts.encoders.hevc},
                      {"av1", facts.encoders.av1}};
  report["findings"] = nlohmann::ordered_json::array();
  for (const MachineFinding& finding : findings) {
    report["findings"].push_back({{"name", finding.name},
                                  {"value", finding.value},
                                  {"health", health_name(finding.health)},
                                  {"remedy", finding.remedy}});
  }
  return report;
}

std::string machine_report_text(const std::vector<MachineFinding>& findings) {
  std::string text;
  for (const MachineFinding& finding : findings) {
    text += fmt::format("{:<8} {:<15} {}\n", health_name(finding.health), finding.name, finding.value);
    if (!finding.remedy.empty()) {
      text += fmt::format("{:<24} -> {}\n", "", finding.remedy);
    }
  }
  return text;
}

}  // namespace moga
