// Shares the SPM port among the networks: element by element to the one that has most left to move.
//
// PORT_NUM / PORT_DEN bytes a cycle; what is left of a cycle's bytes may begin an element, but never more than that is saved.
module spm_port #(
    parameter int LANES = 1,
    parameter int PORT_NUM = 0,            // 0: all networks at full rate, always
    parameter int PORT_DEN = 1
) (
    input logic clk,
    input logic rst,
    input logic [3:0] start,               // I, W, sums in, sums out
    input logic [4*32-1:0] elems,          // of what starts
    input logic [15:0] elem_bytes,
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
      assign unused = &{1'b0, clk, rst, start, elems, elem_bytes};
    end else begin : g_shared
      logic [4*32-1:0] left, left_next;
      logic [31:0] credit, credit_next;
      logic [4*LANES-1:0] offered, taken;
      assign offered = {offered_out, offered_in};
      assign {taken_out, taken_in} = taken;

      always_comb begin
        logic [31:0] most;
        logic [4*LANES-1:0] next;
        logic [2:0] best;
        logic [7:0] at;
        at = 8'd0;
        left_next = left;
        taken = '0;
        credit_next = credit + 32'(PORT_NUM);
        for (int turn = 0; turn < 4 * LANES; turn++) begin
          most = 32'd0;
          best = 3'd4;
          next = offered & ~taken;
          for (int network = 0; network < 4; network++)
            if (|next[network*LANES+:LANES] && left_next[network*32+:32] > most
                && credit_next >= 32'(elem_bytes[network*4+:4]) * 32'(PORT_DEN)) begin
              most = left_next[network*32+:32];
              best = 3'(network);
            end
          for (int network = 0; network < 4; network++)
            if (best == 3'(network)) begin
              at = 8'd0;
              for (int lane = 0; lane < LANES; lane++) if (taken[network*LANES+lane]) at = 8'(lane + 1);
              for (int lane = 0; lane < LANES; lane++) if (at == 8'(lane)) taken[network*LANES+lane] = 1'b1;
              left_next[network*32+:32] = left_next[network*32+:32] - 32'd1;
              credit_next = credit_next - 32'(elem_bytes[network*4+:4]) * 32'(PORT_DEN);
            end
        end
        if (credit_next > 32'(4 * PORT_DEN - 1)) credit_next = 32'(4 * PORT_DEN - 1);
      end

      always_ff @(posedge clk)
        if (rst) begin
          left <= '0;
          credit <= 32'd0;
        end else begin
          left <= left_next;
          credit <= |left_next ? credit_next : 32'd0;
          for (int network = 0; network < 4; network++)
            if (start[network]) left[network*32+:32] <= elems[network*32+:32];
        end
    end
  endgenerate
endmodule
