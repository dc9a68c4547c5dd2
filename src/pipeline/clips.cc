#include "pipeline/clips.h"

#include <opencv2/imgproc.hpp>

#include "base/error.h"
#include "base/progress.h"
#include "media/frame_tensor.h"
#include "media/picture.h"
#include "media/video.h"
#include "model/model_folder.h"
#include "pipeline/decode.h"

namespace moga {

namespace {

// Largest multiple of `unit` not above `value`.
int64_t floor_to(int64_t value, int64_t unit) {
  return value / unit * unit;
}

// Frames scaled to one size. Without a size, the middle of the picture in multiples of `unit`.
class SizedReader {
 public:
  SizedReader(const std::filesystem::path& clip, int64_t width, int64_t height, int64_t unit)
      : reader_(clip) {
    const VideoInfo& info = reader_.info();
    MOGA_CHECK((width == 0) == (height == 0), "give both width and height, or neither");
    scale_ = width > 0;
    width_ = scale_ ? width : floor_to(info.width, unit);
    height_ = scale_ ? height : floor_to(info.height, unit);
    MOGA_CHECK(width_ > 0 && height_ > 0 && width_ % unit == 0 && height_ % unit == 0,
               "the size must be a multiple of {}, found {}x{}", unit, width_, height_);
  }
  std::optional<cv::Mat> next() {
    auto frame = reader_.next();
    if (!frame) {
      return frame;
    }
    const cv::Size size(static_cast<int>(width_), static_cast<int>(height_));
    if (scale_) {
      cv::Mat scaled;
      cv::resize(*frame, scaled, size, 0, 0, cv::INTER_AREA);
      return scaled;
    }
    const cv::Point corner((frame->cols - size.width) / 2, (frame->rows - size.height) / 2);
    return (*frame)(cv::Rect(corner, size)).clone();
  }
  int64_t width() const { return width_; }
  int64_t height() const { return height_; }
  const VideoInfo& info() const { return reader_.info(); }

