#include "data/toy_world.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "data/toy_raster.h"

namespace moga {
namespace {

using testing::HasSubstr;

bool same_pixels(const cv::Mat& a, const cv::Mat& b) {
  return a.size() == b.size() && a.type() == b.type() && cv::norm(a, b, cv::NORM_INF) == 0;
}

// FNV-1a.
uint64_t hash(const std::string& text) {
  uint64_t value = 1469598103934665603ULL;
  for (const char c : text) {
    value = (value ^ static_cast<uint8_t>(c)) * 1099511628211ULL;
  }
  return value;
}

bool contains_word(const std::string& text, const std::string& word) {
  return (" " + text).find(" " + word) != std::string::npos;
}

std::vector<ToyFilmSettings> many_settings() {
  ToyFilmSettings shortest;
  shortest.min_frames = 33;
  shortest.max_frames = 33;
  shortest.max_shots = 4;
  ToyFilmSettings single;
  single.min_shots = 1;
  single.max_shots = 1;
  single.max_frames = 65;
  ToyFilmSettings tight;  // 14 shots of 8 frames at the least: the first may have 9
  tight.min_shots = 14;
  tight.min_frames = 113;
  tight.max_frames = 113;
  ToyFilmSettings picture;
  picture.min_shots = 1;
  picture.max_shots = 3;
  picture.min_frames = 1;
  picture.max_frames = 13;
  picture.min_shot_frames = 1;
  ToyFilmSettings minute;
  minute.min_frames = 481;
  minute.min_shots = 10;
  return {ToyFilmSettings{}, shortest, single, tight, picture, minute};
}

TEST(ToyWorld, SameSeedSameFilm) {
  const ToyFilmSettings settings;
  const ToyFilm a = make_toy_film(7, settings);
  const ToyFilm b = make_toy_film(7, settings);
  ASSERT_EQ(a.shots.size(), b.shots.size());
  for (size_t i = 0; i < a.shots.size(); ++i) {
    EXPECT_EQ(a.shots[i].caption, b.shots[i].caption);
    EXPECT_EQ(a.shots[i].first_frame, b.shots[i].first_frame);
  }
  EXPECT_TRUE(same_pixels(draw_toy_frame(a, 20, settings), draw_toy_frame(b, 20, settings)));
  std::set<std::string> openings;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    openings.insert(make_toy_film(seed, settings).shots[0].caption);
  }
  EXPECT_GE(openings.size(), 19U);
}

// Seeds are in recipes and reports: a change here makes old films irreproducible.
TEST(ToyWorld, FilmsOfASeedAreForEver) {
  const ToyFilmSettings settings;
  std::string all;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    for (const ToyShot& shot : make_toy_film(seed, settings).shots) {
      all += fmt::format("{} {} {}\n", shot.first_frame, shot.frame_count, shot.caption);
    }
  }
  EXPECT_EQ(hash(all), 0xe1bf00c7985e9006ULL) << fmt::format("{:#x}", hash(all));
  EXPECT_EQ(
      make_toy_film(1, settings).shots[0].caption,
      "Mia is a square purple creature with a black top hat. Mia walks right on the beach, medium shot.");
  const cv::Scalar mean = cv::mean(draw_toy_frame(make_toy_film(1, settings), 3, settings));
  EXPECT_NEAR(mean[0], 163.0, 0.5);
  EXPECT_NEAR(mean[1], 163.5, 0.5);
  EXPECT_NEAR(mean[2], 164.1, 0.5);
}

TEST(ToyWorld, FramesAreDrawnInAnyOrder) {
  const ToyFilmSettings settings;
  const ToyFilm film = make_toy_film(3, settings);
  const cv::Mat late = draw_toy_frame(film, 17, settings);
  draw_toy_frame(film, 5, settings);
  EXPECT_TRUE(same_pixels(late, draw_toy_frame(film, 17, settings)));
}

TEST(ToyWorld, CutsStandAtLatentBoundaries) {
  for (const ToyFilmSettings& settings : many_settings()) {
    for (uint64_t seed = 0; seed < 200; ++seed) {
      const ToyFilm film = make_toy_film(seed, settings);
      const int64_t total = film.total_frames();
      EXPECT_EQ(total % 4, 1);
      EXPECT_GE(total, settings.min_frames);
      EXPECT_LE(total, settings.max_frames);
      EXPECT_GE(static_cast<int64_t>(film.shots.size()), settings.min_shots);
      EXPECT_LE(static_cast<int64_t>(film.shots.size()), settings.max_shots);
      int64_t next = 0;
      for (size_t i = 0; i < film.shots.size(); ++i) {
        const ToyShot& shot = film.shots[i];
        EXPECT_EQ(shot.first_frame, next);
        EXPECT_EQ(shot.frame_count % 4, i == 0 ? 1 : 0);
        EXPECT_GE(shot.frame_count, settings.min_shot_frames);
        next += shot.frame_count;
      }
    }
  }
}

