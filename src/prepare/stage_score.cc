// The stages score, filter and shot-score.
#include <algorithm>
#include <cmath>
#include <limits>
#include <opencv2/imgproc.hpp>

#include "base/error.h"
#include "prepare/limits.h"
#include "prepare/stages.h"
#include "prepare/video_view.h"

namespace moga {

namespace {

constexpr int64_t kBorderSamples = 32;
constexpr double kSeekFrom = 60;  // seconds; shorter videos are decoded through rather than sought in
constexpr int kThumbHeight = 90;
constexpr int64_t kVideoThumbs = 8;
constexpr int64_t kShotThumbs = 3;

cv::Mat thumbnail(const cv::Mat& picture) {
  cv::Mat out;
  cv::resize(picture, out, {std::max(2, picture.cols * kThumbHeight / picture.rows), kThumbHeight}, 0, 0,
             cv::INTER_AREA);
  return out;
}

// Pictures from all over the video: where its borders are, and what it looks like.
struct Overview {
  PixelBox content;
  std::vector<cv::Mat> thumbs;
};

Overview look_over(const VideoRecord& video, const StageContext& context) {
  const ProbeFacts& probe = video.probe;
  VideoReader reader(video.path,
                     {kScoreWidth, score_height(probe.width, probe.height), context.decoder_threads});
  BorderMeter borders;
  std::vector<cv::Mat> pictures;
  const auto take = [&] {
    const cv::Mat picture = reader.picture();
    borders.add(picture);
    pictures.push_back(thumbnail(picture));
  };
  if (probe.seconds >= kSeekFrom) {
    for (int64_t i = 0; i < kBorderSamples; ++i) {
      reader.seek(probe.seconds * (static_cast<double>(i) + 0.5) / kBorderSamples);
      if (reader.advance()) {
        take();
      }
    }
  } else {
    const double step = std::max(1e-3, probe.seconds / kBorderSamples);
    double next = 0;
    while (reader.advance()) {
      if (reader.seconds() >= next && static_cast<int64_t>(pictures.size()) < 4 * kBorderSamples) {
        next = reader.seconds() + step;
        take();
      }
    }
  }
  MOGA_CHECK(!pictures.empty(), "no frame could be decoded");
  Overview overview;
  overview.content = borders.box(probe.width, probe.height);
  const auto count = static_cast<int64_t>(pictures.size());
  for (int64_t i = 0; i < std::min(count, kVideoThumbs); ++i) {
    overview.thumbs.push_back(
        pictures[static_cast<size_t>((2 * i + 1) * count / (2 * std::min(count, kVideoThumbs)))]);
  }
  return overview;
}

// Frame times of one pass, and what they say.
class Clock {
 public:
  void tick(double seconds, bool interlaced) {
    if (facts_.frames > 0) {
      const double step = seconds - last_;
      if (step < 0) {
        ++facts_.backward;
      } else {
        shortest_ = std::min(shortest_, step);
        longest_ = std::max(longest_, step);
      }
    }
    last_ = seconds;
    ++facts_.frames;
    interlaced_ += interlaced ? 1 : 0;
  }
  DecodeFacts facts(double fps, int64_t damaged) const {
    DecodeFacts facts = facts_;
    const double usual = fps > 0            ? 1 / fps
                         : facts.frames > 1 ? last_ / static_cast<double>(facts.frames - 1)
                                            : 0.04;
    facts.shortest_frame = facts.frames > 1 ? shortest_ : usual;
    facts.longest_frame = facts.frames > 1 ? longest_ : usual;
    const double spread = facts.longest_frame - facts.shortest_frame;
    facts.variable_rate = spread > 1.1e-3 && spread > 0.1 * usual;
    facts.seconds = last_ + usual;
    facts.damaged = damaged;
    facts.interlaced =
        facts.frames == 0 ? 0 : static_cast<double>(interlaced_) / static_cast<double>(facts.frames);
    return facts;
  }

