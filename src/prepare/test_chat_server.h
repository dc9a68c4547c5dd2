// A small HTTP server for tests that answers as it is told: slowly, wrongly, or not at all.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"

namespace moga {

struct ChatReply {
  int status = 200;
  std::string body;
  std::string headers;   // whole lines
  double delay = 0;      // seconds before anything is sent
  bool hang_up = false;  // close without an answer
};

inline std::string chat_json(const std::string& text) {
  return R"({"choices":[{"message":{"role":"assistant","content":")" + text +
         R"("}}],"usage":{"prompt_tokens":100,"completion_tokens":10}})";
}

class TestChatServer {
 public:
  // `answer` gets the number of the request (from 0), its head and its body; called from several threads.
  using Answer = std::function<ChatReply(int, const std::string&, const std::string&)>;

  explicit TestChatServer(Answer answer) : answer_(std::move(answer)) {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MOGA_CHECK(::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
                   ::listen(listener_, 64) == 0,
               "no port for the test server");
    socklen_t size = sizeof(address);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { accept_all(); });
  }
  ~TestChatServer() {
    ::shutdown(listener_, SHUT_RDWR);
    ::close(listener_);
    acceptor_.join();
    for (std::thread& thread : threads_) {
      thread.join();
    }
  }
  TestChatServer(const TestChatServer&) = delete;
  TestChatServer& operator=(const TestChatServer&) = delete;

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_) + "/v1/chat/completions"; }
  int requests() const { return requests_; }
  int most_at_once() const { return most_; }

 private:
  void accept_all() {
    while (true) {
      const int connection = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (connection < 0) {
        return;
      }
      threads_.emplace_back([this, connection] {
        serve(connection);
        ::close(connection);
      });
    }
  }

  void serve(int connection) {
    std::string data;
    size_t head_end = std::string::npos;
    size_t length = 0;
    std::vector<char> block(size_t{1} << 16U);
    while (head_end == std::string::npos || data.size() < head_end + 4 + length) {
      const ssize_t got = ::recv(connection, block.data(), block.size(), 0);
      if (got <= 0) {
        return;
      }
      data.append(block.data(), static_cast<size_t>(got));
      head_end = data.find("\r\n\r\n");
      if (const size_t at = data.find("Content-Length: "); at < head_end) {
        length = static_cast<size_t>(std::atoll(data.c_str() + at + 16));
      }
    }
    const int now = ++at_once_;
    int most = most_;
    while (now > most && !most_.compare_exchange_weak(most, now)) {
    }
    const ChatReply reply = answer_(requests_++, data.substr(0, head_end), data.substr(head_end + 4));
    std::this_thread::sleep_for(std::chrono::duration<double>(reply.delay));
    --at_once_;  // before the answer, which lets the client send its next question
    if (!reply.hang_up) {
      const std::string out = "HTTP/1.1 " + std::to_string(reply.status) + " X\r\n" + reply.headers +
                              "Connection: close\r\nContent-Length: " + std::to_string(reply.body.size()) +
                              "\r\n\r\n" + reply.body;
      size_t sent = 0;
      while (sent < out.size()) {
        const ssize_t part = ::send(connection, out.data() + sent, out.size() - sent, MSG_NOSIGNAL);
        if (part <= 0) {
          break;
        }
        sent += static_cast<size_t>(part);
      }
    }
  }

  Answer answer_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<int> requests_ = 0;
  std::atomic<int> at_once_ = 0;
  std::atomic<int> most_ = 0;
  std::thread acceptor_;
  std::vector<std::thread> threads_;
};

}  // namespace moga
