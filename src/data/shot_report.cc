#include "data/shot_report.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/text_util.h"
#include "media/picture.h"
#include "media/video.h"

namespace moga {
namespace {

std::string detectors(const ShotBoundary& boundary) {
  return boundary.content && boundary.gradual ? "both" : boundary.content ? "content" : "gradual";
}

// What an edit list may hold: printable ASCII.
std::string plain(const std::string& text) {
  std::string out = text;
  std::replace_if(
      out.begin(), out.end(), [](char c) { return c < ' ' || c > '~'; }, '_');
  return out;
}

}  // namespace

std::vector<ShotSpan> shots_between(const std::vector<ShotBoundary>& boundaries, int64_t frames) {
  std::vector<ShotSpan> shots;
  ShotSpan shot;
  for (const ShotBoundary& boundary : boundaries) {
    shot.last = boundary.frame;
    shot.clean_last = std::max(shot.clean_first, boundary.begin);
    shots.push_back(shot);
    shot.first = boundary.frame;
    shot.clean_first = boundary.end;
  }
  shot.last = shot.clean_last = frames;
  shots.push_back(shot);
  return shots;
}

std::string timecode(int64_t frame, double fps) {
  const int64_t rate = std::max<int64_t>(1, std::llround(fps));
  const int64_t seconds = frame / rate;
  return fmt::format("{:02}:{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60,
                     frame % rate);
}

std::string shots_table(const std::vector<ShotBoundary>& boundaries, int64_t frames, double fps) {
  std::string text = fmt::format("{:>4}  {:>8}  {:<11}  {:<8}  {:>15}  {:<10}  {:>10}  {}\n", "shot", "frame",
                                 "time", "kind", "mixed frames", "", "confidence", "detectors");
  int64_t number = 1;
  for (const ShotBoundary& b : boundaries) {
    text += fmt::format("{:>4}  {:>8}  {:<11}  {:<8}  {:>15}  {:<10}  {:>10.2f}  {}\n", ++number, b.frame,
                        timecode(b.frame, fps), enum_name(b.kind),
                        b.begin < b.end ? fmt::format("{} - {}", b.begin, b.end - 1) : "-",
                        b.overlapped() ? "overlapped" : "clean", b.confidence, detectors(b));
  }
  const size_t shots = boundaries.size() + 1;
  text += fmt::format("{} shot{} in {} frames", shots, shots == 1 ? "" : "s", frames);
  text += fps > 0 ? fmt::format(" ({})\n", human_seconds(static_cast<double>(frames) / fps)) : "\n";
  return text;
}

std::string shots_edl(const std::vector<ShotBoundary>& boundaries, int64_t frames, double fps,
                      const std::string& name) {
  MOGA_CHECK(fps > 0, "{}: an edit list needs the film's frame rate, which the file does not tell", name);
  const std::vector<ShotSpan> shots = shots_between(boundaries, frames);
  MOGA_CHECK(shots.size() <= 999, "{}: an edit list holds at most 999 shots, found {}", name, shots.size());
  std::string text = fmt::format("TITLE: {}\nFCM: NON-DROP FRAME\n\n", plain(name));
  for (size_t i = 0; i < shots.size(); ++i) {
    const std::string from = timecode(shots[i].first, fps);
    const std::string to = timecode(shots[i].last, fps);
    text += fmt::format("{:03}  AX       V     C        {} {} {} {}\n* FROM CLIP NAME: {}\n", i + 1, from, to,
                        from, to, plain(name));
    if (i > 0 && boundaries[i - 1].begin < boundaries[i - 1].end) {
      const ShotBoundary& b = boundaries[i - 1];
      text += fmt::format("* COMMENT: {} FROM {} TO {}\n", enum_name(b.kind), timecode(b.begin, fps),
                          timecode(b.end, fps));
    }
  }
  return text;
}

void write_shot_sheet(const std::filesystem::path& picture, const std::filesystem::path& video,
                      const std::vector<ShotBoundary>& boundaries, int64_t frames) {
  constexpr size_t kMostShots = 300;
  constexpr int kThumbWidth = 224;
  std::vector<ShotSpan> shots = shots_between(boundaries, frames);
  const size_t all = shots.size();
  shots.resize(std::min(all, kMostShots));
  const VideoInfo info = probe_video(video);
  const cv::Size size(
      kThumbWidth, std::max(1, static_cast<int>(std::lround(static_cast<double>(info.height) * kThumbWidth /
                                                            static_cast<double>(info.width)))));
  VideoReader reader(video, size);
  std::vector<ContactRow> rows;
  int64_t next = 0;
  for (const ShotSpan& shot : shots) {
    ContactRow row;
    row.heading = fmt::format("Shot {}, frames {} - {}", rows.size() + 1, shot.first, shot.last - 1);
    for (const int64_t wanted : {shot.first, (shot.first + shot.last - 1) / 2, shot.last - 1}) {
      std::optional<cv::Mat> frame;
      while (next <= wanted && (frame = reader.next())) {
        ++next;
      }
      if (frame) {
        row.frames.push_back(*frame);
      }
    }
    if (rows.size() > 0 && boundaries[rows.size() - 1].begin < boundaries[rows.size() - 1].end) {
      const ShotBoundary& b = boundaries[rows.size() - 1];
      row.caption = fmt::format("after a {} from frame {} to {}", enum_name(b.kind), b.begin, b.end - 1);
    }
    rows.push_back(row);
  }
  const std::string title = fmt::format("{}: {} shots{}", video.filename().string(), all,
                                        all > kMostShots ? ", the first 300" : "");
  write_png(picture, contact_sheet(title, rows, kThumbWidth));
}

}  // namespace moga
