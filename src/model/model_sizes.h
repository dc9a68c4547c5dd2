// A network's sizes, read from the shapes of its tensors: files carry no or few settings, and those that they
// carry must agree with the shapes anyway.
#pragma once

#include <filesystem>

#include "model/wan_config.h"
#include "model/weights.h"

namespace moga {

// Throws Error naming `file` if a tensor that tells a size is missing or has an odd shape, or if `config`
// (the config.json beside the weights; may be empty) contradicts the shapes. Heads, eps and text_len are not
// visible in shapes: they come from the config, and without one are Wan's (head size 128, 1e-6, 512).
// Attention is full unless the tensors hold routers, whose number of groups is then taken.
DitConfig infer_dit(const ShapeMap& shapes, const RecognisedPart& part, const std::filesystem::path& file,
                    const std::filesystem::path& config);
// The latent scale is the config's (diffusers) or the published one.
VaeConfig infer_vae(const ShapeMap& shapes, const RecognisedPart& part, const std::filesystem::path& file,
                    const std::filesystem::path& config);
TextEncoderConfig infer_text(const ShapeMap& shapes, const RecognisedPart& part,
                             const std::filesystem::path& file);

}  // namespace moga
