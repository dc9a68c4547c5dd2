#include <gmock/gmock.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <tuple>

#include "base/atomic_file.h"
#include "base/error.h"
#include "script/film_script.h"

namespace moga {
namespace {

using ::testing::HasSubstr;

const ScriptDefaults kToy = [] {
  ScriptDefaults defaults;
  defaults.width = 128;
  defaults.height = 80;
  defaults.fps = 8;
  return defaults;
}();

std::string texts(const LintResult& result, Severity severity) {
  std::string out;
  for (const Finding& f : result.findings) {
    if (f.severity == severity) {
      out += fmt::format("{}:{}: {}\n", f.line, f.column, f.message);
    }
  }
  return out;
}
std::string errors(const std::string& yaml) {
  return texts(lint_script(yaml, kToy), Severity::kError);
}
std::string warnings(const std::string& yaml) {
  return texts(lint_script(yaml, kToy), Severity::kWarning);
}

TEST(Script, ReadsEveryField) {
  const FilmScript script = parse_script(R"(
title: Two friends
global: A film about {mia}, {{braces}}.
negative: blurry
size: [128, 80]
fps: 8
seed: 18446744073709551615
characters:
  mia: Mia, a round red creature
sampling: {solver: euler, steps: 12, guidance: 3.5, shift: 2}
shots:
  - prompt: "{mia} walks."
    frames: 33
  - prompt: "{ mia } jumps."
    seconds: 2
)",
                                         "film.yaml", kToy);
  EXPECT_EQ(script.title, "Two friends");
  EXPECT_EQ(script.global, "A film about Mia, a round red creature, {braces}.");
  EXPECT_EQ(script.negative, "blurry");
  EXPECT_EQ(script.width, 128);
  EXPECT_EQ(script.height, 80);
  EXPECT_EQ(script.fps, 8);
  EXPECT_EQ(script.seed, UINT64_MAX);
  EXPECT_EQ(*script.sampling.solver, "euler");
  EXPECT_EQ(*script.sampling.steps, 12);
  EXPECT_EQ(*script.sampling.guidance, 3.5);
  EXPECT_EQ(*script.sampling.shift, 2);
  ASSERT_EQ(script.shots.size(), 2U);
  EXPECT_EQ(script.shots[0].text, "Mia, a round red creature walks.");
  EXPECT_EQ(script.shots[1].text, "Mia, a round red creature jumps.");
  EXPECT_EQ(script.total_frames(), 49);
  EXPECT_EQ(script.latent_frames(), 13);
  EXPECT_EQ(script.shot_starts(), (std::vector<int64_t>{0, 9}));
}

TEST(Script, AcceptsJsonAndAliases) {
  const FilmScript json =
      parse_script(R"({"title": "t", "shots": [{"prompt": "a\u00e9b", "frames": 5}]})", "f", kToy);
  EXPECT_EQ(json.shots[0].text, "aéb");
  const FilmScript twice = parse_script("title: t\nshots:\n- &a {prompt: p, frames: 9}\n- *a\n", "f", kToy);
  EXPECT_EQ(twice.shots.size(), 2U);
  EXPECT_EQ(twice.shots[1].text, "p");
}

TEST(Script, SnapsCumulativeTimesToTheNearestBoundary) {
  // 8 fps: asked ends at 10, 20, 30, 31 frames -> nearest of 1, 5, 9, ...; the last shot keeps a latent
  // frame.
  std::vector<Shot> shots(4);
  shots[0].seconds = 1.25;
  shots[1].seconds = 1.25;
  shots[2].frames = 10;
  shots[3].frames = 1;
  snap_shots(shots, 8);
  EXPECT_EQ(shots[0].first_frame, 0);
  EXPECT_EQ(shots[0].frame_count, 9);
  EXPECT_EQ(shots[1].first_frame, 9);
  EXPECT_EQ(shots[1].frame_count, 12);
  EXPECT_EQ(shots[2].first_frame, 21);
  EXPECT_EQ(shots[2].frame_count, 8);
  EXPECT_EQ(shots[3].first_frame, 29);
  EXPECT_EQ(shots[3].frame_count, 4);
}

TEST(Script, SnappedFilmsAreAlwaysLegal) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<Shot> shots(1 + random() % 20);
    double asked = 0;
    for (Shot& shot : shots) {
      shot.seconds = 0.05 + static_cast<double>(random() % 1000) / 200;
      asked += *shot.seconds * 8;
    }
    snap_shots(shots, 8);
    FilmScript script;
    script.shots = shots;
    int64_t next = 0;
    for (const Shot& shot : shots) {
      EXPECT_EQ(shot.first_frame, next);
      EXPECT_TRUE(next == 0 || next % 4 == 1);
      EXPECT_GE(shot.frame_count, 1);
      next += shot.frame_count;
    }
    EXPECT_EQ(script.total_frames() % 4, 1);
    EXPECT_GE(static_cast<double>(script.total_frames()), asked - 2.001);
  }
}

