// What `moga prepare --config` reads. One field visitor drives parsing, checks and --explain.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/config.h"
#include "data/shots.h"
#include "data/text_regions.h"

namespace moga {

struct LearnedScoreConfig {
  std::string name;
  std::string file;
  int64_t width = 224;
  int64_t height = 224;
  std::vector<double> mean = {0, 0, 0};
  std::vector<double> std = {1, 1, 1};
  bool expectation = false;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("name", s.name, "Name of the score, for limits and reports");
    v("file", s.file, "ONNX file; input [1, 3, height, width], RGB");
    v("width", s.width, "Pictures are scaled to this width");
    v("height", s.height, "Pictures are scaled to this height");
    v("mean", s.mean, "Subtracted from red, green and blue of 0 to 1");
    v("std", s.std, "Then divided by");
    v("expectation", s.expectation,
      "false: the output's first number is the score; true: the output is a distribution over 1, 2, 3, ... "
      "and its "
      "mean is the score");
  }
};

struct ScoreConfig {
  double samples_a_second = 2;
  std::vector<LearnedScoreConfig> learned;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("samples_a_second", s.samples_a_second, "Frames that are scored a second of video");
    v("learned", s.learned, "Networks that score pictures: aesthetics, technical quality");
  }
};

struct Limit {
  std::string score;
  std::optional<double> min;
  std::optional<double> max;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("score", s.score, "A score's name, or seconds, width, height, fps, bytes, damaged, interlaced");
    v("min", s.min, "Smaller values are dropped");
    v("max", s.max, "Larger values are dropped");
  }
};

struct SourceLimits {
  std::string match;
  std::vector<Limit> video;
  std::vector<Limit> shot;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("match", s.match, "Videos whose path fits this pattern (* and ?), such as */news/*");
    v("video", s.video, "Limits of whole videos, in place of those of the same score");
    v("shot", s.shot, "Limits of shots, in place of those of the same score");
  }
};

struct FilterConfig {
  // Measured on real clips and damaged versions of them: docs/data.md.
  std::vector<Limit> video = {{"seconds", 2, {}},      {"width", 64, {}},        {"height", 64, {}},
                              {"sharpness", 5, {}},    {"clipped_low", {}, 0.5}, {"clipped_high", {}, 0.15},
                              {"contrast", 12, {}},    {"noise", {}, 3.5},       {"still", {}, 0.8},
                              {"duplicates", {}, 0.4}, {"damaged", {}, 0.02},    {"interlaced", {}, 0.5}};
  std::vector<Limit> shot = {{"sharpness", 4, {}}, {"clipped_low", {}, 0.7}, {"clipped_high", {}, 0.3},
                             {"contrast", 10, {}}, {"noise", {}, 6},         {"still", {}, 0.95}};
  std::vector<SourceLimits> sources;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("video", s.video, "Limits of whole videos (strict); a list given here replaces this one");
    v("shot", s.shot, "Limits of shots (relaxed); a list given here replaces this one");
    v("sources", s.sources, "Other limits for videos from some places");
  }
};

struct SplitConfig {
  ShotSettings detector;
  int64_t trim_frames = 2;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("detector", s.detector, "How boundaries are found");
    v("trim_frames", s.trim_frames, "Frames taken off beside an overlapped boundary, besides its extent");
  }
};

struct TextConfig {
  bool enabled = true;
  int64_t frames = 4;
  int64_t video_frames = 24;
  double min_share = 0.5;
  TextSettings ocr;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("enabled", s.enabled, "Look for burnt-in text and marks, and crop them off");
    v("frames", s.frames, "Frames of a shot that are read for subtitles");
    v("video_frames", s.video_frames, "Frames of a video that are searched for watermarks");
    v("min_share", s.min_share,
      "Shots are dropped if the crop would leave less of the picture than this share");
    v("ocr", s.ocr, "How text is found");
  }
};

