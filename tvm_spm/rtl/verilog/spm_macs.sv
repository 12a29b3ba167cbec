// Walks the RF tile of one step, one index a cycle for all PEs at once, innermost dim last; `limit` is the piece of PE 0.
module spm_macs (
    input logic clk,
    input logic rst,
    input logic start,
    input logic [127:0] limit,             // of 8 dims, 16 bits each
    input logic [3*8*16-1:0] rf_step,      // bytes in RF that an index of a dim advances; I, W, O
    output logic busy,
    output logic last,
    output logic [127:0] at,
    output logic [47:0] address,           // in the buffers of I, W, O
    output logic first_sum                 // all summed dims at 0: the first product of each output
);
  logic [127:0] extent;

  always_comb begin
    address = '0;
    last = busy;
    for (int d = 0; d < 8; d++) begin
      for (int o = 0; o < 3; o++)
        address[o*16+:16] = address[o*16+:16] + at[d*16+:16] * rf_step[(o*8+d)*16+:16];
      last = last && at[d*16+:16] + 16'd1 == extent[d*16+:16];
    end
  end

  assign first_sum = at[3*16+:16] == 16'd0 && at[6*16+:32] == 32'd0;

  always_ff @(posedge clk) begin
    logic carry;
    if (rst) begin
      busy <= 1'b0;
      at <= 128'd0;
      extent <= 128'd0;
    end else if (start) begin
      busy <= 1'b1;
      at <= 128'd0;
      extent <= limit;
    end else if (busy) begin
      carry = 1'b1;
      for (int d = 7; d >= 0; d--)
        if (carry) begin
          if (at[d*16+:16] + 16'd1 == extent[d*16+:16]) at[d*16+:16] <= 16'd0;
          else begin
            at[d*16+:16] <= at[d*16+:16] + 16'd1;
            carry = 1'b0;
          end
        end
      if (last) busy <= 1'b0;
    end
  end
endmodule
