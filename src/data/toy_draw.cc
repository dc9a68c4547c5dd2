// Pictures of toy films: where the camera and the creature are in a frame, and the creature itself.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "data/toy_places.h"
#include "data/toy_random.h"
#include "data/toy_raster.h"
#include "data/toy_world.h"

namespace moga {
namespace {

// Pictures are planned on a stage of 80 units' height and at least 80 units' width, whatever their size in
// pixels.
constexpr float kStage = 80;
// Half the width that a creature may take at zoom 1: the cap's peak reaches furthest.
constexpr float kReach = 17;
constexpr float kPi = 3.14159265F;

enum Motion { kStands, kWalksLeft, kWalksRight, kJumps };
enum Framing { kWide, kMedium, kCloseUp, kPan, kZoomIn };

struct View {
  ToyCamera camera;
  ToyPoint feet;     // pixels; between the feet
  float unit = 1;    // pixels a unit of the creature
  float facing = 1;  // -1 left, 1 right
  float stride = 0;  // -1 .. 1, the walking legs
};

struct Lens {
  float zoom;      // creature's size against the wide shot (about 33 to 43 units high with its hat)
  float ground_y;  // stage units from the top at which it stands
  float jump;      // height of a jump in stage units; keeps the tallest hat in the picture
};

Lens lens_at(int framing, float progress) {
  constexpr Lens wide = {1.0F, 68, 14};
  constexpr Lens near = {1.5F, 76.5F, 9};
  switch (framing) {
    case kWide:
      return wide;
    case kMedium:
      return {1.25F, 72, 12};
    case kCloseUp:
      return near;
    case kPan:
      return {1.12F, 70, 13};
    default: {
      const float t = progress * progress * (3 - 2 * progress);
      return {wide.zoom + t * (near.zoom - wide.zoom), wide.ground_y + t * (near.ground_y - wide.ground_y),
              wide.jump + t * (near.jump - wide.jump)};
    }
  }
}

// Smooth to and fro between 0 and 1.
float sway(float phase) {
  return 0.5F - 0.5F * std::cos(2 * kPi * phase);
}

View view_at(const ToyFilm& film, size_t shot_index, int64_t frame, const ToyFilmSettings& settings) {
  const ToyShot& shot = film.shots[shot_index];
  // Everything about a shot that its caption does not say.
  ToyRandom random(film.seed * 0x9E3779B97F4A7C15ULL + shot_index + 1);
  const float where = random.unit();
  const float set_shift = (random.unit() - 0.5F) * 60;
  const float coin = random.unit();
  const float start_phase = random.unit();

  const auto t = static_cast<float>(frame);
  const auto last = static_cast<float>(std::max<int64_t>(1, shot.frame_count - 1));
  const Lens lens = lens_at(shot.framing, t / last);
  const auto width = static_cast<float>(settings.width);
  const auto height = static_cast<float>(settings.height);
  const float scale = std::min(height, width) / kStage;
  const float stage_width = width / scale;

  // Room for the largest size in the shot.
  const float reach = kReach * std::max(lens.zoom, lens_at(shot.framing, 1).zoom);
  const float room = std::max(0.0F, stage_width - 2 * reach);
  const bool walks = shot.motion == kWalksLeft || shot.motion == kWalksRight;
  const float speed = walks ? std::min(1.6F, room / last) : 0;
  float x = reach + where * (room - speed * last) + speed * t;
  View view;
  view.facing = coin < 0.5F ? -1 : 1;
  if (walks) {
    view.facing = shot.motion == kWalksRight ? 1 : -1;
    view.stride = std::sin(2 * kPi * (t / 8 + start_phase));
    x = shot.motion == kWalksRight ? x : stage_width - x;
  }
  float y = height / scale - kStage + lens.ground_y;
  view.camera.pixels_per_unit = scale * lens.zoom;
  view.camera.middle_x = width / 2;
  view.camera.ground_y = y * scale;
  // A pan of at most 38 units to and fro, at up to 1.9 units a frame.
  view.camera.shift = set_shift + (shot.framing == kPan ? 38 * sway(t / 64) : 0);
  if (shot.motion == kJumps) {
    y -= lens.jump * sway(t / 12 + start_phase);
  } else if (walks) {
    y -= 0.8F * std::abs(view.stride);
  }
  view.feet = {x * scale, y * scale};
  view.unit = scale * lens.zoom;
  return view;
}

constexpr std::array<ToyColour, 6> kBodyColours = {
    {{214, 40, 40}, {246, 208, 40}, {30, 158, 62}, {38, 88, 222}, {150, 50, 190}, {250, 250, 250}}};
constexpr std::array<ToyColour, 5> kHatColours = {
    {{214, 40, 40}, {246, 208, 40}, {38, 88, 222}, {250, 250, 250}, {22, 22, 26}}};
constexpr ToyColour kDark = {34, 30, 36};
constexpr ToyColour kEyeWhite = {250, 250, 250};

enum Shape { kRound, kSquare, kTall };
enum Hat { kTopHat, kCap, kCone };

struct Face {
  float eyes_y;
  float eyes_apart;  // half the distance
  float mouth_y;
  float hat_y;
  float hat_size;
};

void draw_creature(ToyCanvas& canvas, const View& view, const Looks& looks) {
  const auto at = [&](float x, float y) {
    return ToyPoint{view.feet.x + x * view.unit, view.feet.y + y * view.unit};
  };
  const auto ellipse = [&](float x, float y, float rx, float ry, const ToyColour& colour) {
    canvas.ellipse(at(x, y), rx * view.unit, ry * view.unit, colour);
  };
  const ToyColour& body = kBodyColours.at(static_cast<size_t>(looks[1]));
  const ToyColour& hat = kHatColours.at(static_cast<size_t>(looks[3]));
  const float f = view.facing;

  const float foot = looks[0] == kTall ? 4 : 6;
  ellipse(-foot + 3 * view.stride + f, -2 - 0.8F * view.stride * f, 4.2F, 2.2F, kDark);
  ellipse(foot - 3 * view.stride + f, -2 + 0.8F * view.stride * f, 4.2F, 2.2F, kDark);

  Face face{};
  switch (looks[0]) {
    case kRound:
      ellipse(0, -15, 13.5F, 12.5F, body);
      face = {-18, 4.6F, -10.5F, -26, 1};
      break;
    case kSquare:
      canvas.rectangle(at(-12.5F, -25.5F), at(12.5F, -3), body);
      face = {-18, 4.6F, -10, -25, 1};
      break;
    default:
      canvas.dome(at(0, -23), 7.2F * view.unit, 6.5F * view.unit, body);
      canvas.rectangle(at(-7.2F, -23.2F), at(7.2F, -3), body);
      face = {-20.5F, 3.4F, -13, -28, 0.95F};
      break;
  }
  for (const float side : {-1.0F, 1.0F}) {
    ellipse(side * face.eyes_apart + 1.6F * f, face.eyes_y, 2.7F, 3.3F, kEyeWhite);
    ellipse(side * face.eyes_apart + 2.3F * f, face.eyes_y + 0.3F, 1.5F, 2.0F, kDark);
  }
  ellipse(1.4F * f, face.mouth_y, 2.4F, 1.0F, kDark);

  const float h = face.hat_size;
  const float y = face.hat_y;
  switch (looks[2]) {
    case kTopHat:
      canvas.rectangle(at(-6.5F * h, y - 12.5F * h), at(6.5F * h, y), hat);
      canvas.rectangle(at(-11.5F * h, y - 1.5F * h), at(11.5F * h, y + 1.8F * h), hat);
      break;
    case kCap:
      canvas.dome(at(0, y + 1.5F * h), 9.5F * h * view.unit, 8.5F * h * view.unit, hat);
      canvas.rectangle(at(std::min(0.0F, 16 * h * f), y - 1.5F * h),
                       at(std::max(0.0F, 16 * h * f), y + 1.5F * h), hat);
      break;
    default:
      canvas.convex({at(-9.5F * h, y + 1.5F * h), at(0, y - 15 * h), at(9.5F * h, y + 1.5F * h)}, hat);
      break;
  }
}

size_t find_shot(const ToyFilm& film, int64_t index) {
  MOGA_CHECK(index >= 0 && index < film.total_frames(), "toy film: expected a frame from 0 to {}, found {}",
             film.total_frames() - 1, index);
  const auto after =
      std::upper_bound(film.shots.begin(), film.shots.end(), index,
                       [](int64_t frame, const ToyShot& shot) { return frame < shot.first_frame; });
  return static_cast<size_t>(after - film.shots.begin()) - 1;
}

const Looks& looks_in(const ToyFilm& film, const ToyShot& shot) {
  return film.characters.at(static_cast<size_t>(shot.character)).looks;
}

cv::Mat blank(const ToyFilmSettings& settings, int type) {
  return cv::Mat(static_cast<int>(settings.height), static_cast<int>(settings.width),
                 type);  // NOLINT: braces are a list
}

}  // namespace

cv::Mat draw_toy_frame(const ToyFilm& film, int64_t index, const ToyFilmSettings& settings) {
  const size_t shot_index = find_shot(film, index);
  const ToyShot& shot = film.shots[shot_index];
  const View view = view_at(film, shot_index, index - shot.first_frame, settings);
  cv::Mat rgb = blank(settings, CV_8UC3);
  draw_toy_place(shot.place, view.camera, rgb);
  ToyCanvas canvas(rgb);
  draw_creature(canvas, view, looks_in(film, shot));
  return rgb;
}

cv::Mat draw_toy_mask(const ToyFilm& film, int64_t index, const ToyFilmSettings& settings) {
  const size_t shot_index = find_shot(film, index);
  const ToyShot& shot = film.shots[shot_index];
  const View view = view_at(film, shot_index, index - shot.first_frame, settings);
  cv::Mat mask = blank(settings, CV_8UC1);
  mask.setTo(0);
  ToyCanvas canvas(mask);
  draw_creature(canvas, view, looks_in(film, shot));
  // Half covered counts as the creature.
  for (int row = 0; row < mask.rows; ++row) {
    auto* pixels = mask.ptr<uint8_t>(row);
    std::transform(pixels, pixels + mask.cols, pixels, [](uint8_t v) { return v >= 128 ? 255 : 0; });
  }
  return mask;
}

}  // namespace moga
