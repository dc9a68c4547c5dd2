#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "text/html.h"
#include "text/text_repair.h"

namespace moga {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(HtmlUnescape, NamedReferences) {
  EXPECT_EQ(html_unescape("a &lt;b&gt; &amp;amp; &quot;c&quot; &apos;"), "a <b> &amp; \"c\" '");
  EXPECT_EQ(html_unescape("&eacute;&yuml;&nbsp;&mdash;&hellip;"),
            "\xc3\xa9\xc3\xbf\xc2\xa0\xe2\x80\x94\xe2\x80\xa6");
  EXPECT_EQ(html_unescape("&lt b &ampx &notit"), "< b &x \xc2\xacit");
  EXPECT_EQ(html_unescape("AT&T &unknown; &; & &mdash"), "AT&T &unknown; &; & &mdash");
}

TEST(HtmlUnescape, NumericReferences) {
  EXPECT_EQ(html_unescape("&#65;&#x42;&#X43;&#68 &#x1F3AC;"), "ABCD \xf0\x9f\x8e\xac");
  EXPECT_EQ(html_unescape("&#150;&#x80;"), "\xe2\x80\x93\xe2\x82\xac");
  EXPECT_EQ(html_unescape("&#0;&#xD800;&#99999999999999999999;"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(html_unescape("&#; &#x; &#z &#"), "&#; &#x; &#z &#");
}

TEST(CleanPrompt, UnescapesTwiceAndCollapsesSpace) {
  EXPECT_EQ(clean_prompt("  a\t\n b\r\n\r\nc  "), "a b c");
  EXPECT_EQ(clean_prompt("fish &amp;amp; chips"), "fish & chips");
  EXPECT_EQ(clean_prompt("&amp;amp;amp;amp; <b>"), "&amp;amp; <b>");  // two levels beside a tag
  EXPECT_EQ(clean_prompt("&amp;amp;amp;amp;"), "&");
  EXPECT_EQ(clean_prompt("a&nbsp;b\xe3\x80\x80"
                         "c\xe2\x80\x83"),
            "a b c");
  EXPECT_EQ(clean_prompt("\xe4\xb8\xad  \xe6\x96\x87"), "\xe4\xb8\xad \xe6\x96\x87");
  EXPECT_EQ(clean_prompt(" \n "), "");
}

TEST(RepairText, UndoesWrongDecodings) {
  EXPECT_EQ(repair_text("caf\u00c3\u00a9 \u00e2\u20ac\u201c na\u00c3\u00afve"),
            "caf\u00e9 \u2013 na\u00efve");
  EXPECT_EQ(repair_text("caf\u00c3\u0192\u00c2\u00a9"), "caf\u00e9");  // twice
  for (const std::string fine : {"caf\u00e9 \u2013 na\u00efve", "\u4e2d\u6587", "plain", "\u00a9 2024", ""}) {
    EXPECT_EQ(repair_text(fine), fine);
  }
}

TEST(RepairText, MakesCharactersPlain) {
  EXPECT_EQ(repair_text("\u201cit\u2019s\u201d"), "\"it's\"");
  EXPECT_EQ(repair_text("\ufb01ne o\ufb03ce"), "fine office");
  EXPECT_EQ(repair_text("\uff21\uff0c\u3000\uff5e\u732b"), "A, ~\u732b");
  EXPECT_EQ(repair_text("a\x1b[1;31mred\x1b[0m\x01\u200b\ufeffz"), "ared\u200bz");
  EXPECT_EQ(repair_text("tab\tand\nline"), "tab\tand\nline");
}

std::vector<std::string> captions() {
  std::vector<std::string> lines;
  for (const char* colour : {"red", "green", "blue", "yellow"}) {
    for (const char* place : {"a beach", "the forest", "a kitchen", "the city"}) {
      lines.push_back(fmt::format("A tall {} robot with a hat walks through {}.", colour, place));
      lines.push_back(fmt::format("Close-up of the {} robot, waving, in {}.", colour, place));
    }
  }
  return lines;
}

class TokenizerTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("moga_text_{}", getpid());
    fs::create_directories(folder_);
    model_ = folder_ / "caption.model";
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_;
  fs::path model_;
};

TEST_F(TokenizerTest, TrainsAndRoundTrips) {
  train_tokenizer(captions(), 256, model_);
  const Tokenizer tokenizer(model_);
  EXPECT_LE(tokenizer.vocab_size(), 256);
  EXPECT_GT(tokenizer.vocab_size(), 40);
  EXPECT_EQ(tokenizer.pad_id(), 0);
  EXPECT_EQ(tokenizer.eos_id(), 1);
  for (const std::string& line : captions()) {
    const auto ids = tokenizer.encode(line, 100);
    EXPECT_EQ(tokenizer.decode(ids), line);
    EXPECT_EQ(ids.back(), 1);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), 2), 0) << line;
    EXPECT_LT(ids.size(), line.size());
  }
}

