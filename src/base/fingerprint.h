// Short names for contents: keys of caches and records of what a film was made with. Not for security.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace moga {

// FNV-1a over bytes, as 16 hexadecimal digits.
std::string content_hash(std::string_view bytes);

// A hash of a file's size and content. Beyond 64 MiB it samples 256 blocks of 64 KiB evenly over the file,
// first and last included, so that weights of many gigabytes are named in milliseconds. Throws Error if it
// cannot be read.
std::string file_fingerprint(const std::filesystem::path& path);

}  // namespace moga
