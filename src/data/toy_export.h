// Toy films as files, for use outside this program and for training from a folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "data/toy_world.h"

namespace moga {

// What the world knows about a film: its characters with their looks, its shots (frames, who, place, motion,
// framing, caption) and its cuts (first frames of all shots but the first). `stem` names the files beside it.
nlohmann::ordered_json toy_film_json(const ToyFilm& film, const ToyFilmSettings& settings,
                                     const std::string& stem);

// Masks of all frames one below the other in one bilevel picture (CV_8UC1, 255 = creature): frame f has the
// rows [f * height, (f + 1) * height). Throws Error above a million rows, where PNG readers give up.
cv::Mat toy_mask_strip(const ToyFilm& film, const ToyFilmSettings& settings);

// Writes, each file whole or not at all and the JSON last, so that a film with its JSON is complete:
//   STEM.mp4        the film, H.264
//   STEM.yaml       its film script
//   STEM_masks.png  toy_mask_strip(), 1 bit a pixel
//   STEM.json       toy_film_json()
// Same film and settings, same files. `each_frame` (may be empty) is called after each frame.
void write_toy_film(const ToyFilm& film, const ToyFilmSettings& settings, const std::filesystem::path& folder,
                    const std::string& stem, const std::function<void()>& each_frame = {});

}  // namespace moga
