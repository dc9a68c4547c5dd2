#include "bench/shots/scenes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <opencv2/imgproc.hpp>

#include "base/error.h"
#include "data/toy_world.h"
#include "media/video.h"

namespace moga::bench {
namespace {

constexpr double kPi = 3.14159265358979;

// The part of `set` that `view` names, scaled to the benchmark's frame. Mirrored beyond the edges.
cv::Mat look(const cv::Mat& set, const View& view, double frame_width) {
  const double scale = kWidth / (view.width * frame_width);
  const double left = view.x * set.cols - 0.5 * kWidth / scale;
  const double top = view.y * set.rows - 0.5 * kHeight / scale;
  const cv::Matx23d map(scale, 0, -left * scale, 0, scale, -top * scale);
  cv::Mat picture;
  cv::warpAffine(set, picture, map, {kWidth, kHeight}, cv::INTER_LINEAR, cv::BORDER_REFLECT);
  return picture;
}

cv::Scalar any_colour(ToyRandom& random) {
  return cv::Scalar(static_cast<double>(random.below(256)), static_cast<double>(random.below(256)),
                    static_cast<double>(random.below(256)));
}

// Smooth noise of several scales around a colour, in [0, 255].
cv::Mat clouds(ToyRandom& random, cv::Size size, double contrast) {
  cv::Mat sum(size, CV_32FC3, any_colour(random) * 0.6 + cv::Scalar::all(50));
  cv::RNG noise(random.next());
  for (int cells = 3; cells <= 96; cells *= 2) {
    cv::Mat grid(std::max(2, cells * size.height / size.width), cells, CV_32FC3);
    noise.fill(grid, cv::RNG::NORMAL, 0, contrast / std::sqrt(cells / 3.0));
    cv::Mat layer;
    cv::resize(grid, layer, size, 0, 0, cv::INTER_CUBIC);
    sum += layer;
  }
  cv::Mat picture;
  sum.convertTo(picture, CV_8UC3);
  return picture;
}

// A textured ellipse on a path through the set.
struct Body {
  cv::Mat texture;
  double x = 0;  // at time 0, in frame widths
  double y = 0;
  double speed = 0;  // frame widths a second
  double bob = 0;    // amplitude in frame heights
  double radius = 0;
};

class Painted : public Scene {
 public:
  Painted(uint64_t seed, double speed) {
    ToyRandom random(seed);
    set_ = clouds(random, {kSetWidths * kWidth, kHeight * 3 / 2}, 12 + 20 * random.unit());
    const int64_t shapes = random.between(15, 60);
    for (int64_t i = 0; i < shapes; ++i) {
      const cv::Point centre(static_cast<int>(random.below(set_.cols)),
                             static_cast<int>(random.below(set_.rows)));
      const cv::Size axes(static_cast<int>(random.between(5, 60)), static_cast<int>(random.between(5, 60)));
      if (random.below(2) == 0) {
        cv::ellipse(set_, centre, axes, random.unit() * 180, 0, 360, any_colour(random), cv::FILLED,
                    cv::LINE_AA);
      } else {
        cv::rectangle(set_, cv::Rect(centre, axes), any_colour(random), cv::FILLED);
      }
    }
    const int64_t bodies = random.between(1, 4);
    for (int64_t i = 0; i < bodies; ++i) {
      Body body;
      body.radius = 0.08 + 0.22 * random.unit();
      const int side = static_cast<int>(body.radius * kWidth * 2);
      body.texture = clouds(random, {side, side}, 40);
      body.x = kSetWidths * random.unit();
      body.y = 0.3 + 0.9 * random.unit();
      body.speed = (random.below(2) == 0 ? -1 : 1) * speed * (0.1 + 0.3 * random.unit());
      body.bob = 0.1 * random.unit();
      bodies_.push_back(std::move(body));
    }
  }

  cv::Mat picture(double seconds, const View& view) const override {
    cv::Mat frame = look(set_, view, kWidth);
    const double scale = 1 / view.width;
    for (const Body& body : bodies_) {
      const double x =
          std::fmod(std::fmod(body.x + body.speed * seconds, kSetWidths) + kSetWidths, kSetWidths);
      const double y = body.y + body.bob * std::sin(2 * kPi * seconds);
      // Centre in the frame, in pixels.
      const double cx = (x * kWidth - view.x * set_.cols) * scale + 0.5 * kWidth;
      const double cy = (y * kHeight - view.y * set_.rows) * scale + 0.5 * kHeight;
      paste(frame, body.texture, cx, cy, scale);
    }
    return frame;
  }

 private:
  static constexpr int kSetWidths = 5;

