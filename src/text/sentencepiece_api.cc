#include "text/sentencepiece_api.h"

#include <dlfcn.h>

#include "base/error.h"

namespace moga {

static const SentencePieceApi* load_module() {
  int flags = RTLD_NOW | RTLD_LOCAL;
#ifndef __SANITIZE_ADDRESS__
  flags |= RTLD_DEEPBIND;  // its own protobuf before libtorch's; AddressSanitizer refuses this flag
#endif
  void* module = dlopen("libmoga_sentencepiece.so", flags);
  MOGA_CHECK(module != nullptr, "cannot load libmoga_sentencepiece.so, which is built beside the program: {}",
             dlerror());
  using GetApi = const SentencePieceApi* (*)();
  auto* get = reinterpret_cast<GetApi>(dlsym(module, "moga_sentencepiece_api"));
  MOGA_CHECK(get != nullptr, "libmoga_sentencepiece.so is of another version: {}", dlerror());
  return get();
}

const SentencePieceApi& sentencepiece_api() {
  static const SentencePieceApi* api = load_module();
  return *api;
}

}  // namespace moga
