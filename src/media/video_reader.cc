#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <opencv2/imgproc.hpp>
#include <utility>

#include "base/error.h"
#include "base/threads.h"
#include "media/ffmpeg.h"
#include "media/tone_map.h"
#include "media/video.h"

namespace moga {

namespace fs = std::filesystem;

namespace {

// 8K has 33 million pixels; a file that claims more is hostile or hopeless.
constexpr int64_t kMaxPixels = int64_t{1} << 26;

// How stored pixels come upright: one of the eight right-angle symmetries. Applied in this order.
struct Orientation {
  bool transpose = false;
  bool flip_x = false;
  bool flip_y = false;
};

// The matrix maps a stored pixel (x, y) to (m0 x + m3 y, m1 x + m4 y), in 16.16 fixed point. Angles that are
// no right angles go to the nearest one.
Orientation orientation_of(const int32_t* m) {
  if (m == nullptr) {
    return {};
  }
  const int64_t straight =
      std::max(std::abs(static_cast<int64_t>(m[0])), std::abs(static_cast<int64_t>(m[4])));
  const int64_t crossed =
      std::max(std::abs(static_cast<int64_t>(m[1])), std::abs(static_cast<int64_t>(m[3])));
  if (crossed > straight) {
    return {true, m[3] < 0, m[1] < 0};
  }
  return {false, m[0] < 0, m[4] < 0};
}

void turn_upright(cv::Mat& picture, const Orientation& orientation) {
  if (orientation.transpose) {
    cv::Mat turned;
    cv::transpose(picture, turned);
    picture = turned;
  }
  if (orientation.flip_x || orientation.flip_y) {
    const int code = orientation.flip_x && orientation.flip_y ? -1 : (orientation.flip_x ? 1 : 0);
    cv::flip(picture, picture, code);
  }
}

// Degrees clockwise, for people; mirrored pictures count as what they are beside the mirror.
int degrees_of(const Orientation& orientation) {
  if (orientation.transpose) {
    return orientation.flip_x ? 90 : 270;
  }
  return orientation.flip_x && orientation.flip_y ? 180 : 0;
}

std::optional<HdrTransfer> hdr_transfer(AVColorTransferCharacteristic transfer) {
  switch (transfer) {
    case AVCOL_TRC_SMPTE2084:
      return HdrTransfer::kPq;
    case AVCOL_TRC_ARIB_STD_B67:
      return HdrTransfer::kHlg;
    default:
      return std::nullopt;
  }
}

std::string tag(const AVFormatContext* context, const AVStream* stream, const char* key) {
  for (const AVDictionary* dictionary : {context->metadata, stream->metadata}) {
    if (const AVDictionaryEntry* entry = av_dict_get(dictionary, key, nullptr, 0)) {
      return entry->value;
    }
  }
  return "";
}

struct Opened {
  ffmpeg::Input input;
  AVStream* stream = nullptr;
  const AVCodec* decoder = nullptr;
  Orientation orientation;
  VideoInfo info;
};

VideoInfo describe(AVFormatContext* context, AVStream* stream, const Orientation& orientation) {
  VideoInfo info;
  const AVCodecParameters* parameters = stream->codecpar;
  info.width = parameters->width;
  info.height = parameters->height;
  if (orientation.transpose) {
    std::swap(info.width, info.height);
  }
  const AVRational rate = av_guess_frame_rate(context, stream, nullptr);
  info.fps = rate.num > 0 && rate.den > 0 ? av_q2d(rate) : 0;
  if (stream->duration != AV_NOPTS_VALUE && stream->duration > 0) {
    info.seconds = static_cast<double>(stream->duration) * av_q2d(stream->time_base);
  } else if (context->duration != AV_NOPTS_VALUE && context->duration > 0) {
    info.seconds = static_cast<double>(context->duration) / AV_TIME_BASE;
  }
  info.frames = stream->nb_frames;
  if (info.frames <= 0) {
    info.frames = std::llround(std::min(info.seconds * info.fps, 1e12));
  }
  info.codec = avcodec_get_name(parameters->codec_id);
  const char* format = av_get_pix_fmt_name(static_cast<AVPixelFormat>(parameters->format));
  info.pixel_format = format != nullptr ? format : "";
  info.comment = tag(context, stream, "comment");
  info.title = tag(context, stream, "title");
  info.rotation = degrees_of(orientation);
  info.interlaced =
      parameters->field_order != AV_FIELD_UNKNOWN && parameters->field_order != AV_FIELD_PROGRESSIVE;
  if (const auto transfer = hdr_transfer(parameters->color_trc)) {
    info.hdr = *transfer == HdrTransfer::kPq ? "pq" : "hlg";
  }
  return info;
}

Opened open_video(const fs::path& path) {
  ffmpeg::quiet_log();
  std::error_code ignored;
  MOGA_CHECK(fs::exists(path, ignored), "no such file: {}", path.string());
  MOGA_CHECK(!fs::is_directory(path, ignored), "expected a video, found a folder: {}", path.string());

  Opened opened;
  AVFormatContext* context = nullptr;
  // "file:" keeps names such as "concat:x" or "http:x" from being read as protocols.
  const int result = avformat_open_input(&context, ("file:" + path.string()).c_str(), nullptr, nullptr);
  MOGA_CHECK(result >= 0, "cannot open {} as a video: {}", path.string(), ffmpeg::error_text(result));
  opened.input.reset(context);
  // FFmpeg would draw any text file as terminal output.
  MOGA_CHECK(std::strcmp(context->iformat->name, "tty") != 0, "{} is a text file, expected a video",
             path.string());
  avformat_find_stream_info(context, nullptr);  // what it cannot find out shows below
  const int index = av_find_best_stream(context, AVMEDIA_TYPE_VIDEO, -1, -1, &opened.decoder, 0);
  MOGA_CHECK(index != AVERROR_DECODER_NOT_FOUND, "{}: this FFmpeg has no decoder for the video in it",
             path.string());
  MOGA_CHECK(index >= 0, "{} has no video stream", path.string());
  opened.stream = context->streams[index];
  MOGA_CHECK((opened.stream->disposition & AV_DISPOSITION_ATTACHED_PIC) == 0,
             "{} has no video stream, only a cover picture", path.string());
  const AVCodecParameters* parameters = opened.stream->codecpar;
  MOGA_CHECK(parameters->width > 0 && parameters->height > 0,
             "{}: the video's frame size cannot be found (damaged or cut short?)", path.string());
  MOGA_CHECK(static_cast<int64_t>(parameters->width) * parameters->height <= kMaxPixels,
             "{}: frames of {}x{} are larger than the {} million pixels that are accepted", path.string(),
             parameters->width, parameters->height, kMaxPixels >> 20);
  MOGA_CHECK(!ffmpeg::is_bare_dolby_vision(opened.stream),
             "{} is Dolby Vision without a base layer that other players can show (profile 5): its colours "
             "cannot be decoded; convert it to HDR10 or SDR first",
             path.string());
  opened.orientation = orientation_of(ffmpeg::display_matrix(opened.stream));
  opened.info = describe(context, opened.stream, opened.orientation);
  return opened;
}

// The conversion matrix for a decoded frame. Untagged video follows the usual rule: BT.601 up to 576 lines.
int sws_matrix(const AVFrame& frame) {
  switch (frame.colorspace) {
    case AVCOL_SPC_BT709:
      return SWS_CS_ITU709;
    case AVCOL_SPC_BT470BG:
    case AVCOL_SPC_SMPTE170M:
      return SWS_CS_ITU601;
    case AVCOL_SPC_SMPTE240M:
      return SWS_CS_SMPTE240M;
    case AVCOL_SPC_FCC:
      return SWS_CS_FCC;
    case AVCOL_SPC_BT2020_NCL:
    case AVCOL_SPC_BT2020_CL:
      return SWS_CS_BT2020;
    default:
      return frame.height > 576 ? SWS_CS_ITU709 : SWS_CS_ITU601;
  }
}

bool is_full_range(const AVFrame& frame) {
  switch (frame.format) {
    case AV_PIX_FMT_YUVJ420P:
    case AV_PIX_FMT_YUVJ422P:
    case AV_PIX_FMT_YUVJ444P:
    case AV_PIX_FMT_YUVJ440P:
    case AV_PIX_FMT_YUVJ411P:
      return true;
    default:
      return frame.color_range == AVCOL_RANGE_JPEG;
  }
}

}  // namespace

VideoInfo probe_video(const fs::path& path) {
  return open_video(path).info;
}

struct VideoReader::Impl {
  Impl(const fs::path& file, const ReadOptions& given) : path(file), options(given) {
    MOGA_CHECK((options.width > 0) == (options.height > 0) && options.width >= 0 &&
                   options.width * options.height <= kMaxPixels,
               "{}: expected a picture size, found {}x{}", file.string(), options.width, options.height);
    open();
  }

