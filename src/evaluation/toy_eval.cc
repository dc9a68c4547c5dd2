#include "evaluation/toy_eval.h"

#include <chrono>

#include "base/error.h"
#include "base/progress.h"
#include "data/cuts.h"
#include "evaluation/judge.h"
#include "media/frame_tensor.h"
#include "model/model_folder.h"
#include "pipeline/generate.h"

namespace moga {

namespace {

ToyFilmSettings film_settings(const ToyEvalRequest& request, const ModelConfig& config) {
  ToyFilmSettings settings;
  settings.width = config.width;
  settings.height = config.height;
  settings.fps = config.fps;
  settings.min_shots = request.min_shots;
  settings.max_shots = request.max_shots;
  settings.min_frames = request.frames;
  settings.max_frames = request.frames;
  return settings;
}

std::vector<cv::Mat> decode_frames(WanVae& vae, const torch::Tensor& latent_ZFHW, torch::Device device) {
  VaeDecodeStream stream(vae);
  std::vector<cv::Mat> frames;
  constexpr int64_t kPiece = 4;
  for (int64_t at = 0; at < latent_ZFHW.size(1); at += kPiece) {
    const torch::Tensor piece = latent_ZFHW.slice(1, at, std::min(at + kPiece, latent_ZFHW.size(1)));
    const torch::Tensor pixels = stream.next(piece.unsqueeze(0).to(device))[0].to(torch::kCPU);
    for (int64_t i = 0; i < pixels.size(1); ++i) {
      frames.push_back(tensor_to_image(pixels.select(1, i)));
    }
  }
  return frames;
}

double psnr_of_true_films(WanVae& vae, const ToyEvalRequest& request, const ToyFilmSettings& settings,
                          torch::Device device) {
  double sum = 0;
  Progress progress("VAE", request.vae_films, "film");
  for (int64_t i = 0; i < request.vae_films; ++i) {
    const ToyFilm film = make_toy_film(request.first_seed + static_cast<uint64_t>(i), settings);
    std::vector<torch::Tensor> tensors;
    std::vector<cv::Mat> truth;
    for (int64_t f = 0; f < film.total_frames(); ++f) {
      truth.push_back(draw_toy_frame(film, f, settings));
      tensors.push_back(image_to_tensor(truth.back()));
    }
    const torch::Tensor video = bytes_to_unit(torch::stack(tensors, 1)).unsqueeze(0).to(device);
    const std::vector<cv::Mat> decoded = decode_frames(vae, vae->encode(video)[0], device);
    double squared = 0;
    for (size_t f = 0; f < truth.size(); ++f) {
      squared += std::pow(cv::norm(truth[f], decoded[f], cv::NORM_L2), 2);
    }
    const double values = static_cast<double>(truth.size() * truth[0].total() * 3);
    sum += 10 * std::log10(255.0 * 255.0 / std::max(1e-12, squared / values));
    progress.advance();
  }
  return sum / static_cast<double>(request.vae_films);
}

void judge_shots(const ToyFilm& film, const std::vector<cv::Mat>& frames, const Judge& judge,
                 ToyEvalResult& result) {
  for (const ToyShot& shot : film.shots) {
    std::vector<cv::Mat> seen;
    for (const int64_t frame : judged_frames(shot.first_frame, shot.frame_count)) {
      seen.push_back(frames[static_cast<size_t>(frame)]);
    }
    const Looks found = judge.read_looks(seen);
    const Looks& wanted = film.characters[static_cast<size_t>(shot.character)].looks;
    Tally& single = shot.introduces ? result.told : result.remembered;
    Tally& all = shot.introduces ? result.told_all : result.remembered_all;
    int right = 0;
    for (size_t a = 0; a < found.size(); ++a) {
      right += found[a] == wanted[a] ? 1 : 0;
    }
    single.right += right;
    single.count += kAttributeCount;
    all.right += right == kAttributeCount ? 1 : 0;
    ++all.count;
  }
}

void judge_cuts(const ToyFilm& film, const std::vector<cv::Mat>& frames, ToyEvalResult& result) {
  std::vector<int64_t> expected;
  for (const ToyShot& shot : film.shots) {
    if (shot.first_frame > 0) {
      expected.push_back(shot.first_frame);
    }
  }
  const CutScore score = score_cuts(detect_cuts(frames), expected, /*tolerance=*/1);
  result.cuts.right += score.matched;
  result.cuts.count += score.expected;
  result.false_cuts += score.found - score.matched;
}

}  // namespace

ToyEvalResult evaluate_toy(const ToyEvalRequest& request, torch::Device device) {
  const torch::NoGradGuard guard;
  MOGA_CHECK(request.films >= 1 && request.vae_films >= 0,
             "expected at least one film to generate, found {}, and none or more for the VAE, found {}",
             request.films, request.vae_films);
  const ModelFolder model(request.model);
  const ToyFilmSettings settings = film_settings(request, model.config());
  Judge judge = Judge::load(request.judge.empty() ? model.part("judge.safetensors") : request.judge);
  judge.to(device);
  WanVae vae = model.load_vae(device);
  ToyEvalResult result;
  result.vae_films = request.vae_films;
  if (request.vae_films > 0) {
    result.vae_psnr_db = psnr_of_true_films(vae, request, settings, device);
  }
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < request.films; ++i) {
    const ToyFilm film = make_toy_film(request.first_seed + static_cast<uint64_t>(i), settings);
    GenerateRequest generate;
    generate.script = film.script;
    generate.model = request.model;
    generate.output = request.work / fmt::format("film_{:04d}.mp4", i);
    generate.seed = film.seed;
    generate.steps = request.steps;
    generate.guidance = request.guidance;
    generate.attention = request.attention;
    const FilmLatents latents = sample_film(generate, device);
    std::filesystem::remove(latents_path(generate.output));
    const std::vector<cv::Mat> frames = decode_frames(vae, latents.latent_ZFHW, device);
    judge_shots(film, frames, judge, result);
    judge_cuts(film, frames, result);
  }
  result.seconds_a_film = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() /
                          static_cast<double>(request.films);
  return result;
}

