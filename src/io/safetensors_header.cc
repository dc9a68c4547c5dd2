#include "io/safetensors_header.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "base/error.h"

namespace moga {

namespace {

constexpr size_t kMaxRank = 64;  // torch stops being useful long before; a bound keeps hostile shapes small

// Events of nlohmann's SAX parser; the depth tells what an event may mean:
//   1 tensor names and "__metadata__", 2 fields of an entry (or metadata keys), 3 the numbers of a list.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(const std::string& file) : file_(file) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool start_object(std::size_t) override {
    MOGA_CHECK(depth_ < 2 && !in_metadata(), "{}: {}: expected {}, found an object", file_, place(),
               expected());
    ++depth_;
    fields_.clear();
    entry_ = {};
    return true;
  }

  bool end_object() override {
    if (depth_ == 2 && name_ != kMetadata) {
      for (const char* field : {"dtype", "shape", "data_offsets"}) {
        MOGA_CHECK(fields_.count(field) != 0, "{}: tensor '{}' has no \"{}\"", file_, name_, field);
      }
      MOGA_CHECK(offsets_.size() == 2, "{}: tensor '{}': expected two data_offsets, found {}", file_, name_,
                 offsets_.size());
      entry_.begin = offsets_[0];
      entry_.end = offsets_[1];
      header_.tensors.emplace(name_, std::move(entry_));
    }
    --depth_;
    return true;
  }

  bool key(string_t& text) override {
    if (depth_ == 1) {
      name_ = text;
      MOGA_CHECK(names_.insert(name_).second, "{}: the name '{}' is given twice", file_, name_);
    } else {
      field_ = text;
      MOGA_CHECK(fields_.insert(field_).second, "{}: {}: given twice", file_, place());
      MOGA_CHECK(name_ == kMetadata || field_ == "dtype" || field_ == "shape" || field_ == "data_offsets",
                 "{}: tensor '{}': unknown field '{}', expected dtype, shape and data_offsets", file_, name_,
                 field_);
    }
    return true;
  }

  bool start_array(std::size_t) override {
    MOGA_CHECK(depth_ == 2 && name_ != kMetadata && field_ != "dtype", "{}: {}: expected {}, found a list",
               file_, place(), expected());
    ++depth_;
    if (field_ == "data_offsets") {
      offsets_.clear();
    }
    return true;
  }

  bool end_array() override {
    --depth_;
    return true;
  }

  bool string(string_t& text) override {
    if (depth_ == 2 && name_ == kMetadata) {
      header_.metadata[field_] = text;
      return true;
    }
    MOGA_CHECK(depth_ == 2 && field_ == "dtype", "{}: {}: expected {}, found text", file_, place(),
               expected());
    entry_.dtype = text;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    MOGA_CHECK(depth_ == 3, "{}: {}: expected {}, found a number", file_, place(), expected());
    if (field_ == "shape") {
      MOGA_CHECK(value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()),
                 "{}: tensor '{}': the dimension {} is too large", file_, name_, value);
      MOGA_CHECK(entry_.shape.size() < kMaxRank, "{}: tensor '{}' has more than {} dimensions", file_, name_,
                 kMaxRank);
      entry_.shape.push_back(static_cast<int64_t>(value));
    } else {
      MOGA_CHECK(offsets_.size() < 2, "{}: tensor '{}': expected two data_offsets, found more", file_, name_);
      offsets_.push_back(value);
    }
    return true;
  }

  bool number_integer(number_integer_t value) override { wrong(fmt::format("{}", value)); }
  bool number_float(number_float_t, const string_t& text) override { wrong(text); }
  bool boolean(bool value) override { wrong(value ? "true" : "false"); }
  bool null() override { wrong("null"); }
  bool binary(binary_t&) override { wrong("binary data"); }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    fail("{}: the header is not valid JSON (at byte {})", file_, position);
  }

 private:
  static constexpr const char* kMetadata = "__metadata__";

  bool in_metadata() const { return depth_ >= 2 && name_ == kMetadata; }

  std::string place() const {
    if (depth_ == 0) {
      return "header";
    }
    return depth_ == 1 ? fmt::format("'{}'", name_) : fmt::format("'{}': {}", name_, field_);
  }

  const char* expected() const {
    if (depth_ < 2) {
      return "an object";
    }
    if (name_ == kMetadata || (depth_ == 2 && field_ == "dtype")) {
      return "text";
    }
    return depth_ == 2 ? "a list" : "a whole number of at least 0";
  }

  [[noreturn]] void wrong(const std::string& found) const {
    fail("{}: {}: expected {}, found {}", file_, place(), expected(), found);
  }

  const std::string& file_;
  SafetensorsHeader header_;
  std::set<std::string> names_;
  std::set<std::string> fields_;
  SafetensorsEntry entry_;
  std::vector<uint64_t> offsets_;
  std::string name_;
  std::string field_;
  int depth_ = 0;
};

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view text, const std::string& file) {
  HeaderReader reader(file);
  nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
  return reader.take();
}