TEST(Lint, ReportsEveryFindingWithItsPlace) {
  const std::string found = errors(R"(titl: x
fps: fast
size: 100x80
shots:
  - prompt: "{bob} sits"
    seconds: 1
    frames: 9
  - prompt:
    seconds: -1
  - seconds: .nan
    promt: x
)");
  EXPECT_THAT(found, HasSubstr("1:1: unknown key 'titl' in the script, did you mean 'title'?"));
  EXPECT_THAT(found, HasSubstr("2:6: fps: expected a number, found 'fast'"));
  EXPECT_THAT(found, HasSubstr("3:7: size: 100x80 is not divisible by 16; the nearest are 96x80 and 112x80"));
  EXPECT_THAT(found, HasSubstr("shot 1: character '{bob}' is not defined"));
  EXPECT_THAT(found, HasSubstr("shot 1: expected one of 'seconds' and 'frames', found both"));
  EXPECT_THAT(found, HasSubstr("shot 2: the prompt is empty"));
  EXPECT_THAT(found, HasSubstr("shot 2: seconds: expected a number from 0.001 to 100000, found '-1'"));
  EXPECT_THAT(found, HasSubstr("shot 3: seconds: expected a number from 0.001 to 100000, found '.nan'"));
  EXPECT_THAT(found, HasSubstr("shot 3: has no prompt"));
  EXPECT_THAT(found, HasSubstr("did you mean 'prompt'?"));
}