struct CaptionConfig {
  bool sidecars = true;
  std::string table;
  std::string endpoint;
  std::string model;
  std::string api_key_env = "OPENAI_API_KEY";
  int64_t frames = 4;
  int64_t width = 512;
  std::string prompt =
      "These are {frames} frames in order from one shot of {seconds} seconds. Describe in one paragraph of "
      "at most 60 "
      "words what the shot shows: who or what, what they do, where, the light, and the camera's framing and "
      "movement. "
      "Do not mention frames or images.";
  std::string film_prompt =
      "These are the captions of consecutive shots of one film. Describe the whole film in one paragraph of "
      "at most 60 "
      "words: who or what it is about (with the looks that stay the same), where, and the "
      "style.\n\n{captions}";
  double temperature = 0.2;
  int64_t max_tokens = 200;
  int64_t concurrency = 4;
  double timeout_seconds = 120;
  int64_t retries = 5;
  double backoff_seconds = 1;
  int64_t give_up_after = 20;
  double price_in = 0;
  double price_out = 0;
  std::string fallback = "A shot of a film.";

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("sidecars", s.sidecars, "Take captions from NAME.txt, NAME.csv or NAME.jsonl beside each video");
    v("table", s.table,
      "One CSV or JSONL file with the captions of all videos (columns video, start, end, caption)");
    v("endpoint", s.endpoint,
      "OpenAI-compatible chat endpoint that sees images, such as http://localhost:8080/v1/chat/completions; "
      "empty: "
      "none");
    v("model", s.model, "Model's name, as the endpoint knows it");
    v("api_key_env", s.api_key_env, "Environment variable with the endpoint's key, if it wants one");
    v("frames", s.frames, "Frames of a shot that the model sees");
    v("width", s.width, "Width of those frames in pixels");
    v("prompt", s.prompt,
      "What the model is asked about a shot; knows {frames}, {seconds}, {shot}, {shots}, {video}");
    v("film_prompt", s.film_prompt,
      "What it is asked about a film of several shots; knows {captions}, {shots}, {video}; empty: do not "
      "ask");
    v("temperature", s.temperature, "Sampling temperature");
    v("max_tokens", s.max_tokens, "Longest answer");
    v("concurrency", s.concurrency, "Requests at a time");
    v("timeout_seconds", s.timeout_seconds, "Longest wait for one answer");
    v("retries", s.retries, "Further attempts after a timeout, 408, 429, 5xx or a broken answer");
    v("backoff_seconds", s.backoff_seconds,
      "Wait before the first further attempt; doubles each time, up to a minute");
    v("give_up_after", s.give_up_after, "Stop the run after this many failed captions in a row");
    v("price_in", s.price_in, "Price of a million prompt tokens, for the report");
    v("price_out", s.price_out, "Price of a million answer tokens");
    v("fallback", s.fallback,
      "Caption of shots without one where there is no endpoint; empty: such shots are dropped");
  }
};

struct FilmConfig {
  double fps = 16;
  std::vector<std::string> sizes = {"832x480", "480x832", "624x624"};
  double max_seconds = 65;
  int64_t min_shots = 2;
  double min_shot_seconds = 1;
  double scene_similarity = 0.3;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("fps", s.fps, "Frames a second of training films");
    v("sizes", s.sizes,
      "Size buckets, WIDTHxHEIGHT, multiples of 16; a video takes the one nearest to its shape");
    v("max_seconds", s.max_seconds, "Longest film");
    v("min_shots", s.min_shots, "Fewest shots of a film");
    v("min_shot_seconds", s.min_shot_seconds, "Shorter shots are dropped");
    v("scene_similarity", s.scene_similarity,
      "A shot joins its neighbours if its colours agree this much with one of the last three shots, 0 to 1; "
      "0: all "
      "neighbours are joined");
  }
};

enum class WriteForm { kVideo, kLatents, kBoth };
template <>
struct EnumNames<WriteForm> {
  static constexpr std::array<std::pair<WriteForm, const char*>, 3> kNames = {
      {{WriteForm::kVideo, "video"}, {WriteForm::kLatents, "latents"}, {WriteForm::kBoth, "both"}}};
};

struct WriteConfig {
  WriteForm form = WriteForm::kVideo;
  std::string model;
  int64_t crf = 16;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("form", s.form, "video (MP4), latents (through the VAE of `model`), or both");
    v("model", s.model, "Model folder whose VAE makes latents");
    v("crf", s.crf, "x264's quality of MP4 files, 0 (lossless) to 51");
  }
};

struct PrepareConfig {
  int64_t jobs = 0;
  ScoreConfig score;
  FilterConfig filter;
  SplitConfig split;
  TextConfig text;
  CaptionConfig caption;
  FilmConfig film;
  WriteConfig write;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("jobs", s.jobs, "Videos at a time; 0: one a core");
    v("score", s.score, "Scores of pictures");
    v("filter", s.filter, "What is dropped");
    v("split", s.split, "Shot boundaries");
    v("text", s.text, "Subtitles and watermarks");
    v("caption", s.caption, "Captions");
    v("film", s.film, "Training films");
    v("write", s.write, "Files");
  }
};

// Throws one Error for the first value that cannot work: unknown scores in limits, sizes that are no
// multiples of 16, missing files, prices below zero. Names the key.
void check_config(const PrepareConfig& config);

struct Size {
  int64_t width = 0;
  int64_t height = 0;
};
// "832x480" -> {832, 480}; Error naming `key` unless both are multiples of 16 from 16 to 8192.
Size parse_size(const std::string& text, const std::string& key);

}  // namespace moga