  void open() {
    opened = open_video(path);
    codec.reset(avcodec_alloc_context3(opened.decoder));
    MOGA_CHECK(codec != nullptr, "no memory for a video decoder");
    avcodec_parameters_to_context(codec.get(), opened.stream->codecpar);
    codec->thread_count = options.threads > 0 ? options.threads : std::min(thread_count(), 16);
    codec->max_pixels = kMaxPixels;
    codec->pkt_timebase = opened.stream->time_base;
    if (options.quick) {
      codec->skip_loop_filter = AVDISCARD_ALL;
    }
    const int result = avcodec_open2(codec.get(), opened.decoder, nullptr);
    MOGA_CHECK(result >= 0, "{}: cannot start the {} decoder: {}", path.string(), opened.info.codec,
               ffmpeg::error_text(result));
    draining = false;
    last_seconds.reset();
  }

  // Feeds the decoder until a frame comes out; false at the end. Damaged packets are skipped, and a file that
  // breaks off ends where it breaks off.
  bool decode() {
    while (true) {
      const int result = avcodec_receive_frame(codec.get(), frame.get());
      if (result == 0) {
        damaged += frame->decode_error_flags != 0 || (frame->flags & AV_FRAME_FLAG_CORRUPT) != 0 ? 1 : 0;
        note_time();
        return true;
      }
      if (result == AVERROR_EOF || (result != AVERROR(EAGAIN) && draining)) {
        return false;
      }
      damaged += result != AVERROR(EAGAIN) ? 1 : 0;
      if (!draining) {
        feed();
      }
    }
  }

