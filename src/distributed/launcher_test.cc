#include "distributed/launcher.h"

#include <gmock/gmock.h>

#include <csignal>
#include <thread>

#include "distributed/ranks_test_util.h"

namespace moga {
namespace {

std::string launch_error(int64_t processes) {
  try {
    launch(this_test_in_ranks(processes));
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Launcher, EveryRankKnowsItsPlace) {
  if (const auto ranks = find_ranks()) {
    EXPECT_EQ(ranks->size, 3);
    EXPECT_EQ(ranks->rank, ranks->local_rank);
    EXPECT_EQ(ranks->address, "127.0.0.1");
    EXPECT_TRUE(process_environment("MOGA_THREADS"));
    return;
  }
  EXPECT_NO_THROW(launch(this_test_in_ranks(3)));
}

TEST(Launcher, RankThatDiesIsNamedAndTheOthersEnd) {
  if (const auto ranks = find_ranks()) {
    const auto world = Communicator::connect(*ranks);
    if (world->rank() == 1) {
      raise(SIGKILL);
    }
    try {
      world->barrier("gradients");
    } catch (const PeerError& error) {
      tell_launcher(error.what(), /*by_peer=*/true);
      std::_Exit(2);
    }
    sleep(600);
  }
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(launch_error(3), "rank 1 of 3 was ended by signal 9 (Killed); the other ranks were stopped");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
}

TEST(Launcher, ErrorOfOneRankIsTheJobsError) {
  if (const auto ranks = find_ranks()) {
    if (ranks->rank == 2) {
      tell_launcher("no room on the disk", /*by_peer=*/false);
    } else {
      tell_launcher("rank 2 is gone", /*by_peer=*/true);
    }
    std::_Exit(2);
  }
  EXPECT_EQ(launch_error(3), "rank 2 of 3: no room on the disk");
}

TEST(Launcher, ExitCodeWithoutWords) {
  if (find_ranks()) {
    std::_Exit(find_ranks()->rank == 0 ? 5 : 0);
  }
  EXPECT_EQ(launch_error(2), "rank 0 of 2 ended with exit code 5; the other ranks were stopped");
}

volatile std::sig_atomic_t asked_to_end = 0;

TEST(Launcher, TerminationReachesAllRanks) {
  if (const auto ranks = find_ranks()) {
    std::signal(SIGTERM, [](int) { asked_to_end = 1; });
    Communicator::connect(*ranks)->barrier("all listen");
    if (ranks->rank == 1) {
      kill(getppid(), SIGTERM);  // as somebody would who ends the job
    }
    for (int i = 0; i < 3000 && asked_to_end == 0; ++i) {
      usleep(10000);
    }
    EXPECT_EQ(asked_to_end, 1);
    std::_Exit(ranks->rank == 2 ? 75 : 0);  // one has something to tell
  }
  EXPECT_EQ(launch(this_test_in_ranks(3)), 75);
}

TEST(Launcher, BadProcessCount) {
  Launch job;
  job.processes = 0;
  EXPECT_THROW(launch(job), Error);
}

}  // namespace
}  // namespace moga