struct Bad {
  const char* yaml;
  const char* message;
};
class LintBad : public ::testing::TestWithParam<Bad> {};
TEST_P(LintBad, IsOneClearError) {
  const std::string found = errors(GetParam().yaml);
  EXPECT_THAT(found, HasSubstr(GetParam().message));
  try {
    parse_script(GetParam().yaml, "f.yaml", kToy);
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("f.yaml"));
    EXPECT_THAT(error.what(), ::testing::Not(HasSubstr("\n")));
  }
}
INSTANTIATE_TEST_SUITE_P(
    Cases, LintBad,
    ::testing::Values(
        Bad{"", "the script is empty"}, Bad{"~", "the script is empty"}, Bad{"# only a comment\n", "empty"},
        Bad{"title: [", "not valid YAML"}, Bad{"just text", "expected keys and values"},
        Bad{"- a", "found a list"}, Bad{"title: t\n---\ntitle: u", "expected one YAML document"},
        Bad{"title: t", "the script has no 'shots'"}, Bad{"shots: []", "an empty list"},
        Bad{"shots: {}", "expected a list of shots"}, Bad{"shots: 4", "expected a list of shots, found '4'"},
        Bad{"shots: [4]", "shot 1: expected keys and values"},
        Bad{"shots: [{prompt: [a], frames: 4}]", "expected text, found a list"},
        Bad{"shots: [{prompt: a}]", "found neither"},
        Bad{"shots: [{prompt: a, frames: 0}]", "expected a whole number from 1"},
        Bad{"shots: [{prompt: a, frames: 4.5}]", "expected a whole number"},
        Bad{"shots: [{prompt: a, frames: 99999999999999999999}]", "expected a whole number"},
        Bad{"shots: [{prompt: a, seconds: .inf}]", "expected a number from"},
        Bad{"shots: [{prompt: a, seconds: 1e9}]", "expected a number from"},
        Bad{"shots: [{prompt: a, seconds: 0}]", "expected a number from"},
        Bad{"shots: [{prompt: a, seconds: 60000}]", "480000 frames in all; a film may have 100000 at most"},
        Bad{"shots: [{prompt: '{', frames: 4}]", "opening brace"},
        Bad{"shots: [{prompt: ' ', frames: 4}]", "the prompt is empty"},
        Bad{"title: a\ntitle: b\nshots: [{prompt: a, frames: 4}]", "2:1: key 'title' stands twice"},
        Bad{"shots: [{prompt: a, frames: 4, frames: 5}]", "key 'frames' stands twice"},
        Bad{"characters: {mia: a, mia: b}\nshots: [{prompt: '{mia}', frames: 4}]", "described twice"},
        Bad{"characters: {mia: }\nshots: [{prompt: '{mia}', frames: 4}]", "has no description"},
        Bad{"characters: {'a b': c}\nshots: [{prompt: a, frames: 4}]", "one word without braces"},
        Bad{"characters: {mia: x}\nshots: [{prompt: '{mias}', frames: 4}]", "did you mean '{mia}'?"},
        Bad{"global: '{x}'\nshots: [{prompt: a, frames: 4}]", "global: character '{x}' is not defined"},
        Bad{"size: 128\nshots: [{prompt: a, frames: 4}]", "expected WIDTHxHEIGHT"},
        Bad{"size: [128, a]\nshots: [{prompt: a, frames: 4}]", "expected WIDTHxHEIGHT"},
        Bad{"size: 0x80\nshots: [{prompt: a, frames: 4}]", "16 to 8192 pixels"},
        Bad{"size: 99999999x16\nshots: [{prompt: a, frames: 4}]", "16 to 8192 pixels"},
        Bad{"fps: 0\nshots: [{prompt: a, frames: 4}]", "fps: expected a number from 0.1 to 240"},
        Bad{"seed: -1\nshots: [{prompt: a, frames: 4}]", "seed: expected a whole number"},
        Bad{"sampling: {steps: 0}\nshots: [{prompt: a, frames: 4}]", "sampling.steps"},
        Bad{"sampling: [1]\nshots: [{prompt: a, frames: 4}]", "sampling: expected keys and values"},
        Bad{"sampling: {step: 4}\nshots: [{prompt: a, frames: 4}]", "did you mean 'steps'?"},
        Bad{"title: \xff\xfe\nshots: []", "1:1: expected UTF-8"},
        Bad{"title: a\x04\nshots: []", "1:9: control character 0x04"},
        Bad{"? [a]\n: b\n", "expected a plain word as the key"}, Bad{"shots: &s [*s]", ""}));

TEST(Lint, HugeInputIsRefusedQuickly) {
  std::string million = "title: t\nshots:\n";
  for (int i = 0; i < 1000000; ++i) {
    million += "- {prompt: a, frames: 4}\n";
  }
  EXPECT_THAT(errors(million), HasSubstr("a script may have 4 MiB at most"));
  std::string many = "title: t\nshots:\n";
  for (int i = 0; i < 1001; ++i) {
    many += "- {prompt: a, frames: 4}\n";
  }
  EXPECT_THAT(errors(many), HasSubstr("3:1: shots: 1001 shots; a film may have 1000 at most"));
  EXPECT_THAT(errors("shots: " + std::string(20000, '[')), HasSubstr("nested too deeply"));
}

TEST(Lint, AliasesThatMultiplyCostNothing) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 40; ++i) {
    bomb += fmt::format("a{0}: &a{0} [*a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}]\n", i, i - 1);
  }
  bomb += "shots: *a39\n";
  EXPECT_THAT(errors(bomb), HasSubstr("shot 1: expected keys and values"));
}

TEST(Lint, WarnsWithoutFailing) {
  const std::string yaml = R"(characters: {mia: a cat, bob: a dog}
shots:
  - {prompt: "{mia}", seconds: 1}
  - {prompt: b, seconds: 0.4}
)";
  EXPECT_TRUE(lint_script(yaml, kToy).ok());
  const std::string found = warnings(yaml);
  EXPECT_THAT(found, HasSubstr("1:26: character 'bob' is never used"));
  EXPECT_THAT(found, HasSubstr("shot 2: one latent frame"));
  EXPECT_THAT(found, HasSubstr("no title"));
  EXPECT_THAT(texts(lint_script(yaml, kToy), Severity::kNote),
              HasSubstr("asked to end at 1.000 s, ends at 1.125 s"));
  ScriptDefaults tight = kToy;
  tight.text_words = 3;
  EXPECT_THAT(
      texts(lint_script("title: t\nshots: [{prompt: a b c d, frames: 9}]", tight), Severity::kWarning),
      HasSubstr("shot 1: about 4 words; the model reads about 3"));
  EXPECT_EQ(warnings("title: t\nshots: [{prompt: a, frames: 9}]"), "");
}

