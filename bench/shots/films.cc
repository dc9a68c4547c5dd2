#include "bench/shots/films.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <opencv2/imgproc.hpp>

#include "media/video.h"

namespace moga::bench {
namespace {

constexpr double kPi = 3.14159265358979;

// A camera that drifts and sways, and may whip to another place once.
struct Camera {
  View start;
  double drift_x = 0;  // set widths a second
  double drift_y = 0;
  double zoom = 0;  // change of the view's width a second
  double sway = 0;  // of a hand-held camera
  double whip_at = -1;
  double whip_seconds = 0;
  double whip_x = 0;

  View at(double seconds) const {
    View view = start;
    view.x += drift_x * seconds + sway * std::sin(2 * kPi * 0.7 * seconds);
    view.y += drift_y * seconds + sway * std::sin(2 * kPi * 1.1 * seconds + 1);
    view.width = std::clamp(view.width + zoom * seconds, 0.3, std::max(1.0, start.width));
    if (whip_at >= 0) {
      const double t = std::clamp((seconds - whip_at) / whip_seconds, 0.0, 1.0);
      view.x += whip_x * t * t * (3 - 2 * t);
    }
    return view;
  }
};

struct Shot {
  std::shared_ptr<Scene> scene;
  double offset = 0;  // the scene's time at the shot's first frame
  Camera camera;
  int64_t pure = 0;    // frames that show it alone
  int64_t first = 0;   // its first frame in the film, mixed or pure
  double shutter = 0;  // share of the frame's time that the shutter is open
};

struct Joint {
  BoundaryKind kind = BoundaryKind::kCut;
  int64_t frames = 0;  // mixed
  int64_t begin = 0;
  double white = 0;   // fades: level of the plain colour
  int64_t hold = 0;   // fades: frames of plain colour among `frames`
  int direction = 0;  // wipes
};

cv::Mat mix(const cv::Mat& a, const cv::Mat& b, double share_b) {
  cv::Mat mixed;
  cv::addWeighted(a, 1 - share_b, b, share_b, 0, mixed);
  return mixed;
}

cv::Mat wiped(const cv::Mat& a, const cv::Mat& b, double share_b, int direction) {
  cv::Mat out = a.clone();
  const int columns = static_cast<int>(std::lround(a.cols * share_b));
  const int rows = static_cast<int>(std::lround(a.rows * share_b));
  const std::array<cv::Rect, 4> areas = {
      cv::Rect(0, 0, columns, a.rows), cv::Rect(a.cols - columns, 0, columns, a.rows),
      cv::Rect(0, 0, a.cols, rows), cv::Rect(0, a.rows - rows, a.cols, rows)};
  const cv::Rect area = areas.at(static_cast<size_t>(direction));
  b(area).copyTo(out(area));
  return out;
}

}  // namespace

const std::vector<Category>& categories() {
  static const std::vector<Category> kCategories = [] {
    std::vector<Category> list;
    const auto add = [&](const char* name, auto&& change) {
      Category category;
      category.name = name;
      change(category);
      list.push_back(category);
    };
    add("plain", [](Category&) {});
    add("similar shots", [](Category& c) { c.same_scene = 1; });
    add("dissolves", [](Category& c) { c.cuts = 0.1, c.dissolves = 0.9, c.fades = 0; });
    add("wipes", [](Category& c) { c.cuts = 0.1, c.dissolves = 0.1, c.fades = 0; });
    add("fades", [](Category& c) { c.cuts = 0.1, c.dissolves = 0, c.fades = 0.9; });
    add("flashes", [](Category& c) { c.flashes = 0.4; });
    add("whip pans", [](Category& c) { c.whips = 1; });
    add("fast motion", [](Category& c) { c.speed = 4; });
    add("dark", [](Category& c) { c.darkness = 0.12, c.grain = 2; });
    add("grain", [](Category& c) { c.grain = 12; });
    add("letterbox", [](Category& c) { c.letterbox = 0.125; });
    add("24 fps", [](Category& c) { c.fps = 24; });
    add("30 fps", [](Category& c) { c.fps = 30; });
    add("60 fps", [](Category& c) { c.fps = 60; });
    add("compressed", [](Category& c) { c.crf = 40; });
    add("quick cuts",
        [](Category& c) { c.shot_seconds = 1.2, c.cuts = 0.9, c.dissolves = 0.07, c.fades = 0.03; });
    add("long takes", [](Category& c) { c.shot_seconds = 20, c.flashes = 0.1, c.whips = 2, c.speed = 2; });
    add("toy films", [](Category& c) { c.toys = true; });
    add("real clips", [](Category& c) { c.clips = true; });
    return list;
  }();
  return kCategories;
}

struct Film::Impl {
  Category category;
  uint64_t seed = 0;
  std::vector<Shot> shots;
  std::vector<Joint> joints;  // joints[i]: between shots i and i + 1
  std::vector<Truth> truth;
  std::vector<double> gain;  // flashes: what each frame's brightness is multiplied with
  int64_t frames = 0;

