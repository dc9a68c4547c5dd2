#include "pipeline/machine_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "pipeline/machine_rate.h"

namespace moga {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

MachineFacts healthy_facts() {
  MachineFacts facts;
  facts.cpu_model = "Example CPU";
  facts.cpu_features = {"fma", "avx2"};
  facts.kernel_target = "AVX2";
  facts.products = "oneDNN 2.6.3";
  facts.cores = facts.openmp_threads = facts.torch_threads = facts.opencv_threads = 4;
  facts.blas = {"/usr/lib/x/openblas-openmp/libblas.so.3", true, "OpenBLAS 0.3.21", 4,
                MachineFacts::Threading::kOpenMP};
  facts.sgemm_gflops = 200.0;
  facts.torch_version = "1.13.1";
  facts.ffmpeg = "5.1";
  facts.encoders.h264 = {"libx264"};
  return facts;
}

MachineFinding find(const MachineFacts& facts, const std::string& name) {
  for (const MachineFinding& finding : judge_machine(facts)) {
    if (finding.name == name) {
      return finding;
    }
  }
  fail("no finding '{}'", name);
}

TEST(MachineReport, HealthyMachineHasNoRemedies) {
  const MachineFacts facts = healthy_facts();
  for (const MachineFinding& finding : judge_machine(facts)) {
    EXPECT_EQ(finding.health, Health::kOk) << finding.name << ": " << finding.remedy;
    EXPECT_THAT(finding.remedy, IsEmpty());
    EXPECT_THAT(finding.value, Not(IsEmpty()));
  }
  EXPECT_TRUE(machine_report_json(facts, judge_machine(facts))["healthy"].get<bool>());
}

TEST(MachineReport, TellsWhoMultiplies) {
  MachineFacts facts = healthy_facts();
  EXPECT_EQ(find(facts, "Layers").value, "products by oneDNN 2.6.3");
  facts.products.clear();
  EXPECT_EQ(find(facts, "Layers").value, "products by the BLAS");
}

TEST(MachineReport, ReferenceBlasNamesThePackageAndTheAlternative) {
  MachineFacts facts = healthy_facts();
  facts.blas = {"/usr/lib/x86_64-linux-gnu/blas/libblas.so.3.11.0", false, "", 0, {}};
  const MachineFinding finding = find(facts, "BLAS");
  EXPECT_EQ(finding.health, Health::kWarning);
  EXPECT_THAT(finding.remedy, HasSubstr("libopenblas0-openmp"));
  EXPECT_THAT(finding.remedy, HasSubstr("update-alternatives --set libblas.so.3"));
}

TEST(MachineReport, OpenBlasThatIsLoadedButNotUsedDoesNotCount) {
  const std::string openblas = "/usr/lib/x/openblas-openmp/libopenblasp-r0.3.21.so";
  EXPECT_FALSE(is_openblas("/usr/lib/x/blas/libblas.so.3.11.0", openblas));
  EXPECT_TRUE(is_openblas("/usr/lib/x/openblas-openmp/libblas.so.3", openblas));
  EXPECT_TRUE(is_openblas("/opt/lib/libtorch_cpu.so", "/opt/lib/libtorch_cpu.so"));
  EXPECT_FALSE(is_openblas("", ""));
}

TEST(MachineReport, ForeignFastBlasIsNotCalledReference) {
  MachineFacts facts = healthy_facts();
  for (const char* library : {"", "/opt/mkl/libmkl_rt.so.2", "/usr/lib/x/blis-openmp/libblas.so.3"}) {
    facts.blas = {library, false, "", 0, {}};
    EXPECT_EQ(find(facts, "BLAS").health, Health::kOk) << library;
  }
}

TEST(MachineReport, OpenBlasWithItsOwnThreadsOrTooFewIsAWarning) {
  MachineFacts facts = healthy_facts();
  facts.blas.threading = MachineFacts::Threading::kPthreads;
  EXPECT_THAT(find(facts, "BLAS").remedy, HasSubstr("libopenblas0-openmp"));
  facts = healthy_facts();
  facts.blas.threads = 1;
  EXPECT_THAT(find(facts, "BLAS").remedy, HasSubstr("OPENBLAS_NUM_THREADS"));
}

TEST(MachineReport, FewThreads) {
  MachineFacts facts = healthy_facts();
  facts.cores = facts.openmp_threads = facts.torch_threads = facts.blas.threads = 1;
  EXPECT_THAT(find(facts, "Threads").remedy, HasSubstr("one core"));
  facts = healthy_facts();
  facts.openmp_threads = 1;
  EXPECT_THAT(find(facts, "Threads").remedy, HasSubstr("OMP_NUM_THREADS"));
}

TEST(MachineReport, SlowMatrixProduct) {
  MachineFacts facts = healthy_facts();
  facts.sgemm_gflops = 10.0;
  EXPECT_EQ(find(facts, "SGEMM").health, Health::kWarning);
}

TEST(MachineReport, EncodersDecideBetweenWarningAndBroken) {
  MachineFacts facts = healthy_facts();
  facts.encoders.h264 = {"libopenh264"};
  EXPECT_EQ(find(facts, "H.264 encoders").health, Health::kWarning);
  facts.encoders.h264 = {};
  EXPECT_EQ(find(facts, "H.264 encoders").health, Health::kBroken);
  EXPECT_FALSE(machine_report_json(facts, judge_machine(facts))["healthy"].get<bool>());
}

TEST(MachineReport, GpuThatLibtorchCannotUse) {
  MachineFacts facts = healthy_facts();
  facts.gpus = {"Example GPU"};
  EXPECT_THAT(find(facts, "GPU").remedy, HasSubstr("CMAKE_PREFIX_PATH"));
  facts.torch_sees_gpu = true;
  EXPECT_EQ(find(facts, "GPU").health, Health::kOk);
}

TEST(MachineReport, ReadsCpuinfo) {
  MachineFacts facts;
  read_cpuinfo(
      "processor\t: 0\nmodel name\t: Fast CPU 9000 @ 3.00GHz\nflags\t\t: fpu avx avx2x fma avx2\n\n"
      "processor\t: 1\nmodel name\t: Another\nflags\t\t: sse4_2\n",
      facts);
  EXPECT_EQ(facts.cpu_model, "Fast CPU 9000 @ 3.00GHz");
  EXPECT_THAT(facts.cpu_features, ElementsAre("avx", "fma", "avx2"));

  MachineFacts arm;
  read_cpuinfo("processor : 0\nFeatures : fp asimd sve\n", arm);
  EXPECT_THAT(arm.cpu_features, ElementsAre("asimd", "sve"));
  EXPECT_EQ(find(arm, "CPU features").health, Health::kOk);

  MachineFacts empty;
  read_cpuinfo("", empty);
  EXPECT_EQ(find(empty, "CPU features").health, Health::kWarning);
}

TEST(MachineReport, GathersThisMachine) {
  const MachineFacts facts = gather_machine_facts(0.0);
  EXPECT_GE(facts.cores, 1);
  EXPECT_GE(facts.torch_threads, 1);
  EXPECT_GE(facts.opencv_threads, 1);
  EXPECT_THAT(facts.torch_version, Not(IsEmpty()));
  EXPECT_THAT(facts.ffmpeg, Not(IsEmpty()));
  EXPECT_EQ(facts.sgemm_gflops, 0.0);
  const std::string text = machine_report_text(judge_machine(facts));
  EXPECT_THAT(text, HasSubstr("libtorch"));
  EXPECT_THAT(text, Not(HasSubstr("SGEMM")));
}

TEST(MachineRate, IsPositiveAndRejectsNonsense) {
  const double rate = measured_sgemm_gflops(0.02);
  EXPECT_GT(rate, 0.05);
  EXPECT_LT(rate, 1e5);
  EXPECT_THROW(measured_sgemm_gflops(0.0), Error);
  EXPECT_THROW(measured_sgemm_gflops(std::nan("")), Error);
}

}  // namespace
}  // namespace moga
