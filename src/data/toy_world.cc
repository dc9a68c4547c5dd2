// Making toy films: who appears when, doing what, where, and the captions. Pictures are in toy_draw.cc.
#include "data/toy_world.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "data/toy_random.h"

namespace moga {
namespace {

constexpr int64_t kMostShots = 1000;
constexpr int64_t kMostFrames = 100000;
// Longer shots hold little news and make films with few cuts; 8 seconds at 8 fps.
constexpr int64_t kUsualMostLatentsAShot = 16;

void check_settings(const ToyFilmSettings& s) {
  MOGA_CHECK(s.width >= 32 && s.height >= 32 && s.width <= 4096 && s.height <= 4096 && s.width % 2 == 0 &&
                 s.height % 2 == 0,
             "toy film: expected an even width and height from 32 to 4096, found {}x{}", s.width, s.height);
  MOGA_CHECK(s.fps > 0 && s.fps <= 1000, "toy film: expected fps above 0 and at most 1000, found {}", s.fps);
  MOGA_CHECK(s.min_shots >= 1 && s.min_shots <= s.max_shots && s.max_shots <= kMostShots,
             "toy film: expected 1 <= min_shots <= max_shots <= {}, found {} and {}", kMostShots, s.min_shots,
             s.max_shots);
  MOGA_CHECK(s.min_frames >= 1 && s.min_frames <= s.max_frames && s.max_frames <= kMostFrames,
             "toy film: expected 1 <= min_frames <= max_frames <= {}, found {} and {}", kMostFrames,
             s.min_frames, s.max_frames);
  MOGA_CHECK(s.min_shot_frames >= 1 && s.min_shot_frames <= s.max_frames,
             "toy film: expected 1 <= min_shot_frames <= max_frames ({}), found {}", s.max_frames,
             s.min_shot_frames);
}

// Lengths in latent steps of four frames. The first shot has one frame more than its steps say.
std::vector<int64_t> draw_lengths(ToyRandom& random, const ToyFilmSettings& s) {
  const int64_t first_least = (s.min_shot_frames - 1 + 3) / 4;
  const int64_t other_least = std::max<int64_t>(1, (s.min_shot_frames + 3) / 4);
  const auto need = [&](int64_t shots) { return first_least + (shots - 1) * other_least; };
  const int64_t high = (s.max_frames - 1) / 4;
  const int64_t low = std::max((s.min_frames - 1 + 3) / 4, need(s.min_shots));
  MOGA_CHECK(
      low <= high,
      "toy film: no length of 4n + 1 frames from {} to {} holds {} shots of at least {} frames (the shortest "
      "film with as many shots has {})",
      s.min_frames, s.max_frames, s.min_shots, s.min_shot_frames, 4 * need(s.min_shots) + 1);
  const int64_t steps = random.between(low, high);
  const int64_t most_shots = std::min(s.max_shots, 1 + (steps - first_least) / other_least);
  const int64_t usual = (steps + kUsualMostLatentsAShot - 1) / kUsualMostLatentsAShot;
  const int64_t shots = random.between(std::clamp(usual, s.min_shots, most_shots), most_shots);

  std::vector<int64_t> weights(static_cast<size_t>(shots));
  for (int64_t& weight : weights) {
    weight = random.between(10, 30);
  }
  const int64_t weight_sum = std::accumulate(weights.begin(), weights.end(), int64_t{0});
  const int64_t spare = steps - need(shots);
  std::vector<int64_t> lengths(weights.size(), other_least);
  lengths[0] = first_least;
  int64_t given = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const int64_t share = spare * weights[i] / weight_sum;
    lengths[i] += share;
    given += share;
  }
  for (; given < spare; ++given) {
    ++lengths[static_cast<size_t>(random.below(shots))];
  }
  return lengths;
}

Looks draw_looks(ToyRandom& random) {
  Looks looks{};
  for (int a = 0; a < kAttributeCount; ++a) {
    looks[static_cast<size_t>(a)] = static_cast<int>(
        random.below(static_cast<int64_t>(attribute_values(static_cast<Attribute>(a)).size())));
  }
  return looks;
}

bool hat_matches_body(const Looks& looks) {
  return attribute_values(Attribute::kColour)[static_cast<size_t>(looks[1])] ==
         attribute_values(Attribute::kHatColour)[static_cast<size_t>(looks[3])];
}

Looks draw_legal_looks(ToyRandom& random) {
  Looks looks = draw_looks(random);
  while (hat_matches_body(looks)) {
    looks = draw_looks(random);
  }
  return looks;
}

std::vector<ToyCharacter> draw_characters(ToyRandom& random, int count) {
  std::vector<ToyCharacter> characters;
  const auto names = static_cast<int64_t>(toy_names().size());
  const int64_t first_name = random.below(names);
  characters.push_back({toy_names()[static_cast<size_t>(first_name)], draw_legal_looks(random)});
  if (count == 2) {
    const int64_t name = (first_name + 1 + random.below(names - 1)) % names;
    // Two attributes apart at least, so that a mix-up of the two can be told from a single slip.
    Looks looks = draw_legal_looks(random);
    const auto apart = [&] {
      int differences = 0;
      for (size_t a = 0; a < looks.size(); ++a) {
        differences += looks[a] != characters[0].looks[a] ? 1 : 0;
      }
      return differences;
    };
    while (apart() < 2) {
      looks = draw_legal_looks(random);
    }
    characters.push_back({toy_names()[static_cast<size_t>(name)], looks});
  }
  return characters;
}

// Who is on screen in each shot. With two: the second enters in shot 1 or 2, then they alternate irregularly,
// and each has at least two shots.
std::vector<int> draw_cast(ToyRandom& random, size_t shots, int characters) {
  std::vector<int> cast(shots, 0);
  if (characters == 1) {
    return cast;
  }
  const auto entry = static_cast<size_t>(random.between(1, 2));
  for (;;) {
    for (size_t i = 0; i < shots; ++i) {
      cast[i] = i < entry ? 0 : i == entry ? 1 : static_cast<int>(random.below(2));
    }
    const auto second = std::count(cast.begin(), cast.end(), 1);
    if (second >= 2 && static_cast<int64_t>(shots) - second >= 2) {
      return cast;
    }
  }
}

std::string make_caption(const ToyCharacter& character, const ToyShot& shot) {
  const auto value = [&](Attribute attribute) {
    const auto a = static_cast<size_t>(attribute);
    return attribute_values(attribute)[static_cast<size_t>(character.looks[a])];
  };
  std::string caption;
  if (shot.introduces) {
    caption = fmt::format("{} is a {} {} creature with a {} {}. ", character.name, value(Attribute::kShape),
                          value(Attribute::kColour), value(Attribute::kHatColour), value(Attribute::kHat));
  }
  return caption + fmt::format("{} {} {}, {}.", character.name,
                               toy_motions()[static_cast<size_t>(shot.motion)],
                               toy_places()[static_cast<size_t>(shot.place)],
                               toy_framings()[static_cast<size_t>(shot.framing)]);
}

FilmScript make_script(const ToyFilm& film, const ToyFilmSettings& settings) {
  FilmScript script;
  script.title = fmt::format("Toy film {}", film.seed);
  script.width = settings.width;
  script.height = settings.height;
  script.fps = settings.fps;
  script.seed = film.seed;
  for (const ToyShot& shot : film.shots) {
    Shot out;
    out.prompt = shot.caption;
    out.text = shot.caption;
    out.frames = shot.frame_count;
    out.first_frame = shot.first_frame;
    out.frame_count = shot.frame_count;
    script.shots.push_back(std::move(out));
  }
  return script;
}

}  // namespace

