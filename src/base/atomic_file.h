// Outputs appear whole or not at all: written beside their place under a temporary name, synced, then
// renamed.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace moga {

// A file in the making. path() is a temporary name in the same folder (same extension, so that FFmpeg and
// OpenCV pick the right format); commit() syncs and renames it over `target`; without commit() it is removed.
class AtomicFile {
 public:
  // Creates the parent folder and checks that it can be written; throws Error if not.
  explicit AtomicFile(std::filesystem::path target);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  const std::filesystem::path& path() const { return temporary_; }
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  bool committed_ = false;
};

// The same for a folder: fill path(), then commit() replaces `target`. A reader never sees a mixture: between
// the two renames only the old folder, under `target` + ".old", may be there (recover_folder() puts it back).
class AtomicFolder {
 public:
  explicit AtomicFolder(std::filesystem::path target);
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  const std::filesystem::path& path() const { return temporary_; }
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  bool committed_ = false;
};

// Undoes an AtomicFolder commit that was killed between its two renames. Does nothing if `target` exists.
void recover_folder(const std::filesystem::path& target);

void write_file_atomic(const std::filesystem::path& target, std::string_view content);

// The whole file; throws Error naming the path if it is missing, a folder, unreadable or above `max_bytes`.
std::string read_file(const std::filesystem::path& path, size_t max_bytes = size_t{1} << 31U);

// Throws Error unless a file can be created at `target` (the folder is made if needed; nothing is left
// behind).
void check_writable(const std::filesystem::path& target);

}  // namespace moga