namespace {

constexpr size_t kLengthBytes = 8;

struct DtypeSize {
  const char* name;
  size_t bytes;
};
constexpr DtypeSize kDtypes[] = {{"F64", 8}, {"F32", 4},  {"F16", 2},     {"BF16", 2},
                                 {"I64", 8}, {"I32", 4},  {"I16", 2},     {"I8", 1},
                                 {"U8", 1},  {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};

std::string known_dtypes() {
  std::vector<std::string> names;
  for (const auto& entry : kDtypes) {
    names.emplace_back(entry.name);
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

// Bytes that a tensor of this shape takes; throws if the product overflows. Zero dimensions count as one for
// the overflow check, because torch multiplies strides that way.
uint64_t checked_bytes(const std::vector<int64_t>& shape, size_t element_size, const std::string& where) {
  int64_t guard = static_cast<int64_t>(element_size);
  bool empty = false;
  for (const int64_t size : shape) {
    empty = empty || size == 0;
    MOGA_CHECK(!__builtin_mul_overflow(guard, std::max<int64_t>(size, 1), &guard),
               "{}: the shape [{}] overflows 63 bits", where, fmt::join(shape, ", "));
  }
  return empty ? 0 : static_cast<uint64_t>(guard);
}

void check_entry(const SafetensorsEntry& entry, uint64_t data_size, const std::string& where) {
  const auto element_size = safetensors_element_size(entry.dtype);
  MOGA_CHECK(element_size.has_value(), "{}: unknown dtype '{}', expected one of {}", where, entry.dtype,
             known_dtypes());
  MOGA_CHECK(entry.begin <= entry.end, "{}: data_offsets [{}, {}] run backwards", where, entry.begin,
             entry.end);
  MOGA_CHECK(entry.end <= data_size,
             "{}: data_offsets [{}, {}] end beyond the file's {} data bytes (truncated?)", where, entry.begin,
             entry.end, data_size);
  const uint64_t bytes = checked_bytes(entry.shape, *element_size, where);
  MOGA_CHECK(entry.end - entry.begin == bytes, "{}: {} of shape [{}] needs {} bytes, data_offsets give {}",
             where, entry.dtype, fmt::join(entry.shape, ", "), bytes, entry.end - entry.begin);
}

}  // namespace

std::optional<size_t> safetensors_element_size(std::string_view dtype) {
  const auto* known = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                   [&](const DtypeSize& candidate) { return dtype == candidate.name; });
  return known == std::end(kDtypes) ? std::nullopt : std::optional(known->bytes);
}

// Every data byte belongs to exactly one tensor, as the format demands: overlaps would let a small file name
// terabytes, and gaps could hide other content.
void check_safetensors_layout(const SafetensorsHeader& header, uint64_t data_size, const std::string& file) {
  std::vector<std::pair<const std::string*, const SafetensorsEntry*>> order;
  for (const auto& [name, entry] : header.tensors) {
    check_entry(entry, data_size, fmt::format("{}: tensor '{}'", file, name));
    order.emplace_back(&name, &entry);
  }
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::tie(a.second->begin, a.second->end) < std::tie(b.second->begin, b.second->end);
  });
  uint64_t covered = 0;
  for (const auto& [name, entry] : order) {
    MOGA_CHECK(entry->begin >= covered,
               "{}: tensor '{}' at [{}, {}) overlaps the tensor before it, which ends at {}", file, *name,
               entry->begin, entry->end, covered);
    MOGA_CHECK(entry->begin == covered, "{}: {} bytes before tensor '{}' belong to no tensor", file,
               entry->begin - covered, *name);
    covered = entry->end;
  }
  MOGA_CHECK(covered == data_size, "{}: {} bytes after the last tensor belong to no tensor", file,
             data_size - covered);
}

std::string_view safetensors_header_text(std::string_view bytes, const std::string& file) {
  MOGA_CHECK(bytes.size() >= kLengthBytes, "{}: expected a safetensors file, found only {} bytes", file,
             bytes.size());
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  const size_t room = bytes.size() - kLengthBytes;
  MOGA_CHECK(length <= room,
             "{}: the header is said to have {} bytes, but only {} follow (truncated, or not safetensors)",
             file, length, room);
  MOGA_CHECK(length <= kMaxSafetensorsHeader,
             "{}: a header of {} bytes is more than the {} that are accepted", file, length,
             kMaxSafetensorsHeader);
  return bytes.substr(kLengthBytes, length);
}

}  // namespace moga
