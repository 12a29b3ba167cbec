// The steps of one pass: which array tile is worked on, and what crosses the operand networks before, beside and after it.
//
//   fill -> { work beside the crossings of double-buffered operands -> turn: those of single-buffered ones } -> drain
//
// A phase ends in the cycle in which the last thing that runs in it ends; the next starts in the cycle after.
module spm_sequence #(
    parameter int STAGES = 1
) (
    input logic clk,
    input logic rst,
    // fixed by the layer
    input logic [127:0] array_tile,
    input logic [3:0] num_loops,
    input logic [31:0] loop_dim,           // 4 bits each, outermost lowest
    input logic [11:0] depth,              // of I, W, O
    input logic [2:0] is_double,
    // of the pass
    input logic go,                        // begin the pass described beside; only with `pass_last` or when idle
    input logic [4:0] go_flags,            // I enters, W enters, O is read, O leaves, O starts at zero
    input logic [127:0] go_tile,
    output logic running,
    output logic pass_last,
    // networks
    output logic [2:0] enter_start,
    output logic [127:0] enter_base,       // of the array tile in the SPM tile, per dim
    output logic [127:0] enter_size,
    output logic [2:0] enter_which,        // the buffer that is filled
    input logic [2:0] enter_busy,
    input logic [2:0] enter_last,
    output logic leave_start,
    output logic [127:0] leave_base,
    output logic [127:0] leave_size,
    output logic leave_which,
    output logic in_place,                 // the tile that leaves is the one that is read back
    output logic leave_waits,              // it leaves as soon as the pipelines are empty
    input logic leave_busy,
    input logic leave_last,
    // multipliers
    output logic step_start,
    output logic [127:0] step_size,
    output logic step_new,
    output logic step_read,
    output logic [2:0] step_which,         // valid with `step_start`
    input logic mac_busy,
    input logic mac_last
);
  localparam logic [2:0] IDLE = 3'd0, FILL = 3'd1, WORK = 3'd2, TURN = 3'd3, PIPE = 3'd4, DRAIN = 3'd5;
  localparam int READ = 2, LEAVES = 3, ZERO = 4;

  logic [2:0] phase;
  logic [127:0] base;
  logic [2:0] now, later;                  // buffers that this step and the next use
  logic [127:0] tile, tile_next;
  logic [4:0] flags, flags_next;
  logic [127:0] enter_base_was, leave_base_was;
  logic [7:0] leave_wait, pipe_wait;
  logic read_waits, read_follows;

  // the odometer ------------------------------------------------------------------------------------------------------
  // {whether it is the last step, the loop that moves, the base after it}
  function automatic logic [132:0] after(input logic [127:0] from, input logic [127:0] all);
    logic [127:0] to;
    logic [3:0] mover, d;
    logic carry;
    to = from;
    mover = 4'd0;
    carry = 1'b1;
    for (int loop = 7; loop >= 0; loop--)
      if (carry && 4'(loop) < num_loops) begin
        d = loop_dim[loop*4+:4];
        if (from[d*16+:16] + array_tile[d*16+:16] < all[d*16+:16]) begin
          to[d*16+:16] = from[d*16+:16] + array_tile[d*16+:16];
          mover = 4'(loop);
          carry = 1'b0;
        end else to[d*16+:16] = 16'd0;
      end
    after = {carry, mover, to};
  endfunction

  function automatic logic [127:0] sized(input logic [127:0] from, input logic [127:0] all);
    for (int d = 0; d < 8; d++)
      sized[d*16+:16] = all[d*16+:16] - from[d*16+:16] < array_tile[d*16+:16] ?
          all[d*16+:16] - from[d*16+:16] : array_tile[d*16+:16];
  endfunction

  function automatic logic [0:0] is_summed(input logic [127:0] from);
    is_summed = |(from & {32'hffffffff, 32'd0, 16'hffff, 48'd0});
  endfunction

  function automatic logic [0:0] same_outputs(input logic [127:0] one, input logic [127:0] other);
    same_outputs = ~|((one ^ other) & ~{32'hffffffff, 32'd0, 16'hffff, 48'd0});
  endfunction

  // Longer along one dim and shorter along another: places would come in another order.
  function automatic logic [0:0] in_other_order(input logic [127:0] one, input logic [127:0] other);
    logic grows, shrinks;
    grows = 1'b0;
    shrinks = 1'b0;
    for (int d = 0; d < 6; d++)
      if (d != 3) begin
        grows = grows || other[d*16+:16] > one[d*16+:16];
        shrinks = shrinks || other[d*16+:16] < one[d*16+:16];
      end
    in_other_order = grows && shrinks;
  endfunction

  // what runs -----------------------------------------------------------------------------------------------------------
  logic phase_done, starts_step, late_now, late_next, is_inner, in_steps;
  logic [127:0] to, beyond, fresh_base;
  logic [3:0] mover, next_mover;
  logic is_last, next_is_last;
  logic [2:0] moves, next_moves;
  logic [2:0] next_phase;
  logic leave_wanted, read_wanted;         // at this boundary
  logic read_behind;                       // only when those that leave are out
  logic [2:0] enters;

  assign running = phase != IDLE;
  assign in_steps = !go && (phase == WORK || phase == TURN);
  assign {is_last, mover, to} = after(base, tile);
  assign tile_next = go ? go_tile : tile;
  assign flags_next = go ? go_flags : flags;

  always_comb begin
    is_inner = !leave_waits && !read_waits;
    for (int o = 0; o < 3; o++) if (enter_busy[o] && !enter_last[o]) is_inner = 1'b0;
    if (leave_busy && !leave_last) is_inner = 1'b0;
    if (phase == WORK && mac_busy && !mac_last) is_inner = 1'b0;
    if (phase == PIPE && pipe_wait != 8'd0) is_inner = 1'b0;
    pass_last = is_inner && (phase == DRAIN || (!flags[LEAVES]
        && (phase == PIPE || (STAGES == 1 && phase == WORK && is_last))));
  end

  assign phase_done = go || (is_inner && phase != IDLE);

  always_comb begin
    for (int o = 0; o < 3; o++) moves[o] = !is_last && mover < depth[o*4+:4];
    // A tile of outputs that comes back right after it leaves cannot be read beside the work on it.
    late_now = is_double[2] && moves[2] && same_outputs(base, to);
    next_phase = IDLE;
    if (go) next_phase = |go_flags[2:0] ? FILL : WORK;
    else if (!pass_last)
      case (phase)
        FILL, TURN: next_phase = WORK;
        WORK:
        if (!is_last) next_phase = |(moves & ~is_double) || late_now ? TURN : WORK;
        else next_phase = STAGES > 1 ? PIPE : DRAIN;
        PIPE: next_phase = DRAIN;
        default: next_phase = IDLE;
      endcase
    starts_step = phase_done && next_phase == WORK;
  end

  // the step that starts, and what moves beside it
  assign fresh_base = in_steps ? to : 128'd0;
  assign {next_is_last, next_mover, beyond} = after(fresh_base, tile_next);

  always_comb begin
    for (int o = 0; o < 3; o++) next_moves[o] = !next_is_last && next_mover < depth[o*4+:4];
    late_next = is_double[2] && next_moves[2] && same_outputs(fresh_base, beyond);
    enters = 3'b000;
    leave_wanted = 1'b0;
    read_wanted = 1'b0;
    read_behind = 1'b0;
    enter_base = 128'd0;
    leave_base = base;
    if (phase_done) begin
      if (next_phase == FILL) enters = flags_next[2:0];
      if (next_phase == WORK) begin
        enter_base = beyond;
        enters[1:0] = next_moves[1:0] & is_double[1:0];
        read_wanted = is_double[2] && next_moves[2] && !late_next && (is_summed(beyond) || flags_next[READ]);
        leave_wanted = in_steps && is_double[2] && moves[2] && !late_now;
      end
      if (next_phase == TURN) begin
        enter_base = to;
        enters[1:0] = moves[1:0] & ~is_double[1:0];
        leave_wanted = moves[2] && (!is_double[2] || late_now);
      end
      if (next_phase == DRAIN) leave_wanted = 1'b1;
      read_behind = read_wanted && leave_wanted
          && in_other_order(sized(leave_base, tile), sized(enter_base, tile_next));
      if (read_wanted && !read_behind && (STAGES == 1 || !leave_wanted)) enters[2] = 1'b1;
    end
    leave_start = leave_wanted && (STAGES == 1 || next_phase == DRAIN);
    if (leave_waits && leave_wait == 8'd0) begin
      leave_start = 1'b1;
      leave_base = leave_base_was;
      if (read_follows) begin
        enters[2] = 1'b1;
        enter_base = enter_base_was;
      end
    end
    // the next sums come in once the old ones are out
    if (read_waits && leave_busy && leave_last) begin
      enters[2] = 1'b1;
      enter_base = enter_base_was;
    end
  end

  assign enter_start = enters;
  assign enter_size = sized(enter_base, tile_next);
  assign leave_size = sized(leave_base, tile);
  assign step_start = starts_step;
  assign step_size = sized(fresh_base, tile_next);
  assign step_new = in_steps ? moves[2] : flags_next[READ] || flags_next[ZERO];
  assign step_read = (in_steps && is_summed(to)) || flags_next[READ];

  // buffers -------------------------------------------------------------------------------------------------------------
  logic [2:0] now_next, later_next;
  always_comb begin
    later_next = go ? now : later;
    if (go)
      for (int o = 0; o < 3; o++)
        if (o == 2 ? go_flags[READ] || go_flags[ZERO] : go_flags[o]) later_next[o] = now[o] ^ is_double[o];
    now_next = starts_step ? later_next : now;
    if (starts_step) for (int o = 0; o < 3; o++) if (next_moves[o] && is_double[o]) later_next[o] = !now_next[o];
  end
  assign step_which = now_next;

  always_ff @(posedge clk) begin
    if (rst) begin
      phase <= IDLE;
      base <= 128'd0;
      tile <= 128'd0;
      flags <= 5'd0;
      now <= 3'd0;
      later <= 3'd0;
      leave_waits <= 1'b0;
      read_waits <= 1'b0;
      read_follows <= 1'b0;
      leave_wait <= 8'd0;
      pipe_wait <= 8'd0;
      enter_base_was <= 128'd0;
      leave_base_was <= 128'd0;
      enter_which <= 3'd0;
      leave_which <= 1'b0;
      in_place <= 1'b0;
    end else begin
      if (leave_waits && leave_wait == 8'd0) leave_waits <= 1'b0;
      if (leave_wait != 8'd0) leave_wait <= leave_wait - 8'd1;
      if (pipe_wait != 8'd0) pipe_wait <= pipe_wait - 8'd1;
      if (read_waits && leave_busy && leave_last) read_waits <= 1'b0;
      if (go) begin
        tile <= go_tile;
        flags <= go_flags;
      end
      if (phase_done) begin
        phase <= next_phase;
        now <= now_next;
        later <= later_next;
        if (starts_step || go) base <= fresh_base;
        if (next_phase == PIPE) pipe_wait <= 8'(STAGES - 2);
        if (leave_wanted) begin
          leave_which <= now[2];
          leave_base_was <= leave_base;
          if (STAGES > 1 && next_phase != DRAIN) begin
            leave_waits <= 1'b1;
            leave_wait <= 8'(STAGES - 2);
          end
        end
        if (next_phase == TURN || read_wanted) enter_base_was <= enter_base;
        read_waits <= read_behind || (next_phase == TURN && leave_wanted && (is_summed(to) || flags[READ]));
        read_follows <= STAGES > 1 && read_wanted && leave_wanted && !read_behind;
        in_place <= next_phase == WORK && leave_wanted && same_outputs(base, beyond);
        enter_which <= later_next;
      end
    end
  end
endmodule
