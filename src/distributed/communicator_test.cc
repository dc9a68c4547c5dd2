#include "distributed/communicator.h"

#include <gmock/gmock.h>

#include <numeric>

#include "distributed/ranks_test_util.h"

namespace moga {
namespace {

using torch::Tensor;

// Distinct on every rank; every rank can make that of any other.
Tensor values_of(int64_t rank, at::IntArrayRef sizes, torch::ScalarType type = torch::kFloat32) {
  const auto generator = at::detail::createCPUGenerator(static_cast<uint64_t>(100 + rank));
  return (torch::randn(sizes, generator) * 8).to(test_device(), type);
}

Tensor sum_over_ranks(int64_t size, at::IntArrayRef sizes) {
  Tensor sum = torch::zeros(sizes, test_device());
  for (int64_t r = 0; r < size; ++r) {
    sum = sum + values_of(r, sizes);
  }
  return sum;
}

void sums_are_equal_everywhere(const std::shared_ptr<Communicator>& world) {
  Tensor values = values_of(world->rank(), {5, 7});
  world->all_reduce(values, "values");
  EXPECT_TRUE(torch::allclose(values, sum_over_ranks(world->size(), {5, 7}), 1e-5, 1e-5));
  const Tensor host = values.cpu();
  world->check_equal(std::string(static_cast<const char*>(host.data_ptr()), host.nbytes()), "sum");
  Tensor counts = torch::full({3}, world->rank(), torch::TensorOptions(test_device()).dtype(torch::kInt64));
  world->all_reduce(counts, "counts");
  EXPECT_EQ(counts[1].item<int64_t>(), world->size() * (world->size() - 1) / 2);
  world->all_reduce(torch::empty({0}, test_device()), "nothing");
}

TEST(Communicator, SumsUnderWayTogether) {
  in_ranks({3}, [](const auto& world) {
    std::vector<Tensor> values;
    std::vector<Pending> pending;
    for (int64_t i = 0; i < 20; ++i) {
      values.push_back(torch::full({1000 + i}, static_cast<double>(world->rank() + i), test_device()));
      pending.push_back(world->all_reduce_start(values.back(), "many"));
    }
    for (int64_t i = 19; i >= 0; --i) {
      pending[static_cast<size_t>(i)].wait();
      EXPECT_TRUE(values[static_cast<size_t>(i)].eq(static_cast<double>(3 + 3 * i)).all().item<bool>());
    }
  });
}

void broadcasts_any_dtype_and_shape(const std::shared_ptr<Communicator>& world) {
  const int64_t root = world->size() - 1;
  for (const auto type : {torch::kFloat32, torch::kBFloat16, torch::kHalf, torch::kInt64, torch::kBool}) {
    const Tensor mine = world->rank() == root ? values_of(root, {2, 3, 1}, type) : Tensor();
    const Tensor received = world->broadcast_any(mine, root, "tensor");
    EXPECT_TRUE(torch::equal(received, values_of(root, {2, 3, 1}, type)));
  }
  EXPECT_FALSE(world->broadcast_any({}, 0, "nothing").defined());
  EXPECT_EQ(world->broadcast_text(world->rank() == 0 ? "text" : "", 0, "text"), "text");
  EXPECT_EQ(world->broadcast_text("", 0, "no text"), "");
}

void gathers_uneven_rows(const std::shared_ptr<Communicator>& world) {
  // Rank 0 has none.
  std::vector<int64_t> counts;
  std::vector<Tensor> all;
  for (int64_t r = 0; r < world->size(); ++r) {
    counts.push_back(3 * r);
    all.push_back(values_of(r, {3 * r, 2}, torch::kBFloat16));
  }
  const Tensor gathered = world->all_gather(all[static_cast<size_t>(world->rank())], counts, "rows");
  EXPECT_TRUE(torch::equal(gathered, torch::cat(all)));
  EXPECT_THROW(world->all_gather(torch::zeros({1, 2}), std::vector<int64_t>(counts.size(), 2), "rows"),
               Error);
}

void reduce_scatter_equals_reduce_and_cut(const std::shared_ptr<Communicator>& world) {
  const int64_t P = world->size();
  for (const bool even : {true, false}) {
    std::vector<int64_t> counts;
    for (int64_t r = 0; r < P; ++r) {
      counts.push_back(even ? 6 : r);  // of the uneven ones the first is empty
    }
    const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
    const Tensor piece = world->reduce_scatter(values_of(world->rank(), {total}), counts, "pieces");
    const int64_t begin = std::accumulate(counts.begin(), counts.begin() + world->rank(), int64_t{0});
    const Tensor expected =
        sum_over_ranks(P, {total}).narrow(0, begin, counts[static_cast<size_t>(world->rank())]);
    EXPECT_TRUE(torch::allclose(piece, expected, 1e-5, 1e-5));
  }
}

void exchanges_uneven_and_empty_pieces(const std::shared_ptr<Communicator>& world) {
  const int64_t P = world->size();
  // What rank a holds for rank b.
  const auto count = [](int64_t a, int64_t b) { return (3 * a + 5 * b) % 7; };
  const auto piece = [&](int64_t a, int64_t b) {
    return torch::full({count(a, b)}, static_cast<double>(10 * a + b),
                       torch::TensorOptions(test_device()).dtype(torch::kBFloat16));
  };
  std::vector<int64_t> send;
  std::vector<int64_t> receive;
  std::vector<Tensor> input;
  std::vector<Tensor> expected;
  for (int64_t r = 0; r < P; ++r) {
    send.push_back(count(world->rank(), r));
    receive.push_back(count(r, world->rank()));
    input.push_back(piece(world->rank(), r));
    expected.push_back(piece(r, world->rank()));
  }
  EXPECT_TRUE(
      torch::equal(world->all_to_all(torch::cat(input), send, receive, "pieces"), torch::cat(expected)));
  // Nobody holds anything, and only rank 0 holds something, for the last rank.
  std::vector<int64_t> nothing(static_cast<size_t>(P), 0);
  EXPECT_EQ(world->all_to_all(torch::empty({0}, test_device()), nothing, nothing, "nothing").numel(), 0);
  send = nothing;
  receive = nothing;
  if (world->rank() == 0) {
    send.back() = 4;
  }
  if (world->rank() == P - 1) {
    receive.front() = 4;
  }
  const Tensor one =
      world->all_to_all(torch::ones({world->rank() == 0 ? 4 : 0}, test_device()), send, receive, "one");
  EXPECT_EQ(one.numel(), world->rank() == P - 1 ? 4 : 0);
}

TEST(Communicator, OperationsEqualThoseOfOneProcess) {
  in_ranks({1, 2, 3, 4, 8}, [](const auto& world) {
    sums_are_equal_everywhere(world);
    broadcasts_any_dtype_and_shape(world);
    gathers_uneven_rows(world);
    reduce_scatter_equals_reduce_and_cut(world);
    exchanges_uneven_and_empty_pieces(world);
  });
}

TEST(Communicator, ManyLargeExchangesOnBorrowedMemory) {
  in_ranks({4}, [](const auto& world) {
    for (int64_t i = 0; i < 50; ++i) {
      const std::vector<int64_t> counts(4, 50000 + i);
      const Tensor received =
          world->all_to_all(torch::full({4 * counts[0]}, static_cast<double>(world->rank()), test_device()),
                            counts, counts, "large");
      const Tensor ranks = torch::arange(4, torch::TensorOptions(test_device()).dtype(torch::kFloat32))
                               .repeat_interleave(counts[0]);
      ASSERT_TRUE(torch::equal(received, ranks));
    }
    EXPECT_GT(world->seconds_waited(), 0);
  });
}

TEST(Communicator, GroupsWorkBesideEachOther) {
  in_ranks({4}, [](const auto& world) {
    const int64_t column = world->rank() % 2;
    const auto group = world->group(fmt::format("column{}", column), {column, column + 2});
    EXPECT_EQ(group->size(), 2);
    EXPECT_EQ(group->rank(), world->rank() / 2);
    Tensor values = torch::full({2}, static_cast<double>(world->rank()), test_device());
    group->all_reduce(values, "values");
    EXPECT_EQ(values[0].item<double>(), static_cast<double>(2 * column + 2));
    EXPECT_THROW(world->group("others", {(world->rank() + 1) % 4}), Error);
  });
}

TEST(Communicator, TheFirstWorksAloneForAsLongAsItLikes) {
  if (const auto ranks = find_ranks()) {
    const auto world = Communicator::connect(*ranks, {.timeout_seconds = 1});
    bool worked = false;
    const auto start = std::chrono::steady_clock::now();
    world->first_alone([&] { worked = true, sleep(3); }, "slow work");
    EXPECT_EQ(worked, world->rank() == 0);
    EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
    return;
  }
  EXPECT_NO_THROW(launch(this_test_in_ranks(3)));
}

TEST(Communicator, DifferentSettingsAreNamed) {
  in_ranks({4}, [](const auto& world) {
    try {
      world->check_equal(world->rank() >= 2 ? "b" : "a", "training config");
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(),
                   "all ranks must have the same training config: ranks 2, 3 differ from rank 0");
    }
    EXPECT_NO_THROW(world->check_equal("same", "training config"));
  });
}

TEST(Communicator, PortInUse) {
  if (const auto ranks = find_ranks()) {
    const auto world = Communicator::connect(*ranks);
    Ranks other = *ranks;
    if (world->rank() == 0) {  // the port that it listens on itself
      try {
        Communicator::connect(other);
        ADD_FAILURE() << "no error";
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), testing::HasSubstr("is in use on this machine: set MASTER_PORT"));
      }
    }
    world->barrier("end");
    return;
  }
  EXPECT_NO_THROW(launch(this_test_in_ranks(2)));
}

