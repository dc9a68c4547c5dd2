// Names for content: equal bytes, equal name.
#pragma once

#include <string>
#include <string_view>

namespace moga {

// 32 hexadecimal digits: two FNV-1a hashes of 64 bits with different starts. Wide enough for caches of many
// millions of entries; no protection against somebody who looks for a collision.
std::string digest(std::string_view bytes);

}  // namespace moga
