// The vector unit: runs the epilogue over the elements of a finished tile, ahead of the DMA engine that stores it.
//
// It does OPS operations a cycle (VECTOR_NUM / VECTOR_DEN on average), each on the results of those before it, and leaves the
// results in the places of the sums. Extras come from a buffer that the DMA engine has filled before.
`ifdef VERILATOR
`define INTO =
`else
`define INTO <=
`endif

module spm_vector #(
    parameter int OPS = 1,
    parameter int VECTOR_NUM = 1,
    parameter int VECTOR_DEN = 1,
    parameter int EXTRA_BYTES = 64,
    parameter int DMA_LANES = 4
) (
    input logic clk,
    input logic rst,
    // fixed by the layer
    input logic [7:0] num_ops,
    input logic [16*64-1:0] program_words,  // of each operation: its code, dtype, result, three sources
    input logic [8*64-1:0] constants,
    input logic [3:0] sum_type,
    // the tile
    input logic active,
    input logic finish,                    // the DMA engine has stored all of it
    input logic [31:0] spm_base,
    input logic [5*32-1:0] count,
    input logic [5*32-1:0] spm_stride,
    input logic [4*224-1:0] extra,         // per extra: base, bytes that an element of each axis advances, dtype
    output logic [31:0] num_ready,
    // SPM
    output logic [OPS-1:0] works,
    output logic [OPS*32-1:0] address,
    input logic [OPS*32-1:0] sums,
    output logic [OPS-1:0] write,
    output logic [OPS*32-1:0] results,
    // the buffer of extras
    input logic [DMA_LANES-1:0] fill_valid,
    input logic [3:0] fill_bytes,
    input logic [DMA_LANES*32-1:0] fill_address,
    input logic [DMA_LANES*32-1:0] fill_data
);
  localparam int AW = $clog2(EXTRA_BYTES);
  /* verilator lint_off BLKSEQ */
  logic [7:0] buffer[0:EXTRA_BYTES-1];
  logic [OPS*96-1:0] streamed;             // what the sources of each slot bring
  logic [5*32-1:0] here;
  logic [7:0] op;
  logic [31:0] done, credit, credit_now;
  logic [8*64-1:0] registers, registers_next;
  logic finished;

  function automatic logic [31:0] along(input logic [5*32-1:0] where, input logic [5*32-1:0] stride);
    along = 32'd0;
    for (int axis = 0; axis < 5; axis++) along = along + where[axis*32+:32] * stride[axis*32+:32];
  endfunction

  // who works on what: the operation and the element of each slot -----------------------------------------------------
  logic [OPS-1:0] ends;
  logic [OPS*8-1:0] op_of;
  logic [OPS*160-1:0] at;
  logic [5*32-1:0] here_next;
  logic [7:0] op_next;
  logic [31:0] done_next, spent;
  logic finished_next;

  assign credit_now = credit + 32'(VECTOR_NUM);

  always_comb begin
    logic carry;
    carry = 1'b0;
    here_next = here;
    op_next = op;
    done_next = done;
    finished_next = finished;
    spent = 32'd0;
    works = '0;
    ends = '0;
    op_of = '0;
    at = '0;
    address = '0;
    for (int slot = 0; slot < OPS; slot++) begin
      if (active && !finished_next && credit_now >= 32'((slot + 1) * VECTOR_DEN)) begin
        works[slot] = 1'b1;
        op_of[slot*8+:8] = op_next;
        at[slot*160+:160] = here_next;
        address[slot*32+:32] = spm_base + along(here_next, spm_stride);
        op_next = op_next + 8'd1;
        spent = 32'((slot + 1) * VECTOR_DEN);
        if (op_next == num_ops) begin
          ends[slot] = 1'b1;
          op_next = 8'd0;
          done_next = done_next + 32'd1;
          carry = 1'b1;
          for (int axis = 4; axis >= 0; axis--)
            if (carry) begin
              if (here_next[axis*32+:32] + 32'd1 == count[axis*32+:32]) here_next[axis*32+:32] = 32'd0;
              else begin
                here_next[axis*32+:32] = here_next[axis*32+:32] + 32'd1;
                carry = 1'b0;
              end
            end
          if (carry) finished_next = 1'b1;
        end
      end
    end
  end

  assign num_ready = done_next;
  assign write = ends;

  // what comes out: each slot works on the results of those before it -------------------------------------------------
  for (genvar slot = 0; slot < OPS; slot++) begin : chain
    logic [8*64-1:0] taken, left;
    if (slot == 0) assign taken = registers;
    else assign taken = chain[slot-1].left;
    spm_operation operation (
        .works(works[slot]), .word(program_words[32'(op_of[slot*8+:8])*64+:64]), .constants(constants),
        .sum(sums[slot*32+:32]), .sum_type(sum_type), .streamed(streamed[slot*96+:96]),
        .extra_types({extra[3*224+192+:4], extra[2*224+192+:4], extra[224+192+:4], extra[192+:4]}),
        .registers(taken), .registers_next(left), .result(results[slot*32+:32]));
  end
  assign registers_next = chain[OPS-1].left;

  // The buffer is written on the rising edge of the clock and read on the falling one, as all memories are.
  always_ff @(posedge clk)
    if (|fill_valid)
      for (int lane = 0; lane < DMA_LANES; lane++)
        if (fill_valid[lane])
          for (int b = 0; b < 4; b++)
            if (4'(b) < fill_bytes) buffer[AW'(fill_address[lane*32+:32]+32'(b))] `INTO fill_data[lane*32+b*8+:8];

  always_ff @(negedge clk) begin
    logic [7:0] from;
    logic [31:0] place;
    logic [OPS*96-1:0] found;
    from = 8'd0;
    place = 32'd0;
    found = '0;
    if (|works)
      for (int slot = 0; slot < OPS; slot++)
        if (works[slot])
          for (int source = 0; source < 3; source++) begin
            from = program_words[32'(op_of[slot*8+:8])*64+24+source*8+:8];
            place = extra[32'(from[1:0])*224+:32] + along(at[slot*160+:160], extra[32'(from[1:0])*224+32+:160]);
            if (from[7:2] == 6'd4)
              for (int b = 0; b < 4; b++) found[(slot*3+source)*32+b*8+:8] = buffer[AW'(place+32'(b))];
          end
    streamed <= found;
  end

  always_ff @(posedge clk) begin
    if (rst || finish) begin
      here <= '0;
      op <= 8'd0;
      done <= 32'd0;
      credit <= 32'd0;
      finished <= 1'b0;
    end else begin
      here <= here_next;
      op <= op_next;
      done <= done_next;
      finished <= finished_next;
      if (active) credit <= credit_now - spent;
    end
    registers <= registers_next;
  end

  logic unused;
  assign unused = &{1'b0, extra[0]};
endmodule
`undef INTO
