#include "media/encoders.h"

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavutil/avutil.h>
}

#include <algorithm>

namespace moga {
namespace {

std::vector<std::string> encoders_of(AVCodecID id) {
  std::vector<std::string> names;
  void* cursor = nullptr;
  while (const AVCodec* codec = av_codec_iterate(&cursor)) {
    if (codec->id == id && av_codec_is_encoder(codec) != 0) {
      names.emplace_back(codec->name);
    }
  }
  // Software encoders ("libx264") give the same file on every machine, so they come first.
  std::stable_partition(names.begin(), names.end(),
                        [](const std::string& name) { return name.starts_with("lib"); });
  return names;
}

}  // namespace

std::string ffmpeg_version() {
  return av_version_info();
}

VideoEncoders video_encoders() {
  return {.h264 = encoders_of(AV_CODEC_ID_H264),
          .hevc = encoders_of(AV_CODEC_ID_HEVC),
          .av1 = encoders_of(AV_CODEC_ID_AV1)};
}

}  // namespace moga
