// Captions from a model behind an OpenAI-compatible chat endpoint, over HTTP (libcurl).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "prepare/prepare_config.h"

namespace moga {

// Something that makes going on with other videos pointless: a full disk, an endpoint that is gone.
class StopRun : public Error {
 public:
  using Error::Error;
};

struct ChatAnswer {
  std::string text;
  int64_t prompt_tokens = 0;  // as the endpoint reports; 0 if it does not
  int64_t answer_tokens = 0;
};

// Thread-safe: at most `concurrency` requests are under way at a time, others wait.
class ChatClient {
 public:
  // Answers are kept in `cache`, one small file each, named by a hash of model, prompt, settings and
  // pictures.
  ChatClient(const CaptionConfig& config, std::filesystem::path cache);
  ~ChatClient();

  // Asks with pictures (JPEG bytes). Answers from the cache cost nothing. Timeouts, lost connections, 408,
  // 429, 5xx and answers that are not what the protocol says are tried again, after a wait that doubles (or
  // as long as the server's Retry-After says). Throws Error when the attempts are used up or the endpoint
  // refuses the request, and StopRun after `give_up_after` failures in a row.
  ChatAnswer ask(const std::string& prompt, const std::vector<std::string>& jpegs);

  int64_t requests_sent() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

std::string base64(const std::string& bytes);

}  // namespace moga
