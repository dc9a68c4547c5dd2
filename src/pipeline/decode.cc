#include "pipeline/decode.h"

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/threads.h"
#include "media/frame_tensor.h"
#include "media/picture.h"
#include "media/video.h"
#include "model/model_folder.h"
#include "model/vae_tiling.h"

namespace moga {

namespace fs = std::filesystem;

fs::path groups_path(const fs::path& output) {
  const std::string stem = output.stem().string();
  const std::string name = stem.rfind("film", 0) == 0 ? "groups" + stem.substr(4) : stem + ".groups";
  return output.parent_path() / (name + output.extension().string());
}

std::string film_comment(const FilmLatents& latents) {
  nlohmann::ordered_json comment;
  comment["made_by"] = "moga";
  comment["seed"] = latents.settings.seed;
  comment["settings"] = config_to_json(latents.settings);
  comment["script"] = script_to_yaml(latents.script);
  return comment.dump();
}

namespace {

constexpr int kThumbnails = 4;  // pictures a shot on a contact sheet

// Collects evenly spread frames of each shot while a film streams by.
class SheetMaker {
 public:
  explicit SheetMaker(const FilmScript& script) : script_(script), rows_(script.shots.size()) {
    for (size_t i = 0; i < rows_.size(); ++i) {
      const Shot& shot = script.shots[i];
      rows_[i].heading = fmt::format("Shot {}   {:.1f} s to {:.1f} s", i + 1,
                                     static_cast<double>(shot.first_frame) / script.fps,
                                     static_cast<double>(shot.first_frame + shot.frame_count) / script.fps);
      rows_[i].caption = shot.text;
    }
  }
  void add(int64_t frame, const cv::Mat& picture) {
    for (size_t i = 0; i < rows_.size(); ++i) {
      const Shot& shot = script_.shots[i];
      for (int j = 0; j < kThumbnails; ++j) {
        if (frame == shot.first_frame + (shot.frame_count - 1) * j / (kThumbnails - 1)) {
          rows_[i].frames.push_back(picture.clone());
        }
      }
    }
  }
  void write(const fs::path& path, const std::string& title) const {
    write_png(path, contact_sheet(title, rows_));
  }

 private:
  const FilmScript& script_;
  std::vector<ContactRow> rows_;
};

std::vector<int64_t> frame_groups_of(const torch::Tensor& map_FYX, int64_t latent_frame) {
  const torch::Tensor ids = map_FYX[latent_frame].to(torch::kInt64).contiguous();
  return {ids.data_ptr<int64_t>(), ids.data_ptr<int64_t>() + ids.numel()};
}

std::optional<VaeTiling> vae_tiling(std::optional<int64_t> pixels) {
  if (!pixels) {
    return std::nullopt;
  }
  MOGA_CHECK(*pixels >= 64 && *pixels % 32 == 0,
             "a VAE tile must have a side of at least 64 pixels divisible by 32, found {}", *pixels);
  return VaeTiling{*pixels / 8, *pixels / 32};  // neighbours share a quarter
}

}  // namespace

int64_t decode_piece(int64_t width, int64_t height) {
  constexpr int64_t kSmall = 256 * 256;
  return width * height <= kSmall ? 2 : 1;
}

DecodedFilm decode_film(const FilmLatents& latents, const DecodeRequest& request, torch::Device device) {
  const torch::NoGradGuard guard;
  const FilmSettings& settings = latents.settings;
  MOGA_CHECK(latents.steps_done == settings.steps,
             "these latents stopped after step {} of {}; finish them with --resume", latents.steps_done,
             settings.steps);
  const ModelFolder model(request.model);
  // Only the VAE decodes: the rest, and adapters, may be elsewhere by now.
  MOGA_CHECK(settings.model_fingerprint.starts_with(model.vae_fingerprint()),
             "{} does not have the VAE of the model that made these latents ({} with fingerprint {})",
             request.model.model.string(), settings.model, settings.model_fingerprint);
  MOGA_CHECK(request.output.extension() == ".mp4", "the film's name must end in .mp4, found '{}'",
             request.output.string());
  release_free_memory();  // of the transformer that has just made these latents
  WanVae vae = model.load_vae(device);
  const FilmScript& script = latents.script;

  DecodedFilm result;
  result.film = request.output;
  result.sheet = fs::path(request.output).replace_extension(".png");
  VideoSettings video;
  video.width = settings.width;
  video.height = settings.height;
  video.fps = settings.fps;
  video.title = script.title;
  video.comment = film_comment(latents);
  VideoWriter writer(result.film, video);
  SheetMaker sheet(script);

  std::optional<VideoWriter> groups_writer;
  std::optional<SheetMaker> groups_sheet;
  torch::Tensor map;
  int64_t layer = 0;
  if (request.groups) {
    MOGA_CHECK(latents.groups_NFYX.defined(),
               "these latents carry no groups; generate with --groups and attention 'moga' or 'dynamic'");
    const int64_t layers = latents.groups_NFYX.size(0);
    layer = request.group_layer.value_or(layers / 2);
    MOGA_CHECK(layer >= 0 && layer < layers, "the group layer must be from 0 to {}, found {}", layers - 1,
               layer);
    map = latents.groups_NFYX[layer];
    result.groups_film = groups_path(result.film);
    result.groups_sheet = fs::path(result.groups_film).replace_extension(".png");
    groups_writer.emplace(result.groups_film, video);
    groups_sheet.emplace(script);
  }

  const int64_t latent_frames = latents.latent_ZFHW.size(1);
  VaeTiledDecodeStream stream(vae, vae_tiling(request.vae_tile));
  Progress progress("decode", script.total_frames(), "frame");
  const int64_t piece = decode_piece(settings.width, settings.height);
  for (int64_t at = 0; at < latent_frames; at += piece) {
    const int64_t end = std::min(latent_frames, at + piece);
    const torch::Tensor pixels =
        stream.next(latents.latent_ZFHW.slice(1, at, end).unsqueeze(0).to(device))[0].to(torch::kCPU);
    for (int64_t i = 0; i < pixels.size(1); ++i, ++result.frames) {
      const cv::Mat picture = tensor_to_image(pixels.select(1, i));
      writer.write(picture);
      sheet.add(result.frames, picture);
      if (groups_writer) {
        const cv::Mat coloured = draw_groups(picture, frame_groups_of(map, latent_of_frame(result.frames)),
                                             map.size(1), map.size(2));
        groups_writer->write(coloured);
        groups_sheet->add(result.frames, coloured);
      }
    }
    progress.advance(pixels.size(1));
  }
  progress.finish();
  const std::string title = script.title.empty() ? "Untitled" : script.title;
  sheet.write(result.sheet, title);
  if (groups_writer) {
    groups_sheet->write(result.groups_sheet,
                        fmt::format("{}: groups of layer {} at step {}", title, layer, latents.group_step));
    groups_writer->finish();
  }
  writer.finish();
  return result;
}

}  // namespace moga
