#include "plan/gpu_bins.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "common/integers.h"

namespace wavernn_fast::gpu {
namespace {

// Shared memory serves 16-byte loads by eight lanes at a time, 4-byte loads by all 32; what lies in
// one bank at different addresses takes turns. Counts who reads what.
class Banks {
 public:
  explicit Banks(BlockShape tile)
      : lanes_(tile.cols == 4 ? 8 : 32), banks_(tile.cols == 4 ? 8 : 32), width_(tile.cols) {}

  int cost(int lane, int step, int column) const {
    const auto& there = at(lane, step)[size_t(bank(column))];
    return std::count(there.begin(), there.end(), column) > 0 ? 0 : int(there.size());
  }
  void add(int lane, int step, int column) {
    auto& there = at(lane, step)[size_t(bank(column))];
    if (std::count(there.begin(), there.end(), column) == 0) there.push_back(column);
  }
  int fetches() const {
    int sum = 0;
    for (const auto& turn : turns_) {
      size_t most = 0;
      for (const auto& columns : turn) most = std::max(most, columns.size());
      sum += int(most);
    }
    return sum;
  }

 private:
  using Turn = std::array<std::vector<int>, 32>;
  int bank(int column) const { return column / width_ % banks_; }
  const Turn& at(int lane, int step) const {
    return turns_[size_t(lane / lanes_ * kChunkTiles + step)];
  }
  Turn& at(int lane, int step) { return turns_[size_t(lane / lanes_ * kChunkTiles + step)]; }

  int lanes_, banks_, width_;
  std::array<Turn, 4 * kChunkTiles> turns_;
};

// Tiles [begin, ...) of a block row to the chunks of one run: each where it takes fewest turns. The
// rest of the last chunk repeats columns of the row, so that it reads nothing that is not the
// row's.
void place_tiles(Bin& bin, Banks& banks, const BinRun& run, const int* columns, int count) {
  bool used[kBinChunks][kChunkTiles] = {};
  for (int i = 0; i < run.count * kChunkTiles; ++i) {
    const bool pad = i >= count;
    int best = -1, best_cost = 0, best_column = 0;
    for (int j = 0; j < run.count * kChunkTiles; ++j) {
      const int lane = run.begin + j / kChunkTiles, step = j % kChunkTiles;
      if (used[lane][step]) continue;
      for (int k = pad ? 0 : i; k < (pad ? count : i + 1); ++k) {
        const int cost = banks.cost(lane, step, columns[k]);
        if (best < 0 || cost < best_cost) best = j, best_cost = cost, best_column = columns[k];
      }
    }
    const int lane = run.begin + best / kChunkTiles, step = best % kChunkTiles;
    used[lane][step] = true;
    bin.tiles[lane][step] = {best_column, pad};
    banks.add(lane, step, best_column);
  }
}

// First bin with room, of those that are not full; opens one if there is none.
int bin_for(std::vector<Bin>& bins, std::vector<std::vector<int>>& groups, int chunks) {
  for (int i = 0; i < int(bins.size()); ++i)
    if (bins[i].chunks + chunks <= kBinChunks && int(bins[i].runs.size()) < kMostRuns) return i;
  groups.push_back({int(bins.size())});
  bins.emplace_back();
  return int(bins.size()) - 1;
}

// A row of more chunks than a bin has: whole bins, and the rest at the beginning of another one.
void add_long_row(BinnedMatrix& m, int row, int chunks) {
  std::vector<int> group;
  for (int done = 0; done < chunks; done += kBinChunks) {
    const int count = std::min(kBinChunks, chunks - done);
    group.push_back(int(m.bins.size()));
    Bin& bin = m.bins.emplace_back();
    bin.runs.push_back({row, 0, count, done > 0, done + count < chunks});
    bin.chunks = count;
  }
  m.groups.push_back(group);
}

// Longest rows first, each to the first bin that has room.
void fill_bins(BinnedMatrix& m) {
  std::vector<int> order(m.map.columns.size());
  std::iota(order.begin(), order.end(), 0);
  const auto chunks = [&](int row) {
    return ceil_div(int(m.map.columns[size_t(row)].size()), kChunkTiles);
  };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return chunks(a) > chunks(b); });
  for (const int row : order) {
    const int n = chunks(row);
    if (n > kBinChunks) {
      add_long_row(m, row, n);
      continue;
    }
    Bin& bin = m.bins[size_t(bin_for(m.bins, m.groups, n))];
    bin.runs.push_back({row, bin.chunks, n});
    bin.chunks += n;
  }
}

void fill_tiles(BinnedMatrix& m) {
  std::vector<size_t> done(m.map.columns.size());  // tiles of rows that have several bins
  for (Bin& bin : m.bins) {
    Banks banks(m.map.shape);
    for (const BinRun& run : bin.runs) {
      const std::vector<int>& columns = m.map.columns[size_t(run.block_row)];
      size_t& from = done[size_t(run.block_row)];
      const size_t count = std::min(columns.size() - from, size_t(run.count) * kChunkTiles);
      place_tiles(bin, banks, run, columns.data() + from, int(count));
      from += count;
    }
    bin.fetches = banks.fetches();
  }
}

std::vector<BinnedMatrix> matrices(const ModelConfig& c, const CanonicalWeights& weights) {
  const int h = c.hidden_size, half = c.half(), f = c.fc_size;
  std::vector<BinnedMatrix> result;
  const float* recurrent = weights.get("gru.w_recurrent", {3 * int64_t(h), h});
  for (int side = 0; side < 2; ++side) {
    BinnedMatrix m{
        side == 0 ? "coarse gru" : "fine gru", recurrent, 3 * half, h, h, {}, {}, {}, {}};
    for (int r = 0; r < 3 * half; ++r) m.row_of.push_back(r / half * h + side * half + r % half);
    result.push_back(std::move(m));
  }
  for (const std::string name : {"coarse_fc1", "coarse_fc2", "fine_fc1", "fine_fc2"}) {
    const bool first = name.back() == '1';
    const int rows = first ? f : 256, cols = first ? half : f;
    result.push_back(
        {name, weights.get(name + ".weight", {rows, cols}), rows, cols, cols, {}, {}, {}, {}});
  }
  return result;
}

void find_tiles(BinnedModel& model) {
  for (BinnedMatrix& m : model.matrices)
    m.map = find_blocks(m.weight, m.rows, m.cols, m.stride, model.tile, m.row_of);
}

}  // namespace

int64_t BinnedModel::weights() const {
  int64_t n = 0;
  for (const BinnedMatrix& m : matrices) n += m.map.count();
  return n * tile.weights();
}

double BinnedModel::sparsity() const {
  int64_t all = 0;
  for (const BinnedMatrix& m : matrices)
    all += int64_t(m.map.columns.size()) * ceil_div(m.cols, tile.cols) * tile.weights();
  return 1.0 - double(weights()) / double(all);
}

BinnedModel find_tiles(const ModelConfig& config, const CanonicalWeights& weights,
                       const std::string& shape) {
  BinnedModel square{{4, 4}, matrices(config, weights)}, column{{16, 1}, matrices(config, weights)};
  find_tiles(square);
  find_tiles(column);
  const bool fewer = column.weights() < square.weights();
  return shape == column.tile.name() || (shape.empty() && fewer) ? column : square;
}

void fill_bins(BinnedModel& model) {
  for (BinnedMatrix& m : model.matrices) {
    fill_bins(m);
    fill_tiles(m);
  }
}

}  // namespace wavernn_fast::gpu
