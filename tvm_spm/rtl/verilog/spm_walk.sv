// Walks the box of a tile, outermost axis first: the address side of one operand network.
//
// It offers up to LANES elements a cycle, RATE_NUM / RATE_DEN on average, and goes on behind those that are taken.
// A link that had to wait may be one element ahead of its rate afterwards, no more.
module spm_walk #(
    parameter int LANES = 1,
    parameter int RATE_NUM = 1,
    parameter int RATE_DEN = 1
) (
    input logic clk,
    input logic rst,
    input logic start,
    input logic [63:0] size,               // elements along each of 4 axes, 16 bits each, outermost lowest
    input logic [15:0] period,             // of the holes along `hole_axis`
    input logic [1:0] hole_axis,
    output logic [LANES-1:0] offered,
    output logic [LANES*64-1:0] at,        // index in the box of each offered element, as `size`
    output logic [LANES*16-1:0] turn,      // the one along `hole_axis` modulo `period`
    input logic [LANES-1:0] taken,         // of those offered, the first few
    output logic [63:0] beyond,            // where it goes on after those
    output logic busy,
    output logic last                      // the last element is taken in this cycle
);
  /* verilator lint_off WIDTHCONCAT */     // networks of hundreds of elements a cycle are as wide as they seem
  logic [63:0] here, extent;
  logic [15:0] credit, credit_now, credit_left, turn_here, turn_beyond;
  logic [LANES*16-1:0] turns;              // behind each offered element
  logic [LANES*64-1:0] behind;
  logic [LANES-1:0] is_end;

  assign credit_now = credit + 16'(RATE_NUM);

  always_comb begin
    logic [63:0] next;
    logic [15:0] next_turn, crossing;
    logic carry;
    next = here;
    next_turn = turn_here;
    crossing = 16'd0;
    carry = 1'b0;
    offered = '0;
    at = '0;
    turn = '0;
    behind = '0;
    turns = '0;
    is_end = '0;
    if (busy)
      for (int lane = 0; lane < LANES; lane++)
        if (!carry && credit_now >= 16'((lane + 1) * RATE_DEN)) begin
          offered[lane] = 1'b1;
          at[lane*64+:64] = next;
          turn[lane*16+:16] = next_turn;
          crossing = next[32'(hole_axis)*16+:16];
          carry = 1'b1;
          for (int axis = 3; axis >= 0; axis--)
            if (carry) begin
              if (next[axis*16+:16] + 16'd1 == extent[axis*16+:16]) next[axis*16+:16] = 16'd0;
              else begin
                next[axis*16+:16] = next[axis*16+:16] + 16'd1;
                carry = 1'b0;
              end
            end
          if (next[32'(hole_axis)*16+:16] != crossing)
            next_turn = next[32'(hole_axis)*16+:16] == 16'd0 || next_turn + 16'd1 == period ? 16'd0 : next_turn + 16'd1;
          behind[lane*64+:64] = next;
          turns[lane*16+:16] = next_turn;
          is_end[lane] = carry;
        end
  end

  always_comb begin
    beyond = here;
    turn_beyond = turn_here;
    credit_left = credit_now;
    if (|taken)
      for (int lane = 0; lane < LANES; lane++)
        if (taken[lane]) begin
          beyond = behind[lane*64+:64];
          turn_beyond = turns[lane*16+:16];
          credit_left = credit_left - 16'(RATE_DEN);
        end
  end

  assign last = |(taken & is_end);

  always_ff @(posedge clk) begin
    if (rst) begin
      busy <= 1'b0;
      credit <= 16'd0;
      here <= 64'd0;
      turn_here <= 16'd0;
      extent <= 64'd0;
    end else if (start) begin
      busy <= 1'b1;
      credit <= 16'd0;
      here <= 64'd0;
      turn_here <= 16'd0;
      extent <= size;
    end else if (busy) begin
      here <= beyond;
      turn_here <= turn_beyond;
      credit <= credit_left > 16'(RATE_DEN) ? 16'(RATE_DEN) : credit_left;
      if (last) busy <= 1'b0;
    end
  end
endmodule
