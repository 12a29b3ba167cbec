// Runs one program on the core. Input and output are words of 32 bits, little endian:
//   in:  registers, passes, transfers, bytes of DRAM, most cycles (64 bits), then these in turn
//   out: 1 if it ended, cycles (64 bits), counters (64 bits each), cycles of each pass, cycles of each slot, the DRAM
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "Vspm_bench.h"
#include "Vspm_bench__Dpi.h"
#include "verilated.h"

static const size_t PASS = 12, TRANSFER = 68;
static std::vector<uint8_t> dram;
static std::vector<uint32_t> passes, transfers;

extern "C" int dram_read(int address) {
  uint32_t value = 0;
  for (uint32_t b = 0; b < 4; b++)
    if (uint32_t(address) + b < dram.size()) value |= uint32_t(dram[uint32_t(address) + b]) << (8 * b);
  return int(value);
}

extern "C" void dram_write(int address, int value, int num_bytes) {
  for (uint32_t b = 0; b < uint32_t(num_bytes); b++)
    if (uint32_t(address) + b < dram.size()) dram[uint32_t(address) + b] = uint8_t(uint32_t(value) >> (8 * b));
}

static void fetch(const std::vector<uint32_t> &words, size_t size, int number, svBitVecVal *word) {
  if ((uint32_t(number) + 1) * size <= words.size())
    memcpy(word, &words[uint32_t(number) * size], size * 4);
  else
    memset(word, 0, size * 4);
}

extern "C" void fetch_pass(int number, svBitVecVal *word) { fetch(passes, PASS, number, word); }

extern "C" void fetch_transfer(int number, svBitVecVal *word) { fetch(transfers, TRANSFER, number, word); }

static void take(void *to, size_t bytes) {
  if (fread(to, 1, bytes, stdin) != bytes) {
    fprintf(stderr, "program cut short\n");
    exit(2);
  }
}

int main() {
  uint32_t head[4];
  uint64_t most;
  take(head, sizeof head);
  take(&most, sizeof most);
  std::vector<uint32_t> registers(head[0]);
  passes.resize(head[1] * PASS);
  transfers.resize(head[2] * TRANSFER);
  dram.resize(head[3]);
  take(registers.data(), registers.size() * 4);
  take(passes.data(), passes.size() * 4);
  take(transfers.data(), transfers.size() * 4);
  take(dram.data(), dram.size());

  VerilatedContext context;
  Vspm_bench top(&context, "top");
  uint64_t cycles = 0;
  std::vector<uint64_t> pass_cycles(head[1]), slot_cycles(size_t(head[1]) + 1);
  auto clock = [&]() {
    top.clk = 0;
    top.eval();
    top.clk = 1;
    top.eval();
  };
  top.rst = 1;
  top.clk = top.register_clk = top.start = 0;
  for (size_t number = 0; number < registers.size(); number++) {
    top.register_number = uint16_t(number);
    top.register_value = registers[number];
    top.register_clk = 0;
    top.eval();
    top.register_clk = 1;
    top.eval();
  }
  clock();
  clock();
  top.rst = 0;
  top.start = 1;
  clock();
  top.start = 0;
  clock();
  while (!top.finished && cycles < most) {
    if (top.pass_running && top.pass_number > 0) pass_cycles[top.pass_number - 1]++;
    slot_cycles[top.pass_number]++;
    clock();
    cycles++;
  }
  const uint32_t ended = top.finished;
  clock();
  clock();
  std::vector<uint64_t> counters;
  auto add = [&](const WData *words, int count) {
    for (int i = 0; i < count; i++) counters.push_back(uint64_t(words[2 * i + 1]) << 32 | words[2 * i]);
  };
  add(&top.num_crossed[0], 4);
  add(&top.num_moved[0], 5);
  add(&top.num_pad_bytes[0], 5);
  counters.push_back(top.num_macs);
  add(&top.num_heard[0], 2);
  fwrite(&ended, 4, 1, stdout);
  fwrite(&cycles, 8, 1, stdout);
  fwrite(counters.data(), 8, counters.size(), stdout);
  fwrite(pass_cycles.data(), 8, pass_cycles.size(), stdout);
  fwrite(slot_cycles.data(), 8, slot_cycles.size(), stdout);
  fwrite(dram.data(), 1, dram.size(), stdout);
  return 0;
}