  std::shared_ptr<Scene> draw_scene(ToyRandom& random,
                                    const std::vector<std::filesystem::path>& clips) const {
    const int64_t die = random.below(10);
    if (category.clips || (!clips.empty() && !category.toys && die < 3)) {
      return clip_scene(clips[static_cast<size_t>(random.below(static_cast<int64_t>(clips.size())))],
                        static_cast<int>(random.below(3)));
    }
    if (category.toys || die < 4) {
      return toy_scene(random.next());
    }
    return painted_scene(random.next(), category.speed);
  }

  Camera draw_camera(ToyRandom& random, double seconds) const {
    const auto between = [&](double low, double high) { return low + (high - low) * random.unit(); };
    Camera camera;
    camera.start = {between(0.3, 0.7), between(0.42, 0.58), between(0.55, 0.95)};
    switch (random.below(3)) {
      case 0:
        break;  // on a tripod
      case 1:
        camera.drift_x = between(-0.03, 0.03) * category.speed;
        camera.drift_y = between(-0.01, 0.01) * category.speed;
        break;
      default:
        camera.zoom = between(-0.06, 0.06) * category.speed;
    }
    if (random.below(3) == 0) {
      camera.sway = 0.002 * category.speed;
    }
    if (random.unit() < category.whips) {
      camera.whip_seconds = between(0.2, 0.5);
      camera.whip_at = std::max(0.4, seconds * between(0.3, 0.6));
      camera.whip_x = (camera.start.x < 0.5 ? 1 : -1) * between(0.15, 0.4);
    }
    return camera;
  }

  Joint draw_joint(ToyRandom& random) const {
    Joint joint;
    const double die = random.unit();
    if (die < category.cuts) {
      return joint;
    }
    if (die < category.cuts + category.dissolves) {
      joint.kind = BoundaryKind::kDissolve;
      joint.frames = random.between(4, 24);
    } else if (die < category.cuts + category.dissolves + category.fades) {
      joint.kind = BoundaryKind::kFade;
      joint.hold = random.between(1, 8);
      joint.frames = 2 * random.between(3, 14) + joint.hold;
      joint.white = random.below(4) == 0 ? 255 : 0;
    } else {
      joint.kind = BoundaryKind::kWipe;
      joint.frames = random.between(6, 24);
      joint.direction = static_cast<int>(random.below(4));
    }
    return joint;
  }

  void plan(double seconds, const std::vector<std::filesystem::path>& clips) {
    ToyRandom random(seed);
    const auto wanted = static_cast<int64_t>(seconds * category.fps);
    std::shared_ptr<Scene> scene = draw_scene(random, clips);
    View last;
    while (frames < wanted) {
      Shot shot;
      shot.scene = scene;
      const double length = category.shot_seconds * (0.4 + 1.2 * random.unit());
      shot.pure = std::max<int64_t>(12, static_cast<int64_t>(length * category.fps));
      shot.offset = 8 * random.unit();
      shot.shutter = random.below(2) == 0 ? 0.5 : 0;
      do {
        shot.camera = draw_camera(random, length);
        // Another view of the scene must be another view: a quarter larger or smaller, or elsewhere.
      } while (!shots.empty() && shots.back().scene == scene && similar(last, shot.camera.start));
      if (!shots.empty()) {
        Joint joint = draw_joint(random);
        joint.begin = frames;
        truth.push_back({joint.kind, frames, frames + joint.frames});
        shot.first = frames;
        frames += joint.frames;
        joints.push_back(joint);
      }
      frames += shot.pure;
      last = shot.camera.at(static_cast<double>(shot.pure) / category.fps);
      shots.push_back(shot);
      if (random.unit() >= category.same_scene) {
        scene = draw_scene(random, clips);
      }
    }
    gain.assign(static_cast<size_t>(frames), 1);
    if (category.flashes > 0) {
      draw_flashes(random);
    }
  }

  static bool similar(const View& a, const View& b) {
    const double zoom = a.width / b.width;
    return zoom < 1.25 && zoom > 0.8 && std::abs(a.x - b.x) < 0.12;
  }

  // One to three bright frames, some with an afterglow; not across a boundary.
  void draw_flashes(ToyRandom& random) {
    const auto count = static_cast<int64_t>(category.flashes * static_cast<double>(frames) / category.fps);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = random.between(8, frames - 16);
      const bool near = std::any_of(truth.begin(), truth.end(),
                                    [&](const Truth& t) { return at + 14 > t.begin && at - 8 < t.end; });
      if (near) {
        continue;
      }
      double level = 1.5 + 3 * random.unit();
      const int64_t bright = random.between(1, 3);
      const double decay = random.below(2) == 0 ? 0 : 0.5;
      for (int64_t f = at; f < at + 10 && level > 0.05; ++f) {
        gain[static_cast<size_t>(f)] = 1 + level;
        level *= f - at + 1 < bright ? 1 : decay;
      }
    }
  }

