// Shares the SPM port, if it has a limit, among the networks: one after the other, I, W, sums out, sums in.
//
// The network that has the port moves RATE_NUM / RATE_DEN elements a cycle, or PORT_NUM / PORT_DEN bytes if that is less.
module spm_port #(
    parameter int LANES = 1,
    parameter int RATE_NUM = 1,
    parameter int RATE_DEN = 1,
    parameter int PORT_NUM = 0,            // 0: all networks at full rate, always
    parameter int PORT_DEN = 1
) (
    input logic clk,
    input logic rst,
    input logic [3:0] start,               // I, W, sums in, sums out
    input logic [4*32-1:0] elems,          // of what starts
    input logic [15:0] elem_bytes,
    input logic hold,                      // sums may not come in yet
    input logic [3*LANES-1:0] offered_in,  // the first few lanes of each network
    input logic [LANES-1:0] offered_out,
    output logic [3*LANES-1:0] taken_in,
    output logic [LANES-1:0] taken_out
);
  generate
    if (PORT_NUM == 0) begin : g_free
      assign taken_in = offered_in;
      assign taken_out = offered_out;
      logic unused;
      assign unused = &{1'b0, clk, rst, start, elems, elem_bytes, hold};
    end else begin : g_shared
      logic [4*32-1:0] left;
      logic [31:0] elem_credit, elem_credit_next, byte_credit, byte_credit_next, cost, left_next;
      logic [2:0] turn;                    // the network that has the port, 4 if none
      logic [LANES-1:0] offered, moved;

      always_comb begin
        turn = 3'd4;
        if (left[2*32+:32] != 32'd0 && !hold) turn = 3'd2;
        if (left[3*32+:32] != 32'd0) turn = 3'd3;
        if (left[32+:32] != 32'd0) turn = 3'd1;
        if (left[0+:32] != 32'd0) turn = 3'd0;
        offered = '0;
        cost = 32'd0;
        left_next = 32'd0;
        for (int network = 0; network < 4; network++)
          if (turn == 3'(network)) begin
            offered = network == 3 ? offered_out : offered_in[(network%3)*LANES+:LANES];
            cost = 32'(elem_bytes[network*4+:4]) * 32'(PORT_DEN);
            left_next = left[network*32+:32];
          end
        elem_credit_next = elem_credit + 32'(RATE_NUM);
        byte_credit_next = byte_credit + 32'(PORT_NUM);
        moved = '0;
        for (int lane = 0; lane < LANES; lane++)
          if (offered[lane] && elem_credit_next >= 32'(RATE_DEN) && byte_credit_next >= cost) begin
            moved[lane] = 1'b1;
            elem_credit_next = elem_credit_next - 32'(RATE_DEN);
            byte_credit_next = byte_credit_next - cost;
            left_next = left_next - 32'd1;
          end
        taken_in = '0;
        for (int network = 0; network < 3; network++)
          if (turn == 3'(network)) taken_in[network*LANES+:LANES] = moved;
        taken_out = turn == 3'd3 ? moved : '0;
      end

      always_ff @(posedge clk)
        if (rst) begin
          left <= '0;
          elem_credit <= 32'd0;
          byte_credit <= 32'd0;
        end else begin
          // nothing is saved from one network's turn for the next
          elem_credit <= left_next == 32'd0 ? 32'd0 : elem_credit_next;
          byte_credit <= left_next == 32'd0 ? 32'd0 : byte_credit_next;
          for (int network = 0; network < 4; network++)
            if (start[network]) left[network*32+:32] <= elems[network*32+:32];
            else if (turn == 3'(network)) left[network*32+:32] <= left_next;
        end
    end
  endgenerate
endmodule