  static void paste(cv::Mat& frame, const cv::Mat& texture, double cx, double cy, double scale) {
    const double half = 0.5 * texture.cols * scale;
    const cv::Rect box(
        cv::Point(static_cast<int>(std::floor(cx - half)), static_cast<int>(std::floor(cy - half))),
        cv::Point(static_cast<int>(std::ceil(cx + half)) + 1, static_cast<int>(std::ceil(cy + half)) + 1));
    const cv::Rect seen = box & cv::Rect(0, 0, frame.cols, frame.rows);
    if (seen.empty()) {
      return;
    }
    const cv::Matx23d map(scale, 0, cx - half - seen.x, 0, scale, cy - half - seen.y);
    cv::Mat warped;
    cv::warpAffine(texture, warped, map, seen.size(), cv::INTER_LINEAR, cv::BORDER_REPLICATE);
    cv::Mat mask(seen.size(), CV_8UC1, cv::Scalar(0));
    constexpr int kShift = 4;
    cv::ellipse(mask,
                cv::Point(static_cast<int>((cx - seen.x) * (1 << kShift)),
                          static_cast<int>((cy - seen.y) * (1 << kShift))),
                cv::Size(static_cast<int>(half * (1 << kShift)), static_cast<int>(half * (1 << kShift))), 0,
                0, 360, cv::Scalar(255), cv::FILLED, cv::LINE_AA, kShift);
    warped.copyTo(frame(seen), mask);
  }

  cv::Mat set_;
  std::vector<Body> bodies_;
};

class Toy : public Scene {
 public:
  explicit Toy(uint64_t seed) {
    settings_.width = kWidth;
    settings_.height = kHeight;
    settings_.min_frames = settings_.max_frames = kFrames;
    settings_.min_shots = settings_.max_shots = 1;
    film_ = make_toy_film(seed, settings_);
  }
  cv::Mat picture(double seconds, const View& view) const override {
    // Between two drawn frames the nearer is shown, as in animation drawn at a low rate.
    const auto index = static_cast<int64_t>(seconds * kRate) % (2 * kFrames - 2);
    const cv::Mat frame = draw_toy_frame(film_, index < kFrames ? index : 2 * kFrames - 2 - index, settings_);
    return look(frame, view, kWidth);
  }

 private:
  static constexpr int64_t kFrames = 257;
  static constexpr double kRate = 24;
  ToyFilmSettings settings_;
  ToyFilm film_;
};

// All frames of a clip, half as large again as the benchmark's; read once a program.
const std::vector<cv::Mat>& clip_frames(const std::filesystem::path& path) {
  static std::map<std::filesystem::path, std::vector<cv::Mat>> cache;
  std::vector<cv::Mat>& frames = cache[path];
  if (frames.empty()) {
    VideoReader reader(path);
    while (const auto frame = reader.next()) {
      cv::resize(*frame, frames.emplace_back(), {kWidth * 3 / 2, kHeight * 3 / 2}, 0, 0, cv::INTER_AREA);
    }
  }
  return frames;
}

class Clip : public Scene {
 public:
  Clip(const std::filesystem::path& path, int shot) : frames_(clip_frames(path)) {
    constexpr std::array<int64_t, 4> kStarts = {0, 53, 105, 157};
    first_ = kStarts.at(static_cast<size_t>(shot));
    count_ = kStarts.at(static_cast<size_t>(shot) + 1) - first_;
    MOGA_CHECK(static_cast<int64_t>(frames_.size()) == kStarts.back(), "{}: expected {} frames, found {}",
               path.string(), kStarts.back(), frames_.size());
  }
  cv::Mat picture(double seconds, const View& view) const override {
    const auto index = static_cast<int64_t>(seconds * kRate) % (2 * count_ - 2);
    const cv::Mat& frame =
        frames_[static_cast<size_t>(first_ + (index < count_ ? index : 2 * count_ - 2 - index))];
    return look(frame, view, frame.cols);
  }

 private:
  static constexpr double kRate = 24;
  const std::vector<cv::Mat>& frames_;
  int64_t first_ = 0;
  int64_t count_ = 0;
};

}  // namespace

std::unique_ptr<Scene> painted_scene(uint64_t seed, double speed) {
  return std::make_unique<Painted>(seed, speed);
}
std::unique_ptr<Scene> toy_scene(uint64_t seed) {
  return std::make_unique<Toy>(seed);
}
std::unique_ptr<Scene> clip_scene(const std::filesystem::path& clip, int shot) {
  return std::make_unique<Clip>(clip, shot);
}

}  // namespace moga::bench
