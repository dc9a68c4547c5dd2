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
  int rotation = 0;  // degrees clockwise by which pictures are turned to stand upright: 0, 90, 180, 270
  bool interlaced = false;  // by the stream's field order; frames are not de-interlaced
  std::string hdr;          // "pq" or "hlg" if the stream is tagged so; its pictures are tone-mapped
};

// Throws Error if the file is missing, no video, or damaged beyond opening.
VideoInfo probe_video(const std::filesystem::path& path);

struct ReadOptions {
  // Pictures are scaled to this size (upright; each pixel the mean of those it covers); 0 x 0: the video's
  // own. info() keeps the file's own size.
  int64_t width = 0;
  int64_t height = 0;
  int threads = 0;     // of the decoder; 0: one a core
  bool quick = false;  // leave out H.264's loop filter, which small pictures do not show: faster by half
};

// Frames of any codec that FFmpeg knows, in presentation order, turned upright by the file's rotation tag,
// with the colour matrix and range of the file's tags (untagged: BT.601 up to 576 lines, else BT.709; limited
// range); PQ and HLG are tone-mapped (media/tone_map.h). Frames are scaled to one size if the size changes in
// mid-stream. Damaged packets are skipped and counted; a truncated file ends early. Every stored frame comes
// once: variable frame rates are not evened out, seconds() says when each frame is due. At most 2^26 pixels a
// frame.
class VideoReader {
 public:
  // Throws Error if the file is missing, no video, or cannot be decoded (Dolby Vision without a base layer
  // that others can show is refused).
  explicit VideoReader(const std::filesystem::path& path, const ReadOptions& options = {});
  // Quick frames of `size`, for programs that look at small pictures.
  VideoReader(const std::filesystem::path& path, cv::Size size)
      : VideoReader(path, {size.width, size.height, 0, true}) {}
  ~VideoReader();
  const VideoInfo& info() const;

  // The next frame as 8-bit RGB (CV_8UC3, RGB order everywhere in this project), or nothing at the end.
  std::optional<cv::Mat> next();

  // The same in two steps, for frames that are only counted or skipped: false at the end.
  bool advance();
  cv::Mat picture();
  // When the frame that came last is due, counted from the video's first frame.
  double seconds() const;
  // Goes to the last frame that is due at `seconds` or before (to the first one if none is), which is what
  // the next advance() gives. Uses the container's index where there is one that can be trusted.
  void seek(double seconds);

  // Packets and frames that were skipped, or came out with errors, so far.
  int64_t damaged() const;
  // The frame that came last is flagged as interlaced.
  bool interlaced() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct VideoSettings {
  int64_t width = 0;  // pixels, even
  int64_t height = 0;
  double fps = 0;  // 23.976 and the like are stored as 24000/1001
  std::string comment;
  std::string title;
  int crf = 16;  // x264's constant rate factor, 0 (lossless) to 51
};

// H.264 (libx264), yuv420p (BT.709, limited range, converted and tagged so), faststart MP4, written under a
// temporary name and renamed by finish(); without finish() nothing is left behind. Memory does not grow with
// length. The name must end in .mp4, .m4v or .mov; odd sizes are an Error. Throws Error on a full disk or an
// unwritable place (the constructor already checks), after which the writer only throws. Equal frames and
// settings give equal bytes.
class VideoWriter {
 public:
  VideoWriter(const std::filesystem::path& path, const VideoSettings& settings);
  ~VideoWriter();
  // CV_8UC3 in RGB order, of exactly the settings' size; a wrong frame is refused and may be followed by
  // right ones.
  void write(const cv::Mat& rgb);
  // Throws Error if no frame was written, or on a second call.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moga