 private:
  VideoReader reader_;
  bool scale_ = false;
  int64_t width_ = 0;
  int64_t height_ = 0;
};

// [1, 3, T, H, W] in [-1, 1].
torch::Tensor stack_frames(const std::vector<cv::Mat>& frames) {
  std::vector<torch::Tensor> tensors;
  tensors.reserve(frames.size());
  for (const cv::Mat& frame : frames) {
    tensors.push_back(image_to_tensor(frame));
  }
  return bytes_to_unit(torch::stack(tensors, 1)).unsqueeze(0);
}

}  // namespace

ReconstructResult reconstruct_clip(const ReconstructRequest& request, torch::Device device) {
  const torch::NoGradGuard guard;
  const ModelFolder model(request.model);
  SizedReader reader(request.clip, request.width, request.height, 8);
  std::optional<VideoWriter> writer;
  if (!request.output.empty()) {
    VideoSettings settings;
    settings.width = reader.width();
    settings.height = reader.height();
    settings.fps = reader.info().fps;
    writer.emplace(request.output, settings);
  }
  WanVae vae = model.load_vae(device);
  VaeEncodeStream encoder(vae);
  VaeDecodeStream decoder(vae);
  ReconstructResult result;
  result.width = reader.width();
  result.height = reader.height();
  double squared = 0;
  const int64_t wanted = request.max_frames > 0 ? request.max_frames : std::numeric_limits<int64_t>::max();
  const int64_t known = std::min(wanted, reader.info().frames);
  Progress progress("reconstruct", known, "frame");
  std::vector<cv::Mat> piece;
  while (result.frames < wanted) {
    auto frame = reader.next();
    if (!frame) {
      break;
    }
    piece.push_back(*frame);
    // The first frame alone, then four at a time: one latent frame each. A rest below four has no latent
    // frame.
    if (result.frames > 0 && piece.size() < 4) {
      continue;
    }
    const torch::Tensor pixels =
        decoder.next(encoder.next(stack_frames(piece).to(device)))[0].to(torch::kCPU);
    for (size_t i = 0; i < piece.size(); ++i) {
      const cv::Mat decoded = tensor_to_image(pixels.select(1, static_cast<int64_t>(i)));
      squared += std::pow(cv::norm(piece[i], decoded, cv::NORM_L2), 2);
      if (writer) {
        writer->write(decoded);
      }
    }
    result.frames += static_cast<int64_t>(piece.size());
    progress.advance(static_cast<int64_t>(piece.size()));
    piece.clear();
  }
  progress.finish();
  MOGA_CHECK(result.frames > 0, "{}: no frames could be decoded", request.clip.string());
  const double values = static_cast<double>(result.frames * result.width * result.height * 3);
  result.psnr_db = 10 * std::log10(255.0 * 255.0 / std::max(1e-12, squared / values));
  if (writer) {
    writer->finish();
  }
  return result;
}

ClipGroupsResult draw_clip_groups(const ClipGroupsRequest& request, torch::Device device) {
  const torch::NoGradGuard guard;
  const ModelFolder model(request.model);
  const ModelConfig& config = model.config();
  MOGA_CHECK(config.dit.attention.kind == AttentionKind::kMoga ||
                 config.dit.attention.kind == AttentionKind::kDynamic,
             "the model {} has no routers (attention '{}')", request.model.model.string(),
             enum_name(config.dit.attention.kind));
  MOGA_CHECK(request.noise_level >= 0 && request.noise_level <= 1,
             "the noise level must be from 0 to 1, found {}", request.noise_level);
  const int64_t layer = request.layer.value_or(config.dit.layers / 2);
  MOGA_CHECK(layer >= 0 && layer < config.dit.layers, "the layer must be from 0 to {}, found {}",
             config.dit.layers - 1, layer);
  SizedReader reader(request.clip, request.width > 0 ? request.width : config.width,
                     request.height > 0 ? request.height : config.height, 16);
  std::vector<cv::Mat> frames;
  while (static_cast<int64_t>(frames.size()) < request.max_frames) {
    auto frame = reader.next();
    if (!frame) {
      break;
    }
    frames.push_back(*frame);
  }
  MOGA_CHECK(!frames.empty(), "{}: no frames could be decoded", request.clip.string());
  frames.resize((frames.size() - 1) / 4 * 4 + 1);

  WanVae vae = model.load_vae(device);
  const torch::Tensor clean = vae->encode(stack_frames(frames).to(device));
  const FilmLayout layout{clean.size(2), clean.size(3) / 2, clean.size(4) / 2};
  const auto generator = at::detail::createCPUGenerator(request.seed);
  const torch::Tensor noise = torch::randn(clean.sizes(), generator).to(device);
  const double s = request.noise_level;
  UmT5 text = model.load_text(device);
  const torch::Tensor caption =
      encode_texts(text, model.load_tokenizer(), {request.caption}, config.dit.text_len).unsqueeze(0);
  WanDit dit = model.load_dit(device);
  const DitPlan plan = plan_dit({layout}, GlobalText::kNone, dit->config(), device);
  DitTrace trace;
  dit->forward((1 - s) * clean + s * noise, torch::full({1}, 1000 * s, torch::kFloat64).to(device), caption,
               plan, &trace);
  const Routing& routing = trace.routing.at(static_cast<size_t>(layer));
  const torch::Tensor map =
      routing.group_ids_L.view({layout.frames, layout.rows, layout.cols}).to(torch::kCPU).contiguous();

  VideoSettings settings;
  settings.width = reader.width();
  settings.height = reader.height();
  settings.fps = reader.info().fps;
  VideoWriter writer(request.output, settings);
  ContactRow row;
  row.heading = fmt::format("layer {}, noise level {:.2f}", layer, s);
  row.caption = request.caption;
  const int64_t tokens = layout.frame_tokens();
  for (size_t i = 0; i < frames.size(); ++i) {
    const int64_t* ids = map.data_ptr<int64_t>() + latent_of_frame(static_cast<int64_t>(i)) * tokens;
    const cv::Mat coloured = draw_groups(frames[i], {ids, ids + tokens}, layout.rows, layout.cols);
    writer.write(coloured);
    if (i % std::max<size_t>(1, frames.size() / 6) == 0) {
      row.frames.push_back(coloured);
    }
  }
  write_png(std::filesystem::path(request.output).replace_extension(".png"),
            contact_sheet(request.clip.filename().string(), {row}));
  writer.finish();
  ClipGroupsResult result;
  result.frames = static_cast<int64_t>(frames.size());
  const torch::Tensor shares = group_occupancy(routing).to(torch::kCPU);
  for (int64_t i = 0; i < shares.numel(); ++i) {
    result.occupancy.push_back(shares[i].item<double>());
  }
  return result;
}

}  // namespace moga
