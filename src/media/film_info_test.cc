#include "media/film_info.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace moga {
namespace {

using testing::HasSubstr;
using testing::Not;

VideoInfo film(const std::string& comment) {
  VideoInfo info;
  info.width = 128;
  info.height = 80;
  info.fps = 8;
  info.frames = 481;
  info.seconds = 60.125;
  info.codec = "h264";
  info.pixel_format = "yuv420p";
  info.title = "The lamp";
  info.comment = comment;
  return info;
}

constexpr const char* kScript = "title: The lamp\nshots:\n  - prompt: a robot\n";

std::string generated() {
  return nlohmann::ordered_json({{"script", kScript},
                                 {"seed", 7},
                                 {"model", "toy"},
                                 {"settings", {{"steps", 20}, {"guidance", 4.5}, {"layers", {1, 2}}}}})
      .dump();
}

TEST(FilmInfo, ShowsTheStreamTheSettingsAndTheScript) {
  const std::string text = describe_film(film(generated()), "film.mp4");
  for (const char* part :
       {"film.mp4\n", "128 x 80\n", "8 fps\n", "481\n", "1 min 00 s\n", "h264, yuv420p\n", "The lamp\n",
        "\nSettings\n", "  seed               7\n", "  settings.guidance  4.5\n",
        "  settings.layers    [1,2]\n", "  model              toy\n",
        "\nScript\n  title: The lamp\n  shots:\n    - prompt: a robot\n"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(FilmInfo, GivesTheScriptBack) {
  EXPECT_EQ(film_script_text(film(generated()), "f"), kScript);
  EXPECT_THAT(film_script_text(film(R"({"script":{"title":"x"}})"), "f"), HasSubstr("\"title\": \"x\""));
  EXPECT_THROW(film_script_text(film("{}"), "f"), Error);
  EXPECT_THROW(film_script_text(film("made by hand"), "f"), Error);
}

TEST(FilmInfo, OtherCommentsAreText) {
  for (const char* comment : {"made by hand", "[1, 2]", "{broken", "{\"a\": 1} and more"}) {
    EXPECT_FALSE(film_record(film(comment)));
    EXPECT_THAT(describe_film(film(comment), "f"), HasSubstr(std::string("\nComment\n  ") + comment + "\n"));
    EXPECT_EQ(film_to_json(film(comment), "f")["comment"], comment);
  }
  EXPECT_THAT(describe_film(film(""), "f"), Not(HasSubstr("Comment")));
}

TEST(FilmInfo, JsonForPrograms) {
  const auto json = film_to_json(film(generated()), "film.mp4");
  EXPECT_EQ(json["frames"], 481);
  EXPECT_EQ(json["comment"]["settings"]["steps"], 20);
  auto unknown = film("");
  unknown.frames = 0;
  EXPECT_TRUE(film_to_json(unknown, "f")["frames"].is_null());
  EXPECT_THAT(describe_film(unknown, "f"), HasSubstr("unknown"));
}

TEST(FilmInfo, HostileCommentsDoNoHarm) {
  const std::string deep = std::string(2'000'000, '{');
  EXPECT_FALSE(film_record(film(deep)));
  std::string nested;
  for (int i = 0; i < 200'000; ++i) {
    nested += "{\"a\":";
  }
  EXPECT_FALSE(film_record(film(nested + "1" + std::string(200'000, '}'))));
  const std::string text = describe_film(film("\x1b[31mred\xc2\x9b"
                                              "1m\x07 \xff"),
                                         "f\x1b");
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
  EXPECT_THAT(text, Not(HasSubstr("\xc2\x9b")));
  EXPECT_THAT(text, HasSubstr("?[31mred"));
  EXPECT_THAT(describe_film(film(R"({"a":"\u001b[2J"})"), "f"), Not(HasSubstr("\x1b")));
}

}  // namespace
}  // namespace moga
