// What `moga doctor` says: the machine and the libraries as MoGA sees them, each with what is wrong and what
// helps.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "media/encoders.h"

namespace moga {

// Facts, gathered once. Judging them is a function of its own, so that it can be tested on other machines'
// facts.
struct MachineFacts {
  std::string cpu_model;
  std::vector<std::string> cpu_features;  // those that matter here: "avx2", "fma", "avx512f", "asimd", ...
  std::string kernel_target;              // instruction set that the attention kernels run on
  std::string products;                   // library of the layers' matrix products; empty: libtorch's BLAS
  int cores = 0;                          // that this process may run on
  int openmp_threads = 0;
  int torch_threads = 0;
  int opencv_threads = 0;

  enum class Threading { kSequential, kPthreads, kOpenMP };
  struct Blas {
    std::string library;  // path of the library that gives sgemm_; empty if it is hidden inside libtorch
    bool is_openblas = false;
    std::string config;  // openblas_get_config()
    int threads = 0;     // OpenBLAS only
    Threading threading = Threading::kSequential;
  } blas;
  double sgemm_gflops = 0.0;  // 0: not measured

  std::string torch_version;
  std::vector<std::string> gpus;  // as the driver names them
  bool torch_sees_gpu = false;

  std::string ffmpeg;
  VideoEncoders encoders;
};

enum class Health { kOk, kWarning, kBroken };

struct MachineFinding {
  std::string name;   // "BLAS"
  std::string value;  // "/usr/lib/.../libblas.so.3 (OpenBLAS 0.3.21, OpenMP, 2 threads)"
  Health health = Health::kOk;
  std::string remedy;  // what to do; empty when all is well
};

// From the text of /proc/cpuinfo: the first processor's model name and the features listed above.
void read_cpuinfo(std::string_view cpuinfo, MachineFacts& facts);

// Whether the library that holds sgemm_ is OpenBLAS. That OpenBLAS is loaded (`openblas_library`: the file
// that holds openblas_get_config, empty if none) does not say so: Debian's OpenCV brings it in beside a
// reference libblas.so.3.
bool is_openblas(const std::string& sgemm_library, const std::string& openblas_library);

// Measures SGEMM for `seconds` (0: leaves it out). Reads /proc; loads nothing that is not loaded.
MachineFacts gather_machine_facts(double seconds = 0.3);

std::vector<MachineFinding> judge_machine(const MachineFacts& facts);

// {"healthy": bool, "findings": [{"name", "value", "health": "ok|warning|broken", "remedy"}], and the bare
// numbers (cores, threads, sgemm_gflops, ...)}
nlohmann::ordered_json machine_report_json(const MachineFacts& facts,
                                           const std::vector<MachineFinding>& findings);

// A line a finding, its remedy beneath it.
std::string machine_report_text(const std::vector<MachineFinding>& findings);

}  // namespace moga
