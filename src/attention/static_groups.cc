#include "attention/static_groups.h"

#include <algorithm>

#include "base/error.h"

namespace moga {
namespace {

using Range = std::pair<int64_t, int64_t>;

// Part `i` of `parts` nearly equal parts of [0, length).
Range even_part(int64_t length, int64_t parts, int64_t i) {
  return {i * length / parts, (i + 1) * length / parts};
}

// Appends the tokens of a box of the latent grid in token order.
void append_box(const FilmLayout& layout, Range frames, Range rows, Range cols, std::vector<int64_t>& out) {
  for (int64_t f = frames.first; f < frames.second; ++f) {
    for (int64_t y = rows.first; y < rows.second; ++y) {
      const int64_t row_start = (f * layout.rows + y) * layout.cols;
      for (int64_t x = cols.first; x < cols.second; ++x) {
        out.push_back(row_start + x);
      }
    }
  }
}

void append_range(Range range, std::vector<int64_t>& out) {
  for (int64_t i = range.first; i < range.second; ++i) {
    out.push_back(i);
  }
}

void close_segment(GroupIndex& groups) {
  groups.q_offsets.push_back(static_cast<int64_t>(groups.q_index.size()));
  groups.kv_offsets.push_back(static_cast<int64_t>(groups.kv_index.size()));
}

// The key frames of a temporal group: the group itself and two more frames of the film, one on each side, or
// both on the side that exists (fewer where the film has no more frames).
Range widened(Range group, int64_t frames, Boundary boundary) {
  if (boundary == Boundary::kNone) {
    return group;
  }
  const bool has_before = group.first > 0;
  const bool has_after = group.second < frames;
  const int64_t before = !has_before ? 0 : has_after ? 1 : 2;
  const int64_t after = !has_after ? 0 : has_before ? 1 : 2;
  return {std::max<int64_t>(0, group.first - before), std::min(frames, group.second + after)};
}

}  // namespace

double GroupIndex::pairs() const {
  double sum = 0;
  for (int64_t s = 0; s < segments(); ++s) {
    sum += static_cast<double>(q_offsets[s + 1] - q_offsets[s]) *
           static_cast<double>(kv_offsets[s + 1] - kv_offsets[s]);
  }
  return sum;
}

std::vector<Range> temporal_groups(const FilmLayout& layout, int64_t temporal_group) {
  layout.check();
  MOGA_CHECK(temporal_group > 0, "temporal_group: expected at least 1 latent frame, found {}",
             temporal_group);
  std::vector<Range> groups;
  for (int64_t shot = 0; shot < layout.shots(); ++shot) {
    const int64_t length = layout.shot_end(shot) - layout.shot_starts[shot];
    const int64_t count = (length - 1) / temporal_group + 1;
    int64_t begin = layout.shot_starts[shot];
    for (int64_t i = 0; i < count; ++i) {
      const int64_t end = begin + length / count + (i < length % count ? 1 : 0);
      groups.emplace_back(begin, end);
      begin = end;
    }
  }
  return groups;
}

GroupIndex window_groups(const FilmLayout& layout, const WindowConfig& config) {
  layout.check();
  MOGA_CHECK(config.rows > 0 && config.cols > 0, "windows: expected a positive grid, found {} x {}",
             config.rows, config.cols);
  MOGA_CHECK(config.rows <= layout.rows && config.cols <= layout.cols,
             "windows: a grid of {} x {} does not fit into {} x {} tokens a latent frame", config.rows,
             config.cols, layout.rows, layout.cols);
  GroupIndex groups;
  groups.q_index.reserve(static_cast<size_t>(layout.tokens()));
  for (const Range& frames : temporal_groups(layout, config.temporal_group)) {
    const Range key_frames = widened(frames, layout.frames, config.boundary);
    for (int64_t wy = 0; wy < config.rows; ++wy) {
      for (int64_t wx = 0; wx < config.cols; ++wx) {
        const Range rows = even_part(layout.rows, config.rows, wy);
        const Range cols = even_part(layout.cols, config.cols, wx);
        append_box(layout, frames, rows, cols, groups.q_index);
        append_box(layout, key_frames, rows, cols, groups.kv_index);
        close_segment(groups);
      }
    }
  }
  return groups;
}

GroupIndex frame_groups(const FilmLayout& layout) {
  layout.check();
  GroupIndex groups;
  append_range({0, layout.tokens()}, groups.q_index);
  groups.kv_index = groups.q_index;
  for (int64_t f = 1; f <= layout.frames; ++f) {
    groups.q_offsets.push_back(f * layout.frame_tokens());
  }
  groups.kv_offsets = groups.q_offsets;
  return groups;
}

GroupIndex full_groups(int64_t tokens) {
  MOGA_CHECK(tokens >= 0, "full_groups: expected a token count, found {}", tokens);
  GroupIndex groups;
  append_range({0, tokens}, groups.q_index);
  groups.kv_index = groups.q_index;
  close_segment(groups);
  return groups;
}

GroupIndex shot_text_groups(const FilmLayout& layout, const std::vector<Range>& text_ranges,
                            Range global_range) {
  layout.check();
  MOGA_CHECK(static_cast<int64_t>(text_ranges.size()) == layout.shots(),
             "shot text: expected one text range a shot ({}), found {}", layout.shots(), text_ranges.size());
  const auto check_range = [](Range range, const std::string& name) {
    MOGA_CHECK(0 <= range.first && range.first <= range.second,
               "shot text: expected a half-open range of text rows for {}, found [{}, {})", name, range.first,
               range.second);
  };
  check_range(global_range, "the whole film");
  GroupIndex groups;
  for (int64_t shot = 0; shot < layout.shots(); ++shot) {
    check_range(text_ranges[shot], fmt::format("shot {}", shot));
    const int64_t per_frame = layout.frame_tokens();
    append_range({layout.shot_starts[shot] * per_frame, layout.shot_end(shot) * per_frame}, groups.q_index);
    append_range(text_ranges[shot], groups.kv_index);
    append_range(global_range, groups.kv_index);
    close_segment(groups);
  }
  return groups;
}

static void append_side(const std::vector<int64_t>& index, const std::vector<int64_t>& offsets, int64_t shift,
                        std::vector<int64_t>& index_out, std::vector<int64_t>& offsets_out) {
  const auto base = static_cast<int64_t>(index_out.size());
  for (const int64_t token : index) {
    index_out.push_back(token + shift);
  }
  for (size_t s = 1; s < offsets.size(); ++s) {
    offsets_out.push_back(base + offsets[s]);
  }
}

GroupIndex queries_of_tokens(const GroupIndex& groups, int64_t begin, int64_t end) {
  GroupIndex part;
  part.kv_index = groups.kv_index;
  part.kv_offsets = groups.kv_offsets;
  for (size_t segment = 0; segment + 1 < groups.q_offsets.size(); ++segment) {
    for (int64_t i = groups.q_offsets[segment]; i < groups.q_offsets[segment + 1]; ++i) {
      if (const int64_t token = groups.q_index[static_cast<size_t>(i)]; token >= begin && token < end) {
        part.q_index.push_back(token - begin);
      }
    }
    part.q_offsets.push_back(static_cast<int64_t>(part.q_index.size()));
  }
  return part;
}

GroupIndex concat_groups(const std::vector<GroupIndex>& parts, int64_t q_stride, int64_t kv_stride) {
  GroupIndex all;
  for (size_t b = 0; b < parts.size(); ++b) {
    const GroupIndex& part = parts[b];
    const auto position = static_cast<int64_t>(b);
    append_side(part.q_index, part.q_offsets, position * q_stride, all.q_index, all.q_offsets);
    append_side(part.kv_index, part.kv_offsets, position * kv_stride, all.kv_index, all.kv_offsets);
  }
  return all;
}

void GroupSizes::cover(const GroupIndex& film) {
  const auto keys = static_cast<int64_t>(film.kv_index.size());
  least_keys = segments == 0 ? keys : std::min(least_keys, keys);
  most_keys = std::max(most_keys, keys);
  segments = std::max(segments, film.segments());
  for (size_t s = 0; s + 1 < film.q_offsets.size(); ++s) {
    longest = std::max(
        {longest, film.q_offsets[s + 1] - film.q_offsets[s], film.kv_offsets[s + 1] - film.kv_offsets[s]});
  }
}

void pad_groups(GroupIndex& batch, const GroupSizes& film, int64_t films) {
  const int64_t keys = films * film.most_keys;
  const int64_t surplus = films * (film.most_keys - film.least_keys);
  const int64_t segments = films * film.segments + (surplus + film.longest - 1) / film.longest;
  auto end = static_cast<int64_t>(batch.kv_index.size());
  MOGA_CHECK(end <= keys && batch.segments() <= films * film.segments,
             "pad_groups: {} keys in {} segments exceed the sizes of {} films of the set", end,
             batch.segments(), films);
  batch.kv_index.resize(static_cast<size_t>(keys), 0);
  while (batch.segments() < segments) {
    end = std::min(end + film.longest, keys);
    batch.kv_offsets.push_back(end);
    batch.q_offsets.push_back(batch.q_offsets.back());
  }
}

GroupIndex repeat_groups(const GroupIndex& groups, int64_t batch, int64_t q_stride, int64_t kv_stride) {
  MOGA_CHECK(batch >= 0, "repeat_groups: expected a batch size, found {}", batch);
  return concat_groups(std::vector<GroupIndex>(static_cast<size_t>(batch), groups), q_stride, kv_stride);
}

}  // namespace moga
