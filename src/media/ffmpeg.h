// Owners for FFmpeg's objects, its error texts, and everything that differs between FFmpeg 5 and 7.
// Internal to src/media.
#pragma once

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/cpu.h>
#include <libavutil/display.h>
#include <libavutil/dovi_meta.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

#include <cstdint>
#include <memory>
#include <string>

namespace moga::ffmpeg {

struct CloseInput {
  void operator()(AVFormatContext* context) const { avformat_close_input(&context); }
};
struct FreeOutput {
  void operator()(AVFormatContext* context) const {
    if (context->pb != nullptr) {
      avio_closep(&context->pb);
    }
    avformat_free_context(context);
  }
};
struct FreeCodec {
  void operator()(AVCodecContext* context) const { avcodec_free_context(&context); }
};
struct FreeFrame {
  void operator()(AVFrame* frame) const { av_frame_free(&frame); }
};
struct FreePacket {
  void operator()(AVPacket* packet) const { av_packet_free(&packet); }
};
struct FreeScaler {
  void operator()(SwsContext* context) const { sws_freeContext(context); }
};

using Input = std::unique_ptr<AVFormatContext, CloseInput>;
using Output = std::unique_ptr<AVFormatContext, FreeOutput>;
using Codec = std::unique_ptr<AVCodecContext, FreeCodec>;
using Frame = std::unique_ptr<AVFrame, FreeFrame>;
using Packet = std::unique_ptr<AVPacket, FreePacket>;
using Scaler = std::unique_ptr<SwsContext, FreeScaler>;

// These throw Error when memory runs out.
Frame make_frame();
Packet make_packet();
// A frame with its own buffer, rows aligned as swscale's vector code wants them.
Frame make_picture(int width, int height, AVPixelFormat format);

std::string error_text(int code);

// FFmpeg's and x264's own messages stay off stderr unless MOGA_LOG=debug. Done once, on first use.
void quiet_log();

// The stream's 3x3 display matrix, or nullptr.
const int32_t* display_matrix(const AVStream* stream);

// Dolby Vision whose pictures make sense only to its own decoders (profile 5).
bool is_bare_dolby_vision(const AVStream* stream);

bool is_interlaced(const AVFrame& frame);

}  // namespace moga::ffmpeg
