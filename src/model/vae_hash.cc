#include "model/vae_hash.h"

#include "base/atomic_file.h"
#include "base/fingerprint.h"

namespace moga {

std::string vae_hash(const ModelFolder& folder) {
  return content_hash(config_to_json(folder.config().vae).dump() + read_file(folder.part("vae.safetensors")));
}

}  // namespace moga
