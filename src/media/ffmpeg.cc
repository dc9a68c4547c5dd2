#include "media/ffmpeg.h"

#include <cstdlib>
#include <string_view>

#include "base/error.h"

namespace moga::ffmpeg {

Frame make_frame() {
  Frame frame(av_frame_alloc());
  MOGA_CHECK(frame != nullptr, "no memory for a video frame");
  return frame;
}

Packet make_packet() {
  Packet packet(av_packet_alloc());
  MOGA_CHECK(packet != nullptr, "no memory for a video packet");
  return packet;
}

Frame make_picture(int width, int height, AVPixelFormat format) {
  Frame frame = make_frame();
  frame->width = width;
  frame->height = height;
  frame->format = format;
  constexpr int kAlign = 64;
  MOGA_CHECK(av_frame_get_buffer(frame.get(), kAlign) >= 0, "no memory for a {}x{} video frame", width,
             height);
  return frame;
}

std::string error_text(int code) {
  char text[AV_ERROR_MAX_STRING_SIZE] = {};
  av_strerror(code, text, sizeof(text));
  return text;
}

void quiet_log() {
  static const bool done = [] {
    const char* level = std::getenv("MOGA_LOG");
    av_log_set_level(level != nullptr && std::string_view(level) == "debug" ? AV_LOG_INFO : AV_LOG_QUIET);
    return true;
  }();
  (void)done;
}

// Side data of the stream's codec, or nullptr if it is absent or shorter than `bytes`.
static const uint8_t* side_data(const AVStream* stream, AVPacketSideDataType type, size_t bytes) {
#if LIBAVCODEC_VERSION_INT >= AV_VERSION_INT(60, 31, 102)  // FFmpeg 6.1 moved it to the codec parameters
  const AVPacketSideData* data =
      av_packet_side_data_get(stream->codecpar->coded_side_data, stream->codecpar->nb_coded_side_data, type);
  return data != nullptr && data->size >= bytes ? data->data : nullptr;
#else
  size_t size = 0;
  const uint8_t* data = av_stream_get_side_data(stream, type, &size);
  return data != nullptr && size >= bytes ? data : nullptr;
#endif
}

const int32_t* display_matrix(const AVStream* stream) {
  return reinterpret_cast<const int32_t*>(side_data(stream, AV_PKT_DATA_DISPLAYMATRIX, 9 * sizeof(int32_t)));
}

bool is_bare_dolby_vision(const AVStream* stream) {
  const auto* record = reinterpret_cast<const AVDOVIDecoderConfigurationRecord*>(
      side_data(stream, AV_PKT_DATA_DOVI_CONF, sizeof(AVDOVIDecoderConfigurationRecord)));
  return record != nullptr && record->dv_bl_signal_compatibility_id == 0 && record->dv_profile == 5;
}

bool is_interlaced(const AVFrame& frame) {
#if LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(58, 7, 100)  // FFmpeg 6.1
  return (frame.flags & AV_FRAME_FLAG_INTERLACED) != 0;
#else
  return frame.interlaced_frame != 0;
#endif
}

}  // namespace moga::ffmpeg
