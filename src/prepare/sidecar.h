// Captions that came with the videos: text, CSV or JSONL files.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace moga {

// A caption for a stretch of a video. Without times it is for the whole of it; lines of a text file have a
// number instead (one a shot).
struct SidecarCaption {
  std::string video;  // file name, with or without its extension or folders; empty in a file beside a video
  std::optional<double> begin;  // seconds
  std::optional<double> end;
  std::optional<int64_t> shot;  // 0-based
  std::string text;
};

// NAME.csv: a header line with the columns caption (must be there), video, start, end, shot (1-based), in any
// order; RFC 4180 quoting. NAME.jsonl: an object a line with the same keys. NAME.txt: one caption, or one a
// shot. Throws Error with file and line for anything else.
std::vector<SidecarCaption> read_captions(const std::filesystem::path& file);

// The captions for `video`: those of `table` (may be empty) that name it, and those of NAME.jsonl, NAME.csv
// or NAME.txt beside it (the first that is there).
std::vector<SidecarCaption> captions_of(const std::filesystem::path& video,
                                        const std::vector<SidecarCaption>& table, bool sidecars);

// One line, valid UTF-8, no control characters, single spaces.
std::string clean_caption(const std::string& text);

}  // namespace moga
