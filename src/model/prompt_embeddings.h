// Texts to embeddings, which are kept on disk: the text encoder of the large models has 11 GB, and a film is
// made several times from the same words.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "model/umt5.h"
#include "text/tokenizer.h"

namespace moga {

// Where embeddings come from.
struct TextSource {
  std::string fingerprint;  // of encoder and tokenizer
  int64_t text_len = 512;   // tokens a text may have
  std::function<Tokenizer()> load_tokenizer;
  std::function<UmT5()> load_encoder;
};

struct TextEmbedding {
  torch::Tensor rows_RT;   // [tokens of the text, text_dim] on the CPU, as the encoder computed them
  bool truncated = false;  // the text has more tokens than text_len; the rest was dropped
};

// One embedding a text. A text that is in `cache` (a folder; empty: none) is read from there; the encoder is
// loaded when the first text is not, serves all of them and is freed before this returns. Texts are encoded
// one by one, so that an embedding never depends on its neighbours. A file in the cache that is damaged or
// belongs to something else is made anew; a cache that cannot be written is passed over with a warning.
std::vector<TextEmbedding> embed_texts(const TextSource& source, const std::vector<std::string>& texts,
                                       const std::filesystem::path& cache, torch::Device device);

// $XDG_CACHE_HOME/moga/prompts, else $HOME/.cache/moga/prompts, else empty.
std::filesystem::path default_prompt_cache();

}  // namespace moga
