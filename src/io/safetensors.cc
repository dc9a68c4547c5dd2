#include "io/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <tuple>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/text_util.h"
#include "io/safetensors_header.h"

namespace moga {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little,
              "the format is little-endian and data is not swapped");

namespace {

constexpr size_t kMaxHeader = 100'000'000;  // the limit of the reference implementation
constexpr size_t kLengthBytes = 8;

struct DtypeName {
  const char* name;
  torch::ScalarType dtype;
};
constexpr DtypeName kDtypes[] = {
    {"F64", torch::kFloat64}, {"F32", torch::kFloat32}, {"F16", torch::kFloat16}, {"BF16", torch::kBFloat16},
    {"I64", torch::kInt64},   {"I32", torch::kInt32},   {"I16", torch::kInt16},   {"I8", torch::kInt8},
    {"U8", torch::kUInt8},    {"BOOL", torch::kBool}};

std::string known_dtypes() {
  std::vector<std::string> names;
  for (const auto& entry : kDtypes) {
    names.emplace_back(entry.name);
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

// Bytes that a tensor of this shape takes; throws if the product overflows. Zero dimensions count as one for
// the overflow check, because torch multiplies strides that way.
size_t checked_bytes(const std::vector<int64_t>& shape, size_t element_size, const std::string& where) {
  int64_t guard = static_cast<int64_t>(element_size);
  bool empty = false;
  for (const int64_t size : shape) {
    empty = empty || size == 0;
    MOGA_CHECK(!__builtin_mul_overflow(guard, std::max<int64_t>(size, 1), &guard),
               "{}: the shape [{}] overflows 63 bits", where, fmt::join(shape, ", "));
  }
  return empty ? 0 : static_cast<size_t>(guard);
}

TensorInfo checked_info(const SafetensorsEntry& entry, size_t data_size, const std::string& where) {
  const auto* known = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                   [&](const DtypeName& candidate) { return entry.dtype == candidate.name; });
  MOGA_CHECK(known != std::end(kDtypes), "{}: unknown dtype '{}', expected one of {}", where, entry.dtype,
             known_dtypes());
  MOGA_CHECK(entry.begin <= entry.end, "{}: data_offsets [{}, {}] run backwards", where, entry.begin,
             entry.end);
  MOGA_CHECK(entry.end <= data_size,
             "{}: data_offsets [{}, {}] end beyond the file's {} data bytes (truncated?)", where, entry.begin,
             entry.end, data_size);
  const size_t bytes = checked_bytes(entry.shape, torch::elementSize(known->dtype), where);
  MOGA_CHECK(entry.end - entry.begin == bytes, "{}: {} of shape [{}] needs {} bytes, data_offsets give {}",
             where, entry.dtype, fmt::join(entry.shape, ", "), bytes, entry.end - entry.begin);
  return {known->dtype, entry.shape, entry.begin, entry.end};
}

// Every data byte belongs to exactly one tensor, as the format demands: overlaps would let a small file name
// terabytes, and gaps could hide other content.
void check_coverage(const std::map<std::string, TensorInfo>& tensors, size_t data_size,
                    const std::string& file) {
  std::vector<std::pair<const std::string*, const TensorInfo*>> order;
  for (const auto& [name, info] : tensors) {
    order.emplace_back(&name, &info);
  }
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::tie(a.second->begin, a.second->end) < std::tie(b.second->begin, b.second->end);
  });
  size_t covered = 0;
  for (const auto& [name, info] : order) {
    MOGA_CHECK(info->begin >= covered,
               "{}: tensor '{}' at [{}, {}) overlaps the tensor before it, which ends at {}", file, *name,
               info->begin, info->end, covered);
    MOGA_CHECK(info->begin == covered, "{}: {} bytes before tensor '{}' belong to no tensor", file,
               info->begin - covered, *name);
    covered = info->end;
  }
  MOGA_CHECK(covered == data_size, "{}: {} bytes after the last tensor belong to no tensor", file,
             data_size - covered);
}

const char* dtype_name(torch::ScalarType dtype, const std::string& tensor) {
  for (const auto& entry : kDtypes) {
    if (entry.dtype == dtype) {
      return entry.name;
    }
  }
  fail("tensor '{}': dtype {} cannot be stored, expected one of {}", tensor, torch::toString(dtype),
       known_dtypes());
}

}  // namespace

