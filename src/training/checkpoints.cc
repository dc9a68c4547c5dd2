#include "training/checkpoints.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/fingerprint.h"
#include "base/log.h"
#include "io/safetensors.h"

namespace moga {

namespace fs = std::filesystem;

namespace {

constexpr const char* kCheckpointFormat = "moga checkpoint 1";
constexpr std::string_view kCheckpointPrefix = "checkpoint-";

std::optional<int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kCheckpointPrefix)) {
    return std::nullopt;
  }
  const std::string digits = name.substr(kCheckpointPrefix.size());
  if (digits.empty() || digits.size() > 18 || digits.find_first_not_of("0123456789") != std::string::npos) {
    return std::nullopt;
  }
  return std::stoll(digits);
}

// state.json guards the other files with their fingerprints, and itself with a hash of its text.
std::string with_check(nlohmann::ordered_json state) {
  state["check"] = content_hash(state.dump());
  return state.dump(1) + "\n";
}

RunCheckpoint read_checkpoint(const fs::path& folder) {
  const fs::path file = folder / "state.json";
  auto state = nlohmann::ordered_json::parse(read_file(file), nullptr, false);
  MOGA_CHECK(state.is_object() && state.contains("check"), "{} is damaged", file.string());
  const auto check = state["check"];
  state.erase("check");
  MOGA_CHECK(check == content_hash(state.dump()), "{} is damaged", file.string());
  MOGA_CHECK(state["format"] == kCheckpointFormat, "{} has format '{}', expected '{}'", file.string(),
             state["format"].dump(), kCheckpointFormat);
  RunCheckpoint checkpoint;
  checkpoint.folder = folder;
  checkpoint.step = state["step"];
  for (const auto& [name, fingerprint] : state["files"].items()) {
    const fs::path path = folder / (name + ".safetensors");
    MOGA_CHECK(fs::exists(path), "{} is missing", path.string());
    MOGA_CHECK(fingerprint == file_fingerprint(path), "{} is not what was written", path.string());
    checkpoint.sets[name] = SafetensorsFile(path).read_all();
  }
  checkpoint.state = state["state"];
  return checkpoint;
}

}  // namespace

Checkpoints::Checkpoints(fs::path work, int64_t keep) : work_(std::move(work)), keep_(keep) {
  MOGA_CHECK(keep >= 1, "keep_checkpoints must be at least 1, found {}", keep);
  std::error_code error;
  fs::create_directories(work_, error);
  MOGA_CHECK(!error, "cannot create the folder {}: {}", work_.string(), error.message());
  const fs::path lock = work_ / ".lock";
  lock_ = ::open(lock.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644);
  MOGA_CHECK(lock_ >= 0, "cannot write {}: {}", lock.string(), std::strerror(errno));
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    ::close(lock_);
    fail("another run is training in {}; wait for it, or give this one a work folder of its own",
         work_.string());
  }
  for (const auto& entry : fs::directory_iterator(work_)) {
    const std::string name = entry.path().filename().string();
    const bool unfinished = name.starts_with("." + std::string(kCheckpointPrefix)) && name.ends_with(".tmp");
    const bool replaced = name.ends_with(".old") && step_of(name.substr(0, name.size() - 4));
    if (unfinished || replaced) {
      fs::remove_all(entry.path());
    }
  }
}

Checkpoints::~Checkpoints() {
  ::close(lock_);
}

std::vector<int64_t> Checkpoints::steps() const {
  std::vector<int64_t> steps;
  for (const auto& entry : fs::directory_iterator(work_)) {
    if (const auto step = step_of(entry.path().filename().string()); step && entry.is_directory()) {
      steps.push_back(*step);
    }
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

fs::path Checkpoints::folder(int64_t step) const {
  return work_ / fmt::format("{}{:08}", kCheckpointPrefix, step);
}

void Checkpoints::save(const RunCheckpoint& checkpoint) {
  AtomicFolder folder(this->folder(checkpoint.step));
  nlohmann::ordered_json state = {{"format", kCheckpointFormat},
                                  {"step", checkpoint.step},
                                  {"state", checkpoint.state},
                                  {"files", nlohmann::ordered_json::object()}};
  for (const auto& [name, tensors] : checkpoint.sets) {
    const fs::path file = folder.path() / (name + ".safetensors");
    write_safetensors(file, tensors);
    state["files"][name] = file_fingerprint(file);
  }
  write_file_atomic(folder.path() / "state.json", with_check(state));
  folder.commit();
  std::vector<int64_t> all = steps();
  for (size_t i = 0; i + static_cast<size_t>(keep_) < all.size(); ++i) {
    std::error_code ignored;  // one too many does no harm
    fs::remove_all(this->folder(all[i]), ignored);
  }
}

std::optional<RunCheckpoint> Checkpoints::load_newest() const {
  const std::vector<int64_t> all = steps();
  std::string first_problem;
  for (auto step = all.rbegin(); step != all.rend(); ++step) {
    try {
      return read_checkpoint(folder(*step));
    } catch (const Error& error) {
      spdlog::warn("the checkpoint of step {} cannot be used ({}); trying the one before", *step,
                   error.what());
      first_problem = first_problem.empty() ? error.what() : first_problem;
    }
  }
  MOGA_CHECK(all.empty(), "none of the {} checkpoints in {} can be used ({}); remove them to start anew",
             all.size(), work_.string(), first_problem);
  return std::nullopt;
}

}  // namespace moga