TEST(ToyWorld, UsesTheWholeRangeOfSettings) {
  ToyFilmSettings settings;
  settings.min_frames = 33;
  settings.max_frames = 65;
  settings.min_shots = 2;
  settings.max_shots = 5;
  std::set<int64_t> totals;
  std::set<size_t> shots;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    const ToyFilm film = make_toy_film(seed, settings);
    totals.insert(film.total_frames());
    shots.insert(film.shots.size());
  }
  EXPECT_THAT(totals, testing::ElementsAre(33, 37, 41, 45, 49, 53, 57, 61, 65));
  EXPECT_THAT(shots, testing::ElementsAre(2, 3, 4, 5));
}

TEST(ToyWorld, ImpossibleSettingsAreErrors) {
  const auto message = [](const ToyFilmSettings& settings) -> std::string {
    try {
      make_toy_film(1, settings);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  ToyFilmSettings s;
  s.min_shots = 14;
  s.max_frames = 109;  // 14 * 8 = 112 are needed
  EXPECT_THAT(message(s), HasSubstr("14 shots of at least 8 frames"));
  s = {};
  s.min_frames = s.max_frames = 35;  // not 4n + 1
  EXPECT_THAT(message(s), HasSubstr("4n + 1"));
  s = {};
  s.min_shots = 0;
  EXPECT_THAT(message(s), HasSubstr("min_shots"));
  s = {};
  s.max_shots = 1;
  EXPECT_THAT(message(s), HasSubstr("max_shots"));
  s = {};
  s.max_frames = 5;
  EXPECT_THAT(message(s), HasSubstr("max_frames"));
  s = {};
  s.width = 30;
  EXPECT_THAT(message(s), HasSubstr("30x80"));
  s = {};
  s.fps = 0;
  EXPECT_THAT(message(s), HasSubstr("fps"));
  const ToyFilm film = make_toy_film(1, {});
  EXPECT_THROW(draw_toy_frame(film, -1, {}), Error);
  EXPECT_THROW(draw_toy_mask(film, film.total_frames(), {}), Error);
}

// The point of this world: looks are told once, and nothing in later captions gives them away.
TEST(ToyWorld, LooksAreToldOnlyInTheIntroducingShot) {
  int two = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const ToyFilm film = make_toy_film(seed, {});
    std::set<int> seen;
    for (const ToyShot& shot : film.shots) {
      const ToyCharacter& character = film.characters.at(static_cast<size_t>(shot.character));
      const bool first = seen.insert(shot.character).second;
      EXPECT_EQ(shot.introduces, first);
      EXPECT_THAT(shot.caption, testing::StartsWith(character.name));
      for (int a = 0; a < kAttributeCount; ++a) {
        const auto& values = attribute_values(static_cast<Attribute>(a));
        for (size_t v = 0; v < values.size(); ++v) {
          if (!first) {
            EXPECT_FALSE(contains_word(shot.caption, values[v])) << shot.caption;
          } else if (static_cast<int>(v) == character.looks[static_cast<size_t>(a)]) {
            EXPECT_TRUE(contains_word(shot.caption, values[v])) << shot.caption;
          }
        }
      }
    }
    EXPECT_EQ(seen.size(), film.characters.size());
    if (film.characters.size() == 2) {
      ++two;
      EXPECT_NE(film.characters[0].name, film.characters[1].name);
      EXPECT_NE(film.characters[0].looks, film.characters[1].looks);
      std::array<int, 2> shots{};
      for (const ToyShot& shot : film.shots) {
        ++shots.at(static_cast<size_t>(shot.character));
      }
      EXPECT_GE(std::min(shots[0], shots[1]), 2);
    }
  }
  EXPECT_GT(two, 60);
  EXPECT_LT(two, 240);
}

TEST(ToyWorld, CaptionsHaveOneForm) {
  const ToyFilm film = make_toy_film(1, {});
  ToyFilm copy = film;
  EXPECT_EQ(attribute_name(Attribute::kHatColour), "hat colour");
  for (const std::string& caption : toy_caption_corpus(3, 500)) {
    EXPECT_THAT(caption, testing::ContainsRegex(
                             "^([A-Z][a-z]+ is a [a-z]+ [a-z]+ creature with a [a-z]+ [a-z ]+\\. )?"
                             "[A-Z][a-z]+ (stands|walks left|walks right|jumps) (in|on) the [a-z]+, "
                             "[a-z -]+\\.$"));
  }
  EXPECT_EQ(toy_caption_corpus(3, 500).size(), 500U);
  EXPECT_TRUE(toy_caption_corpus(3, 0).empty());
  std::string corpus;
  for (const std::string& caption : toy_caption_corpus(1, 12)) {
    corpus += " " + caption;
  }
  for (const auto& list : {toy_places(), toy_motions(), toy_framings(), toy_names()}) {
    for (const std::string& word : list) {
      EXPECT_TRUE(contains_word(corpus, word)) << word;
    }
  }
  for (int a = 0; a < kAttributeCount; ++a) {
    for (const std::string& word : attribute_values(static_cast<Attribute>(a))) {
      EXPECT_TRUE(contains_word(corpus, word)) << word;
    }
  }
}

TEST(ToyWorld, PlacesAlternateAndHatsDifferFromBodies) {
  std::set<std::string> bodies;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const ToyFilm film = make_toy_film(seed, {});
    for (size_t i = 1; i < film.shots.size(); ++i) {
      EXPECT_NE(film.shots[i].place, film.shots[i - 1].place);
    }
    for (const ToyCharacter& character : film.characters) {
      const std::string& body = attribute_values(Attribute::kColour)[static_cast<size_t>(character.looks[1])];
      EXPECT_NE(body, attribute_values(Attribute::kHatColour)[static_cast<size_t>(character.looks[3])]);
      bodies.insert(body);
    }
  }
  EXPECT_EQ(bodies.size(), 6U);
}

