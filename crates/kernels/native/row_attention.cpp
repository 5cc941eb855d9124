// Attention of rows of different lengths that lie behind one another: nothing is computed for padding, and neither scores
// nor weights are kept. The backward pass makes them again, block by block, from the logarithms of the sums.
#include "hash.h"
#include "shim.h"
#include "softmax.h"
#include "versions.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

namespace {

// Queries whose scores exist at one time, in one thread.
constexpr int64_t kBlock = 128;
// Floats in a cache line: a line of scores begins with one.
constexpr int64_t kLine = 16;

using Sgemm = void (*)(
    const char*, const char*, const int*, const int*, const int*, const float*, const float*, const int*, const float*,
    const int*, const float*, float*, const int*);

// BLAS as libtorch has it. None in a libtorch that hides it.
Sgemm sgemm() {
  static const auto found = reinterpret_cast<Sgemm>(dlsym(RTLD_DEFAULT, "sgemm_"));
  return found;
}

struct Matrix {
  float* data;
  int64_t stride; // from line to line
  bool transposed = false;
};

// result[m, n] = alpha · left[m, k] · right[k, n] + beta · result, on one thread.
void product(
    int64_t m, int64_t n, int64_t k, float alpha, const Matrix& left, const Matrix& right, float beta,
    const Matrix& result) {
  if (const Sgemm blas = sgemm()) {
    // BLAS counts by columns: what it takes for matrices are their transposes, and so is what it gives.
    const char* letters = "NT";
    const int sizes[] = {static_cast<int>(n), static_cast<int>(m), static_cast<int>(k)};
    const int strides[] = {
        static_cast<int>(right.stride), static_cast<int>(left.stride), static_cast<int>(result.stride)};
    blas(
        &letters[right.transposed], &letters[left.transposed], &sizes[0], &sizes[1], &sizes[2], &alpha, right.data,
        &strides[0], left.data, &strides[1], &beta, result.data, &strides[2]);
    return;
  }
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const auto view = [](const Matrix& matrix, int64_t lines, int64_t columns) {
    return matrix.transposed ? at::from_blob(matrix.data, {lines, columns}, {1, matrix.stride}, at::kFloat)
                             : at::from_blob(matrix.data, {lines, columns}, {matrix.stride, 1}, at::kFloat);
  };
  at::Tensor into = view(result, m, n);
  const at::Tensor made = at::mm(view(left, m, k), view(right, k, n)).mul_(alpha);
  beta == 0.0f ? into.copy_(made) : into.mul_(beta).add_(made);
}

// Which weights are dropped: a function of (key, row and head, query, key position).
struct Chance {
  uint32_t first;
  uint32_t second;
  uint32_t threshold;
  float factor;

