#include "base/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <random>
#include <system_error>

#include "base/error.h"

namespace moga {

namespace fs = std::filesystem;

static fs::path temporary_name(const fs::path& target) {
  static std::atomic<int> counter{0};
  // Machines that share a disk may have processes of one number.
  static const unsigned kProcess = std::random_device{}();
  return target.parent_path() / fmt::format(".{}.{}-{:08x}.{}.tmp{}", target.stem().string(), getpid(),
                                            kProcess, counter++, target.extension().string());
}

static void sync_path(const fs::path& path, int flags) {
  const int file = ::open(path.c_str(), flags);
  MOGA_CHECK(file >= 0, "cannot open {} to sync it: {}", path.string(), std::strerror(errno));
  const int result = ::fsync(file);
  const int error = errno;
  ::close(file);
  MOGA_CHECK(result == 0, "cannot write {} to disk: {}", path.string(), std::strerror(error));
}

static fs::path folder_of(const fs::path& target) {
  return target.has_parent_path() ? target.parent_path() : fs::path(".");
}

static void make_folder_for(const fs::path& target) {
  std::error_code error;
  fs::create_directories(folder_of(target), error);
  MOGA_CHECK(!error, "cannot create the folder {}: {}", folder_of(target).string(), error.message());
}

static void rename_or_fail(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  MOGA_CHECK(!error, "cannot rename {} to {}: {}", from.string(), to.string(), error.message());
}

AtomicFile::AtomicFile(fs::path target) : target_(std::move(target)), temporary_(temporary_name(target_)) {
  make_folder_for(target_);
  MOGA_CHECK(!fs::is_directory(target_), "cannot write {}: it is a folder", target_.string());
  const int file = ::open(temporary_.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0644);
  MOGA_CHECK(file >= 0, "cannot write {}: {}", target_.string(), std::strerror(errno));
  ::close(file);
}

AtomicFile::~AtomicFile() {
  if (!committed_) {
    std::error_code ignored;
    fs::remove(temporary_, ignored);
  }
}

void AtomicFile::commit() {
  sync_path(temporary_, O_RDONLY);
  rename_or_fail(temporary_, target_);
  committed_ = true;
  sync_path(folder_of(target_), O_RDONLY | O_DIRECTORY);
}

AtomicFolder::AtomicFolder(fs::path target)
    : target_(std::move(target)), temporary_(temporary_name(target_)) {
  std::error_code error;
  fs::create_directories(temporary_, error);
  MOGA_CHECK(!error, "cannot create the folder {}: {}", target_.string(), error.message());
}

AtomicFolder::~AtomicFolder() {
  if (!committed_) {
    std::error_code ignored;
    fs::remove_all(temporary_, ignored);
  }
}

void AtomicFolder::commit() {
  for (const auto& entry : fs::recursive_directory_iterator(temporary_)) {
    sync_path(entry.path(), O_RDONLY);
  }
  sync_path(temporary_, O_RDONLY | O_DIRECTORY);
  const fs::path old = target_.string() + ".old";
  fs::remove_all(old);
  if (fs::exists(target_)) {
    rename_or_fail(target_, old);
  }
  rename_or_fail(temporary_, target_);
  committed_ = true;
  sync_path(folder_of(target_), O_RDONLY | O_DIRECTORY);
  fs::remove_all(old);
}

void recover_folder(const fs::path& target) {
  const fs::path old = target.string() + ".old";
  if (!fs::exists(target) && fs::exists(old)) {
    rename_or_fail(old, target);
  }
}

void write_file_atomic(const fs::path& target, std::string_view content) {
  AtomicFile file(target);
  {
    std::ofstream stream(file.path(), std::ios::binary);
    stream.write(content.data(), static_cast<std::streamsize>(content.size()));
    stream.flush();
    MOGA_CHECK(stream.good(), "cannot write {}: {}", target.string(), std::strerror(errno));
  }
  file.commit();
}

std::string read_file(const fs::path& path, size_t max_bytes) {
  std::error_code error;
  MOGA_CHECK(fs::exists(path, error), "no such file: {}", path.string());
  MOGA_CHECK(!fs::is_directory(path, error), "expected a file, found a folder: {}", path.string());
  std::ifstream stream(path, std::ios::binary);
  MOGA_CHECK(stream.good(), "cannot read {}: {}", path.string(), std::strerror(errno));
  std::string content;
  std::string block(size_t{1} << 16U, '\0');
  while (stream.read(block.data(), static_cast<std::streamsize>(block.size())) || stream.gcount() > 0) {
    content.append(block, 0, static_cast<size_t>(stream.gcount()));
    MOGA_CHECK(content.size() <= max_bytes, "{} is larger than the {} bytes that are accepted", path.string(),
               max_bytes);
  }
  return content;
}

void check_writable(const fs::path& target) {
  const AtomicFile probe(target);
}

}  // namespace moga
