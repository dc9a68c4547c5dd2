#include <algorithm>
#include <cmath>
#include <limits>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/text_util.h"
#include "media/ffmpeg.h"
#include "media/video.h"

namespace moga {

namespace fs = std::filesystem;

namespace {

constexpr int64_t kMaxSide = 16384;

// 23.976 means 24000/1001, and so on; whole rates stay whole; others become the nearest fraction.
AVRational frame_rate(double fps) {
  for (const double candidate : {std::round(fps), std::ceil(fps)}) {
    const int base = static_cast<int>(candidate);
    if (std::abs(fps - candidate) < 1e-6 * fps) {
      return {base, 1};
    }
    if (std::abs(fps - candidate * 1000.0 / 1001.0) < 1e-4 * fps) {
      return {base * 1000, 1001};
    }
  }
  return av_d2q(fps, 100'000);
}

void check_settings(const fs::path& path, const VideoSettings& settings) {
  const std::string file = path.string();
  const auto extension = path.extension();
  MOGA_CHECK(extension == ".mp4" || extension == ".m4v" || extension == ".mov",
             "cannot write {}: films are MP4 files, expected a name that ends in .mp4", file);
  MOGA_CHECK(
      settings.width > 0 && settings.height > 0 && settings.width <= kMaxSide && settings.height <= kMaxSide,
      "{}: expected a frame size of 2x2 to {}x{}, found {}x{}", file, kMaxSide, kMaxSide, settings.width,
      settings.height);
  MOGA_CHECK(settings.width % 2 == 0 && settings.height % 2 == 0,
             "{}: H.264 with yuv420p needs an even width and height, found {}x{}", file, settings.width,
             settings.height);
  MOGA_CHECK(std::isfinite(settings.fps) && settings.fps >= 0.01 && settings.fps <= 1000,
             "{}: expected 0.01 to 1000 frames a second, found {}", file, settings.fps);
  MOGA_CHECK(settings.crf >= 0 && settings.crf <= 51, "{}: expected a CRF of 0 (best) to 51, found {}", file,
             settings.crf);
  for (const std::string* text : {&settings.comment, &settings.title}) {
    MOGA_CHECK(is_utf8(*text) && text->find('\0') == std::string::npos,
               "{}: the title and comment must be UTF-8 text without zero bytes", file);
  }
}

}  // namespace

struct VideoWriter::Impl {
  Impl(const fs::path& target, const VideoSettings& given)
      : path(target), settings((check_settings(target, given), given)), file(target) {
    open_encoder();
    open_container();
    open_converter();
  }

  void check(int result, const char* what) const {
    MOGA_CHECK(result >= 0, "cannot write {}: {}: {}", path.string(), what, ffmpeg::error_text(result));
  }

  void open_encoder() {
    const AVCodec* found = avcodec_find_encoder_by_name("libx264");
    MOGA_CHECK(found != nullptr,
               "cannot write {}: this FFmpeg has no H.264 encoder (libx264); on Debian it comes with "
               "libavcodec-extra",
               path.string());
    codec.reset(avcodec_alloc_context3(found));
    MOGA_CHECK(codec != nullptr, "no memory for a video encoder");
    const AVRational rate = frame_rate(settings.fps);
    codec->width = static_cast<int>(settings.width);
    codec->height = static_cast<int>(settings.height);
    codec->pix_fmt = AV_PIX_FMT_YUV420P;
    codec->time_base = av_inv_q(rate);
    codec->framerate = rate;
    codec->gop_size =
        std::max(1, static_cast<int>(std::lround(2 * settings.fps)));  // seekable every two seconds
    codec->colorspace = AVCOL_SPC_BT709;
    codec->color_primaries = AVCOL_PRI_BT709;
    codec->color_trc = AVCOL_TRC_BT709;
    codec->color_range = AVCOL_RANGE_MPEG;
    codec->chroma_sample_location = AVCHROMA_LOC_LEFT;
    codec->sample_aspect_ratio = {1, 1};
    // x264's decisions depend on its number of threads, so a fixed one makes equal frames give equal files.
    codec->thread_count = 4;
    codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER | AV_CODEC_FLAG_BITEXACT;
    av_opt_set(codec->priv_data, "preset", "medium", 0);
    av_opt_set(codec->priv_data, "crf", std::to_string(settings.crf).c_str(), 0);
    // x264's AVX-512 code decides by what happens to lie beyond its rows (seen with mbtree, in build 164), so
    // that equal frames would not give equal files.
    if ((av_get_cpu_flags() & AV_CPU_FLAG_AVX512) != 0) {
      av_opt_set(codec->priv_data, "x264-params", "asm=AVX2", 0);
    }
    check(avcodec_open2(codec.get(), found, nullptr), "the H.264 encoder does not start");
  }