  Chance(int64_t key, uint32_t threshold, float factor, int64_t task) : threshold(threshold), factor(factor) {
    first = trireme::mixed(static_cast<uint32_t>(key) + static_cast<uint32_t>(task) * 0x9e3779b9u);
    second = trireme::mixed(static_cast<uint32_t>(static_cast<uint64_t>(key) >> 32) ^ static_cast<uint32_t>(task));
  }
};

inline bool keeps(uint32_t at, uint32_t first, uint32_t second, uint32_t threshold) {
  return trireme::mixed(trireme::mixed(at + first) ^ second) >= threshold;
}

// values[i] = keep(at + i) ? values[i] · factor : 0.
TR_VERSIONS
void drop(
    float* values, int64_t count, uint32_t at, uint32_t first, uint32_t second, uint32_t threshold, float factor) {
  for (int64_t i = 0; i < count; ++i) {
    values[i] = keeps(static_cast<uint32_t>(i) + at, first, second, threshold) ? values[i] * factor : 0.0f;
  }
}

TR_VERSIONS
void scale_by(float* values, int64_t count, float factor) {
  for (int64_t i = 0; i < count; ++i) {
    values[i] *= factor;
  }
}

// From a weight and the gradient of what it became (dropped or scaled) to the gradient of its score; the weight becomes
// what it became.
TR_VERSIONS
void score_gradients(
    float* weights, float* gradients, int64_t count, float mean, uint32_t at, uint32_t first, uint32_t second,
    uint32_t threshold, float factor) {
  for (int64_t i = 0; i < count; ++i) {
    const float kept = keeps(static_cast<uint32_t>(i) + at, first, second, threshold) ? factor : 0.0f;
    const float weight = weights[i];
    gradients[i] = weight * (gradients[i] * kept - mean);
    weights[i] = weight * kept;
  }
}

TR_VERSIONS
void score_gradients_without_dropout(const float* weights, float* gradients, int64_t count, float mean) {
  for (int64_t i = 0; i < count; ++i) {
    gradients[i] = weights[i] * (gradients[i] - mean);
  }
}

TR_VERSIONS
float inner_product(const float* left, const float* right, int64_t count) {
  float lanes[kLine] = {};
  int64_t i = 0;
  for (; i + kLine <= count; i += kLine) {
    for (int64_t lane = 0; lane < kLine; ++lane) {
      lanes[lane] += left[i + lane] * right[i + lane];
    }
  }
  float sum = 0.0f;
  for (int64_t lane = 0; lane < kLine; ++lane) {
    sum += lanes[lane];
  }
  for (; i < count; ++i) {
    sum += left[i] * right[i];
  }
  return sum;
}

// The work of all rows and heads, and where each finds its numbers.
struct Work {
  std::vector<int64_t> starts; // of the rows, and where the last one ends
  int64_t heads;
  int64_t width;
  int64_t reach; // positions that a token sees on either side; those of the longest row where it sees all
  double probability;
  int64_t key;

  int64_t tasks() const {
    return static_cast<int64_t>(starts.size() - 1) * heads;
  }

  int64_t longest() const {
    int64_t longest = 0;
    for (size_t row = 0; row + 1 < starts.size(); ++row) {
      longest = std::max(longest, starts[row + 1] - starts[row]);
    }
    return longest;
  }

  // Floats in a line of scores.
  int64_t line() const {
    const int64_t keys = std::min(longest(), kBlock + 2 * reach);
    return (keys + kLine - 1) / kLine * kLine;
  }

  // Calls `task(row start, length, head, number, scratch)` for each row and head, whoever is free. Each thread has memory
  // for so many blocks of scores.
  template <typename F>
  void run(int64_t blocks, const F& task) const {
    const int64_t threads = std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), tasks()));
    const int64_t room = blocks * kBlock * line();
    const at::Tensor scratch = at::empty({threads, std::max<int64_t>(room, 1)}, at::kFloat);
    float* memory = scratch.data_ptr<float>();
    std::atomic<int64_t> next{0};
    at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t thread = begin; thread < end; ++thread) {
        for (int64_t number = next++; number < tasks(); number = next++) {
          const int64_t row = number / heads;
          task(starts[row], starts[row + 1] - starts[row], number % heads, number, memory + thread * room);
        }
      }
    });
  }

  // Calls `block(first query, queries, first key, keys)` for equal parts of a row.
  template <typename F>
  void blocks(int64_t length, const F& block) const {
    const int64_t count = (length + kBlock - 1) / kBlock;
    const int64_t size = count == 0 ? 1 : (length + count - 1) / count;
    for (int64_t query = 0; query < length; query += size) {
      const int64_t queries = std::min(size, length - query);
      const int64_t key = std::max<int64_t>(0, query - reach);
      block(query, queries, key, std::min(length, query + queries + reach) - key);
    }
  }

  Chance chance(int64_t task) const {
    const auto threshold = static_cast<uint32_t>(probability * 4294967296.0);
    return Chance(key, threshold, static_cast<float>(1.0 / (1.0 - probability)), task);
  }
};

// Lines of `[tokens, heads, width]`, in memory with a stride of its own.
struct Lines {
  explicit Lines(const at::Tensor& tensor)
      : data(const_cast<float*>(tensor.const_data_ptr<float>())), stride(tensor.stride(0)), of_head(tensor.stride(1)) {}

  Matrix from(int64_t token, int64_t head, bool transposed = false) const {
    return {data + token * stride + head * of_head, stride, transposed};
  }

