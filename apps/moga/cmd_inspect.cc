// moga inspect: what a checkpoint is, without reading its weights.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>

#include "commands.h"
#include "model/inspect.h"

namespace moga {
namespace {

struct InspectRequest {
  std::string path;
  bool json = false;
};

void inspect(const InspectRequest& request) {
  const auto facts = inspect_checkpoint(request.path);
  const std::string text = request.json
                               ? facts.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"
                               : describe_checkpoint(facts);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto request = std::make_shared<InspectRequest>();
  CLI::App* command = app.add_subcommand(
      "inspect",
      "Show what a checkpoint is: a model folder (moga, Wan, diffusers), a file of weights, or a LoRA.\n"
      "Prints its sizes, tensors and dtypes, the official name of every tensor, and what is missing,\n"
      "unexpected or of another shape. Reads headers only, so it is quick for any size.");
  command
      ->add_option("PATH", request->path,
                   "Folder, .safetensors, .safetensors.index.json, or a PyTorch state dict (.pth, .pt, .bin)")
      ->required();
  command->add_flag("--json", request->json, "Print everything as JSON");
  command->callback([request] { inspect(*request); });
}

}  // namespace moga