TEST_F(TokenizerTest, UnknownCharactersAreUnk) {
  train_tokenizer(captions(), 256, model_);
  const Tokenizer tokenizer(model_);
  const auto ids = tokenizer.encode("\xe4\xb8\xad\xe6\x96\x87 robot", 100);
  EXPECT_NE(std::find(ids.begin(), ids.end(), 2), ids.end());
  EXPECT_EQ(tokenizer.encode("", 5), std::vector<int64_t>{1});
}

TEST_F(TokenizerTest, CutsToTheLengthAndSaysSo) {
  train_tokenizer(captions(), 256, model_);
  const Tokenizer tokenizer(model_);
  const auto whole = tokenizer.encode(captions()[0], 100);
  bool cut = true;
  EXPECT_EQ(tokenizer.encode(captions()[0], whole.size(), &cut), whole);
  EXPECT_FALSE(cut);
  const auto shorter = tokenizer.encode(captions()[0], whole.size() - 1, &cut);
  EXPECT_TRUE(cut);
  EXPECT_EQ(shorter.size(), whole.size() - 1);
  EXPECT_EQ(shorter.back(), 1);
  EXPECT_EQ(shorter[0], whole[0]);
  EXPECT_EQ(tokenizer.encode("robot", 1, &cut), std::vector<int64_t>{1});
  EXPECT_TRUE(cut);
  EXPECT_THROW(tokenizer.encode("robot", 0), Error);
}

TEST_F(TokenizerTest, TrainingIsDeterministicAndSilent) {
  testing::internal::CaptureStderr();
  testing::internal::CaptureStdout();
  train_tokenizer(captions(), 200, model_);
  const std::string first = read_file(model_);
  train_tokenizer(captions(), 200, model_);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
  EXPECT_EQ(read_file(model_), first);
}

TEST_F(TokenizerTest, SmallCaptionSetsGetFewerPieces) {
  train_tokenizer({"a b", "b a"}, 256, model_);
  const Tokenizer tokenizer(model_);
  EXPECT_LT(tokenizer.vocab_size(), 20);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("b a b", 10)), "b a b");
}

TEST_F(TokenizerTest, BadTrainingInput) {
  EXPECT_THROW(train_tokenizer({}, 256, model_), Error);
  EXPECT_THROW(train_tokenizer({"  ", ""}, 256, model_), Error);
  EXPECT_THROW(train_tokenizer({"\xff"}, 256, model_), Error);
  EXPECT_THROW(train_tokenizer(captions(), 10, model_), Error);
  EXPECT_THROW(train_tokenizer(captions(), -1, model_), Error);
  EXPECT_THROW(train_tokenizer(captions(), int64_t{1} << 40, model_), Error);
  EXPECT_FALSE(fs::exists(model_));
}

TEST_F(TokenizerTest, MissingAndDamagedModels) {
  testing::internal::CaptureStderr();
  EXPECT_THROW(Tokenizer{model_}, Error);
  train_tokenizer(captions(), 100, model_);
  const std::string whole = read_file(model_);
  for (const std::string& bytes :
       {std::string(), std::string("not a model"), whole.substr(0, whole.size() / 2)}) {
    write_file_atomic(model_, bytes);
    try {
      const Tokenizer tokenizer(model_);
      ADD_FAILURE() << "opened " << bytes.size() << " bytes";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("caption.model"));
    }
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST_F(TokenizerTest, BadInput) {
  train_tokenizer(captions(), 100, model_);
  const Tokenizer tokenizer(model_);
  EXPECT_THROW(tokenizer.encode("\xff", 10), Error);
  EXPECT_THROW(tokenizer.decode({100000}), Error);
  EXPECT_THROW(tokenizer.decode({-1}), Error);
}

}  // namespace
}  // namespace moga
