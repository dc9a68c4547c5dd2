#include "data/toy_places.h"

#include <array>
#include <cmath>

#include "base/error.h"

namespace moga {
namespace {

// Props repeat with this period (world units), so that wide pictures and pans never run out of them.
constexpr float kPeriod = 150;
// Where things that stand on the horizon end: a little below, as the ground starts at a whole row of pixels.
constexpr float kBase = kToyHorizon + 1;

struct Scenery {
  ToyColour sky_top;
  ToyColour sky_bottom;
  ToyColour ground_top;
  ToyColour ground_bottom;
  void (*props)(ToyCanvas& canvas, const ToyCamera& camera, float x);
};

void ellipse_at(ToyCanvas& canvas, const ToyCamera& camera, float x, float y, float rx, float ry,
                const ToyColour& colour) {
  canvas.ellipse(camera.at(x, y), rx * camera.pixels_per_unit, ry * camera.pixels_per_unit, colour);
}

void dome_at(ToyCanvas& canvas, const ToyCamera& camera, float x, float y, float rx, float ry,
             const ToyColour& colour) {
  canvas.dome(camera.at(x, y), rx * camera.pixels_per_unit, ry * camera.pixels_per_unit, colour);
}

void box_at(ToyCanvas& canvas, const ToyCamera& camera, float left, float top, float right, float bottom,
            const ToyColour& colour) {
  canvas.rectangle(camera.at(left, top), camera.at(right, bottom), colour);
}

void peak_at(ToyCanvas& canvas, const ToyCamera& camera, float x, float base, float half, float height,
             const ToyColour& colour) {
  canvas.convex({camera.at(x - half, base), camera.at(x, base - height), camera.at(x + half, base)}, colour);
}

void tree_at(ToyCanvas& canvas, const ToyCamera& camera, float x, float base, float size,
             const ToyColour& trunk, const ToyColour& crown) {
  box_at(canvas, camera, x - 2.5F * size, base - 18 * size, x + 2.5F * size, base, trunk);
  ellipse_at(canvas, camera, x, base - 24 * size, 13 * size, 12 * size, crown);
}

void meadow(ToyCanvas& canvas, const ToyCamera& camera, float x) {
  dome_at(canvas, camera, x - 10, kBase, 44, 13, {128, 156, 118});
  tree_at(canvas, camera, x - 44, -15, 1, {116, 100, 84}, {104, 138, 98});
  ellipse_at(canvas, camera, x + 34, -52, 13, 5, {204, 212, 214});
}

void desert(ToyCanvas& canvas, const ToyCamera& camera, float x) {
  dome_at(canvas, camera, x + 40, kBase, 42, 15, {186, 148, 108});
  const ToyColour cactus = {112, 130, 96};
  box_at(canvas, camera, x - 44, -40, x - 38, -12, cactus);
  box_at(canvas, camera, x - 51, -34, x - 46.5F, -22, cactus);
  box_at(canvas, camera, x - 51, -25, x - 38, -21, cactus);
}

void snow(ToyCanvas& canvas, const ToyCamera& camera, float x) {
  dome_at(canvas, camera, x - 6, kBase, 46, 12, {158, 172, 192});
  for (const float offset : {-48.0F, 46.0F}) {
    peak_at(canvas, camera, x + offset, -14, 12, 26, {92, 118, 118});
    peak_at(canvas, camera, x + offset, -28, 9, 20, {92, 118, 118});
  }
}

void city(ToyCanvas& canvas, const ToyCamera& camera, float x) {
  const ToyColour wall = {98, 98, 128};
  const ToyColour window = {168, 156, 116};
  box_at(canvas, camera, x - 58, -62, x - 30, kBase, wall);
  box_at(canvas, camera, x - 18, -44, x + 16, kBase, {112, 106, 132});
  box_at(canvas, camera, x + 30, -56, x + 58, kBase, wall);
  for (const float left : {-53.0F, -41.0F, 35.0F, 47.0F}) {
    box_at(canvas, camera, x + left, -51, x + left + 6, -43, window);
    box_at(canvas, camera, x + left, -36, x + left + 6, -28, window);
  }
}

void beach(ToyCanvas& canvas, const ToyCamera& camera, float x) {
  canvas.rectangle(camera.at(x - kPeriod / 2, kToyHorizon - 9), camera.at(x + kPeriod / 2, kBase),
                   {96, 142, 160});
  box_at(canvas, camera, x + 43, -44, x + 46, -12, {140, 124, 104});
  dome_at(canvas, camera, x + 44.5F, -40, 22, 14, {176, 132, 118});
}

void forest(ToyCanvas& canvas, const ToyCamera& camera, float x) {
  for (const float offset : {-54.0F, -18.0F, 24.0F, 58.0F}) {
    box_at(canvas, camera, x + offset - 4.5F, -80, x + offset + 4.5F, -16, {92, 78, 68});
  }
  ellipse_at(canvas, camera, x - 36, -66, 34, 17, {82, 110, 86});
  ellipse_at(canvas, camera, x + 40, -68, 36, 17, {82, 110, 86});
}

void cave(ToyCanvas& canvas, const ToyCamera& camera, float x) {
  const ToyColour stone = {98, 84, 90};
  for (const float offset : {-52.0F, -8.0F, 44.0F}) {
    canvas.convex(
        {camera.at(x + offset - 15, -90), camera.at(x + offset + 15, -90), camera.at(x + offset, -44)},
        stone);
  }
  dome_at(canvas, camera, x + 20, kBase, 20, 10, stone);
  dome_at(canvas, camera, x - 42, kBase, 16, 16, stone);
}

void hills(ToyCanvas& canvas, const ToyCamera& camera, float x) {
  const ToyColour rock = {122, 120, 138};
  const ToyColour cap = {188, 188, 200};
  peak_at(canvas, camera, x - 34, kBase, 36, 40, rock);
  peak_at(canvas, camera, x - 34, kToyHorizon - 28, 10.8F, 12, cap);
  peak_at(canvas, camera, x + 36, kBase, 38, 32, rock);
  peak_at(canvas, camera, x + 36, kToyHorizon - 22, 11.875F, 10, cap);
}

// In the order of toy_places().
constexpr std::array<Scenery, 8> kScenery = {{
    {{150, 180, 198}, {178, 198, 206}, {140, 164, 112}, {128, 150, 100}, meadow},
    {{206, 184, 156}, {216, 200, 172}, {204, 170, 126}, {192, 156, 112}, desert},
    {{116, 132, 160}, {142, 156, 178}, {180, 190, 204}, {168, 180, 196}, snow},
    {{66, 72, 116}, {84, 86, 126}, {112, 110, 122}, {102, 100, 112}, city},
    {{156, 192, 206}, {180, 204, 210}, {208, 192, 150}, {198, 180, 138}, beach},
    {{112, 136, 112}, {124, 144, 118}, {132, 118, 88}, {120, 106, 80}, forest},
    {{124, 108, 112}, {134, 118, 120}, {112, 98, 102}, {102, 90, 94}, cave},
    {{176, 178, 190}, {194, 192, 198}, {150, 140, 120}, {138, 128, 108}, hills},
}};

}  // namespace

void draw_toy_place(int place, const ToyCamera& camera, cv::Mat& rgb) {
  MOGA_CHECK(place >= 0 && place < static_cast<int>(kScenery.size()), "toy place: expected 0 to {}, found {}",
             kScenery.size() - 1, place);
  const Scenery& scenery = kScenery[static_cast<size_t>(place)];
  ToyCanvas canvas(rgb);
  const float horizon = camera.at(0, kToyHorizon).y;
  canvas.fade(0, horizon, scenery.sky_top, scenery.sky_bottom);
  canvas.fade(horizon, static_cast<float>(rgb.rows), scenery.ground_top, scenery.ground_bottom);
  const float half_view = camera.middle_x / camera.pixels_per_unit;
  // A set is kPeriod wide; its props reach at most kPeriod / 2 + 4 to either side of its middle.
  const auto first = static_cast<int>(std::ceil((camera.shift - half_view - kPeriod / 2 - 4) / kPeriod));
  const auto last = static_cast<int>(std::floor((camera.shift + half_view + kPeriod / 2 + 4) / kPeriod));
  for (int copy = first; copy <= last; ++copy) {
    scenery.props(canvas, camera, static_cast<float>(copy) * kPeriod);
  }
}

}  // namespace moga
