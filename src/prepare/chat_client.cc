#include "prepare/chat_client.h"

#include <curl/curl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <mutex>
#include <nlohmann/json.hpp>
#include <semaphore>
#include <thread>

#include "base/atomic_file.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/text_util.h"

namespace moga {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string base64(const std::string& bytes) {
  constexpr const char* kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t block = 0;
    for (size_t j = 0; j < 3; ++j) {
      block = block << 8U | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    }
    for (size_t j = 0; j < 4; ++j) {
      out += i + j <= bytes.size() ? kDigits[block >> (18 - 6 * j) & 63U] : '=';
    }
  }
  return out;
}

namespace {

constexpr size_t kMaxAnswer = size_t{16} << 20U;
constexpr double kLongestWait = 60;  // seconds

struct HttpAnswer {
  CURLcode result = CURLE_OK;
  long status = 0;
  double retry_after = 0;  // seconds; 0 if the server did not say
  std::string body;
};

size_t take_body(const char* data, size_t size, size_t count, void* target) {
  auto& body = *static_cast<std::string*>(target);
  if (body.size() + size * count > kMaxAnswer) {
    return 0;  // makes curl fail
  }
  body.append(data, size * count);
  return size * count;
}

size_t take_header(const char* data, size_t size, size_t count, void* target) {
  const std::string line(data, size * count);
  const size_t colon = line.find(':');
  std::string name = line.substr(0, colon);
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  if (colon != std::string::npos && name == "retry-after") {
    static_cast<HttpAnswer*>(target)->retry_after = std::max(0.0, std::atof(line.c_str() + colon + 1));
  }
  return size * count;
}

// An attempt's outcome: an answer, or what went wrong and whether it may go better the next time.
struct Outcome {
  std::optional<ChatAnswer> answer;
  std::string problem;
  bool again = false;
  double wait = 0;
};

std::string shortened(const std::string& text) {
  constexpr size_t kMost = 200;
  std::string line = trim(text.substr(0, kMost));
  std::replace(line.begin(), line.end(), '\n', ' ');
  return line;
}

Outcome read_answer(const HttpAnswer& http) {
  Outcome outcome;
  const Json json = Json::parse(http.body, nullptr, false);
  try {
    const Json& content = json.at("choices").at(0).at("message").at("content");
    ChatAnswer answer;
    if (content.is_array()) {
      for (const Json& part : content) {
        answer.text += part.value("text", "");
      }
    } else {
      answer.text = content.get<std::string>();
    }
    answer.text = trim(answer.text);
    if (const auto usage = json.find("usage"); usage != json.end() && usage->is_object()) {
      answer.prompt_tokens = usage->value("prompt_tokens", int64_t{0});
      answer.answer_tokens = usage->value("completion_tokens", int64_t{0});
    }
    if (!answer.text.empty()) {
      outcome.answer = answer;
      return outcome;
    }
    outcome.problem = "an empty answer";
  } catch (const nlohmann::json::exception&) {
    outcome.problem = fmt::format("an answer without choices[0].message.content: {}", shortened(http.body));
  }
  outcome.again = true;
  return outcome;
}

}  // namespace

struct ChatClient::Impl {
  Impl(const CaptionConfig& given, fs::path folder)
      : config(given), cache(std::move(folder)), slots(config.concurrency) {
    static std::once_flag once;
    std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
    if (const char* value = std::getenv(config.api_key_env.c_str()); value != nullptr && *value != '\0') {
      key = value;
    }
  }