TEST(ToyWorld, ScriptEqualsShots) {
  ToyFilmSettings settings;
  settings.width = 160;
  settings.height = 96;
  const ToyFilm film = make_toy_film(11, settings);
  EXPECT_EQ(film.script.width, 160);
  EXPECT_EQ(film.script.height, 96);
  EXPECT_EQ(film.script.fps, 8);
  EXPECT_EQ(film.script.seed, 11U);
  ASSERT_EQ(film.script.shots.size(), film.shots.size());
  for (size_t i = 0; i < film.shots.size(); ++i) {
    const Shot& shot = film.script.shots[i];
    EXPECT_EQ(shot.prompt, film.shots[i].caption);
    EXPECT_EQ(shot.text, film.shots[i].caption);
    EXPECT_EQ(shot.frames, film.shots[i].frame_count);
    EXPECT_FALSE(shot.seconds.has_value());
    EXPECT_EQ(shot.first_frame, film.shots[i].first_frame);
    EXPECT_EQ(shot.frame_count, film.shots[i].frame_count);
  }
}

struct Box {
  int left, top, right, bottom, pixels;
};

Box box_of(const cv::Mat& mask) {
  Box box{mask.cols, mask.rows, -1, -1, 0};
  for (int y = 0; y < mask.rows; ++y) {
    for (int x = 0; x < mask.cols; ++x) {
      if (mask.at<uint8_t>(y, x) != 0) {
        box = {std::min(box.left, x), std::min(box.top, y), std::max(box.right, x), std::max(box.bottom, y),
               box.pixels + 1};
      }
    }
  }
  return box;
}

TEST(ToyWorld, CreaturesAreWholeAndLargeAtEverySize) {
  for (const auto& [width, height] :
       {std::pair<int64_t, int64_t>{128, 80}, {256, 96}, {96, 160}, {320, 192}}) {
    ToyFilmSettings settings;
    settings.width = width;
    settings.height = height;
    settings.max_frames = 97;
    const double scale = static_cast<double>(std::min(width, height)) / 80;
    for (uint64_t seed = 0; seed < 25; ++seed) {
      const ToyFilm film = make_toy_film(seed, settings);
      for (int64_t frame = 0; frame < film.total_frames(); frame += 5) {
        const cv::Mat mask = draw_toy_mask(film, frame, settings);
        ASSERT_EQ(mask.type(), CV_8UC1);
        ASSERT_EQ(mask.cols, width);
        ASSERT_EQ(mask.rows, height);
        const Box box = box_of(mask);
        EXPECT_GT(box.left, 0) << seed << " " << frame;
        EXPECT_GT(box.top, 0) << seed << " " << frame;
        EXPECT_LT(box.right, width - 1) << seed << " " << frame;
        EXPECT_LT(box.bottom, height - 1) << seed << " " << frame;
        const double units = (box.bottom - box.top + 1) / scale;
        EXPECT_GE(units, 30);
        EXPECT_LE(units, 67);
      }
    }
  }
}

