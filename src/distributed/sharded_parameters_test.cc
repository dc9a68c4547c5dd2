#include "distributed/sharded_parameters.h"

#include <gmock/gmock.h>

#include "distributed/ranks_test_util.h"

namespace moga {
namespace {

using torch::Tensor;

constexpr int64_t kRows = 24;  // of a step, divisible by the numbers of ranks tried

// A small network with its parameters and gradients as views of flat tensors.
struct FlatNet {
  torch::nn::Linear first{nullptr}, second{nullptr}, unused{nullptr};
  std::vector<Tensor> parameters;
  Tensor flat;

  FlatNet() {
    torch::manual_seed(3);
    first = torch::nn::Linear(5, 17);
    second = torch::nn::Linear(17, 3);
    unused = torch::nn::Linear(2, 2);
    const torch::NoGradGuard guard;
    std::vector<Tensor> pieces;
    for (torch::nn::Linear* layer : {&first, &unused, &second}) {
      for (const Tensor& parameter : (*layer)->parameters()) {
        parameters.push_back(parameter);
        pieces.push_back(parameter.detach().flatten());
      }
    }
    flat = torch::cat(pieces);
    flat.mutable_grad() = torch::zeros_like(flat);
    int64_t offset = 0;
    for (Tensor& parameter : parameters) {
      const auto sizes = parameter.sizes().vec();
      const int64_t count = parameter.numel();
      parameter.set_data(flat.narrow(0, offset, count).view(sizes));
      parameter.mutable_grad() = flat.grad().narrow(0, offset, count).view(sizes);
      offset += count;
    }
  }
  Tensor loss(const Tensor& x, const Tensor& y) {
    return (second(torch::tanh(first(x))) - y).square().mean();
  }
};

struct Trained {
  Tensor values;
  std::vector<double> norms;
};

// Five steps of AdamW, each rank on its part of the rows, in two accumulated halves.
Trained train(const std::shared_ptr<Communicator>& ranks, int64_t bucket_values) {
  FlatNet net;
  ShardedParameters sharded(net.flat, net.parameters, ranks, bucket_values);
  torch::optim::AdamW optimizer({sharded.share()}, torch::optim::AdamWOptions(0.05).weight_decay(0.1));
  const int64_t size = ranks ? ranks->size() : 1;
  const int64_t rows = kRows / size;
  Trained result;
  for (int64_t step = 0; step < 5; ++step) {
    torch::manual_seed(100 + step);
    const int64_t begin = ranks ? ranks->rank() * rows : 0;
    const Tensor x = torch::randn({2 * kRows, 5}).view({2, kRows, 5}).narrow(1, begin, rows);
    const Tensor y = torch::randn({2 * kRows, 3}).view({2, kRows, 3}).narrow(1, begin, rows);
    net.flat.mutable_grad().zero_();
    (net.loss(x[0], y[0]) / 2).backward();
    sharded.start_reduction();
    (net.loss(x[1], y[1]) / 2).backward();
    sharded.finish_reduction(1.0 / static_cast<double>(size));
    if (size > 1 && bucket_values < 20) {
      // Of the last layer, whose gradients come first, some buckets left before the pass was over.
      EXPECT_GT(sharded.buckets_overlapped(), 0);
    }
    result.norms.push_back(sharded.clip_gradients(0.3).item<double>());
    optimizer.step();
    sharded.publish();
  }
  result.values = net.flat.detach().clone();
  return result;
}

TEST(ShardedParameters, TrainAsOneProcessDoes) {
  in_ranks({1, 2, 3, 4, 8}, [](const auto& world) {
    const Trained alone = train(nullptr, 1);
    for (const int64_t bucket : {int64_t{1}, int64_t{16}, ShardedParameters::kBucketValues}) {
      SCOPED_TRACE(bucket);
      const Trained shared = train(world, bucket);
      EXPECT_LE((shared.values - alone.values).abs().max().item<double>(), 2e-5);
      for (size_t i = 0; i < alone.norms.size(); ++i) {
        EXPECT_NEAR(shared.norms[i], alone.norms[i], 1e-5 * alone.norms[i]);
      }
      world->check_equal({static_cast<const char*>(shared.values.data_ptr()), shared.values.nbytes()},
                         "values");
    }
  });
}

TEST(ShardedParameters, SharesMakeTheWhole) {
  in_ranks({1, 3}, [](const auto& world) {
    FlatNet net;
    ShardedParameters sharded(net.flat, net.parameters, world, 16);
    const Tensor whole = torch::arange(net.flat.numel(), torch::kFloat32);
    const Tensor gathered = sharded.gather(sharded.scatter(world->rank() == 0 ? whole : Tensor()));
    EXPECT_EQ(gathered.defined(), world->rank() == 0);
    if (gathered.defined()) {
      EXPECT_TRUE(torch::equal(gathered, whole));
    }
    if (world->size() == 3) {
      EXPECT_NEAR(static_cast<double>(sharded.share().numel()), static_cast<double>(whole.numel()) / 3, 16);
    }
  });
}

TEST(Mesh, NeighboursShareAFilm) {
  in_ranks({4}, [](const auto& world) {
    const Mesh mesh = make_mesh(world, 2);
    EXPECT_EQ(mesh.data_size, 2);
    EXPECT_EQ(mesh.data_rank, world->rank() / 2);
    EXPECT_EQ(mesh.sequence->rank(), world->rank() % 2);
    Tensor sum = torch::full({1}, static_cast<double>(world->rank()));
    mesh.sequence->all_reduce(sum, "sum");
    EXPECT_EQ(sum.item<double>(), world->rank() < 2 ? 1 : 5);
    EXPECT_THROW(make_mesh(world, 3), Error);
  });
}

}  // namespace
}  // namespace moga