  void feed() {
    while (av_read_frame(opened.input.get(), packet.get()) >= 0) {
      const bool ours = packet->stream_index == opened.stream->index;
      damaged += ours && (packet->flags & AV_PKT_FLAG_CORRUPT) != 0 ? 1 : 0;
      const int result = ours ? avcodec_send_packet(codec.get(), packet.get()) : -1;
      av_packet_unref(packet.get());
      damaged += ours && result < 0 ? 1 : 0;
      if (result >= 0) {
        return;
      }
    }
    draining = true;
    avcodec_send_packet(codec.get(), nullptr);
  }

  void note_time() {
    const double step = opened.info.fps > 0 ? 1 / opened.info.fps : 0;
    timed = frame->best_effort_timestamp != AV_NOPTS_VALUE;
    if (timed) {
      if (!origin) {
        origin = frame->best_effort_timestamp;
      }
      last_seconds =
          static_cast<double>(frame->best_effort_timestamp - *origin) * av_q2d(opened.stream->time_base);
    } else {
      last_seconds = last_seconds ? *last_seconds + step : 0;
    }
  }

  // Decodes up to the last frame that is due at `target`, which is known only once its successor has come
  // out: both are kept for advance(). False if there is no frame or the first one is already too late.
  bool walk_to(double target) {
    bool found = false;
    while (decode()) {
      if (*last_seconds > target + kTimeSlack) {
        if (found) {
          std::swap(frame, held);
          std::swap(last_seconds, held_seconds);
        }
        pending = found ? Pending::kFrameAndHeld : Pending::kFrame;
        return found;
      }
      std::swap(frame, held);
      held_seconds = last_seconds;
      found = true;
    }
    if (found) {
      std::swap(frame, held);
      last_seconds = held_seconds;
      pending = Pending::kFrame;
    }
    return found;
  }

  void seek(double target) {
    pending = Pending::kNone;
    if (!origin) {
      decode();  // tells whether frames carry times; nothing comes if a bare stream without them was read to
                 // its end
    }
    if (timed && origin) {
      const auto stamp =
          *origin + static_cast<int64_t>(std::floor(target / av_q2d(opened.stream->time_base)));
      const int result = av_seek_frame(opened.input.get(), opened.stream->index, stamp, AVSEEK_FLAG_BACKWARD);
      if (result >= 0) {
        avcodec_flush_buffers(codec.get());
        draining = false;
        last_seconds.reset();
        if (walk_to(target)) {
          return;
        }
      }
    }
    // No index, or one that led too far: from the start.
    open();
    pending = Pending::kNone;
    walk_to(target);
  }

