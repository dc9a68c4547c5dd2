// The feed-forward layer's activation, GELU in its form with tanh (Hendrycks and Gimpel, arXiv 1606.08415),
// and its gradient, each in one pass over memory. Threads are OpenMP's; results do not depend on how many.
#pragma once

#include <cstdint>

namespace moga::cpu {

// y = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))). y may be x.
void gelu_tanh(int64_t count, const float* x, float* y);
// dx = dy * dy/dx of the above. dx may be dy.
void gelu_tanh_backward(int64_t count, const float* x, const float* dy, float* dx);

}  // namespace moga::cpu