  float* data;
  int64_t stride;
  int64_t of_head;
};

// What a query sees of the keys of its block: first, and how many.
struct Span {
  int64_t first;
  int64_t count;
};

inline Span span(int64_t query, int64_t length, int64_t reach, int64_t first_key) {
  const int64_t first = std::max<int64_t>(0, query - reach);
  return {first - first_key, std::min(length, query + reach + 1) - first};
}

inline void clear_outside(float* line, const Span& seen, int64_t keys) {
  std::fill(line, line + seen.first, 0.0f);
  std::fill(line + seen.first + seen.count, line + keys, 0.0f);
}

void forward_pass(
    const Work& work, const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const at::Tensor& result,
    const at::Tensor& logarithms) {
  const Lines queries(query), keys(key), values(value), results(result);
  const int64_t line = work.line();
  const auto factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(work.width)));
  float* of_sums = logarithms.data_ptr<float>();
  work.run(1, [&](int64_t start, int64_t length, int64_t head, int64_t task, float* scratch) {
    const Chance chance = work.chance(task);
    work.blocks(length, [&](int64_t first, int64_t count, int64_t first_key, int64_t seen_keys) {
      const Matrix scores{scratch, line};
      product(
          count, seen_keys, work.width, factor, queries.from(start + first, head),
          keys.from(start + first_key, head, true), 0.0f, scores);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = first + i;
        const Span seen = span(at, length, work.reach, first_key);
        float* weights = scratch + i * line + seen.first;
        const float most = greatest(weights, seen.count);
        const double sum = exponentials(weights, seen.count, most);
        of_sums[(start + at) * work.heads + head] = static_cast<float>(std::log(sum) + most);
        const auto scale = static_cast<float>(1.0 / sum);
        if (work.probability > 0.0) {
          const auto place = static_cast<uint32_t>(at * length + first_key + seen.first);
          drop(weights, seen.count, place, chance.first, chance.second, chance.threshold, scale * chance.factor);
        } else {
          scale_by(weights, seen.count, scale);
        }
        clear_outside(scratch + i * line, seen, seen_keys);
      }
      product(
          count, work.width, seen_keys, 1.0f, scores, values.from(start + first_key, head), 0.0f,
          results.from(start + first, head));
    });
  });
}

struct Gradients {
  at::Tensor query, key, value;
};

Gradients backward_pass(
    const Work& work, const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const at::Tensor& result,
    const at::Tensor& logarithms, const at::Tensor& gradient) {
  const int64_t tokens = work.starts.back();
  const auto made = [&] { return at::zeros({tokens, work.heads, work.width}, at::kFloat); };
  const Gradients to{made(), made(), made()};
  const Lines queries(query), keys(key), values(value), results(result), gradients(gradient);
  const Lines to_queries(to.query), to_keys(to.key), to_values(to.value);
  const int64_t line = work.line();
  const auto factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(work.width)));
  const float* of_sums = logarithms.const_data_ptr<float>();
  work.run(2, [&](int64_t start, int64_t length, int64_t head, int64_t task, float* scratch) {
    const Chance chance = work.chance(task);
    float* other = scratch + kBlock * line;
    work.blocks(length, [&](int64_t first, int64_t count, int64_t first_key, int64_t seen_keys) {
      const Matrix weights{scratch, line}, weights_transposed{scratch, line, true};
      const Matrix scores{other, line}, scores_transposed{other, line, true};
      const int64_t from = start + first, from_key = start + first_key;
      product(
          count, seen_keys, work.width, factor, queries.from(from, head), keys.from(from_key, head, true), 0.0f,
          weights);
      product(
          count, seen_keys, work.width, 1.0f, gradients.from(from, head), values.from(from_key, head, true), 0.0f,
          scores);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = first + i;
        const Span seen = span(at, length, work.reach, first_key);
        float* of_weights = scratch + i * line + seen.first;
        float* of_scores = other + i * line + seen.first;
        exponentials(of_weights, seen.count, of_sums[(start + at) * work.heads + head]);
        const float mean = inner_product(
            gradients.from(start + at, head).data, results.from(start + at, head).data, work.width);
        if (work.probability > 0.0) {
          const auto place = static_cast<uint32_t>(at * length + first_key + seen.first);
          score_gradients(
              of_weights, of_scores, seen.count, mean, place, chance.first, chance.second, chance.threshold,
              chance.factor);
        } else {
          score_gradients_without_dropout(of_weights, of_scores, seen.count, mean);
        }
        clear_outside(scratch + i * line, seen, seen_keys);
        clear_outside(other + i * line, seen, seen_keys);
      }
      product(
          seen_keys, work.width, count, 1.0f, weights_transposed, gradients.from(from, head), 1.0f,
          to_values.from(from_key, head));
      product(
          count, work.width, seen_keys, factor, scores, keys.from(from_key, head), 0.0f, to_queries.from(from, head));
      product(
          seen_keys, work.width, count, factor, scores_transposed, queries.from(from, head), 1.0f,
          to_keys.from(from_key, head));
    });
  });
  return to;
}

