// The shot benchmark: films of known boundaries through an encoder, a decoder and the detector, and a table
// of what was found. See docs/data.md.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>

#include "base/atomic_file.h"
#include "base/error.h"
#include "bench/shots/score.h"
#include "data/frame_window.h"
#include "data/transitions.h"
#include "media/video.h"

namespace moga::bench {
namespace {

namespace fs = std::filesystem;

struct Options {
  uint64_t seed = 1;
  int films = 1;  // a category
  double seconds = 60;
  std::string only;
  std::string folder;
  std::string evidence;
  std::vector<std::string> videos;
  bool verbose = false;
  ShotSettings settings;
};

// Of the whole process, in user and system mode, all threads.
double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Decoding and detection together. CPU seconds tell more than the clock on a machine that is shared.
void print_speed(const fs::path& video, const ShotSettings& settings) {
  const auto start = std::chrono::steady_clock::now();
  const double cpu_start = cpu_seconds();
  VideoReader reader(video, cv::Size(kShotFrameWidth, kShotFrameHeight));
  int64_t frames = 0;
  const size_t found = detect_shots(reader, settings, [&] { ++frames; }).size();
  const double cpu = cpu_seconds() - cpu_start;
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const VideoInfo& info = reader.info();
  MOGA_CHECK(info.fps > 0 && frames > 0, "{}: no frames, or no frame rate, to measure speed with",
             video.string());
  const double seconds = static_cast<double>(frames) / info.fps;
  fmt::print("| {} | {}x{}, {:g} fps | {:.1f} | {} | {:.1f} | {:.4f} |\n", video.filename().string(),
             info.width, info.height, info.fps, seconds, found, seconds / wall, cpu / seconds);
  std::fflush(stdout);
}

// On the videos given, or on a film made for it.
void measure_speed(const Options& options, const fs::path& folder, const std::vector<fs::path>& clips) {
  std::vector<fs::path> videos(options.videos.begin(), options.videos.end());
  if (videos.empty()) {
    Category category;
    category.grain = 3;  // without noise a painted film would be decoded faster than a filmed one
    const fs::path path = folder / fmt::format("speed_{}_{:g}s.mp4", options.seed, options.seconds);
    if (!fs::exists(path)) {
      constexpr double kScale = 2.5;  // 800 x 480
      write_film(Film(category, options.seed, options.seconds, clips), category, path, kScale);
    }
    videos.push_back(path);
  }
  fmt::print(
      "| video | size | seconds | boundaries | times real time | CPU seconds a second of video |\n"
      "|---|---|---|---|---|---|\n");
  for (const fs::path& video : videos) {
    print_speed(video, options.settings);
  }
}

// 1: the truth has it; 0: it does not; nothing: neither should be learned from it.
std::optional<int> label(const ShotBoundary& candidate, const std::vector<Truth>& truth) {
  int value = 0;
  for (const Truth& t : truth) {
    if (candidate.kind == BoundaryKind::kCut) {
      value = t.kind == BoundaryKind::kCut && std::abs(candidate.frame - t.begin) <= 1 ? 1 : value;
      if (t.kind == BoundaryKind::kFade && candidate.frame >= t.begin && candidate.frame <= t.end) {
        return std::nullopt;
      }
      continue;
    }
    const double both =
        static_cast<double>(std::min(candidate.end, t.end) - std::max(candidate.begin, t.begin));
    const double either =
        static_cast<double>(std::max(candidate.end, t.end) - std::min(candidate.begin, t.begin));
    if (both > 0 && t.kind == BoundaryKind::kFade) {
      return std::nullopt;
    }
    if (t.kind == candidate.kind && both > 0.3 * either) {
      if (both < 0.6 * either) {
        return std::nullopt;
      }
      value = 1;
    }
  }
  return value;
}

// A line for each candidate: kind, label, numbers.
void write_evidence(const fs::path& film, const std::vector<Truth>& truth, std::string& lines) {
  FrameWindow window;
  TransitionDetector detector;
  detector.observer = [&](const Evidence& evidence) {
    if (const auto value = label(evidence.boundary, truth)) {
      lines += fmt::format("{} {} {}\n", enum_name(evidence.boundary.kind), *value,
                           fmt::join(evidence.numbers, " "));
    }
  };
  VideoReader reader(film, cv::Size(kShotFrameWidth, kShotFrameHeight));
  int64_t decided = 0;
  bool more = true;
  while (more || decided < window.count()) {
    const auto frame = more ? reader.next() : std::nullopt;
    more = frame.has_value();
    if (frame) {
      window.add(*frame);
    }
    if (decided < window.count() - (more ? TransitionDetector::kLookahead : 0)) {
      detector.decide(window, decided++);
      detector.take(false);
    }
  }
}

void print_row(const std::string& name, const Score& s, double seconds) {
  fmt::print(
      "| {:<14} | {:>4.1f} | {:>3} {:>3} {:>3} | {:.3f} | {:>3} {:>3} {:>3} | {:.3f} | {:>3} | {:.2f} | "
      "{:>2} | {:>5.0f} |\n",
      name, s.minutes, s.cuts.expected, s.cuts.found, s.cuts.right, s.cuts.f1(), s.transitions.expected,
      s.transitions.found, s.transitions.right, s.transitions.f1(), s.kinds_right,
      s.transitions.right > 0 ? s.overlap / static_cast<double>(s.transitions.right) : 1.0, s.false_alarms,
      s.minutes * 60 / seconds);
  std::fflush(stdout);
}

std::string line(const char* what, BoundaryKind kind, int64_t begin, int64_t end) {
  return fmt::format("{} {} [{}, {})", what, enum_name(kind), begin, end);
}

void print_all(const std::vector<ShotBoundary>& found, const std::vector<Truth>& truth) {
  std::vector<std::pair<int64_t, std::string>> lines;
  for (const Truth& t : truth) {
    lines.emplace_back(t.begin, line("  truth", t.kind, t.begin, t.end));
  }
  for (const ShotBoundary& f : found) {
    lines.emplace_back(f.begin, line("      found", f.kind, f.begin, f.end) +
                                    fmt::format(" {:.2f}{}{}", f.confidence, f.content ? " content" : "",
                                                f.gradual ? " gradual" : ""));
  }
  std::stable_sort(lines.begin(), lines.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [frame, text] : lines) {
    fmt::print("{}\n", text);
  }
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app{"Detects shot boundaries in films that it edits together itself, and counts what was found"};
  app.add_option("--seed", options.seed, "Films of another seed are other films")->capture_default_str();
  app.add_option("--films", options.films, "Films a category")->capture_default_str();
  app.add_option("--seconds", options.seconds, "Length of a film")->capture_default_str();
  app.add_option("--only", options.only, "One category alone");
  app.add_option("--keep", options.folder, "Keep the films in this folder, and take those that are there");
  app.add_option("--network", options.settings.network, "ONNX file of a learned detector");
  app.add_option("--evidence", options.evidence,
                 "Write what the detector of transitions weighs, with the truth, for scripts/fit_shots.py");
  bool speed = false;
  CLI::Option* speed_option = app.add_flag(
      "--speed", speed,
      "Measure speed alone, decoding included: on the videos given, or on a film of 800x480 that is made");
  app.add_option("VIDEO", options.videos, "Videos to measure speed on")->needs(speed_option);
  app.add_flag("--verbose", options.verbose, "Print every boundary");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const std::vector<fs::path> clips = real_clips();
  const bool temporary = options.folder.empty();
  const fs::path folder = temporary
                              ? fs::temp_directory_path() / fmt::format("moga_bench_shots_{}", ::getpid())
                              : fs::path(options.folder);
  fs::create_directories(folder);
  if (speed) {
    measure_speed(options, folder, clips);
    if (temporary) {
      fs::remove_all(folder);
    }
    return 0;
  }
  fmt::print(
      "| category | minutes | cuts: true, found, right | F1 | transitions: true, found, right | F1 | kind "
      "right | "
      "overlap | false alarms | times real time |\n|---|---|---|---|---|---|---|---|---|---|\n");
  Score total;
  std::string evidence;
  double total_seconds = 0;
  for (const Category& category : categories()) {
    if ((!options.only.empty() && category.name != options.only) || (category.clips && clips.empty())) {
      continue;
    }
    Score sum;
    double seconds = 0;
    for (int i = 0; i < options.films; ++i) {
      // Every category has films of its own.
      const uint64_t seed =
          (options.seed * categories().size() + static_cast<uint64_t>(&category - categories().data())) *
              1000 +
          static_cast<uint64_t>(i);
      const Film film(category, seed, options.seconds, clips);
      const fs::path path = folder / fmt::format("{}_{}.mp4", category.name, seed);
      if (!fs::exists(path)) {
        write_film(film, category, path);
      }
      const auto start = std::chrono::steady_clock::now();
      VideoReader reader(path, cv::Size(kShotFrameWidth, kShotFrameHeight));
      const std::vector<ShotBoundary> found = detect_shots(reader, options.settings);
      seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      sum += score(found, film.truth(), static_cast<double>(film.frames()) / category.fps / 60);
      if (options.verbose) {
        fmt::print("{}\n", path.filename().string());
        print_all(found, film.truth());
      }
      if (!options.evidence.empty()) {
        write_evidence(path, film.truth(), evidence);
      }
      if (temporary) {
        fs::remove(path);
      }
    }
    print_row(category.name, sum, seconds);
    total += sum;
    total_seconds += seconds;
  }
  print_row("all", total, total_seconds);
  fmt::print("\nFalse alarms in ten minutes: {:.2f}\n",
             static_cast<double>(total.false_alarms) / total.minutes * 10);
  if (!options.evidence.empty()) {
    write_file_atomic(options.evidence, evidence);
  }
  if (temporary) {
    fs::remove_all(folder);
  }
  return 0;
}

}  // namespace
}  // namespace moga::bench

int main(int argc, char** argv) {
  try {
    return moga::bench::run(argc, argv);
  } catch (const moga::Error& error) {
    fmt::print(stderr, "bench_shots: error: {}\n", error.what());
    return 2;
  }
}