// Recolouring body and hat changes pixels inside the mask (and a rim of two pixels, for thin tips) and
// nowhere else.
TEST(ToyWorld, MasksAgreeWithThePicture) {
  const ToyFilmSettings settings;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    ToyFilm film = make_toy_film(seed, settings);
    for (int64_t frame = 2; frame < film.total_frames(); frame += 31) {
      const cv::Mat before = draw_toy_frame(film, frame, settings);
      ToyFilm other = film;
      for (ToyCharacter& character : other.characters) {
        character.looks[1] = (character.looks[1] + 1) % 6;
        character.looks[3] = (character.looks[3] + 1) % 5;
      }
      const cv::Mat after = draw_toy_frame(other, frame, settings);
      const cv::Mat mask = draw_toy_mask(film, frame, settings);
      EXPECT_TRUE(same_pixels(mask, draw_toy_mask(other, frame, settings)));
      int inside = 0;
      int changed_inside = 0;
      int changed_outside = 0;
      for (int y = 2; y + 2 < mask.rows; ++y) {
        for (int x = 2; x + 2 < mask.cols; ++x) {
          const bool changed = before.at<cv::Vec3b>(y, x) != after.at<cv::Vec3b>(y, x);
          const bool in = mask.at<uint8_t>(y, x) != 0;
          bool near = false;
          for (int dy = -2; dy <= 2; ++dy) {
            for (int dx = -2; dx <= 2; ++dx) {
              near = near || mask.at<uint8_t>(y + dy, x + dx) != 0;
            }
          }
          inside += in ? 1 : 0;
          changed_inside += in && changed ? 1 : 0;
          changed_outside += !near && changed ? 1 : 0;
        }
      }
      EXPECT_EQ(changed_outside, 0);
      EXPECT_GT(changed_inside, inside * 6 / 10);  // eyes, mouth and feet keep their colours
    }
  }
}

TEST(ToyWorld, NeighbouringFramesDifferLittleAndCutsMuch) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    ToyFilmSettings settings;
    settings.max_frames = 129;
    const ToyFilm film = make_toy_film(seed, settings);
    std::set<int64_t> cuts;
    for (const ToyShot& shot : film.shots) {
      cuts.insert(shot.first_frame);
    }
    cv::Mat last = draw_toy_frame(film, 0, settings);
    for (int64_t i = 1; i < film.total_frames(); ++i) {
      const cv::Mat frame = draw_toy_frame(film, i, settings);
      const double difference = cv::norm(frame, last, cv::NORM_L1) / static_cast<double>(frame.total() * 3);
      if (cuts.count(i) != 0) {
        EXPECT_GT(difference, 8) << seed << " " << i;
      } else {
        EXPECT_LT(difference, 8) << seed << " " << i;
      }
      last = frame;
    }
  }
}

TEST(ToyRaster, CoverageIsTheArea) {
  const auto area = [](const auto& draw) {
    cv::Mat mask(40, 50, CV_8UC1, cv::Scalar(0));
    ToyCanvas canvas(mask);
    draw(canvas);
    return cv::sum(mask)[0] / 255;
  };
  const ToyColour white = {255, 255, 255};
  EXPECT_NEAR(area([&](ToyCanvas& c) {
                c.ellipse({20.3F, 15.7F}, 9.2F, 7.1F, white);
              }),
              3.14159 * 9.2 * 7.1, 1.5);
  EXPECT_NEAR(area([&](ToyCanvas& c) {
                c.dome({20.3F, 15.75F}, 9.2F, 7, white);
              }),
              3.14159 * 9.2 * 7 / 2, 1.5);
  EXPECT_NEAR(area([&](ToyCanvas& c) { c.rectangle({3.3F, 4.25F}, {10.7F, 9.5F}, white); }), 7.4 * 5.25, 0.4);
  EXPECT_NEAR(area([&](ToyCanvas& c) { c.convex({{5, 30}, {15.5F, 10}, {26, 30}}, white); }), 210, 1.5);
  // Clipped on every side; nothing outside.
  EXPECT_NEAR(area([&](ToyCanvas& c) { c.ellipse({0, 0}, 10, 10, white); }), 78.5, 1);
  EXPECT_NEAR(area([&](ToyCanvas& c) { c.rectangle({-99, -99}, {999, 999}, white); }), 2000, 0.01);
  EXPECT_EQ(area([&](ToyCanvas& c) { c.ellipse({-30, 20}, 10, 10, white); }), 0);
  EXPECT_EQ(area([&](ToyCanvas& c) { c.ellipse({20, 90}, 10, 10, white); }), 0);
  EXPECT_EQ(area([&](ToyCanvas& c) { c.convex({{60, 5}, {70, 5}, {65, 20}}, white); }), 0);
}

}  // namespace
}  // namespace moga