const std::string& attribute_name(Attribute attribute) {
  static const std::array<std::string, kAttributeCount> kNames = {"shape", "colour", "hat", "hat colour"};
  return kNames.at(static_cast<size_t>(attribute));
}

const std::vector<std::string>& attribute_values(Attribute attribute) {
  static const std::array<std::vector<std::string>, kAttributeCount> kValues = {{
      {"round", "square", "tall"},
      {"red", "yellow", "green", "blue", "purple", "white"},
      {"top hat", "cap", "cone"},
      {"red", "yellow", "blue", "white", "black"},
  }};
  return kValues.at(static_cast<size_t>(attribute));
}

const std::vector<std::string>& toy_places() {
  static const std::vector<std::string> kPlaces = {"in the meadow", "in the desert", "in the snow",
                                                   "in the city",   "on the beach",  "in the forest",
                                                   "in the cave",   "in the hills"};
  return kPlaces;
}

const std::vector<std::string>& toy_motions() {
  static const std::vector<std::string> kMotions = {"stands", "walks left", "walks right", "jumps"};
  return kMotions;
}

const std::vector<std::string>& toy_framings() {
  static const std::vector<std::string> kFramings = {"wide shot", "medium shot", "close-up", "pan shot",
                                                     "zoom in"};
  return kFramings;
}

