// moga info: what a film is, and the script, seed, model and settings that it was made with.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>

#include "commands.h"
#include "media/film_info.h"

namespace moga {
namespace {

struct InfoRequest {
  std::string film;
  bool json = false;
  bool script = false;
};

void info(const InfoRequest& request) {
  const VideoInfo video = probe_video(request.film);
  std::string text;
  if (request.script) {
    text = film_script_text(video, request.film);
  } else if (request.json) {
    text = film_to_json(video, request.film).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) +
           "\n";
  } else {
    text = describe_film(video, request.film);
  }
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace

void add_info(CLI::App& app) {
  auto request = std::make_shared<InfoRequest>();
  CLI::App* command = app.add_subcommand(
      "info", "Show a film's size, rate and length, and the script and settings it was made with");
  command->add_option("FILM", request->film, "A video file (films that moga generated carry their script)")
      ->required();
  CLI::Option* json = command->add_flag("--json", request->json, "Print everything as JSON");
  command
      ->add_flag("--script", request->script,
                 "Print only the film's script, ready to be generated again (moga info film.mp4 --script > "
                 "again.yaml)")
      ->excludes(json);
  command->callback([request] { info(*request); });
}

}  // namespace moga
