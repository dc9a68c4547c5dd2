// Models with random weights in the published layout and sizes: for trying out time and memory before tens of
// gigabytes are downloaded, and for tests. Their films are noise.
#pragma once

#include <cstdint>
#include <filesystem>

#include "model/wan_config.h"

namespace moga {

struct RandomModelRequest {
  ModelConfig model;                // model_config("wan-1.3b"), ...
  std::filesystem::path output;     // folder in the official layout; replaced if it exists
  std::filesystem::path tokenizer;  // a sentencepiece model that goes with it
  bool full_text_encoder =
      false;  // the real one has 11 GB; without, one thin block of the right output width
  uint64_t seed = 0;
};

// Transformer in bfloat16, VAE in float32, text encoder in bfloat16, config.json. A tensor at a time: memory
// stays small. Throws Error if nothing can be written or the tokenizer cannot be read.
void write_random_model(const RandomModelRequest& request);

}  // namespace moga