// As under torchrun: the store is there before rank 0, and after it for the next attempt.
TEST(Communicator, LauncherMayHoldTheStore) {
  in_ranks({2}, [](const auto& world) {
    Ranks ranks = *find_ranks();  // the port that world's rank 0 listens on
    ranks.launcher_listens = true;
    for (ranks.attempt = 0; ranks.attempt < 2; ++ranks.attempt) {
      const auto again = Communicator::connect(ranks);
      torch::Tensor sum = torch::full({1}, static_cast<double>(ranks.rank + 1));
      again->all_reduce(sum, "sum");
      EXPECT_EQ(sum.item<double>(), 3);
      world->barrier("attempt");
    }
  });
}

TEST(Communicator, MissingRankIsNamed) {
  if (const auto ranks = find_ranks()) {
    Ranks more = *ranks;
    more.size = 4;
    try {
      Communicator::connect(more, {.start_timeout_seconds = 8});
      ADD_FAILURE() << "no error";
    } catch (const PeerError& error) {
      // Rank 0 holds what the others look into; once it has given up they can say only that.
      const std::string given_up = "the processes did not find each other";
      EXPECT_THAT(error.what(), testing::AnyOf(testing::HasSubstr("for ranks 2, 3 of 4"),
                                               testing::HasSubstr(more.rank == 0 ? "never" : given_up)));
    }
    return;
  }
  EXPECT_NO_THROW(launch(this_test_in_ranks(2)));
}

TEST(Communicator, HangingRankIsNamed) {
  if (const auto ranks = find_ranks()) {
    const auto world = Communicator::connect(*ranks, {.timeout_seconds = 2});
    if (world->rank() == 2) {
      sleep(600);  // ended by the launcher
    }
    try {
      world->barrier("gradients");
    } catch (const PeerError& error) {
      tell_launcher(error.what(), /*by_peer=*/true);
      std::_Exit(2);
    }
    ADD_FAILURE() << "no error";
    return;
  }
  try {
    launch(this_test_in_ranks(3));
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("'gradients' failed"));
    EXPECT_THAT(error.what(), testing::HasSubstr("no answer from rank 2 ("));
  }
}

TEST(EvenCounts, LargerPartsFirst) {
  EXPECT_EQ(even_counts(12, 8), (std::vector<int64_t>{2, 2, 2, 2, 1, 1, 1, 1}));
  EXPECT_EQ(even_counts(2, 3), (std::vector<int64_t>{1, 1, 0}));
  EXPECT_EQ(even_counts(0, 2), (std::vector<int64_t>{0, 0}));
}

}  // namespace
}  // namespace moga