  cv::Mat shot_picture(size_t index, int64_t frame) const {
    const Shot& shot = shots[index];
    const auto taken = [&](double f) {
      const double seconds = f / category.fps;
      return shot.scene->picture(shot.offset + seconds, shot.camera.at(seconds));
    };
    const auto local = static_cast<double>(frame - shot.first);
    const double seconds = local / category.fps;
    const bool whips = shot.camera.whip_at >= 0 && seconds >= shot.camera.whip_at &&
                       seconds <= shot.camera.whip_at + shot.camera.whip_seconds;
    if (!whips && (shot.shutter == 0 || category.speed <= 1)) {
      return taken(local);
    }
    constexpr int kSamples = 6;
    cv::Mat sum(kHeight, kWidth, CV_32FC3, cv::Scalar::all(0));
    for (int i = 0; i < kSamples; ++i) {
      cv::Mat sample;
      taken(local + 0.5 * i / kSamples).convertTo(sample, CV_32FC3, 1.0 / kSamples);
      sum += sample;
    }
    cv::Mat picture;
    sum.convertTo(picture, CV_8UC3);
    return picture;
  }

  cv::Mat edited(int64_t frame) const {
    size_t index = 0;
    while (index < joints.size() && frame >= joints[index].begin + joints[index].frames) {
      ++index;
    }
    if (index == joints.size() || frame < joints[index].begin) {
      return shot_picture(index, frame);
    }
    const Joint& joint = joints[index];
    const int64_t step = frame - joint.begin;
    const double share = static_cast<double>(step + 1) / static_cast<double>(joint.frames + 1);
    if (joint.kind == BoundaryKind::kFade) {
      const int64_t ramp = (joint.frames - joint.hold) / 2;
      cv::Mat plain(kHeight, kWidth, CV_8UC3, cv::Scalar::all(joint.white));
      if (step < ramp) {
        return mix(shot_picture(index, frame), plain,
                   static_cast<double>(step + 1) / static_cast<double>(ramp + 1));
      }
      if (step < ramp + joint.hold) {
        return plain;
      }
      return mix(plain, shot_picture(index + 1, frame),
                 static_cast<double>(step - ramp - joint.hold + 1) / static_cast<double>(ramp + 1));
    }
    const cv::Mat a = shot_picture(index, frame);
    const cv::Mat b = shot_picture(index + 1, frame);
    return joint.kind == BoundaryKind::kDissolve ? mix(a, b, share) : wiped(a, b, share, joint.direction);
  }
};

Film::Film(const Category& category, uint64_t seed, double seconds,
           const std::vector<std::filesystem::path>& clips)
    : impl_(std::make_unique<Impl>()) {
  impl_->category = category;
  impl_->seed = seed;
  impl_->plan(seconds, clips);
}
Film::~Film() = default;
Film::Film(Film&&) noexcept = default;
Film& Film::operator=(Film&&) noexcept = default;

int64_t Film::frames() const {
  return impl_->frames;
}
const std::vector<Truth>& Film::truth() const {
  return impl_->truth;
}

cv::Mat Film::picture(int64_t frame) const {
  const Category& category = impl_->category;
  cv::Mat picture = impl_->edited(frame);
  const double gain = impl_->gain[static_cast<size_t>(frame)] * category.darkness;
  if (gain != 1) {
    picture.convertTo(picture, -1, gain);
  }
  if (category.grain > 0) {
    cv::RNG noise(impl_->seed * 1000003 + static_cast<uint64_t>(frame) + 1);
    cv::Mat grain(picture.size(), CV_16SC3);
    noise.fill(grain, cv::RNG::NORMAL, 0, category.grain);
    cv::add(picture, grain, picture, cv::noArray(), CV_8U);
  }
  if (category.letterbox > 0) {
    const int bar = static_cast<int>(category.letterbox * kHeight);
    picture.rowRange(0, bar).setTo(0);
    picture.rowRange(kHeight - bar, kHeight).setTo(0);
  }
  return picture;
}

void write_film(const Film& film, const Category& category, const std::filesystem::path& path, double scale) {
  VideoSettings settings;
  settings.width = static_cast<int64_t>(kWidth * scale);
  settings.height = static_cast<int64_t>(kHeight * scale);
  settings.fps = category.fps;
  settings.crf = category.crf;
  VideoWriter writer(path, settings);
  for (int64_t i = 0; i < film.frames(); ++i) {
    cv::Mat picture = film.picture(i);
    if (scale != 1) {
      cv::resize(picture, picture,
                 cv::Size(static_cast<int>(settings.width), static_cast<int>(settings.height)));
    }
    writer.write(picture);
  }
  writer.finish();
}

std::vector<std::filesystem::path> real_clips() {
  std::vector<std::filesystem::path> clips;
  const std::filesystem::path folder = std::filesystem::path(MOGA_SOURCE_DIR).parent_path() / "shared/clips";
  for (const char* name : {"clip_a.mp4", "clip_b.mp4", "clip_c.mp4"}) {
    if (std::filesystem::exists(folder / name)) {
      clips.push_back(folder / name);
    }
  }
  return clips.size() == 3 ? clips : std::vector<std::filesystem::path>{};
}

}  // namespace moga::bench
