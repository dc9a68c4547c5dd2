// The stages probe and split.
#include <algorithm>
#include <cctype>
#include <fstream>

#include "base/digest.h"
#include "base/error.h"
#include "data/shots.h"
#include "media/video.h"
#include "prepare/stages.h"

namespace moga {

namespace fs = std::filesystem;

namespace {

// Hash of the size and of 16 samples of 64 KiB: equal files have it in common wherever they lie, at the price
// of a megabyte read.
std::string fingerprint_of(const fs::path& file, int64_t bytes) {
  constexpr int64_t kSamples = 16;
  constexpr int64_t kSampleBytes = int64_t{1} << 16;
  std::ifstream stream(file, std::ios::binary);
  MOGA_CHECK(stream.good(), "cannot read the file");
  std::string content = std::to_string(bytes) + ":";
  std::string block(kSampleBytes, '\0');
  for (int64_t i = 0; i < kSamples; ++i) {
    stream.clear();
    stream.seekg(std::max<int64_t>(0, bytes - kSampleBytes) * i / (kSamples - 1));
    stream.read(block.data(), kSampleBytes);
    content.append(block, 0, static_cast<size_t>(stream.gcount()));
    if (bytes <= kSampleBytes) {
      break;
    }
  }
  return digest(content);
}

// Letters, digits, - and _ of the file's name: safe in every file system and in web pages.
std::string plain_name(const fs::path& file) {
  constexpr size_t kMost = 60;
  std::string name;
  for (const char c : file.stem().string()) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_';
    if (plain || (!name.empty() && name.back() != '_')) {
      name += plain ? c : '_';
    }
  }
  return name.empty() ? "video" : name.substr(0, kMost);
}

}  // namespace

void run_probe(VideoRecord& video, StageContext&) {
  const fs::path file = video.path;
  video.probe.bytes = static_cast<int64_t>(fs::file_size(file));
  video.probe.fingerprint = fingerprint_of(file, video.probe.bytes);
  video.id = plain_name(file) + "-" + video.probe.fingerprint.substr(0, 8);
  const VideoInfo info = probe_video(file);
  ProbeFacts& probe = video.probe;
  probe.width = info.width;
  probe.height = info.height;
  probe.fps = info.fps;
  probe.frames = info.frames;
  probe.seconds = info.seconds;
  probe.codec = info.codec;
  probe.pixel_format = info.pixel_format;
  probe.rotation = info.rotation;
  probe.interlaced = info.interlaced;
  probe.hdr = info.hdr;
}

void run_split(VideoRecord& video, StageContext& context) {
  VideoReader reader(video.path, {kShotFrameWidth, kShotFrameHeight, context.decoder_threads, true});
  ShotDetector detector(context.config.split.detector);
  std::vector<double> times;
  std::vector<ShotBoundary> found;
  double told = 0;
  while (reader.advance()) {
    times.push_back(reader.seconds());
    detector.add(reader.picture());
    const auto some = detector.take();
    found.insert(found.end(), some.begin(), some.end());
    if (times.back() > told + 1) {
      context.advance(times.back() - told);
      told = times.back();
    }
  }
  const auto rest = detector.finish();
  found.insert(found.end(), rest.begin(), rest.end());
  const auto frames = static_cast<int64_t>(times.size());
  MOGA_CHECK(frames > 0, "no frame could be decoded");
  times.push_back(video.decoded ? std::max(video.decoded->seconds, times.back())
                                : times.back() + 1 / video.probe.fps);

  for (const ShotBoundary& boundary : found) {
    video.boundaries.push_back({boundary.frame, times[static_cast<size_t>(boundary.frame)],
                                enum_name(boundary.kind), boundary.begin, boundary.end, boundary.confidence,
                                boundary.overlapped(), boundary.content, boundary.gradual});
  }
  // Between boundaries, less the frames that show two shots and some more beside them.
  int64_t begin = 0;
  for (size_t i = 0; i <= found.size(); ++i) {
    const bool last = i == found.size();
    const int64_t trim = !last && found[i].overlapped() ? context.config.split.trim_frames : 0;
    const int64_t end = last ? frames : std::min(found[i].frame, found[i].begin - trim);
    if (end > begin) {
      ShotRecord shot;
      shot.begin_frame = begin;
      shot.end_frame = end;
      shot.begin = times[static_cast<size_t>(begin)];
      shot.end = times[static_cast<size_t>(end)];
      const double seconds = shot.end - shot.begin;
      if (seconds < context.config.film.min_shot_seconds - 1e-6) {
        shot.dropped = Drop{"split", "short", fmt::format("{:.2f} s long", seconds)};
      }
      video.shots.push_back(shot);
    }
    if (!last) {
      begin = std::max(begin, std::max(found[i].frame, found[i].end + trim));
    }
  }
}

}  // namespace moga
