#include <algorithm>
#include <filesystem>

#include "base/text_util.h"
#include "prepare/report.h"

namespace moga {

std::string escape_html(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

namespace {

std::string scores_list(const Scores& scores) {
  std::string out = "<div class=\"scores\">";
  const auto add = [&](const std::string& name, double value) {
    out += fmt::format("<div><span class=\"small\">{}</span><br>{:.3g}</div>", escape_html(name), value);
  };
  Scores::visit(scores, [&](const char* name, const auto& field, const char*) {
    if constexpr (std::is_same_v<std::decay_t<decltype(field)>, double>) {
      add(name, field);
    }
  });
  for (const LearnedScore& learned : scores.learned) {
    add(learned.name, learned.value);
  }
  return out + "</div>";
}

// Where things lie on a line as long as the video.
std::string place(double begin, double end, double seconds) {
  const double total = std::max(1e-9, seconds);
  return fmt::format("style=\"left:{:.3f}%;width:{:.3f}%\"", 100 * begin / total,
                     100 * std::max(0.0, end - begin) / total);
}

std::string timeline(const VideoRecord& video) {
  std::string out = "<div class=\"line\">";
  const double seconds = video.seconds();
  for (size_t i = 0; i < video.shots.size(); ++i) {
    const ShotRecord& shot = video.shots[i];
    out += fmt::format("<i class=\"{}\" {} title=\"shot {}\"></i>", shot.dropped ? "drop" : "keep",
                       place(shot.begin, shot.end, seconds), i + 1);
  }
  const double frame = video.decoded && video.decoded->frames > 0
                           ? video.decoded->seconds / static_cast<double>(video.decoded->frames)
                           : 0;
  for (const BoundaryRecord& boundary : video.boundaries) {
    const double begin = boundary.seconds - static_cast<double>(boundary.frame - boundary.begin) * frame;
    const double end = boundary.seconds + static_cast<double>(boundary.end - boundary.frame) * frame;
    out += fmt::format("<b class=\"{}\" {} title=\"{} at {:.2f} s, frame {}, confidence {:.2f}\"></b>",
                       boundary.overlapped ? "over" : "clean", place(begin, end, seconds),
                       escape_html(boundary.kind), boundary.seconds, boundary.frame, boundary.confidence);
  }
  return out + "</div>\n";
}

std::string shot_html(const ShotRecord& shot, size_t number) {
  std::string out = fmt::format("<div class=\"shot{}\">", shot.dropped ? " out" : "");
  if (!shot.thumbnails.empty()) {
    out += fmt::format("<img src=\"{}\" alt=\"shot {}\" loading=\"lazy\">", escape_html(shot.thumbnails),
                       number);
  }
  out += fmt::format("<div><b>Shot {}</b> <span class=\"small\">{:.2f} to {:.2f} s</span>", number,
                     shot.begin, shot.end);
  if (shot.crop) {
    out += fmt::format(" <span class=\"small\">crop {}x{} at {},{}</span>", shot.crop->width,
                       shot.crop->height, shot.crop->x, shot.crop->y);
  }
  out += "</div>";
  if (shot.dropped) {
    out += "<div class=\"drop\">dropped by " + escape_html(shot.dropped->stage) + ": " +
           escape_html(shot.dropped->detail) + "</div>";
  }
  if (!shot.caption.empty()) {
    out += "<div>" + escape_html(shot.caption) + "</div>";
  }
  for (const TextRecord& text : shot.text) {
    out += fmt::format("<div class=\"small\">{}: {}</div>", escape_html(text.kind), escape_html(text.text));
  }
  if (shot.scores) {
    out += scores_list(*shot.scores);
  }
  return out + "</div>\n";
}

}  // namespace

std::string video_html(const VideoRecord& video) {
  const ProbeFacts& probe = video.probe;
  std::string out = "<section class=\"video\"><h2>" + escape_html(video.path) + "</h2><div class=\"small\">" +
                    fmt::format("{}x{}, {:.4g} fps, {}, {}", probe.width, probe.height, probe.fps,
                                escape_html(probe.codec), human_seconds(video.seconds()));
  if (video.content && (video.content->width < probe.width || video.content->height < probe.height)) {
    out += fmt::format("; picture {}x{} inside black borders", video.content->width, video.content->height);
  }
  out += "</div>";
  if (video.dropped) {
    out += "<div class=\"drop\">dropped by " + escape_html(video.dropped->stage) + ": " +
           escape_html(video.dropped->detail) + "</div>";
  }
  for (const std::string& note : video.notes) {
    out += "<div class=\"small\">" + escape_html(note) + "</div>";
  }
  for (const TextRecord& mark : video.marks) {
    out += fmt::format("<div class=\"small\">{} at {},{} ({}x{}): {}</div>", escape_html(mark.kind),
                       mark.box.x, mark.box.y, mark.box.width, mark.box.height,
                       mark.text.empty() ? "a picture" : escape_html(mark.text));
  }
  if (!video.thumbnails.empty()) {
    out += "<img src=\"" + escape_html(video.thumbnails) + "\" alt=\"\" loading=\"lazy\">";
  }
  if (video.scores) {
    out += scores_list(*video.scores);
  }
  if (!video.shots.empty()) {
    out += timeline(video);
  }
  for (const FilmRecord& film : video.films) {
    out += fmt::format("<div class=\"keep\">{}: {} shots, {} frames, {:.1f} s, {}x{}</div>",
                       escape_html(film.name), film.shots.size(), film.frames,
                       static_cast<double>(film.frames) / film.fps, film.width, film.height);
    if (!film.caption.empty()) {
      out += "<div>" + escape_html(film.caption) + "</div>";
    }
  }
  if (!video.shots.empty()) {
    out += "<div class=\"shots\">";
    for (size_t i = 0; i < video.shots.size(); ++i) {
      out += shot_html(video.shots[i], i + 1);
    }
    out += "</div>";
  }
  return out + "</section>\n";
}

}  // namespace moga
