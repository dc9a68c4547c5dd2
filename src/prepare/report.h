// What became of the videos: numbers for the terminal and programs, a page to look through.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "prepare/manifest.h"

namespace moga {

// Hours are of raw footage, those of films of film time.
struct PrepareSummary {
  struct Loss {
    std::string stage;
    std::string cause;
    int64_t count = 0;
    double hours = 0;
  };
  int64_t videos = 0;
  int64_t videos_kept = 0;
  int64_t shots = 0;
  int64_t shots_kept = 0;
  int64_t films = 0;
  double hours_in = 0;
  double hours_out = 0;
  std::vector<Loss> video_losses;
  std::vector<Loss> shot_losses;
  double hours_between_shots = 0;    // of kept videos: transitions and what was trimmed beside them
  double hours_trimmed = 0;          // of shots in films: ends that fill no latent frame
  std::vector<std::string> damaged;  // path: note
  CaptionCosts captions;
  int64_t fallback_captions = 0;
};

PrepareSummary summarise(const std::filesystem::path& manifest);

// A few lines for the terminal.
std::string describe_summary(const PrepareSummary& summary);
nlohmann::ordered_json summary_to_json(const PrepareSummary& summary);

// OUT/report.json and OUT/report.html from the manifest of `stage`.
void write_report(const std::filesystem::path& out, const std::filesystem::path& manifest,
                  const std::string& stage);

// The part of the page that shows one video. Everything that comes from outside is escaped.
std::string video_html(const VideoRecord& video);
std::string escape_html(const std::string& text);

}  // namespace moga