TEST(Lint, CountsWords) {
  EXPECT_EQ(count_words("  two\nwords "), 2);
  EXPECT_EQ(count_words("caf\u00e9 au lait"), 3);
  EXPECT_EQ(count_words("\u4f60\u597d"), 2);
}

void expect_same(const FilmScript& a, const FilmScript& b) {
  EXPECT_EQ(a.title, b.title);
  EXPECT_EQ(a.global, b.global);
  EXPECT_EQ(a.negative, b.negative);
  EXPECT_EQ(a.first_frame_picture, b.first_frame_picture);
  EXPECT_EQ(a.width, b.width);
  EXPECT_EQ(a.height, b.height);
  EXPECT_EQ(a.fps, b.fps);
  EXPECT_EQ(a.seed, b.seed);
  EXPECT_EQ(a.characters, b.characters);
  EXPECT_EQ(a.sampling.solver, b.sampling.solver);
  EXPECT_EQ(a.sampling.steps, b.sampling.steps);
  EXPECT_EQ(a.sampling.guidance, b.sampling.guidance);
  EXPECT_EQ(a.sampling.shift, b.sampling.shift);
  ASSERT_EQ(a.shots.size(), b.shots.size());
  for (size_t i = 0; i < a.shots.size(); ++i) {
    EXPECT_EQ(a.shots[i].prompt, b.shots[i].prompt);
    EXPECT_EQ(a.shots[i].text, b.shots[i].text);
    EXPECT_EQ(a.shots[i].seconds, b.shots[i].seconds);
    EXPECT_EQ(a.shots[i].frames, b.shots[i].frames);
    EXPECT_EQ(a.shots[i].first_frame, b.shots[i].first_frame);
    EXPECT_EQ(a.shots[i].frame_count, b.shots[i].frame_count);
  }
}

// Any text in any place comes back as it was: quotes, colons, tabs, line ends, escapes, other scripts.
TEST(Script, YamlRoundTripsAnyText) {
  const std::vector<std::string> pieces = {
      "\"",  "'",    "\\",     "\n",     "\r",     "\t",    ": ",   " #",  "- ",     "\a",     "{{",
      "}}",  "%",    "\u0085", "\u2028", "\ufeff", "é",     "~",    "|",   "\u4f60", "\u00a0", "\U0001F600",
      "yes", "0x1F", " ",      "&a",     "*a",     "!!int", "\x7f", "---", "\u009f", "end"};
  std::mt19937 random(3);
  const auto text = [&] {
    std::string out = "x";
    for (size_t i = random() % 12; i > 0; --i) {
      out += pieces[random() % pieces.size()];
    }
    return out;
  };
  for (int round = 0; round < 200; ++round) {
    FilmScript script;
    script.title = text();
    script.negative = text();
    script.first_frame_picture = text();
    script.global_prompt = text();
    script.seed = random();
    script.fps = 8 + static_cast<double>(random() % 1000) / 7;
    script.width = 128;
    script.height = 80;
    script.characters = {{"mia", text()}, {"n\u00efl", text()}};
    script.sampling = {.solver = "euler", .steps = 7, .guidance = 0.1 + 0.2, .shift = {}};
    for (int i = 0; i < 3; ++i) {
      Shot& shot = script.shots.emplace_back();
      shot.prompt = text() + "{mia}";
      if (i == 1) {
        shot.frames = 9;
      } else {
        shot.seconds = 1.0 / 3 + i;
      }
    }
    const std::string yaml = script_to_yaml(script);
    const FilmScript once = parse_script(yaml, "f", kToy);
    EXPECT_EQ(once.title, script.title);
    EXPECT_EQ(once.negative, script.negative);
    EXPECT_EQ(once.characters, script.characters);
    EXPECT_EQ(once.shots[0].prompt, script.shots[0].prompt);
    EXPECT_EQ(once.shots[0].seconds, script.shots[0].seconds);
    expect_same(once, parse_script(script_to_yaml(once), "f", kToy));
    EXPECT_EQ(script_to_yaml(once), yaml);
  }
}

