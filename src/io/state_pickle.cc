#include "io/state_pickle.h"

#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <set>

#include "base/error.h"
#include "base/text_util.h"

namespace moga {

namespace {

constexpr int kMaxDepth = 32;
constexpr int kMaxEntries = 100'000;
constexpr size_t kMaxText = 1000;  // bytes of a name
constexpr size_t kMaxDimensions = 64;

// A value on the pickle machine's stack. All nodes live in one arena until the reader goes, so that
// containers that hold themselves do not leak.
struct Value {
  enum class Kind { kNone, kBool, kInt, kFloat, kText, kList, kDict, kGlobal, kStorage, kTensor, kMark };
  Kind kind = Kind::kNone;
  int64_t number = 0;
  std::string text;           // text, the global's "module name", the storage's key
  std::string dtype;          // storage
  std::vector<Value*> items;  // list or tuple; a dict's keys and values in turn
  PickledTensor tensor;
};
using Kind = Value::Kind;

class Reader {
 public:
  Reader(std::string_view bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  Value* run() {
    for (;;) {
      const unsigned char op = byte();
      if (op == '.') {
        return pop();
      }
      step(op);
    }
  }

  [[noreturn]] void refuse(const std::string& found) const {
    fail("{}: expected a state dict (names and tensors), found {}", file_, found);
  }

 private:
  void step(unsigned char op) {
    switch (op) {
      case 0x80:  // PROTO
        MOGA_CHECK(byte() <= 5, "{}: the pickle has an unknown protocol", file_);
        return;
      case 0x95:  // FRAME
        take(8);
        return;
      case '(':
        push(Kind::kMark);
        return;
      case 'N':
        push(Kind::kNone);
        return;
      case 0x88:
      case 0x89:
        push(Kind::kBool)->number = op == 0x88 ? 1 : 0;
        return;
      case 'J':
        push_int(static_cast<int32_t>(little(4)));
        return;
      case 'K':
        push_int(static_cast<int64_t>(little(1)));
        return;
      case 'M':
        push_int(static_cast<int64_t>(little(2)));
        return;
      case 0x8a:  // LONG1
        push_long(byte());
        return;
      case 'G':  // BINFLOAT
        take(8);
        push(Kind::kFloat);
        return;
      case 'X':
        push_text(little(4));
        return;
      case 0x8c:
        push_text(little(1));
        return;
      case 0x8d:
        push_text(little(8));
        return;
      case '}':
        push(Kind::kDict);
        return;
      case ']':
      case ')':
        push(Kind::kList);
        return;
      case 't':
        collect(pop_to_mark());
        return;
      case 0x85:
      case 0x86:
      case 0x87:
        collect(pop_many(op - 0x84U));
        return;
      case 'a': {
        Value* item = pop();
        append(top(Kind::kList), {item});
        return;
      }
      case 'e': {
        const auto items = pop_to_mark();
        append(top(Kind::kList), items);
        return;
      }
      case 's': {
        const auto items = pop_many(2);
        append(top(Kind::kDict), items);
        return;
      }
      case 'u': {
        const auto items = pop_to_mark();
        MOGA_CHECK(items.size() % 2 == 0, "{}: the pickle is damaged (a key without a value)", file_);
        append(top(Kind::kDict), items);
        return;
      }
      case 'q':
        remember(little(1));
        return;
      case 'r':
        remember(little(4));
        return;
      case 0x94:  // MEMOIZE
        remember(memo_.size());
        return;
      case 'h':
        recall(little(1));
        return;
      case 'j':
        recall(little(4));
        return;
      case 'c': {
        std::string name = line();
        name += " " + line();
        push_global(name);
        return;
      }
      case 0x93: {  // STACK_GLOBAL
        const auto parts = pop_many(2);
        MOGA_CHECK(parts[0]->kind == Kind::kText && parts[1]->kind == Kind::kText,
                   "{}: the pickle is damaged (a global without a name)", file_);
        push_global(parts[0]->text + " " + parts[1]->text);
        return;
      }
      case 'Q':
        persistent(pop());
        return;
      case 'R': {
        const auto parts = pop_many(2);
        reduce(*parts[0], *parts[1]);
        return;
      }
      case 'b':  // BUILD: an OrderedDict's attributes (_metadata: module versions), which mean nothing here
        pop();
        top(Kind::kDict);
        return;
      default:
        fail("{}: the pickle is damaged or holds more than tensors (opcode {:#04x} at byte {})", file_, op,
             at_ - 1);
    }
  }

  // --- bytes
  std::string_view take(uint64_t count) {
    MOGA_CHECK(count <= bytes_.size() - at_, "{}: the pickle is cut short", file_);
    const std::string_view taken = bytes_.substr(at_, count);
    at_ += count;
    return taken;
  }
  unsigned char byte() { return static_cast<unsigned char>(take(1)[0]); }
  uint64_t little(size_t count) {
    uint64_t value = 0;
    const std::string_view raw = take(count);
    for (size_t i = count; i-- > 0;) {
      value = value << 8U | static_cast<unsigned char>(raw[i]);
    }
    return value;
  }
  std::string line() {
    const size_t end = bytes_.find('\n', at_);
    MOGA_CHECK(end != std::string_view::npos && end - at_ < 1000, "{}: the pickle is cut short", file_);
    std::string text(bytes_.substr(at_, end - at_));
    at_ = end + 1;
    return text;
  }

  // --- stack
  Value* push(Kind kind) {
    arena_.emplace_back();
    arena_.back().kind = kind;
    stack_.push_back(&arena_.back());
    return stack_.back();
  }
  void push_int(int64_t number) { push(Kind::kInt)->number = number; }
  void push_long(size_t bytes) {
    MOGA_CHECK(bytes <= 8, "{}: the pickle holds a number of {} bytes", file_, bytes);
    uint64_t number = little(bytes);
    if (bytes > 0 && bytes < 8 && (number >> (8 * bytes - 1)) != 0) {
      number |= ~uint64_t{0} << (8 * bytes);
    }
    push_int(static_cast<int64_t>(number));
  }
  void push_text(uint64_t size) {
    const std::string_view text = take(size);
    MOGA_CHECK(size <= kMaxText, "{}: the pickle holds a text of {} bytes (at most {})", file_, size,
               kMaxText);
    MOGA_CHECK(is_utf8(text), "{}: the pickle holds text that is not UTF-8", file_);
    push(Kind::kText)->text = text;
  }
  Value* pop() {
    MOGA_CHECK(!stack_.empty() && stack_.back()->kind != Kind::kMark,
               "{}: the pickle is damaged (nothing on the stack)", file_);
    Value* value = stack_.back();
    stack_.pop_back();
    return value;
  }
  std::vector<Value*> pop_many(size_t count) {
    std::vector<Value*> values(count);
    for (size_t i = count; i-- > 0;) {
      values[i] = pop();
    }
    return values;
  }
  std::vector<Value*> pop_to_mark() {
    size_t mark = stack_.size();
    while (mark > 0 && stack_[mark - 1]->kind != Kind::kMark) {
      --mark;
    }
    MOGA_CHECK(mark > 0, "{}: the pickle is damaged (no mark on the stack)", file_);
    std::vector<Value*> values(stack_.begin() + static_cast<std::ptrdiff_t>(mark), stack_.end());
    stack_.resize(mark - 1);
    return values;
  }
  Value* top(Kind kind) {
    MOGA_CHECK(!stack_.empty() && stack_.back()->kind == kind,
               "{}: the pickle is damaged (not the container that was expected)", file_);
    return stack_.back();
  }
  static void append(Value* container, const std::vector<Value*>& items) {
    container->items.insert(container->items.end(), items.begin(), items.end());
  }
  void collect(const std::vector<Value*>& items) { append(push(Kind::kList), items); }
  void remember(size_t key) {
    MOGA_CHECK(!stack_.empty(), "{}: the pickle is damaged (nothing on the stack)", file_);
    memo_[key] = stack_.back();
  }
  void recall(size_t key) {
    const auto found = memo_.find(key);
    MOGA_CHECK(found != memo_.end(), "{}: the pickle is damaged (nothing remembered as {})", file_, key);
    stack_.push_back(found->second);
  }

  // --- the few things that a state dict is made of besides plain data
  void push_global(const std::string& name) {
    const bool known = name == "collections OrderedDict" || name == "torch._utils _rebuild_tensor_v2" ||
                       name == "torch._utils _rebuild_parameter" ||
                       (name.starts_with("torch ") && name.ends_with("Storage"));
    if (!known) {
      refuse(fmt::format("code: the pickle asks for '{}', which was not run", name));
    }
    push(Kind::kGlobal)->text = name;
  }
  // ('storage', torch.FloatStorage, key, device, elements)
  void persistent(const Value* id) {
    const auto& items = id->items;
    const bool good = id->kind == Kind::kList && items.size() >= 5 && items[0]->text == "storage" &&
                      items[1]->kind == Kind::kGlobal && items[1]->text.starts_with("torch ") &&
                      items[2]->kind == Kind::kText && items[4]->kind == Kind::kInt;
    MOGA_CHECK(good, "{}: the pickle is damaged (a storage of an unknown form)", file_);
    Value* storage = push(Kind::kStorage);
    storage->text = items[2]->text;
    storage->number = items[4]->number;
    storage->dtype = items[1]->text.substr(6, items[1]->text.size() - 6 - 7);  // without "torch ", "Storage"
  }
  std::vector<int64_t> numbers(const Value& list) const {
    std::vector<int64_t> values;
    MOGA_CHECK(list.kind == Kind::kList && list.items.size() <= kMaxDimensions,
               "{}: the pickle is damaged (a shape of an unknown form)", file_);
    for (const Value* item : list.items) {
      MOGA_CHECK(item->kind == Kind::kInt && item->number >= 0, "{}: a tensor has a negative or missing size",
                 file_);
      values.push_back(item->number);
    }
    return values;
  }
  void reduce(const Value& callee, const Value& arguments) {
    MOGA_CHECK(callee.kind == Kind::kGlobal && arguments.kind == Kind::kList,
               "{}: the pickle is damaged (a call of what cannot be called)", file_);
    const auto& items = arguments.items;
    if (callee.text == "collections OrderedDict") {
      MOGA_CHECK(items.empty(), "{}: the pickle is damaged (an OrderedDict with arguments)", file_);
      push(Kind::kDict);
      return;
    }
    if (callee.text == "torch._utils _rebuild_parameter") {
      MOGA_CHECK(!items.empty() && items[0]->kind == Kind::kTensor, "{}: a parameter without a tensor",
                 file_);
      stack_.push_back(items[0]);
      return;
    }
    MOGA_CHECK(callee.text == "torch._utils _rebuild_tensor_v2" && items.size() >= 4 &&
                   items[0]->kind == Kind::kStorage && items[1]->kind == Kind::kInt,
               "{}: the pickle is damaged (a tensor of an unknown form)", file_);
    PickledTensor tensor;
    tensor.storage = items[0]->text;
    tensor.dtype = items[0]->dtype;
    tensor.storage_elements = items[0]->number;
    tensor.offset = items[1]->number;
    tensor.shape = numbers(*items[2]);
    tensor.strides = numbers(*items[3]);
    MOGA_CHECK(tensor.shape.size() == tensor.strides.size() && tensor.offset >= 0,
               "{}: a tensor's shape and strides do not match", file_);
    push(Kind::kTensor)->tensor = std::move(tensor);
  }

  std::string_view bytes_;
  const std::string& file_;
  size_t at_ = 0;
  std::deque<Value> arena_;
  std::vector<Value*> stack_;
  std::map<uint64_t, Value*> memo_;
};

// Walks a dict of dicts and lists its tensors under names with dots. A dict may stand in several places, even
// inside itself: depth, entries and the names' lengths are limited.
class Flattening {
 public:
  Flattening(const Reader& reader, const std::string& file) : reader_(reader), file_(file) {}

