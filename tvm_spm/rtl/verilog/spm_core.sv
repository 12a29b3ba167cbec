// One core: sequencer, DMA engine, scratchpad, PE array and vector unit.
//
// It is configured by registers, and then fed two lists from the instruction stream: transfers and passes. Each says the slot it
// belongs to. A slot is one pass and the transfers beside and after it; the next begins when all of them are over.
module spm_core #(
    parameter int ROWS = 2,
    parameter int COLS = 2,
    parameter int RF_BYTES = 64,
    parameter int SPM_BYTES = 1024,
    parameter int STAGES = 1,
    parameter int LANES = 1,
    parameter int RATE_NUM = 1,
    parameter int RATE_DEN = 1,
    parameter int PORT_NUM = 0,
    parameter int PORT_DEN = 1,
    parameter int DMA_LANES = 4,
    parameter int CYCLE_UNITS = 1,
    parameter int START_UNITS = 0,
    parameter int BYTE_UNITS = 1,
    parameter int BURST_BYTES = 1,
    parameter int BANKS = 0,
    parameter int ROW_BYTES = 64,
    parameter int BLOCK_BYTES = 64,
    parameter int HIT_UNITS = 0,
    parameter int MISS_UNITS = 0,
    parameter int VECTOR_OPS = 1,
    parameter int VECTOR_NUM = 1,
    parameter int VECTOR_DEN = 1,
    parameter int LAUNCH_CYCLES = 0,
    parameter int UNIT_ROWS = ROWS,
    parameter int UNIT_COLS = COLS
) (
    input logic clk,
    input logic rst,
    input logic register_clk,              // of the registers alone, which stand still while a program runs
    input logic [15:0] register_number,
    input logic [31:0] register_value,
    input logic start,
    output logic finished,
    // instructions, and which ones are wanted in the next cycle
    output logic [31:0] pass_number,
    output logic [31:0] pass_next,
    input logic [12*32-1:0] pass_word,
    output logic [31:0] transfer_number,
    output logic [31:0] transfer_next,
    input logic [68*32-1:0] transfer_word,
    // DRAM
    output logic [DMA_LANES-1:0] dram_valid,
    output logic dram_writes,
    output logic [3:0] dram_bytes,
    output logic [DMA_LANES-1:0] dram_strobe,
    output logic [DMA_LANES*32-1:0] dram_address,
    output logic [DMA_LANES*32-1:0] dram_wdata,
    input logic [DMA_LANES*32-1:0] dram_rdata,
    // what happened
    output logic pass_running,
    output logic [4*64-1:0] num_crossed,   // elements: I, W, sums in, sums out
    output logic [5*64-1:0] num_moved,     // elements: I, W, partial sums, finished outputs, extras
    output logic [5*64-1:0] num_pad_bytes,
    output logic [63:0] num_macs,
    output logic [2*64-1:0] num_heard
);
  localparam int PLACES = 120, REGISTERS = PLACES + 13 * (ROWS + COLS);

  // registers ---------------------------------------------------------------------------------------------------------
  logic [REGISTERS*32-1:0] registers;
  always_ff @(posedge register_clk)
    if (register_number < 16'(REGISTERS)) registers[32'(register_number)*32+:32] <= register_value;

  logic [31:0] num_passes, num_transfers;
  assign num_passes = registers[4*32+:32];
  assign num_transfers = registers[5*32+:32];

  logic [ROWS*416-1:0] row_place;
  logic [COLS*416-1:0] col_place;
  logic [12*40-1:0] axes;
  always_comb begin
    for (int axis = 0; axis < 12; axis++) axes[axis*40+:40] = registers[(29+2*axis)*32+:40];
    for (int row = 0; row < ROWS; row++) row_place[row*416+:416] = registers[(PLACES+13*row)*32+:416];
    for (int col = 0; col < COLS; col++) col_place[col*416+:416] = registers[(PLACES+13*(ROWS+col))*32+:416];
  end

  // slots -------------------------------------------------------------------------------------------------------------
  logic is_launching, is_running, pass_last, enters_run, advances, go;
  logic [31:0] slot, waited;
  logic has_transfer, in_slot, dma_active, dma_last, dma_over, pass_over;

  assign has_transfer = transfer_number < num_transfers;
  assign in_slot = has_transfer && transfer_word[32+:32] == slot;
  assign dma_active = is_running && in_slot && !(transfer_word[2] && pass_running);
  assign dma_over = !in_slot || (dma_active && dma_last && transfer_word[3]);
  assign pass_over = !pass_running || pass_last;
  assign enters_run = LAUNCH_CYCLES == 0 ? start : is_launching && waited == 32'(LAUNCH_CYCLES - 1);
  assign advances = (enters_run && !in_slot) || (is_running && pass_over && dma_over);
  assign go = advances && slot != num_passes;
  assign pass_number = slot;
  assign pass_next = go ? slot + 32'd1 : slot;
  assign transfer_next = dma_active && dma_last ? transfer_number + 32'd1 : transfer_number;

  always_ff @(posedge clk)
    if (rst) begin
      is_launching <= 1'b0;
      is_running <= 1'b0;
      finished <= 1'b0;
      slot <= 32'd0;
      waited <= 32'd0;
      transfer_number <= 32'd0;
    end else begin
      if (start && LAUNCH_CYCLES != 0) is_launching <= 1'b1;
      if (is_launching) waited <= waited + 32'd1;
      if (enters_run) begin
        is_launching <= 1'b0;
        is_running <= 1'b1;
      end
      transfer_number <= transfer_next;
      if (advances) begin
        if (slot == num_passes) begin
          is_running <= 1'b0;
          finished <= 1'b1;
        end else slot <= pass_next;
      end
    end

  // array -------------------------------------------------------------------------------------------------------------
  logic [3*LANES-1:0] read_valid;
  logic [3*LANES*32-1:0] read_address, read_data;
  logic [LANES-1:0] write_valid;
  logic [LANES*32-1:0] write_address, write_data;
  logic [4*LANES-1:0] crossed;

  spm_array #(
      .ROWS(ROWS), .COLS(COLS), .RF_BYTES(RF_BYTES), .STAGES(STAGES), .LANES(LANES), .RATE_NUM(RATE_NUM),
      .RATE_DEN(RATE_DEN), .PORT_NUM(PORT_NUM), .PORT_DEN(PORT_DEN), .UNIT_ROWS(UNIT_ROWS),
      .UNIT_COLS(UNIT_COLS)
  ) array_i (
      .clk, .rst, .array_tile(registers[9*32+:128]), .rf_tile(registers[13*32+:128]),
      .num_loops(registers[3:0]), .loop_dim(registers[32+:32]), .depth(registers[64+:12]),
      .is_double(registers[6:4]), .elem_bytes(registers[76+:12]), .is_signed(registers[9:8]), .period(registers[119*32+:16]),
      .hole_axis(registers[119*32+16+:2]),
      .rf_buffer(registers[6*32+:96]), .rf_step(registers[17*32+:384]), .axes(axes),
      .spm_stride(registers[53*32+:384]), .rf_stride(registers[65*32+:192]), .sum_rows(registers[3*32+:16]),
      .sum_cols(registers[3*32+16+:16]), .row_place, .col_place, .go, .go_flags(pass_word[4:0]),
      .go_tile(pass_word[4*32+:128]), .go_address(pass_word[32+:96]), .go_low(pass_word[8*32+:64]),
      .go_high(pass_word[10*32+:64]), .running(pass_running), .pass_last, .read_valid, .read_address, .read_data,
      .write_valid, .write_address, .write_data, .crossed, .num_macs, .num_heard
  );

  // DMA engine and vector unit ----------------------------------------------------------------------------------------
  logic [31:0] num_ready, vector_ready, pad_bytes;
  logic [DMA_LANES-1:0] moves, strobe;
  logic [DMA_LANES*32-1:0] spm_address, spm_rdata;
  logic [VECTOR_OPS*32-1:0] vector_address, vector_sums, vector_results;
  logic [VECTOR_OPS-1:0] vector_works, vector_write;
  logic is_store, is_extra, has_vector;

  assign is_store = transfer_word[1:0] == 2'd1;
  assign is_extra = transfer_word[1:0] == 2'd2;
  assign has_vector = transfer_word[4];
  assign num_ready = has_vector && is_store ? vector_ready : 32'hffffffff;

  spm_dma #(
      .LANES(DMA_LANES), .CYCLE_UNITS(CYCLE_UNITS), .START_UNITS(START_UNITS), .BYTE_UNITS(BYTE_UNITS),
      .BURST_BYTES(BURST_BYTES), .BANKS(BANKS), .ROW_BYTES(ROW_BYTES), .BLOCK_BYTES(BLOCK_BYTES), .HIT_UNITS(HIT_UNITS),
      .MISS_UNITS(MISS_UNITS)
  ) dma_i (
      .clk, .rst, .active(dma_active), .dram_base(transfer_word[2*32+:32]), .spm_base(transfer_word[3*32+:32]),
      .elem_bytes(transfer_word[11:8]), .count(transfer_word[4*32+:160]), .dram_stride(transfer_word[9*32+:160]),
      .spm_stride(transfer_word[14*32+:160]), .period(transfer_word[19*32+:160]), .run(transfer_word[24*32+:160]),
      .num_ready, .moves, .strobe, .dram_address, .spm_address, .pad_bytes, .last(dma_last)
  );

  spm_vector #(
      .OPS(VECTOR_OPS), .VECTOR_NUM(VECTOR_NUM), .VECTOR_DEN(VECTOR_DEN), .EXTRA_BYTES(SPM_BYTES),
      .DMA_LANES(DMA_LANES)
  ) vector_i (
      .clk, .rst, .num_ops(registers[23:16]), .program_words(registers[71*32+:1024]),
      .constants(registers[103*32+:512]), .sum_type(registers[15:12]), .active(dma_active && has_vector && is_store),
      .finish(dma_active && dma_last && is_store), .spm_base(transfer_word[57*32+:32]),
      .count(transfer_word[58*32+:160]), .spm_stride(transfer_word[63*32+:160]), .extra(transfer_word[29*32+:896]), .num_ready(vector_ready),
      .works(vector_works), .address(vector_address), .sums(vector_sums), .write(vector_write), .results(vector_results),
      .fill_valid(is_extra ? moves : '0), .fill_bytes(transfer_word[11:8]), .fill_address(spm_address),
      .fill_data(dram_rdata)
  );

  spm_scratchpad #(
      .BYTES(SPM_BYTES), .READS(3 * LANES), .WRITES(LANES), .DMA_LANES(DMA_LANES), .VECTOR_LANES(VECTOR_OPS)
  ) scratchpad_i (
      .clk, .read_valid, .read_address, .read_data, .write_valid, .write_address, .write_data, .write_bytes(registers[84+:4]),
      .dma_valid(moves), .dma_writes(transfer_word[1:0] == 2'd0), .dma_bytes(transfer_word[11:8]),
      .dma_address(spm_address), .dma_wdata(dram_rdata), .dma_rdata(spm_rdata), .vector_works, .vector_address,
      .vector_rdata(vector_sums), .vector_valid(vector_write), .vector_bytes(registers[27:24]),
      .vector_wdata(vector_results)
  );

  assign dram_valid = moves;
  assign dram_writes = is_store;
  assign dram_bytes = transfer_word[11:8];
  assign dram_strobe = strobe;

  // What the vector unit has just finished leaves in the same cycle.
  always_comb begin
    dram_wdata = spm_rdata;
    if (is_store && |vector_write)
      for (int lane = 0; lane < DMA_LANES; lane++)
        for (int slot_of = 0; slot_of < VECTOR_OPS; slot_of++)
          if (vector_write[slot_of] && vector_address[slot_of*32+:32] == spm_address[lane*32+:32])
            dram_wdata[lane*32+:32] = vector_results[slot_of*32+:32];
  end

  // counters ----------------------------------------------------------------------------------------------------------
  logic [31:0] moved_now;
  logic [4*32-1:0] crossed_now;
  always_comb begin
    moved_now = 32'd0;
    for (int lane = 0; lane < DMA_LANES; lane++) if (moves[lane]) moved_now = moved_now + 32'd1;
    crossed_now = '0;
    if (|crossed)
      for (int network = 0; network < 4; network++)
        for (int lane = 0; lane < LANES; lane++)
          if (crossed[network*LANES+lane]) crossed_now[network*32+:32] = crossed_now[network*32+:32] + 32'd1;
  end

  always_ff @(posedge clk)
    if (rst) begin
      num_crossed <= '0;
      num_moved <= '0;
      num_pad_bytes <= '0;
    end else begin
      for (int network = 0; network < 4; network++)
        num_crossed[network*64+:64] <= num_crossed[network*64+:64] + 64'(crossed_now[network*32+:32]);
      for (int kind = 0; kind < 5; kind++)
        if (transfer_word[15:12] == 4'(kind)) begin
          num_moved[kind*64+:64] <= num_moved[kind*64+:64] + 64'(moved_now);
          num_pad_bytes[kind*64+:64] <= num_pad_bytes[kind*64+:64] + 64'(pad_bytes);
        end
    end

  logic unused;
  assign unused = &{1'b0, transfer_word[31:16], transfer_word[7:5], pass_word[31:5], registers[31:28],
                    registers[11:10], registers[95:88], registers[119*32+18+:14]};
endmodule