  void open_container() {
    AVFormatContext* context = nullptr;
    check(avformat_alloc_output_context2(&context, nullptr, "mp4", ("file:" + file.path().string()).c_str()),
          "no MP4 writer");
    container.reset(context);
    // Nothing in the file may depend on the clock or on FFmpeg's version.
    container->flags |= AVFMT_FLAG_BITEXACT;
    if (!settings.comment.empty()) {
      av_dict_set(&container->metadata, "comment", settings.comment.c_str(), 0);
    }
    if (!settings.title.empty()) {
      av_dict_set(&container->metadata, "title", settings.title.c_str(), 0);
    }
    stream = avformat_new_stream(container.get(), nullptr);
    MOGA_CHECK(stream != nullptr, "no memory for a video stream");
    check(avcodec_parameters_from_context(stream->codecpar, codec.get()), "no stream parameters");
    stream->time_base = codec->time_base;
    stream->avg_frame_rate = codec->framerate;
    stream->r_frame_rate = codec->framerate;
    stream->sample_aspect_ratio = codec->sample_aspect_ratio;
    check(avio_open(&container->pb, container->url, AVIO_FLAG_WRITE), "cannot open");
    AVDictionary* options = nullptr;
    av_dict_set(&options, "movflags", "+faststart", 0);
    const int result = avformat_write_header(container.get(), &options);
    av_dict_free(&options);
    check(result, "the header");
  }

  void open_converter() {
    scaler.reset(sws_getContext(
        codec->width, codec->height, AV_PIX_FMT_RGB24, codec->width, codec->height, AV_PIX_FMT_YUV420P,
        SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INP | SWS_BITEXACT, nullptr, nullptr, nullptr));
    MOGA_CHECK(scaler != nullptr, "cannot write {}: no RGB to yuv420p conversion for {}x{}", path.string(),
               codec->width, codec->height);
    constexpr int kOne = 1 << 16;
    sws_setColorspaceDetails(scaler.get(), sws_getCoefficients(SWS_CS_DEFAULT), 1,
                             sws_getCoefficients(SWS_CS_ITU709), 0, 0, kOne, kOne);
    rgb = ffmpeg::make_picture(codec->width, codec->height, AV_PIX_FMT_RGB24);
    yuv = ffmpeg::make_picture(codec->width, codec->height, AV_PIX_FMT_YUV420P);
    yuv->colorspace = codec->colorspace;
    yuv->color_primaries = codec->color_primaries;
    yuv->color_trc = codec->color_trc;
    yuv->color_range = codec->color_range;
  }

  void write(const cv::Mat& picture) {
    MOGA_CHECK(usable, "cannot write to {}: it is finished or has failed", path.string());
    MOGA_CHECK(picture.type() == CV_8UC3 && picture.cols == codec->width && picture.rows == codec->height,
               "{}: expected an 8-bit RGB frame of {}x{}, found {}x{} with {} channels", path.string(),
               codec->width, codec->height, picture.cols, picture.rows, picture.channels());
    usable = false;  // until this call succeeds
    // Through an aligned buffer: swscale's vector code may read past the end of unaligned rows.
    cv::Mat aligned(codec->height, codec->width, CV_8UC3, rgb->data[0],
                    static_cast<size_t>(rgb->linesize[0]));
    picture.copyTo(aligned);
    check(av_frame_make_writable(yuv.get()),
          "no memory for a frame");  // the encoder may still hold the last one
    sws_scale(scaler.get(), rgb->data, rgb->linesize, 0, codec->height, yuv->data, yuv->linesize);
    yuv->pts = frames++;
    encode(yuv.get());
    usable = true;
  }

  // Sends a frame (nullptr: no more) and writes the packets that come out.
  void encode(const AVFrame* frame) {
    check(avcodec_send_frame(codec.get(), frame), "the H.264 encoder failed");
    while (true) {
      const int result = avcodec_receive_packet(codec.get(), packet.get());
      if (result == AVERROR(EAGAIN) || result == AVERROR_EOF) {
        return;
      }
      check(result, "the H.264 encoder failed");
      packet->duration = 1;
      packet->stream_index = stream->index;
      av_packet_rescale_ts(packet.get(), codec->time_base, stream->time_base);
      check(av_interleaved_write_frame(container.get(), packet.get()), "disk");
      check(container->pb->error, "disk");
    }
  }

  void finish() {
    MOGA_CHECK(usable, "cannot finish {}: it is finished already or has failed", path.string());
    MOGA_CHECK(frames > 0, "cannot finish {}: no frame was written", path.string());
    usable = false;
    encode(nullptr);
    check(av_write_trailer(container.get()), "disk");
    avio_flush(container->pb);
    check(container->pb->error, "disk");
    check(avio_closep(&container->pb), "disk");
    file.commit();
  }

  fs::path path;
  VideoSettings settings;
  AtomicFile file;  // outlives the container, so that the file is closed before it is removed
  ffmpeg::Codec codec;
  ffmpeg::Output container;
  AVStream* stream = nullptr;
  ffmpeg::Scaler scaler;
  ffmpeg::Frame rgb;
  ffmpeg::Frame yuv;
  ffmpeg::Packet packet = ffmpeg::make_packet();
  int64_t frames = 0;
  bool usable = true;
};

VideoWriter::VideoWriter(const fs::path& path, const VideoSettings& settings) {
  ffmpeg::quiet_log();
  impl_ = std::make_unique<Impl>(path, settings);
}
VideoWriter::~VideoWriter() = default;
void VideoWriter::write(const cv::Mat& rgb) {
  impl_->write(rgb);
}
void VideoWriter::finish() {
  impl_->finish();
}

}  // namespace moga