const std::vector<std::string>& toy_names() {
  static const std::vector<std::string> kNames = {"Mia",  "Leo",  "Nora", "Timo", "Zara", "Kira",
                                                  "Otto", "Lena", "Nico", "Ella", "Hugo", "Vera"};
  return kNames;
}

int64_t ToyFilm::total_frames() const {
  return shots.empty() ? 0 : shots.back().first_frame + shots.back().frame_count;
}

ToyFilm make_toy_film(uint64_t seed, const ToyFilmSettings& settings) {
  check_settings(settings);
  ToyRandom random(seed);
  ToyFilm film;
  film.seed = seed;
  const std::vector<int64_t> lengths = draw_lengths(random, settings);
  const size_t shots = lengths.size();
  // Two characters need shots enough for both to come back.
  const int characters = shots >= 4 ? static_cast<int>(random.between(1, 2)) : 1;
  film.characters = draw_characters(random, characters);
  const std::vector<int> cast = draw_cast(random, shots, characters);

  const auto size = [](const auto& list) { return static_cast<int64_t>(list.size()); };
  int64_t first_frame = 0;
  std::array<bool, 2> seen = {false, false};
  for (size_t i = 0; i < shots; ++i) {
    ToyShot shot;
    shot.character = cast[i];
    shot.introduces = !seen.at(static_cast<size_t>(shot.character));
    seen.at(static_cast<size_t>(shot.character)) = true;
    shot.place = i == 0
                     ? static_cast<int>(random.below(size(toy_places())))
                     : static_cast<int>((film.shots.back().place + 1 + random.below(size(toy_places()) - 1)) %
                                        size(toy_places()));
    shot.motion = static_cast<int>(random.below(size(toy_motions())));
    shot.framing = static_cast<int>(random.below(size(toy_framings())));
    shot.first_frame = first_frame;
    shot.frame_count = 4 * lengths[i] + (i == 0 ? 1 : 0);
    shot.caption = make_caption(film.characters[static_cast<size_t>(shot.character)], shot);
    first_frame += shot.frame_count;
    film.shots.push_back(std::move(shot));
  }
  film.script = make_script(film, settings);
  return film;
}

std::vector<std::string> toy_caption_corpus(uint64_t seed, int64_t count) {
  MOGA_CHECK(count >= 0, "toy captions: expected a count of 0 or more, found {}", count);
  std::vector<std::string> corpus;
  // One pass over every list, the shorter ones wrapping round: all words, in 12 captions.
  const auto pick = [](const auto& list, size_t i) { return static_cast<int>(i % list.size()); };
  for (size_t i = 0; i < toy_names().size() && static_cast<int64_t>(corpus.size()) < count; ++i) {
    ToyCharacter character{toy_names()[i], {}};
    for (int a = 0; a < kAttributeCount; ++a) {
      character.looks[static_cast<size_t>(a)] = pick(attribute_values(static_cast<Attribute>(a)), i);
    }
    ToyShot shot;
    shot.introduces = true;
    shot.place = pick(toy_places(), i);
    shot.motion = pick(toy_motions(), i);
    shot.framing = pick(toy_framings(), i);
    corpus.push_back(make_caption(character, shot));
  }
  ToyRandom random(seed);
  while (static_cast<int64_t>(corpus.size()) < count) {
    const ToyFilm film = make_toy_film(random.next(), ToyFilmSettings{});
    for (const ToyShot& shot : film.shots) {
      if (static_cast<int64_t>(corpus.size()) < count) {
        corpus.push_back(shot.caption);
      }
    }
  }
  return corpus;
}

}  // namespace moga