  HttpAnswer post(const std::string& body) const {
    HttpAnswer answer;
    const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(curl_easy_init(), curl_easy_cleanup);
    MOGA_CHECK(curl != nullptr, "no memory for an HTTP request");
    curl_slist* list = curl_slist_append(nullptr, "Content-Type: application/json");
    list = curl_slist_append(list, "Expect:");
    if (!key.empty()) {
      list = curl_slist_append(list, ("Authorization: Bearer " + key).c_str());
    }
    const std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(list, curl_slist_free_all);
    curl_easy_setopt(curl.get(), CURLOPT_URL, config.endpoint.c_str());
    curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl.get(), CURLOPT_USERAGENT, "moga");
    curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, headers.get());
    curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDS, body.data());
    curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
    curl_easy_setopt(curl.get(), CURLOPT_TIMEOUT_MS,
                     static_cast<long>(std::max(1.0, config.timeout_seconds * 1000)));
    curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &answer.body);
    curl_easy_setopt(curl.get(), CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(curl.get(), CURLOPT_HEADERDATA, &answer);
    answer.result = curl_easy_perform(curl.get());
    curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &answer.status);
    return answer;
  }

  Outcome attempt(const std::string& body) {
    ++sent;
    const HttpAnswer http = post(body);
    Outcome outcome;
    if (http.result != CURLE_OK) {
      outcome.problem = curl_easy_strerror(http.result);
      outcome.again = true;
    } else if (http.status == 200) {
      outcome = read_answer(http);
    } else {
      outcome.problem = fmt::format("HTTP status {}: {}", http.status, shortened(http.body));
      outcome.again = http.status == 408 || http.status == 429 || http.status >= 500;
    }
    outcome.wait = http.retry_after;
    return outcome;
  }

  ChatAnswer ask_until_answered(const std::string& body) {
    const std::lock_guard slot(slots);
    for (int64_t tries = 0;; ++tries) {
      const Outcome outcome = attempt(body);
      if (outcome.answer) {
        failures_in_a_row = 0;
        return *outcome.answer;
      }
      if (!outcome.again || tries >= config.retries) {
        const int64_t failures = ++failures_in_a_row;
        if (failures >= config.give_up_after) {
          throw StopRun(
              fmt::format("caption: {} captions in a row failed at {}, the last with: {}; finished work is "
                          "kept, run again when the endpoint answers",
                          failures, config.endpoint, outcome.problem));
        }
        fail("caption: {} answered {} times in vain, at last with: {}", config.endpoint, tries + 1,
             outcome.problem);
      }
      const double doubled =
          config.backoff_seconds * std::pow(2.0, static_cast<double>(std::min<int64_t>(tries, 20)));
      const double wait = outcome.wait > 0 ? outcome.wait : std::min(kLongestWait, doubled);
      spdlog::debug("caption: {}; again in {:.1f} s", outcome.problem, wait);
      std::this_thread::sleep_for(std::chrono::duration<double>(wait));
    }
  }

  // std::counting_semaphore as something that a guard can hold.
  struct Slots {
    explicit Slots(int64_t count) : semaphore(count) {}
    void lock() { semaphore.acquire(); }
    void unlock() { semaphore.release(); }
    std::counting_semaphore<> semaphore;
  };

  CaptionConfig config;
  fs::path cache;
  std::string key;
  Slots slots;
  std::atomic<int64_t> sent = 0;
  std::atomic<int64_t> failures_in_a_row = 0;
};

ChatClient::ChatClient(const CaptionConfig& config, fs::path cache)
    : impl_(std::make_unique<Impl>(config, std::move(cache))) {}
ChatClient::~ChatClient() = default;

int64_t ChatClient::requests_sent() const {
  return impl_->sent;
}

ChatAnswer ChatClient::ask(const std::string& prompt, const std::vector<std::string>& jpegs) {
  const CaptionConfig& config = impl_->config;
  Json content = Json::array({{{"type", "text"}, {"text", prompt}}});
  for (const std::string& jpeg : jpegs) {
    content.push_back(
        {{"type", "image_url"}, {"image_url", {{"url", "data:image/jpeg;base64," + base64(jpeg)}}}});
  }
  Json request = {{"messages", Json::array({{{"role", "user"}, {"content", content}}})},
                  {"temperature", config.temperature},
                  {"max_tokens", config.max_tokens},
                  {"stream", false}};
  if (!config.model.empty()) {
    request["model"] = config.model;
  }
  const std::string body = request.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  const fs::path file = impl_->cache / (digest(body) + ".json");
  if (fs::exists(file)) {
    const Json kept = Json::parse(read_file(file), nullptr, false);
    if (kept.is_object() && kept.contains("text")) {
      return {kept["text"], kept.value("prompt_tokens", int64_t{0}), kept.value("answer_tokens", int64_t{0})};
    }
  }
  ChatAnswer answer = impl_->ask_until_answered(body);
  const Json kept = {{"text", answer.text},
                     {"prompt_tokens", answer.prompt_tokens},
                     {"answer_tokens", answer.answer_tokens}};
  try {
    write_file_atomic(file, kept.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  } catch (const Error& error) {
    throw StopRun(error.what());
  }
  return answer;
}

}  // namespace moga