 private:
  DecodeFacts facts_;
  double last_ = 0;
  double shortest_ = std::numeric_limits<double>::max();
  double longest_ = 0;
  int64_t interlaced_ = 0;
};

void add_notes(VideoRecord& video) {
  const DecodeFacts& facts = *video.decoded;
  if (facts.damaged > 0) {
    video.notes.push_back(
        fmt::format("damaged: {} packets or frames were skipped or came out with errors", facts.damaged));
  }
  const double missing = video.probe.seconds - facts.seconds;
  if (missing > std::max(1.0, 0.01 * video.probe.seconds)) {
    video.notes.push_back(fmt::format("damaged: ends {:.1f} s before the container says", missing));
  }
  if (facts.variable_rate) {
    video.notes.push_back(fmt::format("variable frame rate: frames last {:.0f} to {:.0f} ms",
                                      facts.shortest_frame * 1000, facts.longest_frame * 1000));
  }
  if (facts.interlaced > 0) {
    video.notes.push_back(fmt::format("interlaced: {:.0f} % of the frames", facts.interlaced * 100));
  }
  if (!video.probe.hdr.empty()) {
    video.notes.push_back("HDR (" + video.probe.hdr + "), tone-mapped");
  }
}

}  // namespace

ScoreView::ScoreView(int64_t width, int64_t height, const PixelBox& content) {
  const double scale = static_cast<double>(kScoreWidth) / static_cast<double>(content.width);
  const auto scaled = [&](int64_t value) { return std::lround(static_cast<double>(value) * scale); };
  width_ = std::max<int64_t>(kScoreWidth, scaled(width));
  height_ = std::max<int64_t>(2, scaled(height));
  const int64_t part_height = std::clamp<int64_t>(scaled(content.height), 2, height_);
  const int64_t x = std::clamp<int64_t>(scaled(content.x), 0, width_ - kScoreWidth);
  const int64_t y = std::clamp<int64_t>(scaled(content.y), 0, height_ - part_height);
  part_ = {static_cast<int>(x), static_cast<int>(y), static_cast<int>(kScoreWidth),
           static_cast<int>(part_height)};
}

ReadOptions ScoreView::options(int threads) const {
  return {width_, height_, threads};
}

void run_score(VideoRecord& video, StageContext& context) {
  const Overview overview = look_over(video, context);
  video.content = overview.content;
  video.thumbnails = "report/" + video.id + "/video.jpg";
  write_output(context.out / video.thumbnails, jpeg_strip(overview.thumbs));

  const ScoreView view(video.probe.width, video.probe.height, *video.content);
  VideoReader reader(video.path, view.options(context.decoder_threads));
  ScoreMeter meter(context.config.score.samples_a_second, context.services.learned());
  Clock clock;
  double told = 0;
  while (reader.advance()) {
    const double seconds = reader.seconds();
    clock.tick(seconds, reader.interlaced());
    meter.add(view.crop(reader.picture()), seconds);
    if (seconds > told + 1) {
      context.advance(seconds - told);
      told = seconds;
    }
  }
  MOGA_CHECK(meter.frames() > 0, "no frame could be decoded");
  video.decoded = clock.facts(video.probe.fps, reader.damaged());
  video.scores = meter.scores();
  add_notes(video);
}

void run_filter(VideoRecord& video, StageContext& context) {
  const FilterConfig& filter = context.config.filter;
  if (video.decoded && video.decoded->backward > 0) {
    video.dropped =
        Drop{"filter", "timestamps",
             fmt::format("time stamps run backwards {} times (joined recordings?): write the video anew "
                         "with times in order",
                         video.decoded->backward)};
    return;
  }
  video.dropped =
      broken_limit(video_values(video),
                   limits_for(video.path, filter.video, filter.sources, &SourceLimits::video), "filter");
}

void run_shot_score(VideoRecord& video, StageContext& context) {
  const ScoreView view(video.probe.width, video.probe.height, video.content.value());
  VideoReader reader(video.path, view.options(context.decoder_threads));
  const auto limits =
      limits_for(video.path, context.config.filter.shot, context.config.filter.sources, &SourceLimits::shot);
  double told = 0;
  int64_t frame = 0;
  for (size_t i = 0; i < video.shots.size(); ++i) {
    ShotRecord& shot = video.shots[i];
    if (shot.dropped) {
      continue;
    }
    while (frame < shot.begin_frame && reader.advance()) {
      ++frame;
    }
    ScoreMeter meter(context.config.score.samples_a_second, context.services.learned());
    std::vector<cv::Mat> thumbs;
    while (frame < shot.end_frame && reader.advance()) {
      const cv::Mat picture = view.crop(reader.picture());
      meter.add(picture, reader.seconds());
      const int64_t at = frame - shot.begin_frame;
      const auto next = static_cast<int64_t>(thumbs.size());
      if (next < kShotThumbs &&
          at >= (2 * next + 1) * (shot.end_frame - shot.begin_frame) / (2 * kShotThumbs)) {
        thumbs.push_back(thumbnail(picture));
      }
      ++frame;
      if (reader.seconds() > told + 1) {
        context.advance(reader.seconds() - told);
        told = reader.seconds();
      }
    }
    if (meter.frames() == 0) {
      shot.dropped = Drop{"shot-score", "damaged", "no frame could be decoded"};
      continue;
    }
    shot.scores = meter.scores();
    shot.colours = meter.colours();
    shot.thumbnails = fmt::format("report/{}/shot_{:04d}.jpg", video.id, i + 1);
    write_output(context.out / shot.thumbnails, jpeg_strip(thumbs));
    shot.dropped = broken_limit(shot_values(shot), limits, "shot-score");
  }
}

}  // namespace moga
