#include "io/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/text_util.h"
#include "io/safetensors_header.h"

namespace moga {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little,
              "the format is little-endian and data is not swapped");

namespace {

constexpr size_t kPiece = size_t{4} << 20U;  // bytes copied before their pages are given back

struct DtypeName {
  const char* name;
  torch::ScalarType dtype;
};
constexpr DtypeName kReadAs[] = {
    {"F64", torch::kFloat64}, {"F32", torch::kFloat32}, {"F16", torch::kFloat16}, {"BF16", torch::kBFloat16},
    {"I64", torch::kInt64},   {"I32", torch::kInt32},   {"I16", torch::kInt16},   {"I8", torch::kInt8},
    {"U8", torch::kUInt8},    {"BOOL", torch::kBool}};

// What a stored dtype is read as; float8 has no type of its own in libtorch 1.13.
torch::ScalarType read_as(const std::string& stored) {
  for (const auto& entry : kReadAs) {
    if (stored == entry.name) {
      return entry.dtype;
    }
  }
  return torch::kBFloat16;
}

// The 256 values of a float8 format as bfloat16: sign, `exponent_bits`, the rest mantissa. E4M3 has no
// infinities and one NaN a sign (Micikevicius et al. 2022, "FP8 formats for deep learning").
std::array<at::BFloat16, 256> float8_values(int exponent_bits) {
  std::array<at::BFloat16, 256> values;
  const int mantissa_bits = 7 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int top = (1 << exponent_bits) - 1;
  for (int code = 0; code < 256; ++code) {
    const int exponent = (code & 0x7F) >> mantissa_bits;
    const int mantissa = code & ((1 << mantissa_bits) - 1);
    double value = exponent == 0
                       ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                       : std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
    if (exponent_bits == 4 && (code & 0x7F) == 0x7F) {
      value = std::numeric_limits<double>::quiet_NaN();
    } else if (exponent_bits == 5 && exponent == top) {
      value =
          mantissa == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
    }
    values[static_cast<size_t>(code)] = static_cast<float>((code & 0x80) != 0 ? -value : value);
  }
  return values;
}

// `bytes` of stored data as a new tensor [elements] of read_as(stored).
torch::Tensor decode(const char* bytes, size_t elements, const std::string& stored) {
  torch::Tensor out = torch::empty({static_cast<int64_t>(elements)}, read_as(stored));
  if (stored == "F8_E4M3" || stored == "F8_E5M2") {
    static const auto kE4M3 = float8_values(4);
    static const auto kE5M2 = float8_values(5);
    const auto& table = stored == "F8_E4M3" ? kE4M3 : kE5M2;
    std::transform(bytes, bytes + elements, out.data_ptr<at::BFloat16>(),
                   [&](char code) { return table[static_cast<unsigned char>(code)]; });
  } else if (stored == "BOOL") {
    // A byte other than 0 and 1 is undefined behaviour as a C++ bool, so such bytes become 1.
    std::transform(bytes, bytes + elements, static_cast<char*>(out.data_ptr()),
                   [](char byte) { return static_cast<char>(byte != 0); });
  } else {
    std::memcpy(out.data_ptr(), bytes, elements * out.element_size());
  }
  return out;
}

const char* dtype_name(torch::ScalarType dtype, const std::string& tensor) {
  std::vector<std::string> names;
  for (const auto& entry : kReadAs) {
    if (entry.dtype == dtype) {
      return entry.name;
    }
    names.emplace_back(entry.name);
  }
  fail("tensor '{}': dtype {} cannot be stored, expected one of {}", tensor, torch::toString(dtype),
       fmt::join(names, ", "));
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
    if (size == 0) {
      ::close(file);
      fail("{}: expected a safetensors file, found an empty one", path.string());
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

  std::string_view all() const { return {bytes, size}; }
  size_t data_size() const { return size - data_begin; }
  // The pages wholly inside [begin, end) of the data may be dropped; they are read again if they are needed.
  void release(size_t begin, size_t end) const {
    const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    const size_t first = (data_begin + begin + page - 1) / page * page;
    const size_t last = (data_begin + end) / page * page;
    if (first < last) {
      ::madvise(const_cast<char*>(bytes) + first, last - first, MADV_DONTNEED);
    }
  }

  const char* bytes = nullptr;
  size_t size = 0;
  size_t data_begin = 0;
};

SafetensorsFile::SafetensorsFile(const fs::path& path) : path_(path) {
  const std::string file = path.string();
  const auto mapping = std::make_shared<Mapping>(path);
  const std::string_view text = safetensors_header_text(mapping->all(), file);
  SafetensorsHeader header = parse_safetensors_header(text, file);
  mapping->data_begin = static_cast<size_t>(text.data() + text.size() - mapping->bytes);
  check_safetensors_layout(header, mapping->data_size(), file);
  for (const auto& [name, entry] : header.tensors) {
    tensors_.emplace(name, TensorInfo{read_as(entry.dtype), entry.shape, entry.dtype, entry.end - entry.begin,
                                      entry.begin});
  }
  metadata_ = std::move(header.metadata);
  mapping_ = mapping;
}

torch::Tensor SafetensorsFile::read(const std::string& name, std::optional<torch::ScalarType> dtype) const {
  const TensorInfo& info = info_of(name);
  torch::Tensor tensor = torch::empty(info.shape, torch::TensorOptions().dtype(dtype.value_or(info.dtype)));
  torch::Tensor flat = tensor.view({-1});
  const size_t element = *safetensors_element_size(info.stored);
  for (size_t done = 0; done < info.bytes; done += kPiece) {
    const size_t bytes = std::min(kPiece, info.bytes - done);
    const auto first = static_cast<int64_t>(done / element);
    const auto count = static_cast<int64_t>(bytes / element);
    flat.slice(0, first, first + count)
        .copy_(
            decode(mapping_->bytes + mapping_->data_begin + info.begin + done, bytes / element, info.stored));
    mapping_->release(info.begin, info.begin + done + bytes);
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

void write_safetensors(const fs::path& path, std::vector<TensorToWrite> tensors,
                       const std::function<torch::Tensor(const std::string&)>& tensor,
                       const std::map<std::string, std::string>& metadata) {
  auto header = nlohmann::ordered_json::object();
  if (!metadata.empty()) {
    for (const auto& [key, value] : metadata) {
      MOGA_CHECK(is_utf8(key) && is_utf8(value), "{}: the metadata is not UTF-8 text", path.string());
    }
    header["__metadata__"] = metadata;
  }
  std::sort(tensors.begin(), tensors.end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    const auto size = [](const TensorToWrite& t) { return torch::elementSize(t.dtype); };
    return size(a) != size(b) ? size(a) > size(b) : a.name < b.name;
  });
  size_t end = 0;
  for (const auto& [name, dtype, shape] : tensors) {
    MOGA_CHECK(name != "__metadata__" && is_utf8(name), "{}: '{}' cannot be a tensor's name", path.string(),
               name);
    const size_t begin = end;
    end += torch::elementSize(dtype) * static_cast<size_t>(c10::multiply_integers(shape));
    header[name] = {{"dtype", dtype_name(dtype, name)}, {"shape", shape}, {"data_offsets", {begin, end}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  MOGA_CHECK(text.size() <= kMaxSafetensorsHeader,
             "{}: the header would take {} bytes, more than the format's {}", path.string(), text.size(),
             kMaxSafetensorsHeader);
  AtomicFile file(path);
  {
    std::ofstream stream(file.path(), std::ios::binary);
    const uint64_t length = text.size();
    stream.write(reinterpret_cast<const char*>(&length), sizeof(length));
    stream.write(text.data(), static_cast<std::streamsize>(text.size()));
    for (const auto& [name, dtype, shape] : tensors) {
      const torch::Tensor plain = tensor(name).detach().to(torch::kCPU).contiguous();
      MOGA_CHECK(plain.scalar_type() == dtype && plain.sizes() == torch::IntArrayRef(shape),
                 "{}: tensor '{}' is not as announced", path.string(), name);
      stream.write(static_cast<const char*>(plain.data_ptr()),
                   static_cast<std::streamsize>(plain.numel() * plain.element_size()));
      MOGA_CHECK(stream.good(), "cannot write {}: {}", path.string(), std::strerror(errno));
    }
    stream.flush();
    MOGA_CHECK(stream.good(), "cannot write {}: {}", path.string(), std::strerror(errno));
  }
  file.commit();
}

void write_safetensors(const fs::path& path, const std::map<std::string, torch::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorToWrite> list;
  for (const auto& [name, tensor] : tensors) {
    MOGA_CHECK(tensor.defined(), "{}: tensor '{}' is undefined", path.string(), name);
    list.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
  }
  write_safetensors(
      path, std::move(list), [&](const std::string& name) { return tensors.at(name); }, metadata);
}

}  // namespace moga
