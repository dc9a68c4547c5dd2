// A model folder small enough for tests: every part with random weights, made in a second.
#pragma once

#include <filesystem>

#include "model/model_folder.h"

namespace moga {

// Writes moga.json and all parts but the judge. 64x48 pixels, two transformer blocks.
ModelFolder make_tiny_model(const std::filesystem::path& folder);

}  // namespace moga
