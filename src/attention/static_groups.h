// Groups that need no learning (method: spatial-temporal group attention, section 4 of the paper's method),
// as plain index lists, so that the planner can count them without a tensor.
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "attention/film_layout.h"
#include "base/config.h"

namespace moga {

// Segment s: queries q_index[q_offsets[s] .. q_offsets[s+1]) attend fully to keys kv_index[kv_offsets[s] ..).
// Offsets have one entry more than there are segments and start with 0.
struct GroupIndex {
  std::vector<int64_t> q_index;
  std::vector<int64_t> q_offsets = {0};
  std::vector<int64_t> kv_index;
  std::vector<int64_t> kv_offsets = {0};

  int64_t segments() const { return static_cast<int64_t>(q_offsets.size()) - 1; }
  // Sum over the segments of queries * keys.
  double pairs() const;
};

// Which latent frames widen a temporal group's keys at its ends (the paper says only "two").
enum class Boundary {
  kNone,        // groups are cut hard
  kNeighbours,  // the frame before the group's first and the one after its last; two from the only neighbour
                // at a film's ends
};
template <>
struct EnumNames<Boundary> {
  static constexpr std::array<std::pair<Boundary, const char*>, 2> kNames = {
      {{Boundary::kNone, "none"}, {Boundary::kNeighbours, "neighbours"}}};
};

struct WindowConfig {
  int64_t rows = 2;             // windows down a frame
  int64_t cols = 2;             // windows across a frame
  int64_t temporal_group = 10;  // latent frames of a temporal group at most; groups never cross a cut
  Boundary boundary = Boundary::kNeighbours;

  template <class Self, class V>
  static void visit(Self& s, V&& v) {
    v("rows", s.rows, "Windows down a latent frame");
    v("cols", s.cols, "Windows across a latent frame");
    v("temporal_group", s.temporal_group,
      "Latent frames in a temporal group at most; groups never cross a cut");
    v("boundary", s.boundary, "Latent frames that widen a group's keys over its ends: none or neighbours");
  }
};

// Half-open ranges of latent frames: each shot cut into runs of at most `temporal_group` frames, as even as
// possible (13 frames at most 10 -> 7 + 6).
std::vector<std::pair<int64_t, int64_t>> temporal_groups(const FilmLayout& layout, int64_t temporal_group);

// Windows x temporal groups, keys widened as config.boundary says (within the same window). A grid that does
// not divide evenly gives windows that differ by one row or column; more windows than rows is an Error.
GroupIndex window_groups(const FilmLayout& layout, const WindowConfig& config);

// Every latent frame attends to itself.
GroupIndex frame_groups(const FilmLayout& layout);

// All tokens in one segment.
GroupIndex full_groups(int64_t tokens);

// Shot-level cross-attention: the tokens of shot s attend to text rows text_ranges[s] (half-open) and then to
// `global_range` (empty for none).
GroupIndex shot_text_groups(const FilmLayout& layout,
                            const std::vector<std::pair<int64_t, int64_t>>& text_ranges,
                            std::pair<int64_t, int64_t> global_range);

// The same segments with only the queries of tokens [begin, end), which become tokens 0, 1, ...; the keys
// stay.
GroupIndex queries_of_tokens(const GroupIndex& groups, int64_t begin, int64_t end);

// Parts side by side: part b's queries shift by b * q_stride, its keys by b * kv_stride.
GroupIndex concat_groups(const std::vector<GroupIndex>& parts, int64_t q_stride, int64_t kv_stride);

// How large the groups of one film of a set can be, so that all batches of the set can be padded to one size.
struct GroupSizes {
  int64_t segments = 0;
  int64_t most_keys = 0;
  int64_t least_keys = 0;
  int64_t longest = 0;  // queries or keys of a segment

  void cover(const GroupIndex& film);
  bool padded() const { return least_keys < most_keys; }
};

// Adds segments without queries, which hold key 0 as often as keys are missing, and empty ones, until a batch
// of `films` films of the set has the size that all of them have.
void pad_groups(GroupIndex& batch, const GroupSizes& film, int64_t films);

// `batch` copies side by side: sample b's queries shift by b * q_stride, its keys by b * kv_stride.
GroupIndex repeat_groups(const GroupIndex& groups, int64_t batch, int64_t q_stride, int64_t kv_stride);

}  // namespace moga
