// A film before decoding: latents with everything needed to decode, label and regenerate it.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "base/config.h"
#include "script/film_script.h"

namespace moga {

// Everything that decides a film's pixels, apart from the machine.
struct FilmSettings {
  int64_t width = 0;
  int64_t height = 0;
  double fps = 0;
  uint64_t seed = 0;
  std::string solver = "euler";
  int64_t steps = 0;
  double guidance = 0;
  double shift = 0;
  std::string passes = "separate";  // of guidance
  std::string negative;             // prompt that guidance leads away from
  std::string first_frame;          // hash of the given first frame as it was used; empty if there is none
  std::string attention;            // visual attention: moga, full, static, dynamic
  std::string model;                // name
  std::string model_fingerprint;    // of the weights
  std::string model_folder;         // where they were
  std::string device = "cpu";

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("width", s.width, "Picture width in pixels");
    v("height", s.height, "Picture height in pixels");
    v("fps", s.fps, "Frames a second");
    v("seed", s.seed, "Seed of the noise");
    v("solver", s.solver, "Solver");
    v("steps", s.steps, "Denoising steps");
    v("guidance", s.guidance, "Classifier-free guidance");
    v("shift", s.shift, "Flow shift");
    v("passes", s.passes, "Guidance in separate or batched passes");
    v("negative", s.negative, "Negative prompt");
    v("first_frame", s.first_frame, "Hash of the given first frame; empty: none");
    v("attention", s.attention, "Visual attention");
    v("model", s.model, "Model name");
    v("model_fingerprint", s.model_fingerprint, "Hash of the model's files");
    v("model_folder", s.model_folder, "Model folder");
    v("device", s.device, "cpu or cuda");
  }
};

struct FilmLatents {
  FilmSettings settings;
  FilmScript script;
  int64_t steps_done = 0;     // settings.steps when finished
  torch::Tensor latent_ZFHW;  // float32, normalised; the noisy sample while unfinished
  // What a multistep solver remembers of earlier steps, by name; empty when finished.
  std::map<std::string, torch::Tensor> solver_memory;
  torch::Tensor groups_NFYX;  // uint8 group of each token, one map a layer; undefined if not kept
  int64_t group_step = 0;     // the denoising step that groups_NFYX is from
};

// Written atomically as safetensors with JSON metadata.
void write_film_latents(const std::filesystem::path& path, const FilmLatents& film);
// Throws Error naming the file if it is missing, damaged, or no latents of ours.
FilmLatents read_film_latents(const std::filesystem::path& path);

}  // namespace moga
