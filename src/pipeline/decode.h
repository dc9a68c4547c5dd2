// From latents to a film on disk: VAE pieces stream into the encoder, so memory does not grow with length.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <filesystem>
#include <optional>

#include "model/model_parts.h"
#include "pipeline/film_latents.h"

namespace moga {

struct DecodeRequest {
  ModelSource model;
  std::filesystem::path output;        // film.mp4; the contact sheet is film.png beside it
  bool groups = false;                 // also the group pictures, if the latents carry groups
  std::optional<int64_t> group_layer;  // absent: the middle layer
  std::optional<int64_t> vae_tile;     // side of the VAE's tiles in pixels; absent: whole pictures
};

struct DecodedFilm {
  std::filesystem::path film;
  std::filesystem::path sheet;
  std::filesystem::path groups_film;   // empty if not written
  std::filesystem::path groups_sheet;  // empty if not written
  int64_t frames = 0;
};

// "film.mp4" -> "groups.mp4", "film_2.mp4" -> "groups_2.mp4", "dog.mp4" -> "dog.groups.mp4".
std::filesystem::path groups_path(const std::filesystem::path& output);

// Writes the film (H.264, its script, seed, model and settings in the comment tag), a contact sheet, and on
// request the frames coloured by group. Throws Error if the latents are unfinished, the model is another one,
// or nothing can be written; nothing half-written stays.
DecodedFilm decode_film(const FilmLatents& latents, const DecodeRequest& request, torch::Device device);

// Latent frames that are decoded at once. Two of a small picture: eight frames fill the cores of a small
// machine. One of a large picture, which does so by itself and whose activations are what bounds memory.
int64_t decode_piece(int64_t width, int64_t height);

// Latent frame that pixel frame `frame` belongs to.
constexpr int64_t latent_of_frame(int64_t frame) {
  return frame == 0 ? 0 : (frame - 1) / 4 + 1;
}

// The JSON that goes into a film's comment tag.
std::string film_comment(const FilmLatents& latents);

}  // namespace moga
