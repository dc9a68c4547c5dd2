// The documents' examples are tried: whole scripts in fenced yaml blocks are linted, `moga lint`,
// `plan`, `inspect`, `convert` and `train --check` lines in fenced sh blocks are run from the repository's
// root.
#include <gmock/gmock.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "base/atomic_file.h"
#include "prepare/prepare_config.h"
#include "script/film_script.h"
#include "training/train_config.h"

namespace moga {
namespace {

namespace fs = std::filesystem;

struct Block {
  std::string place;
  std::string text;
};

std::vector<fs::path> files_in(const std::string& folder, const std::string& extension) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(fs::path(MOGA_SOURCE_DIR) / folder)) {
    if (entry.path().extension() == extension) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<Block> blocks(const std::string& language) {
  std::vector<Block> found;
  std::vector<fs::path> files = files_in("docs", ".md");
  files.push_back(fs::path(MOGA_SOURCE_DIR) / "README.md");
  for (const fs::path& file : files) {
    std::istringstream lines(read_file(file));
    std::string line;
    bool inside = false;
    for (int number = 1; std::getline(lines, line); ++number) {
      if (!inside && line == "```" + language) {
        found.push_back({file.filename().string() + ":" + std::to_string(number), ""});
        inside = true;
      } else if (inside && line == "```") {
        inside = false;
      } else if (inside) {
        found.back().text += line + "\n";
      }
    }
  }
  return found;
}

void expect_clean(const std::string& place, const std::string& yaml) {
  ScriptDefaults toy;
  toy.fps = 8;
  const LintResult result = lint_script(yaml, toy);
  EXPECT_TRUE(result.ok()) << place;
  for (const Finding& finding : result.findings) {
    EXPECT_EQ(finding.severity, Severity::kNote)
        << place << " line " << finding.line << ": " << finding.message;
  }
}

TEST(Docs, ScriptsAreSound) {
  int scripts = 0;
  for (const Block& block : blocks("yaml")) {
    if (block.text.find("\nshots:") != std::string::npos) {
      expect_clean(block.place, block.text);
      ++scripts;
    }
  }
  EXPECT_GE(scripts, 3);
}

TEST(Docs, CommandsRun) {
  int commands = 0;
  for (const Block& block : blocks("sh")) {
    std::istringstream lines(block.text);
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("moga lint ") || line.starts_with("moga plan ") ||
          line.starts_with("moga inspect ") || line.starts_with("moga convert ") ||
          line.starts_with("moga train --check ")) {
        const std::string command =
            "cd \"" MOGA_SOURCE_DIR "\" && \"" MOGA_BINARY_DIR "/bin/\"" + line + " > /dev/null";
        EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 0) << block.place << ": " << line;
        ++commands;
      }
    }
  }
  EXPECT_GE(commands, 10);
}

// The page on data is one session: its commands run in order in a folder of their own.
TEST(Docs, DataCommandsRunInOrder) {
  std::string name = (fs::temp_directory_path() / "moga_docs_XXXXXX").string();
  ASSERT_NE(mkdtemp(name.data()), nullptr);
  const fs::path folder = name;
  fs::create_directory_symlink(fs::path(MOGA_SOURCE_DIR) / "examples", folder / "examples");
  int commands = 0;
  for (const Block& block : blocks("sh")) {
    std::istringstream lines(block.text);
    for (std::string line; block.place.starts_with("data.md") && std::getline(lines, line);) {
      if (line.starts_with("moga toy-films ") || line.starts_with("moga prepare ")) {
        const std::string command =
            "cd \"" + name + "\" && \"" MOGA_BINARY_DIR "/bin/\"" + line + " > /dev/null 2> err.txt";
        EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 0) << block.place << ": " << line << "\n"
                                                                << read_file(folder / "err.txt");
        ++commands;
      }
    }
  }
  EXPECT_GE(commands, 7);
  EXPECT_TRUE(fs::exists(folder / "out/prepared/report.html"));
  fs::remove_all(folder);
}

TEST(Docs, DataConfigsAreSound) {
  int configs = 0;
  for (const Block& block : blocks("yaml")) {
    if (block.place.starts_with("data.md") || block.place.starts_with("training.md")) {
      if (block.text.starts_with("kind: ")) {
        check_config(parse_config<TrainConfig>(block.text, block.place), block.place);
      } else {
        check_config(parse_config<PrepareConfig>(block.text, block.place));
      }
      ++configs;
    }
  }
  EXPECT_GE(configs, 4);
}

TEST(Examples, TrainingConfigsAreSound) {
  int configs = 0;
  for (const char* folder : {"examples/training", "examples/training/toy", "examples/training/toy_cpu",
                             "examples/training/wan", "examples/training/experiments"}) {
    for (const fs::path& file : files_in(folder, ".yaml")) {
      const auto config = load_config<TrainConfig>(file);
      check_config(config, file.string());
      ++configs;
    }
  }
  EXPECT_GE(configs, 14);
}

TEST(Examples, AreSoundAndToySized) {
  const std::vector<fs::path> files = files_in("examples", ".yaml");
  int scripts = 0;
  for (const fs::path& file : files) {
    const std::string yaml = read_file(file);
    if (yaml.find("\nshots:") == std::string::npos) {
      continue;  // a training recipe
    }
    expect_clean(file.filename().string(), yaml);
    const FilmScript script = load_script(file);
    EXPECT_EQ(script.width, 128) << file;
    EXPECT_EQ(script.height, 80) << file;
    EXPECT_EQ(script.fps, 8) << file;
    ++scripts;
  }
  EXPECT_GE(scripts, 5);
}

}  // namespace
}  // namespace moga
