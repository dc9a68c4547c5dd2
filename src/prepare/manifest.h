// The manifest of `moga prepare`: what is known about each video, one JSON object a line. Every stage reads
// the manifest of the stage before it and writes its own, with the fields that it adds. docs/data.md
// documents it.
//
// Times are seconds from the video's first frame; ranges of frames and times are half-open; boxes are in
// pixels of the upright picture.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "base/config.h"

namespace moga {

inline constexpr int64_t kManifestVersion = 1;

struct PixelBox {
  int64_t x = 0;
  int64_t y = 0;
  int64_t width = 0;
  int64_t height = 0;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("x", s.x, "Left edge");
    v("y", s.y, "Upper edge");
    v("width", s.width, "Width");
    v("height", s.height, "Height");
  }
};

// Why something was left out. `cause` is one of a few words (a score's name, "text", "short"), `detail` a
// sentence.
struct Drop {
  std::string stage;
  std::string cause;
  std::string detail;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("stage", s.stage, "The stage that dropped it");
    v("cause", s.cause, "The score or rule");
    v("detail", s.detail, "For people");
  }
};

struct LearnedScore {
  std::string name;
  double value = 0;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("name", s.name, "Name from the config");
    v("value", s.value, "Mean over the sampled frames, in the network's own unit");
  }
};

// Measured on pictures of 480 pixels' width (scores.h says how). Grey levels are 0..255.
struct Scores {
  double sharpness = 0;
  double brightness = 0;
  double clipped_low = 0;
  double clipped_high = 0;
  double contrast = 0;
  double colourfulness = 0;
  double noise = 0;
  double motion = 0;
  double still = 0;
  double duplicates = 0;
  std::vector<LearnedScore> learned;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("sharpness", s.sharpness, "Standard deviation of the Laplacian, grey levels, 0 to about 100");
    v("brightness", s.brightness, "Mean luma, grey levels, 0 to 255");
    v("clipped_low", s.clipped_low, "Share of pixels with luma up to 4, 0 to 1");
    v("clipped_high", s.clipped_high, "Share of pixels with luma from 251, 0 to 1");
    v("contrast", s.contrast, "Standard deviation of luma, grey levels, 0 to 127.5");
    v("colourfulness", s.colourfulness, "Hasler and Suesstrunk's M, 0 (grey) to about 150");
    v("noise", s.noise, "Immerkaer's estimate of noise, grey levels, 0 to about 50");
    v("motion", s.motion, "Mean movement of blocks, percent of the picture's width a second, from 0");
    v("still", s.still, "Share of sampled moments with motion under 0.5, 0 to 1");
    v("duplicates", s.duplicates, "Share of frames that repeat the one before, 0 to 1");
    v("learned", s.learned, "Scores of networks that the user supplied");
  }
};

struct ProbeFacts {
  int64_t bytes = 0;
  std::string fingerprint;
  int64_t width = 0;
  int64_t height = 0;
  double fps = 0;
  int64_t frames = 0;
  double seconds = 0;
  std::string codec;
  std::string pixel_format;
  int64_t rotation = 0;
  bool interlaced = false;
  std::string hdr;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("bytes", s.bytes, "Size of the file");
    v("fingerprint", s.fingerprint, "Hash of the file's size and of samples of its content");
    v("width", s.width, "Upright picture width");
    v("height", s.height, "Upright picture height");
    v("fps", s.fps, "Frames a second, as the container says (an average for variable rates)");
    v("frames", s.frames, "Frames, as the container says or by the duration");
    v("seconds", s.seconds, "Duration, as the container says");
    v("codec", s.codec, "Codec");
    v("pixel_format", s.pixel_format, "FFmpeg's name of the pixel format");
    v("rotation", s.rotation, "Degrees clockwise that pictures are turned by");
    v("interlaced", s.interlaced, "By the stream's field order");
    v("hdr", s.hdr, "pq, hlg or empty; HDR is tone-mapped");
  }
};

// What decoding from end to end showed.
struct DecodeFacts {
  int64_t frames = 0;
  double seconds = 0;
  double shortest_frame = 0;
  double longest_frame = 0;
  bool variable_rate = false;
  int64_t damaged = 0;
  int64_t backward = 0;
  double interlaced = 0;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("frames", s.frames, "Frames that could be decoded");
    v("seconds", s.seconds, "From the first frame's start to the last one's end");
    v("shortest_frame", s.shortest_frame, "Seconds");
    v("longest_frame", s.longest_frame, "Seconds");
    v("variable_rate", s.variable_rate, "Frames last differently long (beyond a millisecond and 10 %)");
    v("damaged", s.damaged, "Packets and frames skipped or decoded with errors");
    v("backward", s.backward, "Times that time stamps run backwards");
    v("interlaced", s.interlaced, "Share of frames flagged as interlaced");
  }
};

struct BoundaryRecord {
  int64_t frame = 0;
  double seconds = 0;
  std::string kind;
  int64_t begin = 0;
  int64_t end = 0;
  double confidence = 0;
  bool overlapped = false;
  bool content = false;
  bool gradual = false;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("frame", s.frame, "First frame of the new shot");
    v("seconds", s.seconds, "Its time");
    v("kind", s.kind, "cut, fade, dissolve or another word of the detector");
    v("begin", s.begin, "First frame of the transition");
    v("end", s.end, "Frame after the transition (begin and end are equal in a cut)");
    v("confidence", s.confidence, "0 to 1");
    v("overlapped", s.overlapped, "The shots overlap here: frames are trimmed");
    v("content", s.content, "The content detector found it");
    v("gradual", s.gradual, "The detector of gradual transitions found it");
  }
};

