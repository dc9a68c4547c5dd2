#include "prepare/chat_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <set>

#include "prepare/test_chat_server.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class Chat : public testing::Test {
 protected:
  void SetUp() override {
    cache_ = fs::temp_directory_path() / fmt::format("moga_chat_{}", getpid());
    fs::remove_all(cache_);
    config_.model = "eye";
    config_.backoff_seconds = 0.01;
    config_.timeout_seconds = 5;
    config_.api_key_env = "MOGA_TEST_KEY";
  }
  void TearDown() override { fs::remove_all(cache_); }

  ChatClient client(const TestChatServer& server) {
    config_.endpoint = server.url();
    return {config_, cache_};
  }
  static std::string error_of(const std::function<void()>& action) {
    try {
      action();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  fs::path cache_;
  CaptionConfig config_;
};

TEST_F(Chat, SendsPromptPicturesAndKeyAndReadsTheAnswer) {
  setenv("MOGA_TEST_KEY", "secret", 1);
  std::string head;
  std::string body;
  const TestChatServer server([&](int, const std::string& h, const std::string& b) {
    head = h;
    body = b;
    return ChatReply{200, chat_json("  A red ball.\\n"), "", 0, false};
  });
  const ChatAnswer answer = client(server).ask("What is \"this\"?", {"\xff\xd8jpeg", "x"});
  unsetenv("MOGA_TEST_KEY");
  EXPECT_EQ(answer.text, "A red ball.");
  EXPECT_EQ(answer.prompt_tokens, 100);
  EXPECT_EQ(answer.answer_tokens, 10);
  EXPECT_THAT(head, HasSubstr("POST /v1/chat/completions"));
  EXPECT_THAT(head, HasSubstr("Authorization: Bearer secret"));
  const auto json = nlohmann::json::parse(body);
  EXPECT_EQ(json["model"], "eye");
  const auto& content = json["messages"][0]["content"];
  EXPECT_EQ(content[0]["text"], "What is \"this\"?");
  EXPECT_EQ(content[1]["image_url"]["url"], "data:image/jpeg;base64,/9hqcGVn");
  EXPECT_EQ(content[2]["image_url"]["url"], "data:image/jpeg;base64,eA==");
}

// Slow, 429, 500, broken JSON, JSON of another kind, no words, a lost connection: the seventh attempt
// succeeds.
TEST_F(Chat, TriesAgainWhateverGoesWrong) {
  config_.timeout_seconds = 0.3;
  config_.retries = 7;
  const std::vector<ChatReply> replies = {{200, chat_json("late"), "", 1.0, false},
                                          {429, "busy", "Retry-After: 1\r\n", 0, false},
                                          {500, "oops", "", 0, false},
                                          {200, R"({"choices":[{"mess)", "", 0, false},
                                          {200, R"({"error":"no"})", "", 0, false},
                                          {200, chat_json(" "), "", 0, false},
                                          {200, "", "", 0, true},
                                          {200, chat_json("at last"), "", 0, false}};
  const TestChatServer server([&](int number, const std::string&, const std::string&) {
    return replies.at(static_cast<size_t>(number));
  });
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(client(server).ask("?", {}).text, "at last");
  EXPECT_EQ(server.requests(), 8);
  // A timeout of 0.3 s and the server's own wish to be left alone for a second.
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(1290));
}

TEST_F(Chat, GivesUpAfterItsAttemptsAndSaysWhy) {
  config_.retries = 2;
  const TestChatServer server([](int, const std::string&, const std::string&) {
    return ChatReply{503, "overloaded", "", 0, false};
  });
  EXPECT_THAT(error_of([&] { client(server).ask("?", {}); }),
              HasSubstr("3 times in vain, at last with: HTTP status 503: overloaded"));
  EXPECT_EQ(server.requests(), 3);
}

TEST_F(Chat, RefusalsAreNotRepeated) {
  const TestChatServer server([](int, const std::string&, const std::string&) {
    return ChatReply{401, "who are you?", "", 0, false};
  });
  EXPECT_THAT(error_of([&] { client(server).ask("?", {}); }), HasSubstr("HTTP status 401: who are you?"));
  EXPECT_EQ(server.requests(), 1);
}

TEST_F(Chat, FailuresInARowStopTheRun) {
  config_.retries = 0;
  config_.give_up_after = 3;
  const TestChatServer server([](int number, const std::string&, const std::string&) {
    return number == 1 ? ChatReply{200, chat_json("fine"), "", 0, false} : ChatReply{500, "", "", 0, false};
  });
  ChatClient chat = client(server);
  EXPECT_THROW(chat.ask("a", {}), Error);
  EXPECT_EQ(chat.ask("b", {}).text, "fine");  // starts the count anew
  EXPECT_THROW(chat.ask("c", {}), Error);
  EXPECT_THAT(error_of([&] { chat.ask("d", {}); }), HasSubstr("in vain"));
  EXPECT_THROW(chat.ask("e", {}), StopRun);
}

TEST_F(Chat, NobodyThereIsAnError) {
  config_.retries = 1;
  config_.endpoint = "http://127.0.0.1:1/v1/chat/completions";
  ChatClient chat(config_, cache_);
  EXPECT_THAT(error_of([&] { chat.ask("?", {}); }), HasSubstr("127.0.0.1:1"));
  EXPECT_EQ(chat.requests_sent(), 2);
}

TEST_F(Chat, AnswersAreKeptByContent) {
  const TestChatServer server([](int number, const std::string&, const std::string&) {
    return ChatReply{200, chat_json("answer " + std::to_string(number)), "", 0, false};
  });
  EXPECT_EQ(client(server).ask("a", {"1"}).text, "answer 0");
  EXPECT_EQ(client(server).ask("a", {"1"}).text, "answer 0");  // another client, the same folder
  EXPECT_EQ(client(server).ask("a", {"1"}).answer_tokens, 10);
  EXPECT_EQ(client(server).ask("a", {"2"}).text, "answer 1");
  EXPECT_EQ(client(server).ask("b", {"1"}).text, "answer 2");
  config_.model = "other";
  EXPECT_EQ(client(server).ask("a", {"1"}).text, "answer 3");
  EXPECT_EQ(server.requests(), 4);
}

TEST_F(Chat, AsksNoMoreThanAllowedAtATime) {
  config_.concurrency = 3;
  const TestChatServer server([](int number, const std::string&, const std::string&) {
    return ChatReply{200, chat_json(std::to_string(number)), "", 0.05, false};
  });
  ChatClient chat = client(server);
  std::vector<std::thread> threads;
  for (int i = 0; i < 12; ++i) {
    threads.emplace_back([&, i] { chat.ask(std::to_string(i), {}); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(server.requests(), 12);
  EXPECT_LE(server.most_at_once(), 3);
  EXPECT_GE(server.most_at_once(), 2);
}

}  // namespace
}  // namespace moga
