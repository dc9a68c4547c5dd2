// Which VAE made latents: they mean nothing to another one.
#pragma once

#include <string>

#include "model/model_folder.h"

namespace moga {

// A hash of the VAE's sizes, latent scale and weights.
std::string vae_hash(const ModelFolder& folder);

}  // namespace moga
