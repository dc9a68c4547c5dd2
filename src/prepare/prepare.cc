#include "prepare/prepare.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <opencv2/core/utility.hpp>
#include <set>
#include <thread>

#include "base/atomic_file.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/threads.h"
#include "prepare/exports.h"
#include "prepare/manifest.h"
#include "prepare/report.h"
#include "prepare/stages.h"

namespace moga {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

namespace {

// Held while a run works in the folder; the system lets go of it when the process ends, however it ends.
class FolderLock {
 public:
  explicit FolderLock(const fs::path& folder) {
    std::error_code error;
    fs::create_directories(folder, error);
    MOGA_CHECK(!error, "cannot create the folder {}: {}", folder.string(), error.message());
    file_ = ::open((folder / ".lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644);
    MOGA_CHECK(file_ >= 0, "cannot write to {}: {}", folder.string(), std::strerror(errno));
    const bool ours = ::flock(file_, LOCK_EX | LOCK_NB) == 0;
    if (!ours) {
      ::close(file_);
      fail("another run is at work in {}; wait for it or take another folder", folder.string());
    }
  }
  ~FolderLock() { ::close(file_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int file_ = -1;
};

// Half-written files of runs that were killed.
void remove_leftovers(const fs::path& out) {
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::recursive_directory_iterator(out)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_regular_file() && name.starts_with(".") && name.find(".tmp") != std::string::npos) {
      leftovers.push_back(entry.path());
    }
  }
  for (const fs::path& file : leftovers) {
    fs::remove(file);
  }
}

fs::path manifest_path(const fs::path& out, const std::string& stage) {
  return out / "manifests" / (stage + ".jsonl");
}

// Progress in seconds of video, told from any thread.
class Footage {
 public:
  Footage(const std::string& title, double seconds) : progress_(title, std::llround(seconds), "second") {}
  void advance(double seconds) {
    const std::lock_guard lock(mutex_);
    waiting_ += std::max(0.0, seconds);
    const auto whole = static_cast<int64_t>(waiting_);
    waiting_ -= static_cast<double>(whole);
    progress_.advance(whole);
  }
  void finish() { progress_.finish(); }

 private:
  std::mutex mutex_;
  Progress progress_;
  double waiting_ = 0;
};

// One stage over all videos.
class StageRun {
 public:
  StageRun(const Stage& stage, const PrepareRequest& request, StageServices& services, PrepareResult& result)
      : stage_(stage),
        request_(request),
        services_(services),
        result_(result),
        settings_(fmt::format("{} {} {}", stage.name, stage.version, stage.settings(request.config).dump())) {
  }

  // `inputs` gives the records in order; the stage's manifest is written.
  void run(const std::function<std::optional<VideoRecord>()>& inputs, int64_t count, double seconds,
           int64_t jobs) {
    Footage footage(stage_.name, seconds);
    std::vector<fs::path> results(static_cast<size_t>(count));
    std::exception_ptr problem;
    int64_t next = 0;
    const auto work = [&] {
      while (true) {
        std::optional<VideoRecord> record;
        int64_t index = 0;
        try {
          {
            const std::lock_guard lock(mutex_);
            if (problem || next == count) {
              return;
            }
            record = inputs();
            index = next++;
          }
          MOGA_CHECK(record.has_value(), "the manifest before {} changed while it was read", stage_.name);
          results[static_cast<size_t>(index)] = one(std::move(*record), footage, jobs);
        } catch (...) {
          const std::lock_guard lock(mutex_);
          problem = problem ? problem : std::current_exception();
        }
      }
    };
    std::vector<std::thread> threads;
    for (int64_t i = 0; i < std::min(jobs, count); ++i) {
      threads.emplace_back(work);
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    if (problem) {
      std::rethrow_exception(problem);
    }
    footage.finish();
    write_manifest(results);
  }

 private:
  // The work file of the record's result, made now or in an earlier run.
  fs::path one(VideoRecord record, Footage& footage, int64_t jobs) {
    const bool first = record.id.empty();
    fs::path file =
        request_.out / "work" / stage_.name / ((first ? digest(record.path) : record.id) + ".json");
    std::string input = record_to_line(record);
    if (first) {  // a file that was written anew is another video
      input += fmt::format("{} {}", fs::file_size(record.path),
                           fs::last_write_time(record.path).time_since_epoch().count());
    }
    const std::string key = digest(settings_ + input);
    const double seconds = record.dropped ? 0 : record.seconds();
    if (is_done(file, key)) {
      ++reused_;
      footage.advance(seconds);
      return file;
    }
    double told = 0;
    const int cores = thread_count();
    StageContext context{request_.config,
                         request_.out,
                         services_,
                         std::max(1, cores / static_cast<int>(std::max<int64_t>(1, jobs))),
                         [&](double more) {
                           more = std::min(more, seconds - told);
                           told += more;
                           footage.advance(more);
                         },
                         false};
    if (!record.dropped) {
      const VideoRecord before = record;
      try {
        stage_.run(record, context);
      } catch (const StopRun&) {
        throw;
      } catch (const Error& error) {
        const VideoRecord half = record;
        record = before;
        record.id = half.id;
        record.probe = half.probe;
        record.dropped = Drop{stage_.name, "unusable", error.what()};
      } catch (const std::exception& error) {
        // A fault of ours or of a library must not stop a week's work on other videos; the next run tries
        // again.
        spdlog::warn("{}: {}: {}", stage_.name, before.path, error.what());
        record = before;
        record.dropped = Drop{stage_.name, "fault", error.what()};
        context.again = true;
      }
    }
    if (record.id.empty()) {
      record.id = "unreadable-" + digest(record.path).substr(0, 8);
    }
    const Json result = {{"key", key}, {"again", context.again}, {"record", config_to_json(record)}};
    write_output(file, result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
    footage.advance(seconds - told);
    ++done_;
    return file;
  }

  bool is_done(const fs::path& file, const std::string& key) const {
    if (!fs::exists(file)) {
      return false;
    }
    const Json result = Json::parse(read_file(file), nullptr, false);
    if (!result.is_object() || result.value("key", "") != key || result.value("again", true)) {
      return false;
    }
    const VideoRecord record = line_to_record(result["record"].dump(), file.string());
    const auto files = record.dropped ? std::vector<std::string>() : stage_.files(record);
    return std::all_of(files.begin(), files.end(),
                       [&](const std::string& name) { return fs::exists(request_.out / name); });
  }

  void write_manifest(const std::vector<fs::path>& results) {
    const fs::path target = manifest_path(request_.out, stage_.name);
    AtomicFile file(target);
    std::ofstream stream(file.path());
    std::map<std::string, std::string> seen;  // fingerprint -> path
    std::set<std::string> ids;
    for (const fs::path& result : results) {
      VideoRecord record =
          line_to_record(Json::parse(read_file(result)).at("record").dump(), result.string());
      if (stage_.run == run_probe) {
        mark_copy(record, seen, ids);
      }
      stream << record_to_line(record) << "\n";
    }
    stream.flush();
    MOGA_CHECK(stream.good(), "cannot write {}", target.string());
    file.commit();
    result_.manifest = target;
    result_.videos = static_cast<int64_t>(results.size());
    result_.reused += reused_;
    result_.done += done_;
  }

  // The same file twice would count twice in training.
  static void mark_copy(VideoRecord& record, std::map<std::string, std::string>& seen,
                        std::set<std::string>& ids) {
    const std::string& fingerprint = record.probe.fingerprint;
    if (!record.dropped && !fingerprint.empty() && !seen.emplace(fingerprint, record.path).second) {
      record.dropped = Drop{"probe", "copy", "has the same content as " + seen[fingerprint]};
    }
    std::string id = record.id;
    for (int copy = 2; !ids.insert(id).second; ++copy) {
      id = fmt::format("{}-{}", record.id, copy);
    }
    record.id = id;
  }

  const Stage& stage_;
  const PrepareRequest& request_;
  StageServices& services_;
  PrepareResult& result_;
  std::string settings_;
  std::mutex mutex_;
  std::atomic<int64_t> reused_ = 0;
  std::atomic<int64_t> done_ = 0;
};

// Films of an earlier config would still be read by training.
void remove_stale_films(const fs::path& out, const fs::path& manifest) {
  std::set<std::string> current;
  ManifestReader reader(manifest);
  while (const auto record = reader.next()) {
    for (const FilmRecord& film : record->films) {
      current.insert(film.files.begin(), film.files.end());
    }
  }
  for (const std::string folder : {"films", "latents"}) {
    if (!fs::is_directory(out / folder)) {
      continue;
    }
    for (const auto& entry : fs::directory_iterator(out / folder)) {
      const std::string name = folder + "/" + entry.path().filename().string();
      if (entry.is_regular_file() && current.count(name) == 0) {
        spdlog::info("{}: no longer among the films, removed", name);
        fs::remove(entry.path());
      }
    }
  }
}

}  // namespace

std::vector<fs::path> find_videos(const std::vector<fs::path>& inputs) {
  static const std::set<std::string> kinds = {".mp4", ".m4v",  ".mov", ".mkv", ".webm", ".avi",
                                              ".mpg", ".mpeg", ".ts",  ".mts", ".m2ts", ".vob",
                                              ".wmv", ".flv",  ".ogv", ".3gp", ".mxf",  ".y4m"};
  std::vector<fs::path> videos;
  for (const fs::path& input : inputs) {
    MOGA_CHECK(fs::exists(input), "no such file or folder: {}", input.string());
    if (!fs::is_directory(input)) {
      videos.push_back(input);
      continue;
    }
    std::vector<fs::path> found;
    for (const auto& entry : fs::recursive_directory_iterator(input)) {
      std::string extension = entry.path().extension().string();
      std::transform(extension.begin(), extension.end(), extension.begin(),
                     [](unsigned char c) { return std::tolower(c); });
      if (entry.is_regular_file() && kinds.count(extension) != 0 &&
          !entry.path().filename().string().starts_with(".")) {
        found.push_back(entry.path());
      }
    }
    MOGA_CHECK(!found.empty(), "no videos in the folder {}", input.string());
    std::sort(found.begin(), found.end());
    videos.insert(videos.end(), found.begin(), found.end());
  }
  return videos;
}

PrepareResult run_prepare(const PrepareRequest& request) {
  check_config(request.config);
  const size_t from = stage_index(request.from);
  const size_t until = stage_index(request.until);
  MOGA_CHECK(from <= until, "the stage {} comes after {}", request.from, request.until);
  std::vector<fs::path> videos;
  if (from == 0) {
    MOGA_CHECK(!request.inputs.empty(), "expected videos or folders of videos");
    videos = find_videos(request.inputs);
  }
  const FolderLock lock(request.out);
  remove_leftovers(request.out);
  StageServices services(request.config, request.out);
  PrepareResult result;
  const int64_t jobs = request.config.jobs > 0 ? request.config.jobs : thread_count();
  if (jobs > 1) {
    cv::setNumThreads(1);  // the videos share the cores
  }
  for (size_t s = from; s <= until; ++s) {
    StageRun run(stages()[s], request, services, result);
    if (s == 0) {
      size_t at = 0;
      run.run(
          [&]() -> std::optional<VideoRecord> {
            VideoRecord record;
            record.path = videos[at++].string();
            return record;
          },
          static_cast<int64_t>(videos.size()), 0, jobs);
      continue;
    }
    const fs::path before = manifest_path(request.out, stages()[s - 1].name);
    int64_t count = 0;
    double seconds = 0;
    ManifestReader counter(before);
    while (const auto record = counter.next()) {
      ++count;
      seconds += record->dropped ? 0 : record->seconds();
    }
    MOGA_CHECK(count > 0, "{} is empty", before.string());
    ManifestReader reader(before);
    run.run([&] { return reader.next(); }, count, seconds, jobs);
  }
  if (until == stages().size() - 1) {
    remove_stale_films(request.out, result.manifest);
    write_exports(request.out, result.manifest);
  }
  write_report(request.out, result.manifest, request.until);
  return result;
}

}  // namespace moga