  bool advance() {
    switch (pending) {
      case Pending::kFrameAndHeld:
        pending = Pending::kHeld;
        return true;
      case Pending::kHeld:
        std::swap(frame, held);
        std::swap(last_seconds, held_seconds);
        pending = Pending::kNone;
        return true;
      case Pending::kFrame:
        pending = Pending::kNone;
        return true;
      case Pending::kNone:
        break;
    }
    return decode();
  }

  cv::Mat to_rgb() {
    const bool turned = opened.orientation.transpose;
    const int64_t upright_width = options.width > 0 ? options.width : opened.info.width;
    const int64_t upright_height = options.height > 0 ? options.height : opened.info.height;
    const auto width = static_cast<int>(turned ? upright_height : upright_width);
    const auto height = static_cast<int>(turned ? upright_width : upright_height);
    const auto transfer = hdr_transfer(frame->color_trc);
    const AVPixelFormat format = transfer ? AV_PIX_FMT_RGB48LE : AV_PIX_FMT_RGB24;
    const int exact = options.quick ? 0 : SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_BITEXACT;
    const int filter = (options.width > 0 ? SWS_AREA : SWS_BICUBIC) | exact;
    // Cached: only a change of size or format in mid-stream makes a new one.
    scaler.reset(sws_getCachedContext(scaler.release(), frame->width, frame->height,
                                      static_cast<AVPixelFormat>(frame->format), width, height, format,
                                      filter, nullptr, nullptr, nullptr));
    MOGA_CHECK(scaler != nullptr, "{}: frames in the pixel format {} cannot be converted to RGB",
               path.string(), opened.info.pixel_format);
    constexpr int kOne = 1 << 16;
    sws_setColorspaceDetails(scaler.get(), sws_getCoefficients(sws_matrix(*frame)),
                             is_full_range(*frame) ? 1 : 0, sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, kOne,
                             kOne);
    if (rgb == nullptr || rgb->format != format) {
      rgb = ffmpeg::make_picture(width, height, format);
    }
    const int rows =
        sws_scale(scaler.get(), frame->data, frame->linesize, 0, frame->height, rgb->data, rgb->linesize);
    MOGA_CHECK(rows == height, "{}: a frame could not be converted to RGB", path.string());
    const cv::Mat stored(height, width, transfer ? CV_16UC3 : CV_8UC3, rgb->data[0],
                         static_cast<size_t>(rgb->linesize[0]));
    cv::Mat picture = transfer ? tone_map(stored, *transfer) : stored.clone();
    turn_upright(picture, opened.orientation);
    return picture;
  }

  // Frames whose times differ by less are due at the same time: containers round to milliseconds at worst.
  static constexpr double kTimeSlack = 6e-4;
  // Frames that a seek has decoded ahead of the reader.
  enum class Pending { kNone, kFrame, kFrameAndHeld, kHeld };

  fs::path path;
  ReadOptions options;
  Opened opened;
  ffmpeg::Codec codec;
  ffmpeg::Frame frame = ffmpeg::make_frame();
  ffmpeg::Frame held = ffmpeg::make_frame();
  ffmpeg::Packet packet = ffmpeg::make_packet();
  ffmpeg::Scaler scaler;
  ffmpeg::Frame rgb;
  bool draining = false;
  bool timed = false;             // the last frame carried a time of its own
  std::optional<int64_t> origin;  // the first frame's time stamp
  std::optional<double> last_seconds;
  std::optional<double> held_seconds;
  Pending pending = Pending::kNone;
  int64_t damaged = 0;
};

VideoReader::VideoReader(const fs::path& path, const ReadOptions& options)
    : impl_(std::make_unique<Impl>(path, options)) {}
VideoReader::~VideoReader() = default;
const VideoInfo& VideoReader::info() const {
  return impl_->opened.info;
}

bool VideoReader::advance() {
  return impl_->advance();
}
cv::Mat VideoReader::picture() {
  return impl_->to_rgb();
}
double VideoReader::seconds() const {
  return impl_->last_seconds.value_or(0);
}
void VideoReader::seek(double seconds) {
  impl_->seek(seconds);
}
int64_t VideoReader::damaged() const {
  return impl_->damaged;
}
bool VideoReader::interlaced() const {
  return ffmpeg::is_interlaced(*impl_->frame);
}

std::optional<cv::Mat> VideoReader::next() {
  if (!impl_->advance()) {
    return std::nullopt;
  }
  return impl_->to_rgb();
}

}  // namespace moga
