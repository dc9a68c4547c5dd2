#include "text/sentencepiece_api.h"

#include "base/module.h"

namespace moga {

const SentencePieceApi& sentencepiece_api() {
  static const auto* api =
      static_cast<const SentencePieceApi*>(load_module("libmoga_sentencepiece.so", "moga_sentencepiece_api"));
  return *api;
}

}  // namespace moga
