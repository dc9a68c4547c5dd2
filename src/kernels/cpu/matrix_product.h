// Matrix products of float32 with oneDNN, whose kernels suit narrow layers better than OpenBLAS's and are
// made for what the CPU has, whether or not the library has heard of it. Threads are OpenMP's; the same
// number of them gives the same bits. Matrices are dense and row-major. Errors of the library are thrown as
// Error.
#pragma once

#include <cstdint>
#include <string>

namespace moga::cpu {

// The library's name and version; empty if this build has none (cmake/dependencies.cmake), and then the
// functions below only throw.
std::string product_library();

// y [rows, out] = x [rows, in] W^T + bias, with weight [out, in], and bias [out] or null.
void linear(const float* x, const float* weight, const float* bias, int64_t rows, int64_t in, int64_t out,
            float* y);

// c [rows, cols] = a b, with b [inner, cols], and a [rows, inner], or [inner, rows] if it is `turned`.
void multiply(const float* a, bool turned, const float* b, int64_t rows, int64_t inner, int64_t cols,
              float* c);

}  // namespace moga::cpu
