// Prepared films in forms that other programs read.
#pragma once

#include <filesystem>
#include <string>

#include "prepare/manifest.h"

namespace moga {

// OUT/exports, from the manifest of the last stage:
//   video_caption.jsonl   {"video": path relative to the file, "caption": text} a film
//   shots.jsonl           the same with "global_caption", "shot_captions", "shot_cut_frames" (first frame of
//   every shot
//                         but the first), "num_frames", "fps", as HoloCine's tools name them
//   edl/NAME.edl          CMX 3600, one a film: which parts of the raw video it is made of
void write_exports(const std::filesystem::path& out, const std::filesystem::path& manifest);

// The edit list of one film. Time codes count the raw video's frames at its rounded rate, without dropping.
std::string film_edl(const VideoRecord& video, const FilmRecord& film);

}  // namespace moga
