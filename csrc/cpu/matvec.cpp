#include "cpu/matvec.h"

#include <algorithm>
#include <memory>

#include "common/error.h"
#include "cpu/isa.h"
#include "cpu/stepper.h"

namespace wavernn_fast::cpu {
namespace {

// A sample of it is one product.
class ProductStepper final : public Stepper {
 public:
  using Stepper::Stepper;

 private:
  int hidden_arrays() const override { return 0; }

  void resize(size_t streams) override {
    const PackedMatrix& m = plan_.matrices[0];
    x_.resize(streams, m.cols);
    y_.resize(streams, m.rows);
    for (size_t s = 0; s < streams; ++s)
      for (int k = 0; k < m.cols; ++k) x_.row(s)[k] = float(k % 17) / 8.0f - 1.0f;
  }

  void sample(const Member& me, int, bool) override {
    matmul(me, {0, x_.row(0), x_.width, true, y_.row(0), y_.width});
    meet(me);
  }

  Rows<float> x_, y_;
};

}  // namespace

Matvec measure_matvec(const Tensor& weight, const PlanRequest& wanted, double seconds,
                      const std::string& isa) {
  const KernelTable& kernels = kernels_for(isa);
  const int rows = int(weight.shape[0]), cols = int(weight.shape[1]);
  WF_CHECK(rows > 0 && cols > 0 && cols % kColumnMultiple == 0, "the matrix is ", rows, " x ", cols,
           ", expected rows and a multiple of ", kColumnMultiple, " columns");
  PlanRequest request = wanted;
  request.config.hidden_size = request.config.fc_size = cols;
  request.config.n_classes = 256;
  request.max_panel_blocks = panel_blocks(kernels, request.dtype);
  request.sparse_lists = kernels.sparse_lists;
  PlanBuilder builder(request);
  const std::vector<float> bias(rows, 0.5f);
  builder.add_matrix(
      plain_source("matrix", weight.data.data(), rows, cols, cols, bias.data(), request));
  const Plan plan = builder.finish();

  ProductStepper stepper(plan, kernels, nullptr);
  ThreadPool pool(request.threads);
  Barrier barrier(request.threads, request.threads > available_threads());
  StreamState state = make_stream(request.config, {});
  Job job;
  job.state = &state;
  Lane lane{&job, 0, 0};
  stepper.load({&lane}, request.threads);
  using Clock = Stepper::Clock;
  const auto run = [&](int n) {
    const auto begin = Clock::now();
    const auto never = begin + std::chrono::hours(24);
    pool.run(request.threads,
             [&](int i) { stepper.steps(i, request.threads, &barrier, n, never); });
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  constexpr int kPieces = 15;
  int n = 16;
  while (run(n) < seconds / (4 * kPieces) && n < 1 << 24) n *= 2;
  std::vector<double> rates;
  for (int i = 0; i < kPieces; ++i) {
    const int count = 4 * n;
    rates.push_back(count / run(count));
  }
  std::nth_element(rates.begin(), rates.begin() + kPieces / 2, rates.end());
  return {layout_name(plan.matrices[0].layout), rates[kPieces / 2], plan.weight_bytes,
          plan.macs_per_step};
}

}  // namespace wavernn_fast::cpu