// The whole file, read-only. Unmapped when the last SafetensorsFile that shares it goes.
struct SafetensorsFile::Mapping {
  explicit Mapping(const fs::path& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // never hang on a FIFO
    MOGA_CHECK(file >= 0, "cannot open {}: {}", path.string(), std::strerror(errno));
    struct stat status {};
    if (::fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
      ::close(file);
      fail("{}: expected a safetensors file, found {}", path.string(),
           S_ISDIR(status.st_mode) ? "a folder" : "something that is not a regular file");
    }
    size = static_cast<size_t>(status.st_size);
    if (size < kLengthBytes) {
      ::close(file);
      fail("{}: expected a safetensors file, found only {} bytes", path.string(), size);
    }
    void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
    const int error = errno;
    ::close(file);
    MOGA_CHECK(address != MAP_FAILED, "cannot map {} into memory: {}", path.string(), std::strerror(error));
    bytes = static_cast<const char*>(address);
  }
  ~Mapping() { ::munmap(const_cast<char*>(bytes), size); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  size_t data_size() const { return size - data_begin; }

  const char* bytes = nullptr;
  size_t size = 0;
  size_t data_begin = 0;
};

SafetensorsFile::SafetensorsFile(const fs::path& path) : path_(path) {
  const std::string file = path.string();
  const auto mapping = std::make_shared<Mapping>(path);
  uint64_t length = 0;
  std::memcpy(&length, mapping->bytes, kLengthBytes);
  const size_t room = mapping->size - kLengthBytes;
  MOGA_CHECK(length <= room,
             "{}: the header is said to have {} bytes, but only {} follow (truncated, or not safetensors)",
             file, length, room);
  MOGA_CHECK(length <= kMaxHeader, "{}: a header of {} bytes is more than the {} that are accepted", file,
             length, kMaxHeader);
  mapping->data_begin = kLengthBytes + length;

  SafetensorsHeader header = parse_safetensors_header({mapping->bytes + kLengthBytes, length}, file);
  for (const auto& [name, entry] : header.tensors) {
    tensors_.emplace(name,
                     checked_info(entry, mapping->data_size(), fmt::format("{}: tensor '{}'", file, name)));
  }
  check_coverage(tensors_, mapping->data_size(), file);
  metadata_ = std::move(header.metadata);
  mapping_ = mapping;
}

torch::Tensor SafetensorsFile::read(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    std::vector<std::string> names;
    for (const auto& entry : tensors_) {
      names.push_back(entry.first);
    }
    const auto near = nearest_word(name, names);
    fail("{}: no tensor '{}' among its {}{}", path_.string(), name, names.size(),
         near ? ", did you mean '" + *near + "'?" : "");
  }
  const TensorInfo& info = found->second;
  torch::Tensor tensor = torch::empty(info.shape, torch::TensorOptions().dtype(info.dtype));
  if (info.end > info.begin) {
    const char* source = mapping_->bytes + mapping_->data_begin + info.begin;
    if (info.dtype == torch::kBool) {
      // A byte other than 0 and 1 is undefined behaviour as a C++ bool, so such bytes become 1.
      std::transform(source, source + (info.end - info.begin), static_cast<char*>(tensor.data_ptr()),
                     [](char byte) { return static_cast<char>(byte != 0); });
    } else {
      std::memcpy(tensor.data_ptr(), source, info.end - info.begin);
    }
  }
  return tensor;
}

std::map<std::string, torch::Tensor> SafetensorsFile::read_all() const {
  std::map<std::string, torch::Tensor> all;
  for (const auto& entry : tensors_) {
    all.emplace(entry.first, read(entry.first));
  }
  return all;
}

void write_safetensors(const fs::path& path, const std::map<std::string, torch::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  auto header = nlohmann::ordered_json::object();
  if (!metadata.empty()) {
    for (const auto& [key, value] : metadata) {
      MOGA_CHECK(is_utf8(key) && is_utf8(value), "{}: the metadata is not UTF-8 text", path.string());
    }
    header["__metadata__"] = metadata;
  }
  std::vector<std::pair<const std::string*, torch::Tensor>> order;
  for (const auto& [name, tensor] : tensors) {
    MOGA_CHECK(name != "__metadata__" && is_utf8(name), "{}: '{}' cannot be a tensor's name", path.string(),
               name);
    MOGA_CHECK(tensor.defined(), "{}: tensor '{}' is undefined", path.string(), name);
    order.emplace_back(&name, tensor);
  }
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return a.second.element_size() > b.second.element_size();  // the map has the names in order already
  });
  size_t end = 0;
  for (const auto& [name, tensor] : order) {
    const size_t begin = end;
    end += static_cast<size_t>(tensor.numel() * tensor.element_size());
    header[*name] = {{"dtype", dtype_name(tensor.scalar_type(), *name)},
                     {"shape", tensor.sizes().vec()},
                     {"data_offsets", {begin, end}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  MOGA_CHECK(text.size() <= kMaxHeader, "{}: the header would take {} bytes, more than the format's {}",
             path.string(), text.size(), kMaxHeader);

  AtomicFile file(path);
  {
    std::ofstream stream(file.path(), std::ios::binary);
    const uint64_t length = text.size();
    stream.write(reinterpret_cast<const char*>(&length), sizeof(length));
    stream.write(text.data(), static_cast<std::streamsize>(text.size()));
    for (const auto& [name, tensor] : order) {
      const torch::Tensor plain = tensor.detach().to(torch::kCPU).contiguous();
      stream.write(static_cast<const char*>(plain.data_ptr()),
                   static_cast<std::streamsize>(plain.numel() * plain.element_size()));
      MOGA_CHECK(stream.good(), "cannot write {}: {}", path.string(), std::strerror(errno));
    }
    stream.flush();
    MOGA_CHECK(stream.good(), "cannot write {}: {}", path.string(), std::strerror(errno));
  }
  file.commit();
}

}  // namespace moga
