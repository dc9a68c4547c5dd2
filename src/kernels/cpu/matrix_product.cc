#include "kernels/cpu/matrix_product.h"

#ifdef MOGA_ONEDNN
#include <oneapi/dnnl/dnnl_debug.h>

#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#endif

#include "base/error.h"

namespace moga::cpu {

#ifdef MOGA_ONEDNN

namespace {

using dnnl::inner_product_forward;
using dnnl::memory;

// Up to this many weights, bringing them into the order that the library likes best costs less than it gains;
// larger ones are read as they lie.
constexpr int64_t kMostPacked = int64_t{1} << 20;

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

inner_product_forward::primitive_desc describe(const memory::desc& x, const memory::desc& weight,
                                               const memory::desc& bias, const memory::desc& y) {
  constexpr auto kForward = dnnl::prop_kind::forward_inference;
#if DNNL_VERSION_MAJOR >= 3
  return {cpu_engine(), kForward, x, weight, bias, y};
#else
  return {{kForward, x, weight, bias, y}, cpu_engine()};
#endif
}

memory wrap(const memory::desc& desc, const float* data) {
  return {desc, cpu_engine(), const_cast<float*>(data)};
}

}  // namespace

std::string product_library() {
  const dnnl_version_t* version = dnnl_version();
  return fmt::format("oneDNN {}.{}.{}", version->major, version->minor, version->patch);
}

// The library keeps what it generates for a shape, so that making a primitive again costs microseconds.
void linear(const float* x, const float* weight, const float* bias, int64_t rows, int64_t in, int64_t out,
            float* y) {
  using Order = memory::format_tag;
  const auto shape = [](const memory::dims& sizes, Order order) {
    return memory::desc(sizes, memory::data_type::f32, order);
  };
  try {
    const memory::desc as_it_lies = shape({out, in}, Order::ab);
    const auto desc = describe(
        shape({rows, in}, Order::ab), in * out <= kMostPacked ? shape({out, in}, Order::any) : as_it_lies,
        bias != nullptr ? shape({out}, Order::a) : memory::desc(), shape({rows, out}, Order::ab));
    dnnl::stream stream(cpu_engine());
    memory weights = wrap(as_it_lies, weight);
    if (desc.weights_desc() != as_it_lies) {
      memory packed(desc.weights_desc(), cpu_engine());
      dnnl::reorder(weights, packed).execute(stream, weights, packed);
      weights = packed;
    }
    std::unordered_map<int, memory> arguments = {{DNNL_ARG_SRC, wrap(desc.src_desc(), x)},
                                                 {DNNL_ARG_WEIGHTS, weights},
                                                 {DNNL_ARG_DST, wrap(desc.dst_desc(), y)}};
    if (bias != nullptr) {
      arguments.emplace(DNNL_ARG_BIAS, wrap(desc.bias_desc(), bias));
    }
    inner_product_forward(desc).execute(stream, arguments);
    stream.wait();
  } catch (const dnnl::error& error) {
    fail("oneDNN, product of [{}, {}] and [{}, {}]: {}", rows, in, in, out, error.what());
  }
}

void multiply(const float* a, bool turned, const float* b, int64_t rows, int64_t inner, int64_t cols,
              float* c) {
  const dnnl_status_t status = dnnl_sgemm(turned ? 'T' : 'N', 'N', rows, cols, inner, 1.0F, a,
                                          turned ? rows : inner, b, cols, 0.0F, c, cols);
  MOGA_CHECK(status == dnnl_success, "oneDNN, product of [{}, {}] and [{}, {}]: {}", rows, inner, inner, cols,
             dnnl_status2str(status));
}

#else

std::string product_library() {
  return "";
}

void linear(const float*, const float*, const float*, int64_t, int64_t, int64_t, float*) {
  fail("this build has no oneDNN");
}

void multiply(const float*, bool, const float*, int64_t, int64_t, int64_t, float*) {
  fail("this build has no oneDNN");
}

#endif

}  // namespace moga::cpu
