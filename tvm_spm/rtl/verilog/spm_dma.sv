// The DMA engine and its DRAM channel: one transfer at a time, element by element along the axes of a box.
//
// Time is counted in units of 1 / CYCLE_UNITS core cycles, because engine and channel have clocks of their own: a burst costs
// START_UNITS before its first byte and BYTE_UNITS a byte, and moves whole multiples of BURST_BYTES. A new burst starts
// wherever the next address in DRAM is not the one behind the last. Padding is not moved: networks put zeros in its place.
//
// With BANKS above 0 each bank of the channel keeps a row open; blocks of BLOCK_BYTES lie in the banks in turn, and all three
// sizes are powers of two. In each block that a burst comes to, it waits MISS_UNITS if the bank has another row open than the
// block's, and HIT_UNITS anyway, but for its first block, for which they are part of START_UNITS.
module spm_dma #(
    parameter int LANES = 4,
    parameter int CYCLE_UNITS = 1,
    parameter int START_UNITS = 0,
    parameter int BYTE_UNITS = 1,
    parameter int BURST_BYTES = 1,
    parameter int BANKS = 0,
    parameter int ROW_BYTES = 64,
    parameter int BLOCK_BYTES = 64,
    parameter int HIT_UNITS = 0,
    parameter int MISS_UNITS = 0           // beyond a hit
) (
    input logic clk,
    input logic rst,
    input logic active,                    // the transfer described beside may run
    input logic [31:0] dram_base,
    input logic [31:0] spm_base,
    input logic [3:0] elem_bytes,
    input logic [5*32-1:0] count,          // elements along the axes, outermost lowest
    input logic [5*32-1:0] dram_stride,
    input logic [5*32-1:0] spm_stride,
    input logic [5*32-1:0] period,         // an element is written if its index mod period < run: others lie between
    input logic [5*32-1:0] run,
    input logic [31:0] num_ready,          // elements that may be moved
    output logic [LANES-1:0] moves,
    output logic [LANES-1:0] strobe,
    output logic [LANES*32-1:0] dram_address,
    output logic [LANES*32-1:0] spm_address,
    output logic [31:0] pad_bytes,         // moved in this cycle only because bursts are whole
    output logic last
);
  // per axis: index and the same modulo the period; of the element: whether part of its cost is paid, and what is owed
  logic [5*32-1:0] here, turn;
  logic [31:0] in_burst, owed, index;
  logic in_run, is_owed;

  // per bank: the row that is open, 0 for none, else its number and 1
  localparam int TABLE = BANKS > 0 ? BANKS : 1;
  logic [TABLE*32-1:0] open_row, open_row_next;
  logic [31:0] block, block_next;        // of the last element

  logic [5*32-1:0] here_next, turn_next;
  logic [31:0] in_burst_next, owed_next, index_next;
  logic in_run_next, is_owed_next;

  function automatic logic [31:0] along(input logic [5*32-1:0] where, input logic [5*32-1:0] stride);
    along = 32'd0;
    for (int axis = 0; axis < 5; axis++) along = along + where[axis*32+:32] * stride[axis*32+:32];
  endfunction

  // {it was the last, index modulo the period, index} of the next element
  function automatic logic [320:0] behind(
      input logic [5*32-1:0] at, input logic [5*32-1:0] at_turn, input logic [5*32-1:0] elems,
      input logic [5*32-1:0] periods);
    logic carry;
    carry = 1'b1;
    behind = {1'b0, at_turn, at};
    for (int axis = 4; axis >= 0; axis--)
      if (carry) begin
        if (at[axis*32+:32] + 32'd1 == elems[axis*32+:32]) begin
          behind[axis*32+:32] = 32'd0;
          behind[160+axis*32+:32] = 32'd0;
        end else begin
          behind[axis*32+:32] = at[axis*32+:32] + 32'd1;
          behind[160+axis*32+:32] =
              at_turn[axis*32+:32] + 32'd1 == periods[axis*32+:32] ? 32'd0 : at_turn[axis*32+:32] + 32'd1;
          carry = 1'b0;
        end
      end
    behind[320] = carry;
  endfunction

  always_comb begin
    logic stopped, is_last, ends;
    logic [31:0] budget, cost, whole, pad, at_block, row, bank;
    logic [5*32-1:0] to, to_turn;
    here_next = here;
    turn_next = turn;
    in_burst_next = in_burst;
    owed_next = owed;
    index_next = index;
    in_run_next = in_run;
    is_owed_next = is_owed;
    moves = '0;
    strobe = '0;
    dram_address = '0;
    spm_address = '0;
    pad_bytes = 32'd0;
    last = 1'b0;
    stopped = !active;
    is_last = 1'b0;
    ends = 1'b0;
    budget = 32'(CYCLE_UNITS);
    cost = 32'd0;
    whole = 32'd0;
    pad = 32'd0;
    to = '0;
    to_turn = '0;
    open_row_next = open_row;
    block_next = block;
    at_block = 32'd0;
    row = 32'd0;
    bank = 32'd0;
    for (int lane = 0; lane < LANES; lane++)
      if (!stopped) begin
        dram_address[lane*32+:32] = dram_base + along(here_next, dram_stride);
        spm_address[lane*32+:32] = spm_base + along(here_next, spm_stride);
        {is_last, to_turn, to} = behind(here_next, turn_next, count, period);
        ends = is_last || dram_base + along(to, dram_stride) != dram_address[lane*32+:32] + 32'(elem_bytes);
        whole = (in_burst_next + 32'(elem_bytes)) % 32'(BURST_BYTES);
        pad = ends && whole != 32'd0 ? 32'(BURST_BYTES) - whole : 32'd0;
        cost = is_owed_next ? owed_next
            : (in_run_next ? 32'd0 : 32'(START_UNITS)) + (32'(elem_bytes) + pad) * 32'(BYTE_UNITS);
        if (BANKS > 0) begin
          at_block = dram_address[lane*32+:32] >> $clog2(BLOCK_BYTES);
          bank = at_block & 32'(TABLE - 1);
          row = (dram_address[lane*32+:32] >> $clog2(TABLE * ROW_BYTES)) + 32'd1;
          if (!is_owed_next) begin
            if (in_run_next && at_block != block_next) cost = cost + 32'(HIT_UNITS);
            if (open_row_next[bank*32+:32] != row) cost = cost + 32'(MISS_UNITS);
          end
        end
        if (budget >= cost && index_next < num_ready) begin
          moves[lane] = 1'b1;
          strobe[lane] = 1'b1;
          for (int axis = 0; axis < 5; axis++)
            if (turn_next[axis*32+:32] >= run[axis*32+:32]) strobe[lane] = 1'b0;
          budget = budget - cost;
          pad_bytes = pad_bytes + pad;
          in_burst_next = ends ? 32'd0 : whole;
          in_run_next = !ends;
          if (BANKS > 0) begin
            block_next = at_block;
            open_row_next[bank*32+:32] = row;
          end
          is_owed_next = 1'b0;
          here_next = to;
          turn_next = to_turn;
          index_next = index_next + 32'd1;
          if (is_last) begin
            last = 1'b1;
            stopped = 1'b1;
            index_next = 32'd0;
          end
        end else begin
          owed_next = cost > budget ? cost - budget : 32'd0;
          is_owed_next = 1'b1;
          stopped = 1'b1;
        end
      end
  end

  always_ff @(posedge clk)
    if (rst) begin
      {here, turn, in_burst, owed, index} <= '0;
      in_run <= 1'b0;
      is_owed <= 1'b0;
      open_row <= '0;
      block <= 32'd0;
    end else begin
      here <= here_next;
      turn <= turn_next;
      in_burst <= in_burst_next;
      owed <= owed_next;
      index <= index_next;
      in_run <= in_run_next;
      is_owed <= is_owed_next;
      open_row <= open_row_next;
      block <= block_next;
    end
endmodule
