#include "attention/fused_backend.h"

#include <gtest/gtest.h>

namespace moga {
namespace {

FusedCase frames_of_a_film() {
  FusedCase c;
  c.heads = 12;
  c.head_size = 128;
  c.segments = 120;
  c.longest_q = 1560;
  c.longest_kv = 1560;
  c.equal = true;
  c.self = true;
  c.capability = 90;
  c.cudnn = true;
  return c;
}

FusedCase routed_groups() {
  FusedCase c = frames_of_a_film();
  c.segments = 5;
  c.longest_q = 187200;
  c.longest_kv = 187200;
  c.equal = false;
  return c;
}

TEST(FusedBackend, EqualSegmentsOnHopperAreABatchForCudnn) {
  EXPECT_EQ(choose_backend(frames_of_a_film()), FusedBackend::kCudnnDense);
  FusedCase c = frames_of_a_film();
  c.capability = 80;
  EXPECT_EQ(choose_backend(c), FusedBackend::kFlash);
  c = frames_of_a_film();
  c.cudnn = false;
  EXPECT_EQ(choose_backend(c), FusedBackend::kFlash);
  c = frames_of_a_film();
  c.head_size = 256;
  EXPECT_EQ(choose_backend(c), FusedBackend::kFlash);
  c = frames_of_a_film();
  c.longest_q = c.longest_kv = 60;
  EXPECT_EQ(choose_backend(c), FusedBackend::kFlash);
}

TEST(FusedBackend, LongRoutedGroupsPayForAPlanOfCudnn) {
  FusedCase c = routed_groups();
  c.flop = 43e12;
  EXPECT_EQ(choose_backend(c), FusedBackend::kCudnnVarlen);
  c.flop = 5e12;
  EXPECT_EQ(choose_backend(c), FusedBackend::kFlash);
  c.flop = 43e12;
  c.capturing = true;
  EXPECT_EQ(choose_backend(c), FusedBackend::kFlash);
  c.capturing = false;
  c.backward = true;
  EXPECT_EQ(choose_backend(c), FusedBackend::kFlash);
}

TEST(FusedBackend, CudnnOverSegmentsOfAnyLengthHasLimits) {
  FusedCase c = routed_groups();
  EXPECT_TRUE(can_serve(FusedBackend::kCudnnVarlen, c));
  EXPECT_FALSE(can_serve(FusedBackend::kCudnnDense, c));
  c.capturing = true;
  EXPECT_FALSE(can_serve(FusedBackend::kCudnnVarlen, c));
  EXPECT_TRUE(can_serve(FusedBackend::kFlash, c));
  c = routed_groups();
  c.self = false;  // a query may be without keys, where cuDNN's result is unknown
  EXPECT_FALSE(can_serve(FusedBackend::kCudnnVarlen, c));
  c = routed_groups();
  c.backward = true;
  EXPECT_FALSE(can_serve(FusedBackend::kCudnnVarlen, c));
}

}  // namespace
}  // namespace moga
