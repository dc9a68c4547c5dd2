// Video files in and out, one frame at a time, over FFmpeg's libraries.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <opencv2/core.hpp>
#include <optional>
#include <string>

namespace moga {

struct VideoInfo {
  int64_t width = 0;
  int64_t height = 0;
  double fps = 0;
  int64_t frames = 0;  // as the container says, or counted from the duration; 0 if unknown
  double seconds = 0;
  std::string codec;
  std::string pixel_format;
  std::string comment;  // the container's comment tag
  std::string title;
};

// Throws Error if the file is missing, no video, or damaged beyond opening.
VideoInfo probe_video(const std::filesystem::path& path);

class VideoReader {
 public:
  explicit VideoReader(const std::filesystem::path& path);
  ~VideoReader();
  const VideoInfo& info() const;
  // The next frame as 8-bit RGB (CV_8UC3, RGB order everywhere in this project), or nothing at the end.
  std::optional<cv::Mat> next();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct VideoSettings {
  int64_t width = 0;
  int64_t height = 0;
  double fps = 0;
  std::string comment;
  std::string title;
  int crf = 16;
};

// H.264 (libx264), yuv420p (BT.709 or BT.601 tagged as it is converted), faststart MP4, written under a
// temporary name and renamed by finish(); without finish() nothing is left behind. Memory does not grow with
// length. Odd sizes are an Error. Throws Error on a full disk or an unwritable place (the constructor already
// checks).
class VideoWriter {
 public:
  VideoWriter(const std::filesystem::path& path, const VideoSettings& settings);
  ~VideoWriter();
  void write(const cv::Mat& rgb);
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moga
