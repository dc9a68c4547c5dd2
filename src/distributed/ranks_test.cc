#include "distributed/ranks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"

namespace moga {
namespace {

Environment variables(std::map<std::string, std::string> values) {
  return [values = std::move(values)](const char* name) -> std::optional<std::string> {
    const auto found = values.find(name);
    return found == values.end() ? std::nullopt : std::optional(found->second);
  };
}

std::string ranks_error(std::map<std::string, std::string> values) {
  try {
    find_ranks(variables(std::move(values)));
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Ranks, NoLauncher) {
  EXPECT_FALSE(find_ranks(variables({})));
  // A Slurm batch script: one process, whatever the number of tasks of the job.
  EXPECT_FALSE(find_ranks(variables({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}})));
}

TEST(Ranks, Torchrun) {
  const auto ranks = find_ranks(variables({{"RANK", "5"},
                                           {"WORLD_SIZE", "8"},
                                           {"LOCAL_RANK", "1"},
                                           {"MASTER_ADDR", "head"},
                                           {"MASTER_PORT", "1234"}}));
  ASSERT_TRUE(ranks);
  EXPECT_EQ(ranks->rank, 5);
  EXPECT_EQ(ranks->size, 8);
  EXPECT_EQ(ranks->local_rank, 1);
  EXPECT_EQ(ranks->address, "head");
  EXPECT_EQ(ranks->port, 1234);
  EXPECT_EQ(ranks->launcher, "torchrun");
  EXPECT_FALSE(ranks->launcher_listens);
}

// As torchrun itself sets it: its agent holds the port, and restarted processes are told which attempt they
// are.
TEST(Ranks, TorchrunThatListens) {
  const auto ranks = find_ranks(variables({{"RANK", "0"},
                                           {"WORLD_SIZE", "2"},
                                           {"MASTER_ADDR", "head"},
                                           {"MASTER_PORT", "1234"},
                                           {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                                           {"TORCHELASTIC_RESTART_COUNT", "3"}}));
  ASSERT_TRUE(ranks);
  EXPECT_TRUE(ranks->launcher_listens);
  EXPECT_EQ(ranks->attempt, 3);
}

TEST(Ranks, MpirunOnOneMachineNeedsNoAddress) {
  std::map<std::string, std::string> values = {{"OMPI_COMM_WORLD_RANK", "2"},
                                               {"OMPI_COMM_WORLD_SIZE", "4"},
                                               {"OMPI_COMM_WORLD_LOCAL_RANK", "2"},
                                               {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"}};
  const auto ranks = find_ranks(variables(values));
  ASSERT_TRUE(ranks);
  EXPECT_EQ(ranks->rank, 2);
  EXPECT_EQ(ranks->address, "127.0.0.1");
  values["OMPI_COMM_WORLD_LOCAL_SIZE"] = "2";
  EXPECT_THAT(ranks_error(values), testing::HasSubstr("MASTER_ADDR is not set"));
}

TEST(Ranks, SlurmStep) {
  const auto ranks = find_ranks(variables({{"SLURM_PROCID", "3"},
                                           {"SLURM_STEP_NUM_TASKS", "4"},
                                           {"SLURM_LOCALID", "1"},
                                           {"SLURM_JOB_ID", "123456"},
                                           {"SLURM_STEP_NODELIST", "gpu[03-04]"}}));
  ASSERT_TRUE(ranks);
  EXPECT_EQ(ranks->rank, 3);
  EXPECT_EQ(ranks->local_rank, 1);
  EXPECT_EQ(ranks->address, "gpu03");
  EXPECT_EQ(ranks->port, 23456);
}

TEST(Ranks, Mpiexec) {
  const auto ranks = find_ranks(
      variables({{"PMI_RANK", "0"}, {"PMI_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "7"}}));
  ASSERT_TRUE(ranks);
  EXPECT_EQ(ranks->size, 2);
}

TEST(Ranks, NodeLists) {
  EXPECT_EQ(first_of_nodelist("one"), "one");
  EXPECT_EQ(first_of_nodelist("one,two"), "one");
  EXPECT_EQ(first_of_nodelist("one,n[1-2]"), "one");
  EXPECT_EQ(first_of_nodelist("n[07-09,12],m3"), "n07");
  EXPECT_EQ(first_of_nodelist("n[4]"), "n4");
  EXPECT_THROW(first_of_nodelist("n["), Error);
}

TEST(Ranks, ErrorsSayWhatToDo) {
  EXPECT_THAT(ranks_error({{"RANK", "0"}}), testing::HasSubstr("RANK is set and WORLD_SIZE is not"));
  EXPECT_THAT(ranks_error({{"RANK", "4"}, {"WORLD_SIZE", "4"}, {"MASTER_ADDR", "a"}}),
              testing::HasSubstr("RANK must be a whole number from 0 to 3, found '4'"));
  EXPECT_THAT(ranks_error({{"RANK", "1"}, {"WORLD_SIZE", "4"}}),
              testing::HasSubstr("MASTER_ADDR is not set"));
  EXPECT_THAT(
      ranks_error({{"RANK", "1"}, {"WORLD_SIZE", "4"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "high"}}),
      testing::HasSubstr("MASTER_PORT must be a whole number"));
}

}  // namespace
}  // namespace moga
