// The part of sentencepiece that this project uses, behind a plain interface.
//
// Why not link it: Debian's libsentencepiece exports the symbols of an old protobuf that it carries inside,
// libtorch loads a newer protobuf, and each would call into the other's. So libsentencepiece is loaded by a
// small module of ours (sentencepiece_module.cc) with symbols that stay local to it.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace moga {

class PieceModel {
 public:
  virtual ~PieceModel() = default;
  // All return an error text, empty if all went well.
  virtual std::string load(const std::string& bytes) = 0;
  virtual std::string encode(const std::string& text, std::vector<int>* ids) const = 0;
  virtual std::string decode(const std::vector<int>& ids, std::string* text) const = 0;
  virtual int size() const = 0;
  virtual int pad_id() const = 0;
  virtual int eos_id() const = 0;
};

class SentencePieceApi {
 public:
  virtual ~SentencePieceApi() = default;
  virtual std::unique_ptr<PieceModel> make_model() const = 0;
  // Trains on `lines`; `*model` receives the file's bytes. Returns an error text, empty if all went well.
  virtual std::string train(const std::vector<std::string>& lines,
                            const std::unordered_map<std::string, std::string>& settings,
                            std::string* model) const = 0;
};

// The module, loaded on first use. Throws Error if it is not beside the program.
const SentencePieceApi& sentencepiece_api();

}  // namespace moga

// What the module exports.
extern "C" const moga::SentencePieceApi* moga_sentencepiece_api();
