// Tests that run as several real processes: the test program starts itself once a rank.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "distributed/communicator.h"
#include "distributed/device_test_util.h"
#include "distributed/launcher.h"

namespace moga {

// Of `processes` ranks that run the current test alone.
inline Launch this_test_in_ranks(int64_t processes) {
  const auto* info = testing::UnitTest::GetInstance()->current_test_info();
  Launch job;
  job.processes = processes;
  job.command = {own_command().at(0),
                 fmt::format("--gtest_filter={}.{}", info->test_suite_name(), info->name()),
                 "--gtest_brief=1"};
  return job;
}

using RankBody = std::function<void(const std::shared_ptr<Communicator>&)>;

// Runs `body` on every rank of 1, 2, ... processes as listed, with a communicator for test_device(); what
// fails on any rank fails the test. On GPUs, numbers of processes that are more than there are GPUs are left
// out.
inline void in_ranks(const std::vector<int64_t>& sizes, const RankBody& body) {
  if (const auto ranks = find_ranks()) {
    at::set_num_threads(1);
    const auto world = Communicator::connect(*ranks, {.device = test_device()});
    body(world);
    world->barrier("end of test");
    return;
  }
  const bool on_gpus = test_device().is_cuda();
  for (const int64_t size : sizes) {
    if (on_gpus && size > static_cast<int64_t>(torch::cuda::device_count())) {
      continue;
    }
    EXPECT_NO_THROW(launch(this_test_in_ranks(size))) << size << " processes";
  }
}

}  // namespace moga
