// The stage merge: neighbouring shots of a scene become films.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "prepare/stages.h"

namespace moga {

namespace {

constexpr size_t kSceneMemory =
    3;  // a shot may continue any of this many shots before it (shot, reverse shot)

// Frames of [0, seconds) at `fps`.
int64_t frames_in(double seconds, double fps) {
  return std::max<int64_t>(0, static_cast<int64_t>(std::ceil(seconds * fps - 1e-6)));
}

// Whole latent frames of a shot: 4n + 1 frames in a film's first shot, 4n later.
int64_t usable_frames(int64_t frames, bool first) {
  const int64_t kept = first ? (frames - 1) / 4 * 4 + 1 : frames / 4 * 4;
  return frames < 1 ? 0 : kept;
}

// A fade goes to black and back: the usual end of a scene.
bool is_fade_between(const VideoRecord& video, const ShotRecord& a, const ShotRecord& b) {
  return std::any_of(video.boundaries.begin(), video.boundaries.end(), [&](const BoundaryRecord& boundary) {
    return boundary.kind == "fade" && boundary.frame >= a.end_frame && boundary.frame <= b.begin_frame;
  });
}

bool joins(const VideoRecord& video, const std::vector<int64_t>& run, int64_t next,
           const FilmConfig& config) {
  const auto shot = [&](int64_t i) -> const ShotRecord& { return video.shots[static_cast<size_t>(i)]; };
  if (run.empty() || run.back() + 1 != next) {
    return false;  // a dropped shot lies between
  }
  if (config.scene_similarity <= 0) {
    return true;
  }
  if (is_fade_between(video, shot(run.back()), shot(next))) {
    return false;
  }
  for (size_t back = 1; back <= std::min(kSceneMemory, run.size()); ++back) {
    if (colour_agreement(shot(run[run.size() - back]).colours, shot(next).colours) >=
        config.scene_similarity) {
      return true;
    }
  }
  return false;
}

// Cuts a run of neighbours into films so that the most frames are used, with the fewest films among equals:
// the best for the first n shots from the best for fewer.
std::vector<std::pair<size_t, size_t>> cut_run(const VideoRecord& video, const std::vector<int64_t>& run,
                                               const FilmConfig& config) {
  struct Best {
    int64_t frames = 0;
    int64_t films = 0;
    size_t film_begin = 0;  // equal to the index: the last shot is left out
  };
  const int64_t most = usable_frames(frames_in(config.max_seconds, config.fps), true);
  std::vector<Best> best(run.size() + 1);
  for (size_t end = 1; end <= run.size(); ++end) {
    best[end] = best[end - 1];
    best[end].film_begin = end;
    int64_t frames = 0;  // of the film [begin, end), as if none of its shots were the first
    for (size_t begin = end; begin-- > 0;) {
      const ShotRecord& shot = video.shots[static_cast<size_t>(run[begin])];
      const int64_t all = frames_in(shot.end - shot.begin, config.fps);
      const int64_t film = frames + usable_frames(all, true);
      frames += usable_frames(all, false);
      if (film > most || usable_frames(all, false) == 0) {
        break;
      }
      const Best& before = best[begin];
      const auto shots = static_cast<int64_t>(end - begin);
      const int64_t total = before.frames + film;
      const int64_t films = before.films + 1;
      if (shots >= config.min_shots &&
          (total > best[end].frames || (total == best[end].frames && films < best[end].films))) {
        best[end] = {total, films, begin};
      }
    }
  }
  std::vector<std::pair<size_t, size_t>> ranges;
  for (size_t end = run.size(); end > 0;) {
    const size_t begin = best[end].film_begin;
    if (begin < end) {
      ranges.emplace_back(begin, end);
      end = begin;
    } else {
      --end;
    }
  }
  std::reverse(ranges.begin(), ranges.end());
  return ranges;
}

FilmRecord make_film(const VideoRecord& video, const std::vector<int64_t>& run,
                     std::pair<size_t, size_t> range, const FilmConfig& config) {
  FilmRecord film;
  film.fps = config.fps;
  const Size size = parse_size(video.size.empty() ? config.sizes.front() : video.size, "size");
  film.width = size.width;
  film.height = size.height;
  for (size_t i = range.first; i < range.second; ++i) {
    const ShotRecord& shot = video.shots[static_cast<size_t>(run[i])];
    const int64_t frames = usable_frames(frames_in(shot.end - shot.begin, config.fps), film.shots.empty());
    film.shots.push_back({run[i], shot.begin, film.frames, frames});
    film.frames += frames;
  }
  return film;
}

// The wide caption that says most about the film.
std::string wide_caption(const VideoRecord& video, const FilmRecord& film) {
  int64_t most = 0;
  std::string text;
  for (const WideCaption& caption : video.captions) {
    const int64_t common = std::min(caption.end_shot, film.shots.back().shot + 1) -
                           std::max(caption.first_shot, film.shots.front().shot);
    if (common > most) {
      most = common;
      text = caption.text;
    }
  }
  return text;
}

}  // namespace

std::vector<FilmRecord> plan_films(const VideoRecord& video, const FilmConfig& config) {
  std::vector<FilmRecord> films;
  std::vector<int64_t> run;
  const auto end_run = [&] {
    for (const auto& range : cut_run(video, run, config)) {
      films.push_back(make_film(video, run, range, config));
      films.back().name = fmt::format("{}-{:03d}", video.id, films.size());
    }
    run.clear();
  };
  for (int64_t i = 0; i < static_cast<int64_t>(video.shots.size()); ++i) {
    if (video.shots[static_cast<size_t>(i)].dropped) {
      continue;
    }
    if (!joins(video, run, i, config)) {
      end_run();
    }
    run.push_back(i);
  }
  end_run();
  return films;
}

void run_merge(VideoRecord& video, StageContext& context) {
  video.films = plan_films(video, context.config.film);
  std::vector<bool> used(video.shots.size(), false);
  for (FilmRecord& film : video.films) {
    film.caption = wide_caption(video, film);
    for (const FilmShot& shot : film.shots) {
      used[static_cast<size_t>(shot.shot)] = true;
    }
  }
  for (size_t i = 0; i < video.shots.size(); ++i) {
    if (!video.shots[i].dropped && !used[i]) {
      video.shots[i].dropped =
          Drop{"merge", "alone",
               fmt::format("no neighbours of its scene to make a film of {} shots and at most {} s",
                           context.config.film.min_shots, context.config.film.max_seconds)};
    }
  }
}

}  // namespace moga