struct TextRecord {
  PixelBox box;
  std::string kind;
  std::string text;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("box", s.box, "Where");
    v("kind", s.kind, "subtitle or watermark");
    v("text", s.text, "As read; empty for a picture mark");
  }
};

struct ShotRecord {
  int64_t begin_frame = 0;
  int64_t end_frame = 0;
  double begin = 0;
  double end = 0;
  std::optional<Scores> scores;
  std::vector<int64_t> colours;
  std::string thumbnails;
  std::vector<TextRecord> text;
  std::optional<PixelBox> crop;
  std::string caption;
  std::string caption_from;
  std::optional<Drop> dropped;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("begin_frame", s.begin_frame, "First frame, transitions left out");
    v("end_frame", s.end_frame, "Frame after the last");
    v("begin", s.begin, "Time of the first frame");
    v("end", s.end, "Time of end_frame");
    v("scores", s.scores, "Scores of the shot");
    v("colours", s.colours, "Histogram over 72 colours, in thousandths: tells scenes apart");
    v("thumbnails", s.thumbnails, "Picture strip, relative to the output folder");
    v("text", s.text, "Burnt-in text and marks");
    v("crop", s.crop, "The part of the picture that is used");
    v("caption", s.caption, "What the shot shows");
    v("caption_from", s.caption_from, "sidecar, the model's name, or none");
    v("dropped", s.dropped, "Why it is not used");
  }
};

// A caption of several neighbouring shots, or of the whole video.
struct WideCaption {
  int64_t first_shot = 0;
  int64_t end_shot = 0;
  std::string text;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("first_shot", s.first_shot, "Index of the first shot");
    v("end_shot", s.end_shot, "Index after the last shot");
    v("text", s.text, "The caption");
  }
};

struct FilmShot {
  int64_t shot = 0;
  double begin = 0;
  int64_t first_frame = 0;
  int64_t frames = 0;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("shot", s.shot, "Index into the video's shots");
    v("begin", s.begin, "Time in the video of the first frame used");
    v("first_frame", s.first_frame, "First frame in the film: 0 or 4n + 1");
    v("frames", s.frames, "Frames in the film: 4n + 1 in the first shot, 4n in the others");
  }
};

struct FilmRecord {
  std::string name;
  double fps = 0;
  int64_t width = 0;
  int64_t height = 0;
  int64_t frames = 0;
  std::string caption;
  std::vector<FilmShot> shots;
  std::vector<std::string> files;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("name", s.name, "File name without extension");
    v("fps", s.fps, "Frames a second");
    v("width", s.width, "Pixels");
    v("height", s.height, "Pixels");
    v("frames", s.frames, "4n + 1");
    v("caption", s.caption, "Of the whole film");
    v("shots", s.shots, "Its shots");
    v("files", s.files, "Written files, relative to the output folder");
  }
};

struct CaptionCosts {
  int64_t requests = 0;
  int64_t failures = 0;
  int64_t prompt_tokens = 0;
  int64_t answer_tokens = 0;
  double cost = 0;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("requests", s.requests, "Captions that a model wrote, now or in an earlier run");
    v("failures", s.failures, "Captions that could not be had");
    v("prompt_tokens", s.prompt_tokens, "As the endpoint reports");
    v("answer_tokens", s.answer_tokens, "As the endpoint reports");
    v("cost", s.cost, "By the prices of the config");
  }
};

struct VideoRecord {
  int64_t version = kManifestVersion;
  std::string id;
  std::string path;
  std::optional<Drop> dropped;
  ProbeFacts probe;
  std::optional<DecodeFacts> decoded;
  std::optional<Scores> scores;
  std::optional<PixelBox> content;
  std::string thumbnails;
  std::vector<BoundaryRecord> boundaries;
  std::vector<ShotRecord> shots;
  std::vector<TextRecord> marks;
  std::string size;
  std::vector<WideCaption> captions;
  std::optional<CaptionCosts> caption_costs;
  std::vector<FilmRecord> films;
  std::vector<std::string> notes;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("version", s.version, "Of this format");
    v("id", s.id, "Names the video's files: its name and a hash");
    v("path", s.path, "The video");
    v("dropped", s.dropped, "Why the whole video is not used");
    v("probe", s.probe, "probe: what the container says");
    v("decoded", s.decoded, "score: what decoding showed");
    v("scores", s.scores, "score: scores of the whole video");
    v("content", s.content, "score: the picture without black borders");
    v("thumbnails", s.thumbnails, "score: picture strip");
    v("boundaries", s.boundaries, "split: shot boundaries");
    v("shots", s.shots, "split and later: the shots");
    v("marks", s.marks, "text: marks that stand all through the video");
    v("size", s.size, "crop: size bucket of its films");
    v("captions", s.captions, "caption: captions of several shots");
    v("caption_costs", s.caption_costs, "caption: what they cost");
    v("films", s.films, "merge and write: training films");
    v("notes", s.notes, "Things worth knowing, such as damage");
  }

  // The length by the best knowledge there is.
  double seconds() const { return decoded ? decoded->seconds : probe.seconds; }
};

// Every key of a record with its meaning, a line each, for people.
std::string manifest_schema();

std::string record_to_line(const VideoRecord& record);
// Throws Error, beginning with `where`, if the line is no record of this version.
VideoRecord line_to_record(const std::string& line, const std::string& where);

// One line at a time. Throws Error if the file is missing or a line is no record.
class ManifestReader {
 public:
  explicit ManifestReader(const std::filesystem::path& path);
  std::optional<VideoRecord> next();

 private:
  std::filesystem::path path_;
  std::ifstream stream_;
  int64_t line_ = 0;
};

}  // namespace moga