// With the elements of a head beside one another.
at::Tensor in_lines(const at::Tensor& tensor) {
  return tensor.stride(2) == 1 ? tensor : tensor.contiguous();
}

class RowAttention final : public torch::autograd::Function<RowAttention> {
 public:
  static at::Tensor forward(
      torch::autograd::AutogradContext* context,
      const at::Tensor& query,
      const at::Tensor& key,
      const at::Tensor& value,
      const std::vector<int64_t>& starts,
      int64_t reach,
      double probability,
      int64_t chance) {
    const at::Tensor queries = in_lines(query), keys = in_lines(key), values = in_lines(value);
    const Work work{starts, query.size(1), query.size(2), reach, probability, chance};
    const at::Tensor result = at::empty({query.size(0), query.size(1), query.size(2)}, at::kFloat);
    const at::Tensor logarithms = at::empty({query.size(0), query.size(1)}, at::kFloat);
    forward_pass(work, queries, keys, values, result, logarithms);
    context->save_for_backward({queries, keys, values, result, logarithms});
    context->saved_data["starts"] = starts;
    context->saved_data["reach"] = reach;
    context->saved_data["probability"] = probability;
    context->saved_data["chance"] = chance;
    return result;
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* context,
      const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const Work work{
        context->saved_data["starts"].toIntVector(), saved[0].size(1), saved[0].size(2),
        context->saved_data["reach"].toInt(), context->saved_data["probability"].toDouble(),
        context->saved_data["chance"].toInt()};
    const Gradients to =
        backward_pass(work, saved[0], saved[1], saved[2], saved[3], saved[4], gradients[0].contiguous());
    return {to.query, to.key, to.value, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

} // namespace

// reach < 0: every token sees its whole row.
extern "C" char* tr_row_attention(
    at::Tensor* query,
    at::Tensor* key,
    at::Tensor* value,
    const int64_t* lengths,
    size_t rows,
    int64_t reach,
    double probability,
    at::Tensor** result) {
  return trireme::guarded([&] {
    TORCH_CHECK(probability >= 0.0 && probability < 1.0, "a dropout probability of ", probability);
    std::vector<int64_t> starts{0};
    int64_t longest = 0;
    for (size_t row = 0; row < rows; ++row) {
      TORCH_CHECK(lengths[row] >= 0 && lengths[row] <= (int64_t{1} << 16), "a row of ", lengths[row], " tokens");
      starts.push_back(starts.back() + lengths[row]);
      longest = std::max(longest, lengths[row]);
    }
    for (const at::Tensor* tensor : {query, key, value}) {
      TORCH_CHECK(
          tensor->is_cpu() && tensor->scalar_type() == at::kFloat && tensor->dim() == 3 &&
              tensor->sizes() == query->sizes() && tensor->size(0) == starts.back(),
          "rows of ", starts.back(), " tokens in all, and ", tensor->sizes(), " of ", tensor->scalar_type());
    }
    const int64_t sees = reach < 0 ? longest : std::min(reach, longest);
    const int64_t chance = probability > 0.0 ? trireme::next_key() : 0;
    *result = new at::Tensor(RowAttention::apply(*query, *key, *value, starts, sees, probability, chance));
  });
}
