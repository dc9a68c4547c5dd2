// The stages text and crop.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "data/text_regions.h"
#include "media/video.h"
#include "prepare/stages.h"

namespace moga {

namespace {

cv::Rect rect_of(const PixelBox& box) {
  return {static_cast<int>(box.x), static_cast<int>(box.y), static_cast<int>(box.width),
          static_cast<int>(box.height)};
}

TextRecord record_of(const TextRegion& region) {
  return {
      {region.box.x, region.box.y, region.box.width, region.box.height}, enum_name(region.kind), region.text};
}

// Looks at `count` frames spread over [begin, end) of the video.
std::vector<TextRegion> find_text(VideoReader& reader, double begin, double end, int64_t count,
                                  const PixelBox& content, const TextSettings& settings) {
  TextFinder finder(settings);
  for (int64_t i = 0; i < count; ++i) {
    reader.seek(begin + (end - begin) * (static_cast<double>(i) + 0.5) / static_cast<double>(count));
    if (reader.advance()) {
      finder.add(reader.picture(), rect_of(content));
    }
  }
  return finder.regions();
}

// The bucket whose shape is nearest; of several, the largest that the picture fills, else the smallest.
std::string nearest_size(const std::vector<std::string>& sizes, double width, double height) {
  std::string best;
  double best_distance = 0;
  double best_pixels = 0;
  for (const std::string& name : sizes) {
    const Size size = parse_size(name, "film.sizes");
    const auto w = static_cast<double>(size.width);
    const auto h = static_cast<double>(size.height);
    const double distance = std::abs(std::log(width / height * h / w));
    const double pixels = w * h;
    const bool fills = w <= width && h <= height;
    const bool best_fills = best_pixels <= width * height && best_pixels > 0;
    const bool same_shape = !best.empty() && std::abs(distance - best_distance) < 1e-9;
    const bool better_size =
        fills ? !best_fills || pixels > best_pixels : !best_fills && pixels < best_pixels;
    if (best.empty() || (same_shape ? better_size : distance < best_distance)) {
      best = name;
      best_distance = distance;
      best_pixels = pixels;
    }
  }
  return best;
}

}  // namespace

void run_text(VideoRecord& video, StageContext& context) {
  const TextConfig& config = context.config.text;
  if (!config.enabled) {
    return;
  }
  VideoReader reader(video.path, {0, 0, context.decoder_threads});
  // Over the whole video, what stands still is a mark: also pictures without letters.
  for (const TextRegion& region :
       find_text(reader, 0, video.seconds(), config.video_frames, video.content.value(), config.ocr)) {
    if (region.kind == TextKind::kWatermark) {
      video.marks.push_back(record_of(region));
    }
  }
  // In one shot the scene stands still too, so only letters count there.
  for (ShotRecord& shot : video.shots) {
    if (shot.dropped) {
      continue;
    }
    for (const TextRegion& region :
         find_text(reader, shot.begin, shot.end, config.frames, video.content.value(), config.ocr)) {
      if (!region.text.empty()) {
        shot.text.push_back(record_of(region));
      }
    }
    context.advance(shot.end - shot.begin);
  }
}

void run_crop(VideoRecord& video, StageContext& context) {
  const PixelBox content = video.content.value();
  video.size = nearest_size(context.config.film.sizes, static_cast<double>(content.width),
                            static_cast<double>(content.height));
  const Size size = parse_size(video.size, "film.sizes");
  const double aspect = static_cast<double>(size.width) / static_cast<double>(size.height);
  for (ShotRecord& shot : video.shots) {
    if (shot.dropped) {
      continue;
    }
    std::vector<cv::Rect> boxes;
    for (const std::vector<TextRecord>* list : {&video.marks, &shot.text}) {
      for (const TextRecord& text : *list) {
        boxes.push_back(rect_of(text.box));
      }
    }
    const auto crop = largest_crop(static_cast<int>(video.probe.width), static_cast<int>(video.probe.height),
                                   rect_of(content), boxes, aspect, context.config.text.min_share);
    if (crop) {
      shot.crop = PixelBox{crop->x, crop->y, crop->width, crop->height};
    } else {
      shot.dropped = Drop{"crop", "text",
                          fmt::format("without {} marks and texts less than {:.0f} % of the picture is left",
                                      boxes.size(), context.config.text.min_share * 100)};
    }
  }
}

}  // namespace moga
