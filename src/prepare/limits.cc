#include "prepare/limits.h"

#include <fnmatch.h>

#include <algorithm>

namespace moga {

namespace {

void add_scores(const Scores& scores, std::map<std::string, double>& values) {
  Scores::visit(scores, [&](const char* name, const auto& field, const char*) {
    if constexpr (std::is_same_v<std::decay_t<decltype(field)>, double>) {
      values[name] = field;
    }
  });
  for (const LearnedScore& learned : scores.learned) {
    values[learned.name] = learned.value;
  }
}

}  // namespace

std::map<std::string, double> video_values(const VideoRecord& video) {
  std::map<std::string, double> values = {{"seconds", video.seconds()},
                                          {"width", static_cast<double>(video.probe.width)},
                                          {"height", static_cast<double>(video.probe.height)},
                                          {"fps", video.probe.fps},
                                          {"bytes", static_cast<double>(video.probe.bytes)}};
  if (video.decoded) {
    const auto frames = static_cast<double>(std::max<int64_t>(1, video.decoded->frames));
    values["damaged"] = static_cast<double>(video.decoded->damaged) / frames;
    values["interlaced"] = video.decoded->interlaced;
  }
  if (video.scores) {
    add_scores(*video.scores, values);
  }
  return values;
}

std::map<std::string, double> shot_values(const ShotRecord& shot) {
  std::map<std::string, double> values = {{"seconds", shot.end - shot.begin}};
  if (shot.scores) {
    add_scores(*shot.scores, values);
  }
  return values;
}

std::vector<std::string> limit_names() {
  VideoRecord all;
  all.decoded.emplace();
  all.scores.emplace();
  std::vector<std::string> names;
  for (const auto& [name, value] : video_values(all)) {
    names.push_back(name);
  }
  return names;
}

std::optional<Drop> broken_limit(const std::map<std::string, double>& values,
                                 const std::vector<Limit>& limits, const std::string& stage) {
  for (const Limit& limit : limits) {
    const auto found = values.find(limit.score);
    if (found == values.end()) {
      continue;
    }
    const double value = found->second;
    if (limit.min && value < *limit.min) {
      return Drop{stage, limit.score,
                  fmt::format("{} {:.4g} is below {:.4g}", limit.score, value, *limit.min)};
    }
    if (limit.max && value > *limit.max) {
      return Drop{stage, limit.score,
                  fmt::format("{} {:.4g} is above {:.4g}", limit.score, value, *limit.max)};
    }
  }
  return std::nullopt;
}

bool fits_pattern(const std::string& pattern, const std::string& text) {
  return ::fnmatch(pattern.c_str(), text.c_str(), 0) == 0;
}

std::vector<Limit> limits_for(const std::string& path, const std::vector<Limit>& general,
                              const std::vector<SourceLimits>& sources,
                              std::vector<Limit> SourceLimits::*kind) {
  std::vector<Limit> limits = general;
  for (const SourceLimits& source : sources) {
    if (!fits_pattern(source.match, path)) {
      continue;
    }
    for (const Limit& limit : source.*kind) {
      const auto same = std::find_if(limits.begin(), limits.end(),
                                     [&](const Limit& other) { return other.score == limit.score; });
      if (same == limits.end()) {
        limits.push_back(limit);
      } else {
        *same = limit;
      }
    }
  }
  return limits;
}

}  // namespace moga
