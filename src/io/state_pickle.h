// The pickle inside a PyTorch checkpoint, read as what a state dict may hold and nothing else. Pickles are
// programs: this reader knows the opcodes of plain data and four global names, and calls nothing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moga {

// A tensor as the pickle describes it; nothing is checked against the storage's bytes yet.
struct PickledTensor {
  std::string name;
  std::string storage;  // key of its storage: record "data/KEY" of the archive
  std::string dtype;    // "BFloat16", "Float", ...: the storage class without "Storage"
  int64_t storage_elements = 0;
  int64_t offset = 0;  // elements
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
};

// Reads a state dict: text keys and tensors (nested dicts of them get names with dots). Throws Error,
// beginning with `file`, on anything else: other globals ("posix system"), other values, damage, more than
// 32 dicts inside each other, 100,000 entries or 1,000 bytes in a name.
std::vector<PickledTensor> parse_state_pickle(std::string_view bytes, const std::string& file);

}  // namespace moga