nlohmann::ordered_json toy_eval_json(const ToyEvalResult& result) {
  const auto tally = [](const Tally& t) {
    return nlohmann::ordered_json{{"right", t.right}, {"count", t.count}, {"share", t.share()}};
  };
  return {{"vae_psnr_db", result.vae_films > 0 ? nlohmann::ordered_json(result.vae_psnr_db) : nullptr},
          {"vae_films", result.vae_films},
          {"told_attributes", tally(result.told)},
          {"told_shots", tally(result.told_all)},
          {"remembered_attributes", tally(result.remembered)},
          {"remembered_shots", tally(result.remembered_all)},
          {"cuts", tally(result.cuts)},
          {"false_cuts", result.false_cuts},
          {"seconds_a_film", result.seconds_a_film}};
}

std::string toy_eval_text(const ToyEvalResult& result) {
  const auto line = [](const char* name, const Tally& t) {
    return fmt::format("{:<52} {:6.1f} %   {} of {}\n", name, 100 * t.share(), t.right, t.count);
  };
  const std::string vae =
      result.vae_films == 0 ? ""
                            : fmt::format("{:<52} {:6.2f} dB  {} films\n", "VAE reconstruction of true films",
                                          result.vae_psnr_db, result.vae_films);
  return vae + line("attributes told in the shot's own caption", result.told) +
         line("  shots with all of them right", result.told_all) +
         line("identity: attributes told only earlier", result.remembered) +
         line("  shots with all of them right", result.remembered_all) +
         line("cuts within one frame of the script's", result.cuts) +
         fmt::format("{:<52} {:6}\n{:<52} {:6.1f} s\n", "cuts that the script does not have",
                     result.false_cuts, "time a film", result.seconds_a_film);
}

}  // namespace moga