TEST(Script, ProgramsWriteScriptsFromTextAlone) {
  FilmScript script;
  script.global = "a {global} text";
  script.shots.resize(2);
  script.shots[0].text = "literal {braces}";
  script.shots[0].frame_count = 9;
  script.shots[1].text = "b";
  script.shots[1].first_frame = 9;
  script.shots[1].frame_count = 4;
  const FilmScript back = parse_script(script_to_yaml(script), "f", kToy);
  EXPECT_EQ(back.global, script.global);
  EXPECT_EQ(back.shots[0].text, script.shots[0].text);
  EXPECT_EQ(back.shots[1].first_frame, 9);
  EXPECT_EQ(back.shots[1].frame_count, 4);
  script.title = "\xff";
  EXPECT_THROW(script_to_yaml(script), Error);
}

TEST(Script, NegativeMayBeAbsentOrEmpty) {
  const auto negative = [](const std::string& line) {
    const FilmScript script = parse_script(line + "\nshots: [{prompt: a, frames: 9}]", "f", kToy);
    EXPECT_EQ(parse_script(script_to_yaml(script), "f", kToy).negative, script.negative);
    return script.negative;
  };
  EXPECT_EQ(negative("title: t"), std::nullopt);
  EXPECT_EQ(negative("negative: ''"), "");
  EXPECT_EQ(negative("negative: blurry"), "blurry");
}

TEST(Script, SizesAndLengthsThatPeopleUse) {
  for (const auto& [size, width, height] :
       std::vector<std::tuple<std::string, int64_t, int64_t>>{{"832x480", 832, 480},
                                                              {"480x832", 480, 832},
                                                              {"1280x720", 1280, 720},
                                                              {"624x624", 624, 624},
                                                              {"832*480", 832, 480},
                                                              {"[1280, 720]", 1280, 720}}) {
    for (const int64_t frames : {1, 5, 49, 81, 121}) {
      const FilmScript script =
          parse_script(fmt::format("size: {}\nshots: [{{prompt: a, frames: {}}}]", size, frames), "f");
      EXPECT_EQ(script.width, width);
      EXPECT_EQ(script.height, height);
      EXPECT_EQ(script.total_frames(), frames);
    }
  }
}

TEST(Script, FirstFrameIsLookedForBesideTheScript) {
  std::string name = (std::filesystem::temp_directory_path() / "moga_script_XXXXXX").string();
  ASSERT_NE(mkdtemp(name.data()), nullptr);
  const std::filesystem::path folder = name;
  const std::string yaml = "first_frame: a.png\nshots: [{prompt: a, frames: 9}]";
  write_file_atomic(folder / "film.yaml", yaml);
  EXPECT_TRUE(lint_script(yaml).ok()) << "no folder is known, nothing is looked for";
  try {
    load_script(folder / "film.yaml");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("film.yaml:1:14: first_frame: there is no picture 'a.png'"));
  }
  write_file_atomic(folder / "a.png", "picture");
  EXPECT_EQ(load_script(folder / "film.yaml").first_frame_path(), folder / "a.png");
  EXPECT_FALSE(lint_script("first_frame: ''\nshots: [{prompt: a, frames: 9}]").ok());
  std::filesystem::remove_all(folder);
}

TEST(Lint, KnowsTheSolvers) {
  ScriptDefaults defaults;
  defaults.solvers = {"euler", "unipc"};
  const std::string yaml = "sampling: {solver: unipcc}\nshots: [{prompt: a, frames: 9}]";
  EXPECT_THAT(texts(lint_script(yaml, defaults), Severity::kError),
              HasSubstr("'unipcc' is not known, did you mean 'unipc'?; the solvers are euler, unipc"));
  EXPECT_TRUE(lint_script(yaml).ok());
}

TEST(Script, MissingFileIsAnError) {
  EXPECT_THROW(load_script("no-such-script.yaml"), Error);
}

}  // namespace
}  // namespace moga
