#include "model/prompt_embeddings.h"

#include <cstdlib>
#include <map>
#include <optional>

#include "base/error.h"
#include "base/fingerprint.h"
#include "base/log.h"
#include "io/safetensors.h"

namespace moga {

namespace fs = std::filesystem;

namespace {

constexpr const char* kFormat = "moga prompt 1";

class Cache {
 public:
  Cache(fs::path folder, const TextSource& source) : folder_(std::move(folder)), source_(source) {}

  std::optional<TextEmbedding> find(const std::string& text) const {
    const fs::path path = path_of(text);
    std::error_code ignored;
    if (folder_.empty() || !fs::exists(path, ignored)) {
      return std::nullopt;
    }
    try {
      const SafetensorsFile file(path);
      const auto is = [&](const char* key, const std::string& value) {
        const auto found = file.metadata().find(key);
        return found != file.metadata().end() && found->second == value;
      };
      // The name is a hash; the text decides.
      if (!is("format", kFormat) || !is("text", text) || !is("encoder", source_.fingerprint)) {
        return std::nullopt;
      }
      return TextEmbedding{file.read("rows"), is("truncated", "yes")};
    } catch (const Error& error) {
      spdlog::warn("the cached prompt is made anew: {}", error.what());
      return std::nullopt;
    }
  }

  void keep(const std::string& text, const TextEmbedding& embedding) {
    if (folder_.empty()) {
      return;
    }
    try {
      write_safetensors(path_of(text), {{"rows", embedding.rows_RT}},
                        {{"format", kFormat},
                         {"text", text},
                         {"encoder", source_.fingerprint},
                         {"truncated", embedding.truncated ? "yes" : "no"}});
    } catch (const Error& error) {
      spdlog::warn("prompts are not kept: {}", error.what());
      folder_.clear();
    }
  }

 private:
  fs::path path_of(const std::string& text) const {
    const std::string key = fmt::format("{}\n{}\n{}", source_.fingerprint, source_.text_len, text);
    return folder_ / (content_hash(key) + ".safetensors");
  }

  fs::path folder_;
  const TextSource& source_;
};

}  // namespace

std::vector<TextEmbedding> embed_texts(const TextSource& source, const std::vector<std::string>& texts,
                                       const fs::path& cache_folder, torch::Device device) {
  const torch::NoGradGuard guard;
  Cache cache(cache_folder, source);
  std::map<std::string, TextEmbedding> known;  // shots of a film may share their words
  std::optional<Tokenizer> tokenizer;
  UmT5 encoder{nullptr};
  std::vector<TextEmbedding> result;
  for (const std::string& text : texts) {
    if (known.count(text) == 0) {
      if (const auto found = cache.find(text)) {
        known[text] = *found;
      } else {
        if (!tokenizer) {
          tokenizer.emplace(source.load_tokenizer());
          encoder = source.load_encoder();
        }
        TextEmbedding made;
        const std::vector<int64_t> ids =
            tokenizer->encode(text, static_cast<size_t>(source.text_len), &made.truncated);
        const torch::Tensor ids_1L = torch::tensor(ids, torch::kInt64).unsqueeze(0).to(device);
        made.rows_RT = encoder->forward(ids_1L, torch::ones_like(ids_1L))[0].to(torch::kCPU);
        cache.keep(text, made);
        known[text] = made;
      }
    }
    result.push_back(known.at(text));
  }
  return result;
}

fs::path default_prompt_cache() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache != '\0') {
    return fs::path(cache) / "moga" / "prompts";
  }
  const char* home = std::getenv("HOME");
  return home != nullptr && *home != '\0' ? fs::path(home) / ".cache" / "moga" / "prompts" : fs::path();
}

}  // namespace moga
