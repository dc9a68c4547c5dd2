// Limits on scores: which videos and shots are good enough.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "prepare/manifest.h"
#include "prepare/prepare_config.h"

namespace moga {

// Every number that a limit can name, with its value for this video or shot.
std::map<std::string, double> video_values(const VideoRecord& video);
std::map<std::string, double> shot_values(const ShotRecord& shot);

// Names that limits may use, without those of learned scores.
std::vector<std::string> limit_names();

// The first limit that `values` break, as what to write into the manifest. Scores that were not measured
// break none.
std::optional<Drop> broken_limit(const std::map<std::string, double>& values,
                                 const std::vector<Limit>& limits, const std::string& stage);

// `general` with the limits of each source whose pattern fits `path` in place of those of the same score, in
// order.
std::vector<Limit> limits_for(const std::string& path, const std::vector<Limit>& general,
                              const std::vector<SourceLimits>& sources,
                              std::vector<Limit> SourceLimits::*kind);

// True if `pattern` (with * for any run of characters and ? for one) fits the whole of `text`.
bool fits_pattern(const std::string& pattern, const std::string& text);

}  // namespace moga
