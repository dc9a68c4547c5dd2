#include "pipeline/film_latents.h"

#include "io/safetensors.h"

namespace moga {

constexpr const char* kSolverPrefix = "solver.";

void write_film_latents(const std::filesystem::path& path, const FilmLatents& film) {
  std::map<std::string, torch::Tensor> tensors = {{"latent", film.latent_ZFHW}};
  if (film.groups_NFYX.defined()) {
    tensors["groups"] = film.groups_NFYX;
  }
  for (const auto& [name, tensor] : film.solver_memory) {
    tensors[kSolverPrefix + name] = tensor;
  }
  write_safetensors(path, tensors,
                    {{"format", "moga film latents 1"},
                     {"settings", config_to_json(film.settings).dump()},
                     {"script", script_to_yaml(film.script)},
                     {"steps_done", std::to_string(film.steps_done)},
                     {"group_step", std::to_string(film.group_step)}});
}

FilmLatents read_film_latents(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  const auto& metadata = file.metadata();
  const auto value = [&](const std::string& key) {
    const auto found = metadata.find(key);
    MOGA_CHECK(found != metadata.end(), "{} holds no film latents: no '{}' in its metadata", path.string(),
               key);
    return found->second;
  };
  MOGA_CHECK(value("format") == "moga film latents 1", "{} is of format '{}', expected 'moga film latents 1'",
             path.string(), value("format"));
  FilmLatents film;
  film.settings = parse_config<FilmSettings>(value("settings"), path.string());
  film.script = parse_script(value("script"), path.string());
  try {
    film.steps_done = std::stoll(value("steps_done"));
    film.group_step = std::stoll(value("group_step"));
  } catch (const std::logic_error&) {
    fail("{}: steps_done and group_step must be numbers", path.string());
  }
  film.latent_ZFHW = file.read("latent");
  MOGA_CHECK(film.latent_ZFHW.dim() == 4 && film.latent_ZFHW.size(1) == film.script.latent_frames(),
             "{}: latents of {} do not fit a film of {} latent frames", path.string(),
             fmt::join(film.latent_ZFHW.sizes(), " x "), film.script.latent_frames());
  if (file.contains("groups")) {
    film.groups_NFYX = file.read("groups");
  }
  for (const auto& [name, info] : file.tensors()) {
    if (name.starts_with(kSolverPrefix)) {
      film.solver_memory[name.substr(std::string_view(kSolverPrefix).size())] = file.read(name);
    }
  }
  return film;
}

}  // namespace moga
