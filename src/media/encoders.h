// Which video encoders the FFmpeg that is loaded can offer.
#pragma once

#include <string>
#include <vector>

namespace moga {

// FFmpeg's release ("5.1.6-0+deb12u1"), as the loaded libavutil reports it.
std::string ffmpeg_version();

struct VideoEncoders {
  // Names as FFmpeg knows them ("libx264"), best first; empty if there is none.
  std::vector<std::string> h264;
  std::vector<std::string> hevc;
  std::vector<std::string> av1;
};

// Encoders that are compiled in. Those of GPUs are listed even where no such GPU is present.
VideoEncoders video_encoders();

}  // namespace moga
