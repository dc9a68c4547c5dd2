#include "base/module.h"

#include <dlfcn.h>

#include "base/error.h"

namespace moga {

const void* load_module(const char* file, const char* entry) {
  int flags = RTLD_NOW | RTLD_LOCAL;
#ifndef __SANITIZE_ADDRESS__
  flags |= RTLD_DEEPBIND;  // its own symbols before the program's; AddressSanitizer refuses this flag
#endif
  void* module = dlopen(file, flags);
  MOGA_CHECK(module != nullptr, "cannot load {}, which is built beside the program: {}", file, dlerror());
  auto* get = reinterpret_cast<const void* (*)()>(dlsym(module, entry));
  MOGA_CHECK(get != nullptr, "{} is of another version: it has no function {}", file, entry);
  return get();
}

}  // namespace moga
