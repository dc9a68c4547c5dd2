#include "prepare/report.h"

#include <algorithm>
#include <fstream>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/text_util.h"

namespace moga {

namespace fs = std::filesystem;

namespace {

constexpr double kHour = 3600;

void add_loss(std::vector<PrepareSummary::Loss>& losses, const Drop& drop, double seconds) {
  auto found = std::find_if(losses.begin(), losses.end(), [&](const PrepareSummary::Loss& loss) {
    return loss.stage == drop.stage && loss.cause == drop.cause;
  });
  if (found == losses.end()) {
    found = losses.insert(losses.end(), {drop.stage, drop.cause, 0, 0});
  }
  ++found->count;
  found->hours += seconds / kHour;
}

void add_shots(const VideoRecord& video, PrepareSummary& summary) {
  double in_shots = 0;
  for (const ShotRecord& shot : video.shots) {
    const double seconds = shot.end - shot.begin;
    in_shots += seconds;
    ++summary.shots;
    summary.fallback_captions += !shot.dropped && shot.caption_from == "none" ? 1 : 0;
    if (shot.dropped) {
      add_loss(summary.shot_losses, *shot.dropped, seconds);
    } else {
      ++summary.shots_kept;
    }
  }
  if (!video.shots.empty()) {
    summary.hours_between_shots += std::max(0.0, video.seconds() - in_shots) / kHour;
  }
  for (const FilmRecord& film : video.films) {
    ++summary.films;
    const double seconds = static_cast<double>(film.frames) / film.fps;
    summary.hours_out += seconds / kHour;
    double used = 0;
    for (const FilmShot& shot : film.shots) {
      const ShotRecord& source = video.shots.at(static_cast<size_t>(shot.shot));
      used += source.end - source.begin;
    }
    summary.hours_trimmed += std::max(0.0, used - seconds) / kHour;
  }
}

nlohmann::ordered_json losses_to_json(const std::vector<PrepareSummary::Loss>& losses) {
  auto list = nlohmann::ordered_json::array();
  for (const auto& loss : losses) {
    list.push_back(
        {{"stage", loss.stage}, {"cause", loss.cause}, {"count", loss.count}, {"hours", loss.hours}});
  }
  return list;
}

std::string hours_text(double hours) {
  return human_seconds(hours * kHour);
}

std::string losses_text(const std::vector<PrepareSummary::Loss>& losses, const char* what) {
  std::string out;
  for (const auto& loss : losses) {
    out += fmt::format("  dropped by {}: {} {}{} ({}) for '{}'\n", loss.stage, loss.count, what,
                       loss.count == 1 ? "" : "s", hours_text(loss.hours), loss.cause);
  }
  return out;
}

}  // namespace

PrepareSummary summarise(const fs::path& manifest) {
  PrepareSummary summary;
  ManifestReader reader(manifest);
  while (const auto video = reader.next()) {
    ++summary.videos;
    summary.hours_in += video->seconds() / kHour;
    for (const std::string& note : video->notes) {
      if (note.starts_with("damaged")) {
        summary.damaged.push_back(video->path + ": " + note);
      }
    }
    if (video->caption_costs) {
      const CaptionCosts& costs = *video->caption_costs;
      summary.captions.requests += costs.requests;
      summary.captions.failures += costs.failures;
      summary.captions.prompt_tokens += costs.prompt_tokens;
      summary.captions.answer_tokens += costs.answer_tokens;
      summary.captions.cost += costs.cost;
    }
    if (video->dropped) {
      add_loss(summary.video_losses, *video->dropped, video->seconds());
    } else {
      ++summary.videos_kept;
      add_shots(*video, summary);
    }
  }
  return summary;
}

std::string describe_summary(const PrepareSummary& s) {
  std::string out =
      fmt::format("{} of {} videos kept, {} in\n", s.videos_kept, s.videos, hours_text(s.hours_in));
  out += losses_text(s.video_losses, "video");
  if (s.shots > 0) {
    out += fmt::format("{} of {} shots kept\n", s.shots_kept, s.shots);
    out += losses_text(s.shot_losses, "shot");
    out += fmt::format("  transitions, and frames beside them: {}\n", hours_text(s.hours_between_shots));
  }
  if (s.films > 0) {
    out += fmt::format("{} films, {} out ({} cut off at shots' ends)\n", s.films, hours_text(s.hours_out),
                       hours_text(s.hours_trimmed));
  }
  if (s.captions.requests + s.captions.failures > 0) {
    out += fmt::format("captions: {} from the model, {} failed, {} + {} tokens, cost {:.4f}\n",
                       s.captions.requests, s.captions.failures,
                       human_count(static_cast<double>(s.captions.prompt_tokens)),
                       human_count(static_cast<double>(s.captions.answer_tokens)), s.captions.cost);
  }
  if (s.fallback_captions > 0) {
    out += fmt::format("{} shots have no caption of their own (caption.fallback stands in)\n",
                       s.fallback_captions);
  }
  for (const std::string& note : s.damaged) {
    out += note + "\n";
  }
  return out;
}

nlohmann::ordered_json summary_to_json(const PrepareSummary& s) {
  return {{"videos", s.videos},
          {"videos_kept", s.videos_kept},
          {"shots", s.shots},
          {"shots_kept", s.shots_kept},
          {"films", s.films},
          {"hours_in", s.hours_in},
          {"hours_out", s.hours_out},
          {"hours_between_shots", s.hours_between_shots},
          {"hours_trimmed", s.hours_trimmed},
          {"dropped_videos", losses_to_json(s.video_losses)},
          {"dropped_shots", losses_to_json(s.shot_losses)},
          {"damaged", s.damaged},
          {"captions", config_to_json(s.captions)},
          {"fallback_captions", s.fallback_captions}};
}

void write_report(const fs::path& out, const fs::path& manifest, const std::string& stage) {
  const PrepareSummary summary = summarise(manifest);
  nlohmann::ordered_json json = summary_to_json(summary);
  json["stage"] = stage;
  write_file_atomic(out / "report.json",
                    json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  AtomicFile file(out / "report.html");
  std::ofstream page(file.path());
  page << R"(<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>moga prepare</title><style>
:root{color-scheme:dark}
body{font:14px/1.45 system-ui,"DejaVu Sans",sans-serif;background:#13151a;color:#d5d8e0;margin:24px auto;max-width:1240px;padding:0 16px}
h1{font-size:22px;color:#f0f1f5;margin:0 0 4px}h2{font-size:16px;color:#f0f1f5;margin:0 0 6px;word-break:break-all}
pre{background:#1b1e26;padding:10px 14px;border-radius:6px;white-space:pre-wrap}
.video{border-top:1px solid #2e323c;padding:18px 0}.small{color:#9aa0ae;font-size:12px}.drop{color:#ff8f70}.keep{color:#7fd4a0}
.line{position:relative;height:26px;background:#1b1e26;border-radius:4px;margin:8px 0 4px;overflow:hidden}
.line i{position:absolute;top:5px;bottom:5px;border-radius:2px;min-width:2px}
.line i.keep{background:#3d8f63}.line i.drop{background:#8a4636}
.line b{position:absolute;top:0;bottom:0;min-width:2px;background:#ffbe5c;opacity:.85}.line b.over{background:#56b4e9}
img{display:block;max-width:100%;max-height:90px;border-radius:3px}
.scores{display:flex;flex-wrap:wrap;gap:4px 14px;margin:6px 0;font-variant-numeric:tabular-nums}
.shots{display:grid;grid-template-columns:repeat(auto-fill,minmax(400px,1fr));gap:14px;margin-top:10px}
.shot{background:#1b1e26;border-radius:6px;padding:8px}.shot.out{opacity:.72}
</style></head><body>
)";
  page << "<h1>moga prepare</h1><p class=\"small\">after the stage " << escape_html(stage) << "</p><pre>"
       << escape_html(describe_summary(summary)) << "</pre>\n"
       << "<p class=\"small\">Bars: shots, green where they are kept, red where they are dropped. Marks: "
          "yellow for "
          "clean cuts, blue for transitions.</p>\n";
  ManifestReader reader(manifest);
  while (const auto video = reader.next()) {
    page << video_html(*video);
  }
  page << "</body></html>\n";
  page.flush();
  MOGA_CHECK(page.good(), "cannot write {}", (out / "report.html").string());
  page.close();
  file.commit();
}

}  // namespace moga