  void visit(const Value& dict, const std::string& prefix, int depth) {
    MOGA_CHECK(depth <= kMaxDepth, "{}: the pickle nests too deeply (more than {} dicts)", file_, kMaxDepth);
    for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
      MOGA_CHECK(++entries_ <= kMaxEntries, "{}: more than {} entries", file_, kMaxEntries);
      const Value& key = *dict.items[i];
      const Value& value = *dict.items[i + 1];
      if (key.kind != Kind::kText) {
        reader_.refuse("a dict whose keys are no names");
      }
      const std::string name = prefix + key.text;
      MOGA_CHECK(name.size() <= kMaxText, "{}: a name of {} bytes (at most {})", file_, name.size(),
                 kMaxText);
      if (value.kind == Kind::kDict) {
        visit(value, name + ".", depth + 1);
        continue;
      }
      if (value.kind != Kind::kTensor) {
        reader_.refuse(fmt::format("'{}', which is no tensor", name));
      }
      MOGA_CHECK(names_.insert(name).second, "{}: '{}' is given twice", file_, name);
      tensors_.push_back(value.tensor);
      tensors_.back().name = name;
    }
  }

  std::vector<PickledTensor> tensors() && { return std::move(tensors_); }

 private:
  const Reader& reader_;
  const std::string& file_;
  int entries_ = 0;
  std::set<std::string> names_;
  std::vector<PickledTensor> tensors_;
};

}  // namespace

std::vector<PickledTensor> parse_state_pickle(std::string_view bytes, const std::string& file) {
  Reader reader(bytes, file);
  const Value* root = reader.run();
  if (root->kind != Kind::kDict) {
    reader.refuse("something that is no dict");
  }
  Flattening flattening(reader, file);
  flattening.visit(*root, "", 1);
  return std::move(flattening).tensors();
}

}  // namespace moga
