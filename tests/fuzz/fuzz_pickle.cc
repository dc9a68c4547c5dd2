// Any bytes as the pickle of a PyTorch state dict: tensors, or an Error.
#include "base/error.h"
#include "io/state_pickle.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    moga::parse_state_pickle({reinterpret_cast<const char*>(data), size}, "file");
  } catch (const moga::Error&) {  // what bad files are answered with
  }
  return 0;
}
