// Runs calls of the CPU library that stand on standard input, and writes their outputs: for
// machines without Python, emulated ones among them. Every field and every size is a 64-bit
// integer.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "abi.h"

struct ConvPlan;
extern "C" {
i64 binop_cpu_paths();
const char* binop_cpu_path_name(i64 path);
i64 binop_cpu_plan_bytes(const ConvSpec* spec);
void binop_cpu_plan(const ConvSpec* spec, void* memory);
i64 binop_cpu_prepared_bytes(const ConvPlan* plan);
void binop_cpu_prepare(const ConvPlan* plan, const void* packed, void* prepared, i64 threads);
i64 binop_cpu_conv(const ConvPlan* plan, const void* x, const void* weight, const void* raw,
                   const void* prepared, void* out, const void* scale_a, const void* scale_w,
                   const void* bias, const void* threshold, const void* flip, const Norm* norm,
                   i64 threads);
i64 binop_cpu_conv_residual(const ConvPlan* plan, const void* x, const void* weight,
                            const void* raw, const void* prepared, void* y, void* signs,
                            const void* scale, const float* norm, const void* values,
                            const float* activation, const float* shift, i64 threads);
void binop_cpu_pack(const PackSpec* spec, const void* x, void* signs, void* mask, const void* scale,
                    i64 threads);
void binop_cpu_unpack(const UnpackSpec* spec, const void* packed, void* out, i64 threads);
}

struct Buffer {
  char* data = nullptr;
  i64 bytes = 0;

  explicit Buffer(i64 size) : bytes(size) {
    if (size != 0) data = static_cast<char*>(std::aligned_alloc(64, (size + 63) / 64 * 64));
  }
  Buffer(Buffer&& other) : data(other.data), bytes(other.bytes) { other.data = nullptr; }
  ~Buffer() { std::free(data); }
};

static bool read(void* to, i64 bytes) {
  return std::fread(to, 1, static_cast<size_t>(bytes), stdin) == static_cast<size_t>(bytes);
}

template <class T>
static T get() {
  T value;
  if (!read(&value, sizeof(value))) std::exit(1);
  return value;
}

static Buffer get_buffer() {
  Buffer buffer(get<i64>());
  if (!read(buffer.data, buffer.bytes)) std::exit(1);
  return buffer;
}

static void put(const Buffer& buffer) {
  std::fwrite(buffer.data, 1, static_cast<size_t>(buffer.bytes), stdout);
}

static std::vector<Buffer> get_buffers(int count) {
  std::vector<Buffer> in;
  for (int i = 0; i < count; ++i) in.push_back(get_buffer());
  return in;
}

static void conv(i64 threads) {
  const ConvSpec spec = get<ConvSpec>();
  const std::vector<Buffer> in = get_buffers(7);
  Buffer out(get<i64>());
  Buffer memory(binop_cpu_plan_bytes(&spec));
  binop_cpu_plan(&spec, memory.data);
  const ConvPlan* plan = reinterpret_cast<const ConvPlan*>(memory.data);
  const bool packed = spec.weight.dtype == kBits;
  Buffer prepared(packed ? binop_cpu_prepared_bytes(plan) : 0);
  if (packed) binop_cpu_prepare(plan, in[1].data, prepared.data, threads);
  const char* raw = packed ? in[1].data : nullptr;
  const i64 outcome =
      binop_cpu_conv(plan, in[0].data, in[1].data, raw, prepared.data, out.data, in[2].data,
                     in[3].data, in[4].data, in[5].data, in[6].data, nullptr, threads);
  if (outcome != kDone) std::exit(2);
  put(out);
}

static void conv_residual(i64 threads) {
  const ConvSpec spec = get<ConvSpec>();
  const std::vector<Buffer> in = get_buffers(7);
  Buffer y(get<i64>());
  Buffer signs(get<i64>());
  Buffer memory(binop_cpu_plan_bytes(&spec));
  binop_cpu_plan(&spec, memory.data);
  const ConvPlan* plan = reinterpret_cast<const ConvPlan*>(memory.data);
  Buffer prepared(binop_cpu_prepared_bytes(plan));
  binop_cpu_prepare(plan, in[1].data, prepared.data, threads);
  const auto floats = [&](int i) { return reinterpret_cast<const float*>(in[i].data); };
  const i64 outcome = binop_cpu_conv_residual(plan, in[0].data, in[1].data, in[1].data,
                                              prepared.data, y.data, signs.data, in[2].data,
                                              floats(3), in[4].data, floats(5), floats(6), threads);
  if (outcome != kDone) std::exit(2);
  put(y);
  put(signs);
}

static void pack(i64 threads) {
  const PackSpec spec = get<PackSpec>();
  const Buffer x = get_buffer();
  const Buffer scale = get_buffer();
  Buffer signs(get<i64>());
  Buffer mask(signs.bytes);
  binop_cpu_pack(&spec, x.data, signs.data, mask.data, scale.data, threads);
  put(signs);
  put(mask);
}

static void unpack(i64 threads) {
  const UnpackSpec spec = get<UnpackSpec>();
  const Buffer packed = get_buffer();
  Buffer out(get<i64>());
  binop_cpu_unpack(&spec, packed.data, out.data, threads);
  put(out);
}

int main(int count, char** arguments) {
  const i64 threads = count > 1 ? std::atoi(arguments[1]) : 1;
  for (i64 i = 0; i < binop_cpu_paths(); ++i) {
    std::fprintf(stderr, "%s\n", binop_cpu_path_name(i));
  }
  i64 op;
  while (read(&op, sizeof(op))) {
    if (op == 0) conv(threads);
    if (op == 1) pack(threads);
    if (op == 2) unpack(threads);
    if (op == 3) conv_residual(threads);
  }
}
