// Shared libraries of this project that are loaded while the program runs, each with symbols of its own.
//
// For libraries that cannot be linked beside libtorch, because they bring another version of something that
// it brings too (protobuf, above all): a small module of ours links them, and offers a plain interface.
#pragma once

namespace moga {

// Loads `file`, which lies beside the program, and returns what its function `entry` (without arguments)
// returns. It stays loaded. Throws Error if it is not there, cannot be loaded, or has no such function.
const void* load_module(const char* file, const char* entry);

}  // namespace moga
