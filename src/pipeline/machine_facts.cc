// Gathers MachineFacts from /proc, the loaded libraries and the thread pools.
#include <dlfcn.h>
#include <omp.h>
#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <opencv2/core/utility.hpp>
#include <sstream>

#include "base/text_util.h"
#include "base/threads.h"
#include "kernels/cpu/grouped_attention_cpu.h"
#include "kernels/cpu/matrix_product.h"
#include "pipeline/machine_rate.h"
#include "pipeline/machine_report.h"

namespace moga {
namespace {

// In the order in which they are printed. x86 names, then Arm's.
constexpr std::array kFeatures = {"sse4_2",  "avx",      "f16c",        "fma",         "avx2",
                                  "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_bf16",
                                  "asimd",   "asimdhp",  "bf16",        "sve"};

// Files in /proc have no size, so they are read as streams.
std::string read_proc(const std::filesystem::path& path) {
  std::ifstream stream(path);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

std::string after_colon(const std::string& line) {
  const size_t colon = line.find(':');
  return colon == std::string::npos ? "" : trim(std::string_view(line).substr(colon + 1));
}

template <typename Function>
Function* loaded_function(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

// The file of the loaded library that holds `symbol`; empty if there is no such symbol.
std::string library_of(const char* symbol) {
  Dl_info where{};
  void* address = dlsym(RTLD_DEFAULT, symbol);
  if (address == nullptr || dladdr(address, &where) == 0) {
    return "";
  }
  std::error_code error;
  const std::filesystem::path real = std::filesystem::canonical(where.dli_fname, error);
  return error ? where.dli_fname : real.string();
}

MachineFacts::Blas loaded_blas() {
  MachineFacts::Blas blas;
  // The libraries that are mapped say little: several may be. The one whose sgemm_ the dynamic linker
  // resolves is the one that libtorch calls.
  blas.library = library_of("sgemm_");
  blas.is_openblas = is_openblas(blas.library, library_of("openblas_get_config"));
  if (!blas.is_openblas) {
    return blas;
  }
  if (auto* config = loaded_function<char*()>("openblas_get_config")) {
    blas.config = trim(config());
  }
  if (auto* threads = loaded_function<int()>("openblas_get_num_threads")) {
    blas.threads = threads();
  }
  if (auto* parallel = loaded_function<int()>("openblas_get_parallel")) {
    blas.threading = static_cast<MachineFacts::Threading>(std::clamp(parallel(), 0, 2));
  }
  return blas;
}

std::vector<std::string> driver_gpus() {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/driver/nvidia/gpus", error)) {
    for (const std::string& line : split(read_proc(entry.path() / "information"), '\n')) {
      if (line.starts_with("Model:")) {
        names.push_back(after_colon(line));
      }
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

bool is_openblas(const std::string& sgemm_library, const std::string& openblas_library) {
  return !openblas_library.empty() &&
         (sgemm_library == openblas_library || sgemm_library.find("openblas") != std::string::npos);
}

void read_cpuinfo(std::string_view cpuinfo, MachineFacts& facts) {
  std::vector<std::string> flags;
  for (const std::string& line : split(cpuinfo, '\n')) {
    const std::string key = trim(std::string_view(line).substr(0, line.find(':')));
    if (key == "model name" && facts.cpu_model.empty()) {
      facts.cpu_model = after_colon(line);
    } else if ((key == "flags" || key == "Features") && flags.empty()) {
      flags = split(after_colon(line), ' ');
    }
  }
  for (const char* feature : kFeatures) {
    if (std::find(flags.begin(), flags.end(), feature) != flags.end()) {
      facts.cpu_features.emplace_back(feature);
    }
  }
}

MachineFacts gather_machine_facts(double seconds) {
  MachineFacts facts;
  read_cpuinfo(read_proc("/proc/cpuinfo"), facts);
  facts.kernel_target = cpu::attention_target();
  facts.products = cpu::product_library();
  facts.cores = thread_count();
  facts.openmp_threads = omp_get_max_threads();
  facts.torch_threads = at::get_num_threads();
  facts.opencv_threads = cv::getNumThreads();
  facts.blas = loaded_blas();
  if (seconds > 0.0) {
    facts.sgemm_gflops = measured_sgemm_gflops(seconds);
  }
  facts.torch_version = TORCH_VERSION;
  facts.gpus = driver_gpus();
  facts.torch_sees_gpu = torch::cuda::is_available();
  facts.ffmpeg = ffmpeg_version();
  facts.encoders = video_encoders();
  return facts;
}

}  // namespace moga
